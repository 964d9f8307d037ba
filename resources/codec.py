"""From JSON to valid objects and back: every bad field is named by its JSON path, with the reason and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, compress
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from nanovirt.resources.errors import Cause, Invalid, Malformed, TooLarge
from nanovirt.resources.fields import SHAPES
from nanovirt.resources.kind import Document, Later
from nanovirt.resources.reasons import Reason

BODY_MAX = 1024 * 1024
"""Bytes of one object's JSON."""
DEPTH_MAX = 32
COUNTED = 4096
"""Bytes of a body up to which its brackets are counted, which most often spares looking at what was read."""
NESTING: frozenset[type] = frozenset((dict, list))
"""What JSON stands in, as it is read."""
JSON = dict[str, Any]
D = TypeVar("D", bound=Document)

SAID = {
    "missing": "the field is required",
    "greater_than_equal": "it must be at least {ge}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be one of {expected}",
    "int_type": "it must be a whole number, written without a point or quotes",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "string_type": "it must be a text",
    "model_type": "it must be an object with fields",
    "dict_type": "it must be an object with fields",
    "tuple_type": "it must be a list",
    "too_long": "it holds at most {max_length} items",
    "too_short": "it holds at least {min_length} items",
    "string_too_long": "it has at most {max_length} characters",
}
"""What is said instead of the validator's own words, by its kind of error."""
BOUNDS = frozenset(["ge", "le", "expected", "max_length", "min_length"])
WORDS = {"missing": Reason.FieldValueRequired.name, "extra_forbidden": Reason.FieldUnknown.name}


def parse(body: bytes, limit: int = BODY_MAX) -> JSON:
    """The JSON object in `body`. Raises TooLarge or Malformed; checks size and depth before anything else looks."""
    if len(body) > limit:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {limit}")
    try:
        doc = orjson.loads(body)  # which gives up at 1,024 levels by itself
    except orjson.JSONDecodeError as error:
        if str(error).startswith("depth limit exceeded"):
            raise _too_deep() from error
        raise Malformed(f"the body is not valid JSON: {error}") from error
    if (len(body) > COUNTED or body.count(b"{") + body.count(b"[") > DEPTH_MAX) and _deeper(doc, DEPTH_MAX):
        raise _too_deep()
    if not isinstance(doc, dict):
        raise Malformed(f"the body must be a JSON object, not {called(doc)}")
    return doc


