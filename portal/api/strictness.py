"""What fieldValidation means: unknown fields refuse a write, or are dropped, with a warning or without."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from nanovirt.resources.codec import JSON, decode, path_text
from nanovirt.resources.errors import Malformed
from nanovirt.resources.kind import Document

D = TypeVar("D", bound=Document)
Loc = tuple[int | str, ...]


def read(cls: type[D], doc: JSON, validation: str) -> tuple[D, list[str]]:
    """The object in `doc` and what to warn of. Raises Malformed (Strict and unknown fields) or Invalid."""
    if validation == "Strict":
        return decode(cls, doc), []
    try:
        return decode(cls, doc), []
    except Malformed:
        unknown = _unknown(cls, doc)
    for loc in unknown:
        _drop(doc, loc)
    said = [f'unknown field "{path_text(loc)}"' for loc in unknown]
    return decode(cls, doc), said if validation == "Warn" else []


def _unknown(cls: type[Document], doc: JSON) -> list[Loc]:
    try:
        cls.model_validate(doc)
    except ValidationError as error:
        return [one["loc"] for one in error.errors(include_url=False) if one["type"] == "extra_forbidden"]
    return []


def _drop(doc: Any, loc: Loc) -> None:
    for step in loc[:-1]:
        doc = doc[step]
    doc.pop(loc[-1], None)
