"""OpenAPI documents of the kinds, made from their models: version 3.0, and 2.0 for clients that know no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import CORE, GROUP_VERSION, KINDS, Facts
from nanovirt.resources.scale import GROUP as SCALES
from nanovirt.resources.scale import KIND as SCALE
from nanovirt.resources.scale import SUBRESOURCE, Scale
from nanovirt.resources.scale import VERSION as SCALES_VERSION
from nanovirt.resources.shapes import LIST_KEYS, LIST_TYPE, item_key

REF = "#/components/schemas/"
REF_2 = "#/definitions/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
STATUS = f"{META}Status"
SCALING = "io.k8s.api.autoscaling.v1."
SHARED_MODELS = {"ObjectMeta": f"{META}ObjectMeta", "OwnerReference": f"{META}OwnerReference"} | {
    name: f"{SCALING}{name}" for name in ("Scale", "ScaleSpec", "ScaleStatus")
}
SCALE_GVK = {"group": SCALES, "version": SCALES_VERSION, "kind": SCALE}
FREE: JSON = {"x-kubernetes-preserve-unknown-fields": True}
PATCH_TYPES = ("application/merge-patch+json", "application/json-patch+json")
APPLY_TYPE = "application/apply-patch+yaml"
JSON_TYPE = "application/json"
KEPT = (
    "type", "format", "description", "default", "enum", "required", "pattern", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", LIST_TYPE,
)  # fmt: skip
TIMELINE_PARAMETERS = {
    "uid": "Only of this object, not of others that had its name.",
    "at": "Up to this revision or time.",
    "limit": "At most so many entries, the newest first.",
    "continue": "The token of the page before.",
}
DIFF_PARAMETERS = {
    "from": "A revision or time.",
    "to": "A revision or time; the newest otherwise.",
    "kind": "Only objects of this kind.",
    "namespace": "Only objects in this namespace.",
    "name": "Only objects of this name.",
    "all": "What the system writes, too, and the status.",
}
WRITE_PARAMETERS = {
    "dryRun": "All: check everything and store nothing.",
    "fieldManager": "Who writes.",
    "fieldValidation": "What unknown fields do: Strict refuses, Warn drops and tells, Ignore drops.",
    "acceptDataLoss": "What this one write may lose: the words that its refusal names, such as data@10Gi.",
}
FORCE = {"force": "Apply takes the fields that other managers own, instead of being refused."}
AT = {"at": "As it was: at a revision, or at a time (RFC 3339)."}
LIST_PARAMETERS = {
    "limit": "At most so many items.",
    "continue": "The token of the page before.",
    "labelSelector": "Only objects with these labels.",
    "fieldSelector": "Only objects with these fields.",
    "resourceVersion": "Where a watch begins.",
    "watch": "Stream changes instead of listing.",
    "timeoutSeconds": "How long to watch.",
    "allowWatchBookmarks": "Tell now and then how far the watch is.",
    "sendInitialEvents": "Begin a watch with all objects.",
}


def v3(kinds: Iterable[Facts], version: str) -> JSON:
    """The OpenAPI 3.0 document of one group version."""
    facts = list(kinds)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Nano", "version": version},
        "paths": {path: item for one in facts for path, item in _paths(one)},
        "components": {"schemas": {**schemas(facts), STATUS: _status()}},
    }


# --- schemas --------------------------------------------------------------------------------------------


def schemas(kinds: Iterable[Facts]) -> dict[str, JSON]:
    """The schema of each kind, of its list, and of every model below, by qualified name."""
    facts = list(kinds)
    models: list[Any] = [(KINDS[one.plural], "validation") for one in facts]
    if any(one.scaling for one in facts):
        models.append((Scale, "validation"))
    _, found = models_json_schema(models, by_alias=True, ref_template=REF + "{model}")
    names = {one.kind: one for one in facts}
    keys = {_qualified(name): item_key(schema.get("required", ())) for name, schema in found.get("$defs", {}).items()}
    made = {_qualified(name): _merging(_object(schema), keys) for name, schema in found.get("$defs", {}).items()}
    for name, one in names.items():
        schema = made[_qualified(name)]
        schema["x-kubernetes-group-version-kind"] = [gvk(one)]
        schema["properties"] |= _head()
        schema.pop("required", None)
        schema["required"] = [word for word in ("spec",) if word in (found["$defs"][name].get("required") or ())]
        if not schema["required"]:
            del schema["required"]
        made[_qualified(f"{name}List")] = _list(one)
    scale = made.get(SHARED_MODELS[SCALE])
    if scale is not None:
        scale["x-kubernetes-group-version-kind"] = [SCALE_GVK]
        scale["properties"] |= _head()
    metadata = made.get(SHARED_MODELS["ObjectMeta"])
    if metadata is not None:
        metadata["properties"] |= {"managedFields": {"type": "array", "items": FREE}, "selfLink": {"type": "string"}}
    return made


def _merging(schema: JSON, keys: dict[str, str]) -> JSON:
    """Says of each list whose items merge one by one by which field they do."""
    for below in schema["properties"].values() if "properties" in schema else ():
        key = keys.get(below["items"].get("$ref", "").removeprefix(REF), "") if below.get("type") == "array" else ""
        if key:
            below |= {LIST_TYPE: "map", LIST_KEYS: [key]}
    return schema


def gvk(facts: Facts) -> JSON:
    """Group, version and kind as clients look them up."""
    group, _, version = facts.group_version.rpartition("/")
    return {"group": group, "version": version, "kind": facts.kind}


def _head() -> JSON:
    return {
        "apiVersion": {"type": "string", "description": "Group and version of the schema."},
        "kind": {"type": "string", "description": "What this object is."},
    }


def _list(facts: Facts) -> JSON:
    items = {"type": "array", "items": {"$ref": REF + _qualified(facts.kind)}}
    metadata = {"type": "object", "description": "Revision of the list and where it goes on."}
    return {
        "type": "object",
        "description": f"A list of {facts.kind} objects.",
        "required": ["items"],
        "properties": {**_head(), "metadata": metadata, "items": items},
        "x-kubernetes-group-version-kind": [{**gvk(facts), "kind": f"{facts.kind}List"}],
    }


def _status() -> JSON:
    """What answers a refusal, and a deletion that is done."""
    texts = {
        "status": "Success or Failure.",
        "message": "What happened, to what, and what to do.",
        "reason": "One word of it.",
    }
    words: JSON = {name: {"type": "string", "description": text} for name, text in texts.items()}
    details = {"type": "object", "description": "Of what, and every cause.", **FREE}
    code = {"type": "integer", "description": "The HTTP code."}
    return {
        "type": "object",
        "description": "How a request ended.",
        "required": ["status"],
        "properties": {**_head(), "metadata": {"type": "object"}, **words, "details": details, "code": code},
    }


def _qualified(name: str) -> str:
    return SHARED_MODELS.get(name) or f"nano.v1.{name}"


def _object(schema: JSON) -> JSON:
    made = _converted(schema)
    made.setdefault("type", "object")
    if made["type"] == "object":
        made.setdefault("properties", {})
    return made


def _converted(schema: Any) -> JSON:
    """JSON Schema as pydantic writes it, in the dialect of OpenAPI 3.0."""
    if not isinstance(schema, dict) or not schema:
        return dict(FREE)
    made: JSON = {word: schema[word] for word in KEPT if schema.get(word) is not None}
    if "$ref" in schema:
        return _reference(schema["$ref"], made)
    if "anyOf" in schema:
        return _choice(schema["anyOf"], made)
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if "properties" in schema:
        made["properties"] = {name: _converted(below) for name, below in schema["properties"].items()}
    if "items" in schema:
        made["items"] = _converted(schema["items"])
    if "additionalProperties" in schema and schema["additionalProperties"] is not False:
        made["additionalProperties"] = _converted(schema["additionalProperties"])
    if made.get("type") == "array":
        made.setdefault("items", dict(FREE))
    return made if "type" in made or "enum" in made else {**made, **FREE}


def _reference(ref: str, beside: JSON) -> JSON:
    """In 3.0 nothing may stand beside `$ref`; the defaults of a model stand on its own fields."""
    beside = {word: value for word, value in beside.items() if word != "default"}
    target = {"$ref": REF + _qualified(ref.removeprefix(REF))}
    return {"allOf": [target], **beside} if beside else target


def _choice(choices: list[JSON], beside: JSON) -> JSON:
    """`X or null` is X, nullable; any other choice is left free."""
    real = [one for one in choices if one.get("type") != "null"]
    if len(real) != 1:
        return {**beside, **FREE}
    made = _converted(real[0])
    made = {"allOf": [made]} if "$ref" in made else made
    return {**made, **beside, "nullable": True}


# --- paths ----------------------------------------------------------------------------------------------


def _paths(facts: Facts) -> Iterator[tuple[str, JSON]]:
    root = f"/api/{facts.group_version}" if facts.group_version == CORE else f"/apis/{facts.group_version}"
    space = "/namespaces/{namespace}" if facts.namespaced else ""
    at = [_parameter("namespace", "path", "The namespace.")] if facts.namespaced else []
    named = [*at, _parameter("name", "path", "The name of the object.")]
    if facts.namespaced:
        yield f"{root}/{facts.plural}", {"get": _operation(facts, "list", "everywhere")}
    collection = {"get": "list", "post": "post", "delete": "deletecollection"}
    yield f"{root}{space}/{facts.plural}", _item(facts, collection, "", at)
    single = {"get": "get", "put": "put", "patch": "patch", "delete": "delete"}
    yield f"{root}{space}/{facts.plural}/{{name}}", _item(facts, single, "", named)
    for part in _parts(facts):
        below = {"get": "get", "put": "put", "patch": "patch"}
        yield f"{root}{space}/{facts.plural}/{{name}}/{part}", _item(facts, below, part, named)
    yield f"{root}{space}/{facts.plural}/{{name}}/timeline", _item(facts, {"get": "get"}, "timeline", named)


def _parts(facts: Facts) -> Iterator[str]:
    """The sub-resources that a kind has by what it declares."""
    if "status" in KINDS[facts.plural].model_fields:
        yield "status"
    if facts.scaling:
        yield SUBRESOURCE


def transactions() -> JSON:
    """The path of transactions, which are no kind and stand beside those of Nano's own group.

    A set is applied by `fieldManager`, with `force` against others, unless a write says otherwise.
    """
    operation: JSON = {
        "operationId": "postTransaction",
        "description": "any writes and preconditions as one revision, or none of them",
        "parameters": [
            *(_parameter(*one) for one in _query("patch", "")),
            _parameter("forecast", "query", "true, with dryRun: what the controllers would make of new instances."),
        ],
        "responses": {"200": _response("OK", _done()), "default": _response("Refused", {"$ref": REF + STATUS})},
        "requestBody": {"content": {JSON_TYPE: {"schema": _transaction()}}, "required": True},
        "x-kubernetes-action": "post",
        "x-kubernetes-group-version-kind": {"group": "nano", "version": "v1", "kind": "Transaction"},
    }
    return {f"/apis/{GROUP_VERSION}/transactions": {"post": operation}}


def history() -> JSON:
    """The paths of the history as a whole."""
    revisions = {name: text for name, text in TIMELINE_PARAMETERS.items() if name != "uid"}
    root = f"/apis/{GROUP_VERSION}/history"
    rollback = _beside("postRollback", "make again what was, as one revision", _query("post", "")[:1], "Rollback")
    rollback |= {"requestBody": {"content": {JSON_TYPE: {"schema": FREE}}, "required": True}}
    return {
        root: {"get": _beside("listHistory", "revisions, newest first", _in_query(revisions), "History")},
        f"{root}/diff": {"get": _beside("getDifference", "what differs", _in_query(DIFF_PARAMETERS), "Difference")},
        f"{root}/rollback": {"post": rollback | {"x-kubernetes-action": "post"}},
    }


def _beside(name: str, what: str, query: list[tuple[str, str, str]], kind: str) -> JSON:
    return {
        "operationId": name,
        "description": what,
        "parameters": [_parameter(*one) for one in query],
        "responses": {"200": _response("OK", FREE), "default": _response("Refused", {"$ref": REF + STATUS})},
        "x-kubernetes-action": "get",
        "x-kubernetes-group-version-kind": {"group": "nano", "version": "v1", "kind": kind},
    }


def _in_query(words: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(name, "query", text) for name, text in words.items()]


OBJECT: JSON = {"type": "object", **FREE}
TEXT: JSON = {"type": "string"}
ABOUT = dict.fromkeys(("apiVersion", "kind", "namespace", "name"), TEXT)
HALF: JSON = {"subresource": {**TEXT, "enum": ["status"]}}
WRITES: dict[str, tuple[dict[str, JSON], tuple[str, ...]]] = {
    "create": ({"object": OBJECT}, ("object",)),
    "update": ({"object": OBJECT, **HALF}, ("object",)),
    "apply": ({"object": OBJECT, "fieldManager": TEXT, "force": {"type": "boolean"}}, ("object",)),
    "patch": (
        {**ABOUT, "patch": FREE, "patchType": {**TEXT, "enum": ["merge", "json"]}, **HALF},
        ("kind", "name", "patch"),
    ),
    "delete": (
        {**ABOUT, "preconditions": {"type": "object", "properties": {"uid": TEXT, "resourceVersion": TEXT}}},
        ("kind", "name"),
    ),
    "expect": ({**ABOUT, "resourceVersion": TEXT, "absent": {"type": "boolean"}}, ("kind", "name")),
}
"""The fields of each write of a set beside its verb, and which of them it must have."""


def _transaction() -> JSON:
    properties = {"apiVersion": {**TEXT, "enum": [GROUP_VERSION]}, "kind": {**TEXT, "enum": ["Transaction"]}}
    writes = {"type": "array", "minItems": 1, "maxItems": 10_000, "items": {"oneOf": [*map(_write, WRITES)]}}
    return {"type": "object", "properties": {**properties, "writes": writes}, "required": ["writes"]}


def _write(verb: str) -> JSON:
    fields, needed = WRITES[verb]
    properties = {"verb": {**TEXT, "enum": [verb]}, **fields}
    return {
        "type": "object",
        "properties": properties,
        "required": ["verb", *needed],
        "additionalProperties": False,
    }


def _done() -> JSON:
    """One revision, one result for each write, and what is foreseen when that was asked for."""
    objects = {"type": "array", "items": OBJECT}
    properties = {"metadata": {"type": "object", "properties": {"resourceVersion": TEXT}}, "results": objects}
    return {"type": "object", "properties": {**properties, "forecast": objects}, "required": ["metadata", "results"]}


def _item(facts: Facts, actions: dict[str, str], part: str, parameters: list[JSON]) -> JSON:
    item: JSON = {method: _operation(facts, action, part) for method, action in actions.items()}
    return {**item, "parameters": parameters} if parameters else item


def _operation(facts: Facts, action: str, part: str) -> JSON:
    scaled = part == SUBRESOURCE
    ref: JSON = {"$ref": REF + _qualified(SCALE if scaled else facts.kind + ("List" if action == "list" else ""))}
    answer = {"delete": FREE, "deletecollection": {"$ref": REF + STATUS}}.get(action, ref)
    answer = FREE if part == "timeline" else answer
    made: JSON = {
        "operationId": f"{action}{facts.kind}{part.title()}",
        "description": f"{action} {facts.plural}",
        "parameters": [_parameter(*one) for one in _query(action, part)],
        "responses": {
            "201" if action == "post" else "200": _response("OK", answer),
            "default": _response("Refused", {"$ref": REF + STATUS}),
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": SCALE_GVK if scaled else gvk(facts),
    }
    if action == "patch":
        kinds = PATCH_TYPES if part else (*PATCH_TYPES, APPLY_TYPE)
        made["requestBody"] = {"content": {kind: {"schema": FREE} for kind in kinds}}
    elif action in ("post", "put"):
        made["requestBody"] = {"content": {JSON_TYPE: {"schema": ref}}, "required": True}
    return made


def _response(description: str, schema: JSON) -> JSON:
    return {"description": description, "content": {JSON_TYPE: {"schema": schema}}}


def _query(action: str, part: str) -> list[tuple[str, str, str]]:
    words: dict[str, str] = {}
    if action in ("post", "put", "patch"):
        words = WRITE_PARAMETERS | (FORCE if action == "patch" and not part else {})
    elif action in ("list", "deletecollection"):
        words = LIST_PARAMETERS | (AT if action == "list" else {})
    elif action == "get" and part != "timeline":
        words = AT
    elif action == "get":
        words = TIMELINE_PARAMETERS
    if action in ("delete", "deletecollection"):
        words = {**words, "dryRun": WRITE_PARAMETERS["dryRun"]}
    return _in_query(words)


def _parameter(name: str, where: str, text: str) -> JSON:
    kind = {"limit": "integer", "timeoutSeconds": "integer", "watch": "boolean", "sendInitialEvents": "boolean"}
    kind["force"] = "boolean"
    schema = {"type": kind.get(name, "boolean" if name == "allowWatchBookmarks" else "string"), "uniqueItems": True}
    made: JSON = {"name": name, "in": where, "description": text, "schema": schema}
    return {**made, "required": True} if where == "path" else made


# --- version 2.0 ----------------------------------------------------------------------------------------


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
