"""The OpenAPI 2.0 document in protobuf (gnostic `openapi.v2.Document`), the only form kubectl before 1.27 reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nanovirt.portal.api.protobuf import piece
from nanovirt.resources.codec import JSON, dump

METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def encode(doc: JSON) -> bytes:
    """The bytes of a whole document."""
    info = piece(1, doc["info"]["title"]) + piece(2, doc["info"]["version"])
    paths = b"".join(piece(2, _named(path, _path_item(item))) for path, item in doc["paths"].items())
    definitions = b"".join(piece(1, _named(name, _schema(one))) for name, one in doc["definitions"].items())
    return piece(1, doc["swagger"]) + piece(2, info) + piece(8, paths) + piece(9, definitions)


def _named(name: str, value: bytes) -> bytes:
    return piece(1, name) + piece(2, value)


def _path_item(item: JSON) -> bytes:
    methods = b"".join(piece(METHODS[word], _operation(one)) for word, one in item.items() if word in METHODS)
    return methods + b"".join(piece(9, _parameter(one)) for one in item.get("parameters", ()))


def _operation(operation: JSON) -> bytes:
    answers = b"".join(piece(1, _named(code, _response(one))) for code, one in operation["responses"].items())
    return b"".join(
        (
            piece(3, operation["description"]),
            piece(5, operation["operationId"]),
            _texts(6, operation.get("produces", ())),
            _texts(7, operation.get("consumes", ())),
            *(piece(8, _parameter(one)) for one in operation["parameters"]),
            piece(9, answers),
            _extensions(13, operation),
        )
    )


def _response(response: JSON) -> bytes:
    return piece(1, piece(1, response["description"]) + piece(2, piece(1, _schema(response["schema"]))))


def _parameter(parameter: JSON) -> bytes:
    """A ParametersItem: in the body, in the query or in the path."""
    where, required = parameter["in"], bool(parameter.get("required"))
    if where == "body":
        schema = _schema(parameter["schema"])
        return piece(1, piece(1, piece(2, parameter["name"]) + piece(3, where) + piece(4, required) + piece(5, schema)))
    raw = piece(1, required) + piece(2, where) + piece(3, parameter["description"]) + piece(4, parameter["name"])
    if where == "path":
        return piece(1, piece(2, piece(4, raw + piece(5, parameter["type"]))))
    return piece(1, piece(2, piece(3, raw + piece(6, parameter["type"]))))


def _schema(schema: JSON) -> bytes:
    texts = ((1, "$ref"), (2, "format"), (4, "description"))
    parts = [piece(number, schema[word]) for number, word in texts if word in schema]
    if "default" in schema:
        parts.append(piece(5, _any(schema["default"])))
    parts.append(_texts(19, schema.get("required", ())))
    parts += [piece(20, _any(one)) for one in schema.get("enum", ())]
    if "additionalProperties" in schema:
        parts.append(piece(21, piece(1, _schema(schema["additionalProperties"]))))
    if "type" in schema:
        parts.append(piece(22, piece(1, schema["type"])))
    if "items" in schema:
        parts.append(piece(23, piece(1, _schema(schema["items"]))))
    if "properties" in schema:
        named = (piece(1, _named(name, _schema(below))) for name, below in schema["properties"].items())
        parts.append(piece(25, b"".join(named)))
    parts.append(_extensions(31, schema))
    return b"".join(parts)


def _texts(field: int, texts: Iterable[str]) -> bytes:
    return b"".join(piece(field, one) for one in texts)


def _any(value: Any) -> bytes:
    """JSON is YAML."""
    return piece(2, dump_any(value) + b"\n")


def dump_any(value: Any) -> bytes:
    """Any value as JSON."""
    return dump({"v": value})[5:-1]


def _extensions(field: int, doc: JSON) -> bytes:
    return b"".join(piece(field, _named(word, _any(doc[word]))) for word in doc if word.startswith("x-"))
