"""The schemas of the kinds in the dialect of OpenAPI 3.0, made from their models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import KINDS, Facts
from nanovirt.resources.scale import GROUP as SCALES
from nanovirt.resources.scale import KIND as SCALE
from nanovirt.resources.scale import VERSION as SCALES_VERSION
from nanovirt.resources.scale import Scale
from nanovirt.resources.shapes import LIST_KEYS, LIST_TYPE, item_key

REF = "#/components/schemas/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
STATUS = f"{META}Status"
SCALING = "io.k8s.api.autoscaling.v1."
SHARED_MODELS = {"ObjectMeta": f"{META}ObjectMeta", "OwnerReference": f"{META}OwnerReference"} | {
    name: f"{SCALING}{name}" for name in ("Scale", "ScaleSpec", "ScaleStatus")
}
SCALE_GVK = {"group": SCALES, "version": SCALES_VERSION, "kind": SCALE}
FREE: JSON = {"x-kubernetes-preserve-unknown-fields": True}
KEPT = (
    "type", "format", "description", "default", "enum", "required", "pattern", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", LIST_TYPE,
)  # fmt: skip


def schemas(kinds: Iterable[Facts]) -> dict[str, JSON]:
    """The schema of each kind, of its list, and of every model below, by qualified name."""
    facts = list(kinds)
    models: list[Any] = [(KINDS[one.plural], "validation") for one in facts]
    if any(one.scaling for one in facts):
        models.append((Scale, "validation"))
    _, found = models_json_schema(models, by_alias=True, ref_template=REF + "{model}")
    names = {one.kind: one for one in facts}
    keys = {qualified(name): item_key(schema.get("required", ())) for name, schema in found.get("$defs", {}).items()}
    made = {qualified(name): _merging(_object(schema), keys) for name, schema in found.get("$defs", {}).items()}
    for name, one in names.items():
        schema = made[qualified(name)]
        schema["x-kubernetes-group-version-kind"] = [gvk(one)]
        schema["properties"] |= _head()
        schema.pop("required", None)
        schema["required"] = [word for word in ("spec",) if word in (found["$defs"][name].get("required") or ())]
        if not schema["required"]:
            del schema["required"]
        made[qualified(f"{name}List")] = _list(one)
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
    items = {"type": "array", "items": {"$ref": REF + qualified(facts.kind)}}
    metadata = {"type": "object", "description": "Revision of the list and where it goes on."}
    return {
        "type": "object",
        "description": f"A list of {facts.kind} objects.",
        "required": ["items"],
        "properties": {**_head(), "metadata": metadata, "items": items},
        "x-kubernetes-group-version-kind": [{**gvk(facts), "kind": f"{facts.kind}List"}],
    }


def status_schema() -> JSON:
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


def qualified(name: str) -> str:
    """What the schema of a model is called in the documents."""
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
    target = {"$ref": REF + qualified(ref.removeprefix(REF))}
    return {"allOf": [target], **beside} if beside else target


def _choice(choices: list[JSON], beside: JSON) -> JSON:
    """`X or null` is X, nullable; any other choice is left free."""
    real = [one for one in choices if one.get("type") != "null"]
    if len(real) != 1:
        return {**beside, **FREE}
    made = _converted(real[0])
    made = {"allOf": [made]} if "$ref" in made else made
    return {**made, **beside, "nullable": True}
