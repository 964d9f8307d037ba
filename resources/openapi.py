"""OpenAPI 3.0 documents of the kinds: every path, what may be asked of it, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import CORE, GROUP_VERSION, KINDS, Facts
from nanovirt.resources.scale import KIND as SCALE
from nanovirt.resources.scale import SUBRESOURCE
from nanovirt.resources.schemas import FREE, REF, SCALE_GVK, STATUS, gvk, qualified, schemas, status_schema

PATCH_TYPES = ("application/merge-patch+json", "application/json-patch+json")
APPLY_TYPE = "application/apply-patch+yaml"
JSON_TYPE = "application/json"
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
        "components": {"schemas": {**schemas(facts), STATUS: status_schema()}},
    }


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
    ref: JSON = {"$ref": REF + qualified(SCALE if scaled else facts.kind + ("List" if action == "list" else ""))}
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
        if not part:  # what is applied may not be there yet
            made["responses"]["201"] = _response("Created", answer)
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
