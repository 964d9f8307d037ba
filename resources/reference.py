"""The reference page of all kinds (docs/kinds.md), from the registry: names, fields, defaults, limits, columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nanovirt.resources import quantities
from nanovirt.resources.codec import JSON
from nanovirt.resources.fields import SHAPES
from nanovirt.resources.kind import Document, Facts, Later, Spec
from nanovirt.resources.registry import MODULES, kinds

HEAD = """\
# Kinds

Every kind with its fields, written from the code by `scripts/golden`; do not edit it by hand. `kubectl explain
KIND.spec` shows the same. Each object also has `apiVersion`, `kind` and `metadata` (name, labels, annotations,
finalizers, ownerReferences; the rest of it is the server's). *Later* marks what the design has and nothing acts on yet:
anything but the default is refused with the reason `NotYetSupported`.
"""
FORMATS = {"ipv4": "IPv4 address", "ipv4network": "IPv4 network", "date-time": "time (RFC 3339)"}
LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} of them", "maxItems": "at most {} of them",
}  # fmt: skip
HALVES = {"spec": "Spec", "status": "Status"}


def page() -> str:
    """The whole page, in the order of discovery."""
    order = [module.__name__ for module in MODULES]
    found = sorted(kinds().values(), key=lambda cls: order.index(cls.__module__))
    return "\n".join([HEAD, _overview(found), *("\n" + _section(cls) for cls in found)]) + "\n"


def _overview(found: list[type[Document]]) -> str:
    rows = (
        (f"[{cls.facts.kind}](#{cls.facts.kind.lower()})", ", ".join((cls.facts.plural, *cls.facts.short)),
         cls.facts.group_version, cls.facts.scope.value, "the system" if cls.facts.system else "people")
        for cls in found
    )  # fmt: skip
    return _table(("kind", "names", "apiVersion", "scope", "written by"), rows)


def _section(cls: type[Document]) -> str:
    parts = [f"## {cls.facts.kind}", str(cls.__doc__ or "").strip(), *_facts(cls.facts)]
    own = [name for name in cls.model_fields if name not in (*Document.model_fields, *HALVES)]
    if own:
        parts.append(_fields_table([row for name in own for row in _field(cls, name, "")]))
    for half, title in HALVES.items():
        model = _model(cls.model_fields[half].annotation) if half in cls.model_fields else None
        rows = list(_fields(model, f"{half}.")) if model is not None else []
        if model is not None and rows:
            parts += [f"### {title} of {cls.facts.kind}", str(model.__doc__ or "").strip()]
            parts.append(
                _fields_table(rows) if half == "spec" else _table(("field", "type"), (row[:2] for row in rows))
            )
    return "\n\n".join(parts)


def _facts(facts: Facts) -> Iterator[str]:
    columns = ", ".join(one.name.upper() + (" (wide)" if one.priority else "") for one in facts.columns)
    lines = {
        "Columns": columns,
        "Field selectors": _code(facts.selectable),
        "Cannot be changed": _code(facts.immutable),
        "Refers to": ", ".join(f"`{one.path}` ({one.plural})" for one in facts.refers),
        "Finalizer": _code((facts.finalizer,) if facts.finalizer else ()),
        "Categories": ", ".join(facts.categories),
    }
    said = [f"- {name}: {text}" for name, text in lines.items() if text]
    if said:
        yield "\n".join(said)


# --- fields ---------------------------------------------------------------------------------------------

Row = tuple[str, ...]


def _fields_table(rows: list[Row]) -> str:
    return _table(("field", "type", "default", "limits"), rows)


def _fields(model: type[BaseModel], path: str) -> Iterator[Row]:
    for name in model.model_fields:
        yield from _field(model, name, path)


def _field(model: type[BaseModel], name: str, path: str) -> Iterator[Row]:
    """The row of a field, and those of the model below it."""
    field = model.model_fields[name]
    schema = model.model_json_schema(by_alias=True)
    alias = field.alias or name
    shape = _plain(schema["properties"][alias])
    below = _model(field.annotation)
    many = "[]" if shape.get("type") == "array" else ""
    yield f"`{path}{alias}`", _type(shape, below), _default(field, below), _limits(shape, field)
    if below is not None and not issubclass(below, Spec) and not _later(field):
        yield from _fields(below, f"{path}{alias}{many}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model in `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model(one)) is not None), None)


def _plain(schema: JSON) -> JSON:
    """Without `or null`."""
    real = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return {**schema, **real[0]} if len(real) == 1 else schema


def _type(shape: JSON, below: type[BaseModel] | None) -> str:
    if "enum" in shape:
        return " \\| ".join(f"`{one}`" for one in shape["enum"] if one)
    if shape.get("format") == quantities.FORMAT:
        return "amount, such as `4Gi`"
    if shape.get("type") == "array":
        return f"list of {_type(_plain(shape.get('items', {})), below)}"
    if below is not None and issubclass(below, Spec):
        kind = below.__name__.removesuffix("Spec")
        return f"the spec of an [{kind}](#{kind.lower()})"
    if below is not None or "$ref" in shape:
        return "object"
    if shape.get("type") == "object":
        inner = shape.get("additionalProperties")
        return f"map of {inner['type']}" if isinstance(inner, dict) and "type" in inner else "object"
    return FORMATS.get(shape.get("format", ""), str(shape.get("type", "any")))


def _default(field: FieldInfo, below: type[BaseModel] | None) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value in (None, "", ()) or value == {} or (below is not None and isinstance(value, BaseModel)):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value, default=str)}`"


def _limits(shape: JSON, field: FieldInfo) -> str:
    said = [text.format(shape[word]) for word, text in LIMITS.items() if word in shape]
    pattern = shape.get("pattern", shape.get("items", {}).get("pattern"))
    if pattern in SHAPES:
        said.append(SHAPES[pattern])
    later = _later(field)
    if later is not None:
        said.append(
            f"*later:* {_code(map(str, later.values))}" if later.values and len(later.values) < 9 else "*later*"
        )
    return "; ".join(said)


def _later(field: FieldInfo) -> Later | None:
    return next((one for one in field.metadata if isinstance(one, Later)), None)


# --- markdown -------------------------------------------------------------------------------------------


def _code(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(head: Row, rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