def called(value: Any) -> str:
    """What JSON calls a value that is no object."""
    kinds = ((bool, "true or false"), (str, "a text"), (int | float, "a number"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _deeper(doc: Any, most: int) -> bool:
    """Whether more than so many objects and lists stand one in another."""
    level: Sequence[Any] = [doc] if type(doc) in NESTING else ()
    for _ in range(most):
        inner = [*chain.from_iterable([outer.values() if type(outer) is dict else outer for outer in level])]
        level = [*compress(inner, map(NESTING.__contains__, map(type, inner)))]
        if not level:
            return False
    return True


def _too_deep() -> Malformed:
    return Malformed(f"the JSON is nested deeper than {DEPTH_MAX} levels")


def dump(doc: Mapping[str, Any]) -> bytes:
    """The exact bytes that are stored and sent. Raises Malformed for numbers beyond 64 bits.

    They are a copy: orjson's own keep the whole buffer that it wrote into, which is four times as long.
    """
    try:
        return bytes(memoryview(orjson.dumps(doc)))
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise Malformed(f"the object cannot be written as JSON: {error}") from error


def dump_text(text: str) -> bytes:
    """A text as JSON."""
    return orjson.dumps(text)


def load(raw: bytes) -> JSON:
    """The document behind bytes that this program wrote."""
    doc: JSON = orjson.loads(raw)
    return doc


def decode(cls: type[D], doc: Mapping[str, Any]) -> D:
    """The object as a model. Raises Malformed for unknown fields, Invalid (with every cause) for bad ones."""
    try:
        made: D = cls.__pydantic_validator__.validate_python(doc)  # as `model_validate` does, without its options
    except ValidationError as error:
        raise _refused(cls, error) from error
    causes = [*later(made), *made.problems()]
    if causes:
        raise Invalid.of(causes)
    return made


def trusted(cls: type[D], raw: bytes) -> D:
    """The object behind stored bytes, which were checked when they were written."""
    return cls.model_validate_json(raw)


def _refused(cls: type[Document], error: ValidationError) -> Invalid | Malformed:
    found = [(one["type"], _cause(cls, one)) for one in error.errors(include_url=False)]
    unknown = tuple(cause for kind, cause in found if kind == "extra_forbidden")
    if unknown:
        said = ", ".join(f'unknown field "{cause.field}"' for cause in unknown)
        return Malformed(f"strict decoding error: {said}; {unknown[0].message}", unknown)
    return Invalid.of([cause for _, cause in found])


def _cause(cls: type[Document], error: Any) -> Cause:
    field = path_text(error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(_known(cls, error["loc"][:-1]))
        return Cause.of(field, Reason.FieldUnknown, known=known, **_meant(cls, error["loc"]))
    bounds = {name: value for name, value in error.get("ctx", {}).items() if name in BOUNDS}
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = f"{str(error['input'])[:60]!r} is not {SHAPES.get(error['ctx']['pattern'], 'of that shape')}"
    elif error["type"] in SAID:
        message = SAID[error["type"]].format(**bounds)
    return Cause(field, WORDS.get(error["type"], "FieldValueInvalid"), message, bounds)


def causes_of(error: ValidationError, most: int | None = None) -> list[Cause]:
    """What pydantic finds wrong with what is no kind, in its own words; the first `most` of it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [Cause.of(path_text(one["loc"]), one["msg"]) for one in found[:most]]


def path_text(loc: tuple[int | str, ...]) -> str:
    """`("spec", "disks", 0, "size")` as `spec.disks[0].size`."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _meant(cls: type[BaseModel], loc: tuple[int | str, ...]) -> dict[str, str]:
    """`meant`: where a field that stands at the top is known, one step below."""
    places = ("metadata", "spec") if len(loc) == 1 else ()
    return next(({"meant": f"{place}.{loc[0]}"} for place in places if loc[0] in _known(cls, (place,))), {})


def _known(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] | None = cls
    for step in loc:
        if isinstance(step, str) and model is not None:
            model = _model_behind(model, step)
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _model_behind(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for name, info in model.model_fields.items():
        if alias in (name, info.alias):
            return next(_models_in(info.annotation), None)
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def later(model: BaseModel, path: str = "") -> list[Cause]:
    """A cause for each field that asks for something that is not built yet."""
    said, plan = model.__pydantic_fields_set__, _plan(type(model))
    causes: list[Cause] = []
    if said.isdisjoint(plan):  # all others have their defaults
        return causes
    for name, (alias, default, mark, nested) in plan.items():
        if name not in said:
            continue
        value = model.__dict__[name]
        where = f"{path}.{alias}" if path else alias
        if mark is not None and value != default and mark.refuses(value, default):
            causes.append(Cause.of(where, Reason.NotYetSupported, what=str(value) if mark.values else "It"))
        elif nested and type(value) is tuple:
            for index, item in enumerate(value):
                causes += later(item, f"{where}[{index}]") if _is_model(item.__class__) else ()
        elif nested and _is_model(value.__class__):
            causes += later(value, where)
    return causes


@cache
def _is_model(cls: type) -> bool:
    """Asked of a class, once: models answer `isinstance` themselves, and slowly."""
    return issubclass(cls, BaseModel)


@cache
def _plan(cls: type[BaseModel]) -> dict[str, tuple[str, Any, Later | None, bool]]:
    """Which fields of a model can be later, or have models below: found once per class."""
    steps = {}
    for name, info in cls.model_fields.items():
        mark = next((one for one in info.metadata if isinstance(one, Later)), None)
        nested = any(_plan(below) for below in _models_in(info.annotation) if below is not cls)
        if mark or nested:
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            steps[name] = (info.alias or name, default, mark, nested)
    return steps
