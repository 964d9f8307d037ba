"""What a set of manifests would change, field by field, and when each change would take effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from nanovirt.portal.cli.manifests import BadManifests
from nanovirt.portal.cli.settling import Settled
from nanovirt.portal.cli.tables import Grid, printable, render
from nanovirt.resources.disruption import Effect, FieldChange, changes

JSON = dict[str, Any]
HEADINGS = ["OBJECT", "FIELD", "NOW", "THEN", "EFFECT"]
FORESEEN = "Foreseen"
WOULD = {"created": "would be created", "configured": "would be configured", "unchanged": "is as it should be"}
SHOWN = 40
"""Characters of a value."""


def table(settled: list[Settled]) -> Iterator[str]:
    """The lines of a table: fields that change in objects that are there, and what is foreseen of new ones."""
    rows = [[one.wanted.title, *row] for one in settled for row in (*_changing(one), *_foreseen(one.foreseen))]
    if rows:
        yield from ("", *render(Grid(HEADINGS, rows)))


def _changing(one: Settled) -> Iterator[list[str]]:
    for change in changes_of(one):
        yield [change.path, said(change.current), said(change.desired), change.effect.name]


def _foreseen(told: JSON) -> Iterator[list[str]]:
    """Where a new machine would be placed if nothing comes first, with which addresses; or what it would wait for.

    Of a set: the same of the first new members, each on one line.
    """
    for one in told.get("members") or ():
        addresses = ", ".join(str(each["ip"]) for each in one.get("addresses") or ())
        there = " at ".join(part for part in (str(one.get("host") or ""), addresses) if part)
        yield [f"members[{one['name']}]", "-", there or _waits(one), FORESEEN]
    if told.get("host"):
        yield ["status.host", "-", str(told["host"]), FORESEEN]
        for one in told.get("addresses") or ():
            yield [f"status.addresses[{one['nic']}]", "-", str(one["ip"]), FORESEEN]
    elif told.get("message"):
        yield ["status.phase", "-", _waits(told), FORESEEN]


def _waits(told: JSON) -> str:
    return f"Pending: {printable(str(told['message']))}"


def changes_of(one: Settled) -> list[FieldChange]:
    """What changes in an object that is there already."""
    return [] if one.before is None else changes(one.wanted.kind.kind, one.before, one.doc)


def check(settled: list[Settled], most: str | None) -> None:
    """Raise BadManifests, with lines, for every change that is worse than `most` (None: nothing is)."""
    if most is None:
        return
    bad = [
        f"{one.wanted.manifest.where(change.path)}: {change.path}: its effect is {change.effect.name}, "
        f"worse than {most}"
        for one in settled
        for change in changes_of(one)
        if change.effect > Effect[most]
    ]
    if bad:
        raise BadManifests(bad, "nothing was stored")


def said(value: Any) -> str:
    """A value of a field in a table."""
    if value in (None, ""):
        return "-"
    text = printable(value if isinstance(value, str) else orjson.dumps(value).decode())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"
