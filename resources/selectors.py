"""Label and field selectors: parsed once, then asked about labels and rows without decoding an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nanovirt.resources.codec import load
from nanovirt.resources.errors import Cause, Malformed
from nanovirt.resources.kind import Facts, Key, paths_of
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Entry

Accepts = Callable[[Key, Entry], bool]

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9._:/@-]*"
_LABEL = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_KEY})|(?P<key>{_KEY})"
    rf"(?:\s*(?P<sign>==|=|!=)\s*(?P<value>{_VALUE})|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*"
)
_COMMA = re.compile(r",(?![^()]*\))")
_FIELD_COMMA = re.compile(r"(?<!\\),")
_FIELD = re.compile(r"\s*([A-Za-z0-9.]+)\s*(==|=|!=)(.*)", re.DOTALL)


class Requirement(NamedTuple):
    """One demand on labels: `key` has (or, not `wanted`, has not) one of `values`; values None: is there at all."""

    key: str
    wanted: bool
    values: frozenset[str] | None

    def met(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels fulfil it; an absent label fulfils every negative demand."""
        value = labels.get(self.key)
        if self.values is None:
            return (value is not None) is self.wanted
        return (value in self.values) is self.wanted


class Term(NamedTuple):
    """One demand on a field: the value at `path`, as text, is (or, not `wanted`, is not) `value`."""

    path: str
    wanted: bool
    value: str


class Selection(NamedTuple):
    """What a list or a watch asks for; hashable, so that equal watches share one group."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Term, ...] = ()


def selection(label_text: str, field_text: str, facts: Facts) -> Selection:
    """Read `labelSelector` and `fieldSelector`. Raises Malformed, with the selectable fields of the kind."""
    return Selection(tuple(_requirements(label_text)), tuple(_terms(field_text, facts)))


def _requirements(text: str) -> Iterator[Requirement]:
    for part in _COMMA.split(text) if text.strip() else ():
        match = _LABEL.fullmatch(part)
        if match is None:
            raise Malformed(f"label selector {part[:100]!r} is not like app=web, app!=web, app in (a,b), app or !app")
        if match["absent"]:
            yield Requirement(match["absent"], wanted=False, values=None)
        elif match["set"]:
            values = frozenset(one.strip() for one in match["values"].split(","))
            yield Requirement(match["key"], match["set"] == "in", values)
        elif match["sign"]:
            yield Requirement(match["key"], match["sign"] != "!=", frozenset({match["value"]}))
        else:
            yield Requirement(match["key"], wanted=True, values=None)


def _terms(text: str, facts: Facts) -> Iterator[Term]:
    """Empty parts ask for nothing, as in Kubernetes: some clients end with a comma."""
    for part in filter(str.strip, _FIELD_COMMA.split(text)):
        match = _FIELD.fullmatch(part)
        if match is None:
            raise Malformed(f"field selector {part[:100]!r} is not like status.phase=Running or metadata.name!=web")
        path, sign, value = match.groups()
        if path not in selectable(facts):
            cause = Cause.of(path, Reason.UnknownFieldSelector, path=path, known=", ".join(selectable(facts)))
            raise Malformed(cause.message, (cause,))
        yield Term(path, sign != "!=", re.sub(r"\\([,=\\])", r"\1", value.strip()))


def selectable(facts: Facts) -> tuple[str, ...]:
    """The fields of a kind that a field selector may name."""
    return ("metadata.name", "metadata.namespace", *facts.selectable)


def as_text(value: Any) -> str:
    """A scalar as a field selector writes it; absent is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def row_term(chosen: Selection, facts: Facts) -> tuple[int, str] | None:
    """An equality that one field of the row decides: its index and the wanted text; None if there is none."""
    paths = paths_of(facts.row)
    for term in chosen.fields:
        path = tuple(term.path.split("."))
        if term.wanted and path in paths:
            return paths.index(path), term.value
    return None


def matcher(chosen: Selection, facts: Facts) -> Accepts | None:
    """The question to ask of each object; None when everything is wanted."""
    checks = [_field_check(term, facts) for term in chosen.fields]
    if chosen.labels:
        checks.append(lambda _key, entry: all(one.met(entry.labels) for one in chosen.labels))
    if len(checks) < 2:
        return checks[0] if checks else None
    return lambda key, entry: all(check(key, entry) for check in checks)


def _field_check(term: Term, facts: Facts) -> Accepts:
    path, wanted, value = tuple(term.path.split(".")), term.wanted, term.value
    if path == ("metadata", "name"):
        return lambda key, _entry: (key.name == value) is wanted
    if path == ("metadata", "namespace"):
        return lambda key, _entry: (key.namespace == value) is wanted
    paths = paths_of(facts.row)
    if path in paths:
        index = paths.index(path)
        return lambda _key, entry: (as_text(entry.row[index]) == value) is wanted
    return lambda _key, entry: (as_text(_at(load(entry.raw), path)) == value) is wanted


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
