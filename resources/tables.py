"""Tables: the columns that a kind declares, filled from documents, as kubectl and `nanoctl get` show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Column, Facts

Steps = tuple[Callable[[Any], Iterator[Any]], ...]

_STEP = re.compile(r'\.([A-Za-z0-9_-]+)|\[(\*)\]|\[\?\(@\.([A-Za-z0-9_-]+)\s*==\s*["\']([^"\']*)["\']\)\]|\[(\d+)\]')


@cache
def steps(path: str) -> Steps:
    """A JSON path of the kind that columns use: `.a.b`, `[*]`, `[0]`, `[?(@.type=="Ready")]`. Raises ValueError."""
    found: list[Callable[[Any], Iterator[Any]]] = []
    at = 0
    path = path.removeprefix("$")
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise ValueError(f"{path!r} is not understood at {path[at:]!r}")
        found.append(_step(*match.groups()))
        at = match.end()
    return tuple(found)


def _step(
    name: str | None, star: str | None, field: str | None, value: str | None, index: str | None
) -> Callable[[Any], Iterator[Any]]:
    if name is not None:
        return lambda node: iter((node[name],) if isinstance(node, dict) and name in node else ())
    if star is not None:
        return lambda node: iter(node if isinstance(node, list) else ())
    if field is not None:
        return lambda node: (one for one in _items(node) if isinstance(one, dict) and str(one.get(field)) == value)
    return lambda node: iter(_items(node)[int(index or 0) : int(index or 0) + 1])


def _items(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []


def values(doc: Any, path: str) -> list[Any]:
    """All that `path` finds in `doc`."""
    found = [doc]
    for step in steps(path):
        found = [below for node in found for below in step(node)]
    return found


def age(since: timedelta) -> str:
    """How long ago, as kubectl writes it: 45s, 3m20s below ten minutes, 25m, 2h5m below eight hours, 7d, 3y."""
    seconds = max(0, int(since.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if hours < 3:
        return _two(minutes, "m", seconds % 60 if minutes < 10 else 0, "s")
    if hours < 48:
        return _two(hours, "h", minutes % 60 if hours < 8 else 0, "m")
    if days < 730:
        return _two(days, "d", hours % 24 if days < 8 else 0, "h")
    return _two(days // 365, "y", days % 365 if days < 2920 else 0, "d")


def _two(whole: int, unit: str, rest: int, smaller: str) -> str:
    return f"{whole}{unit}{rest}{smaller}" if rest else f"{whole}{unit}"


def _age_of(text: Any, now: datetime) -> str:
    try:
        return age(now - datetime.fromisoformat(str(text)))
    except ValueError:
        return "<unknown>"


def cell(doc: JSON, column: Column, now: datetime) -> Any:
    """What stands in one column: a scalar as it is, several joined by commas, a date as an age."""
    found = [one for one in values(doc, column.path) if one is not None]
    if column.type == "date":
        return _age_of(found[0], now) if found else "<unknown>"
    if len(found) == 1 and not isinstance(found[0], dict | list):
        return found[0]
    return ",".join(str(one) for one in found) if found else ""


def columns(facts: Facts) -> tuple[Column, ...]:
    """Name, what the kind declares, and the age."""
    dated = any(one.type == "date" for one in facts.columns)
    ends = () if dated else (Column("Age", ".metadata.creationTimestamp", "date"),)
    return (Column("Name", ".metadata.name"), *facts.columns, *ends)


def definitions(facts: Facts) -> list[JSON]:
    """The `columnDefinitions` of a table; dates travel as text."""
    return [
        {
            "name": one.name,
            "type": "string" if one.type == "date" else one.type,
            "format": "name" if index == 0 else "",
            "description": "",
            "priority": one.priority,
        }
        for index, one in enumerate(columns(facts))
    ]


def row(facts: Facts, doc: JSON, now: datetime, include: str = "Metadata") -> JSON:
    """One row; `include` says how much of the object goes with it: None, Metadata or Object."""
    made: JSON = {"cells": [cell(doc, one, now) for one in columns(facts)]}
    if include == "Object":
        made["object"] = doc
    elif include != "None":
        made["object"] = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": doc["metadata"]}
    return made


def table(facts: Facts, docs: Iterable[JSON], now: datetime, metadata: JSON, include: str = "Metadata") -> JSON:
    """A meta.k8s.io/v1 Table of `docs`."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(facts),
        "rows": [row(facts, doc, now, include) for doc in docs],
    }
