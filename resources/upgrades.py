"""How stored objects of older releases become what this one reads: a step for each change of a kind's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import NanoError

Step = Callable[[JSON], JSON]
UPGRADES: Mapping[str, Sequence[Step]] = {}
"""By plural: the first step makes schema 2 out of schema 1, and so on. A step that a release has shipped stays."""


def schema_of(plural: str) -> int:
    """The number of the schema that objects of a kind have now."""
    return 1 + len(UPGRADES.get(plural, ()))


def unknown(plural: str) -> NanoError:
    """What to say of a kind that only a newer release has."""
    return NanoError(
        f"the store holds {plural}, a kind that this Nano does not know; "
        "start the version of Nano that wrote them, nothing was changed"
    )


def upgraded(plural: str, schema: int, doc: JSON) -> JSON:
    """The object as this release has it; the same one if it is. NanoError: a newer release wrote it."""
    if schema == (now := schema_of(plural)):
        return doc
    if schema > now:
        raise NanoError(
            f"the store holds {plural} of schema {schema}, this Nano knows only up to {now}; "
            "start the version of Nano that wrote them, nothing was changed"
        )
    for step in UPGRADES[plural][schema - 1 :]:
        doc = step(doc)
    return doc
