"""What fieldValidation means: unknown fields refuse a write, or are dropped, with a warning or without."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from nanovirt.resources.codec import JSON, decode, path_text
from nanovirt.resources.errors import Cause, Malformed
from nanovirt.resources.kind import Document
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.reasons import Reason

D = TypeVar("D", bound=Document)
Loc = tuple[int | str, ...]

METADATA = tuple(field.alias or name for name, field in ObjectMeta.model_fields.items())
TOLERATED = frozenset((*METADATA, "managedFields", "selfLink", "deletionGracePeriodSeconds", "clusterName"))
"""Metadata that real clients send back to any server; the model drops what it does not keep."""


def read(cls: type[D], doc: JSON, validation: str) -> tuple[D, list[str]]:
    """The object in `doc` and what to warn of. Raises Malformed (Strict and unknown fields) or Invalid."""
    metadata = doc["metadata"]
    strange = [] if metadata.keys() <= TOLERATED else sorted(metadata.keys() - TOLERATED)
    if strange and validation == "Strict":
        raise _refusal(strange)
    unknown: list[Loc] = []
    try:
        made = decode(cls, doc)
    except Malformed:
        if validation == "Strict":
            raise
        unknown = _unknown(cls, doc)
        for loc in unknown:
            _drop(doc, loc)
        made = decode(cls, doc)
    if validation != "Warn":
        return made, []
    return made, [f'unknown field "{field}"' for field in (*map(path_text, unknown), *_below_metadata(strange))]


def _below_metadata(strange: list[str]) -> list[str]:
    return [f"metadata.{name}" for name in strange]


def _refusal(strange: list[str]) -> Malformed:
    params = {"known": ", ".join(METADATA)}
    say = Reason.FieldUnknown.say(**params)
    fields = _below_metadata(strange)
    causes = tuple(Cause(field, Reason.FieldUnknown.name, say, params) for field in fields)
    said = ", ".join(f'unknown field "{field}"' for field in fields)
    return Malformed(f"strict decoding error: {said}; {say}", causes)


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
