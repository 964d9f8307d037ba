"""OpenAPI 2.0 (Swagger) documents, for clients that know no other: made from those of 3.0."""

from __future__ import annotations

from collections.abc import Iterable

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Facts
from nanovirt.resources.openapi import JSON_TYPE, v3
from nanovirt.resources.schemas import REF

REF_2 = "#/definitions/"


def v2(kinds: Iterable[Facts], version: str) -> JSON:
    """The same as an OpenAPI 2.0 (Swagger) document, all groups in one."""
    source = v3(kinds, version)
    return {
        "swagger": "2.0",
        "info": source["info"],
        "paths": {path: _older_item(item) for path, item in source["paths"].items()},
        "definitions": {name: _older(schema) for name, schema in source["components"]["schemas"].items()},
    }


def _older(schema: JSON) -> JSON:
    if "$ref" in schema:
        return {"$ref": REF_2 + schema["$ref"].removeprefix(REF)}
    all_of = schema.get("allOf")
    made = {word: value for word, value in schema.items() if word not in ("nullable", "allOf", "properties", "items")}
    if all_of:
        return {**_older(all_of[0]), **{word: made[word] for word in ("description",) if word in made}}
    if "properties" in schema:
        made["properties"] = {name: _older(below) for name, below in schema["properties"].items()}
    if "items" in schema:
        made["items"] = _older(schema["items"])
    if "additionalProperties" in schema:
        made["additionalProperties"] = _older(schema["additionalProperties"])
    return made


def _older_item(item: JSON) -> JSON:
    made: JSON = {}
    for word, value in item.items():
        made[word] = [_older_parameter(one) for one in value] if word == "parameters" else _older_operation(value)
    return made


def _older_operation(operation: JSON) -> JSON:
    made = {word: value for word, value in operation.items() if word != "requestBody"}
    made["parameters"] = [_older_parameter(one) for one in operation["parameters"]]
    made["produces"] = [JSON_TYPE]
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        made["consumes"] = list(content)
        schema = _older(next(iter(content.values()))["schema"])
        made["parameters"].append({"name": "body", "in": "body", "required": True, "schema": schema})
    made["responses"] = {
        code: {"description": answer["description"], "schema": _older(answer["content"][JSON_TYPE]["schema"])}
        for code, answer in operation["responses"].items()
        if code != "default"  # which is no code in the protobuf of 2.0
    }
    return made


def _older_parameter(parameter: JSON) -> JSON:
    return {**{word: value for word, value in parameter.items() if word != "schema"}, **parameter["schema"]}
