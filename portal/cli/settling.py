"""Bringing about a set of manifests: what differs from what there is, sent as one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import click
import orjson

from nanovirt.portal.cli import told
from nanovirt.portal.cli.catalogue import Kind
from nanovirt.portal.cli.connection import TRANSACTIONS
from nanovirt.portal.cli.manifests import BadManifests, Manifest
from nanovirt.portal.cli.session import Session
from nanovirt.resources import wire
from nanovirt.resources.errors import AlreadyExists, Conflict, NanoError, NotFound, Rejected
from nanovirt.resources.wire import LAST_APPLIED

JSON = dict[str, Any]
Judge = Callable[[list["Settled"]], None]
Warn = Callable[[list["Planned"], str], None]
Outcome = Literal["created", "configured", "unchanged"]
ATTEMPTS = 3
WRITE = re.compile(r"writes\[(\d+)\]")


@dataclass(frozen=True)
class Wanted:
    """A manifest with the kind that it means and the namespace that it goes to."""

    manifest: Manifest
    kind: Kind
    namespace: str

    @property
    def title(self) -> str:
        """`instance/web-1`."""
        return f"{self.kind.singular}/{self.manifest.name}"

    @property
    def path(self) -> str:
        """Where the object stands."""
        return self.kind.path(self.namespace, self.manifest.name)

    @property
    def doc(self) -> JSON:
        """What is sent when the object is new: with its namespace, and with itself as the last applied."""
        doc = _placed(self.manifest.doc, self.namespace)
        metadata = doc["metadata"] | {"annotations": {**_annotations(doc), LAST_APPLIED: last_applied(doc)}}
        return doc | {"metadata": metadata}


class Planned(NamedTuple):
    """What is wanted, what there is (None: nothing), and the write that leads from one to the other (None: none)."""

    wanted: Wanted
    live: JSON | None
    write: JSON | None


class Settled(NamedTuple):
    """What became of a manifest, the object as it is then, as it was (None: it is new), and what is foreseen of it."""

    wanted: Wanted
    outcome: Outcome
    doc: JSON
    before: JSON | None
    foreseen: JSON


def settle(
    session: Session, wanted: list[Wanted], judge: Judge, *, dry_run: bool, accept: tuple[str, ...] = ()
) -> list[Settled]:
    """Bring about the whole set, or nothing of it. BadManifests tells all that the server refuses, with lines.

    `judge` sees what would become of the set before anything is stored, and may raise; a set of nothing but new objects
    needs no trial. `accept`: the losses of data that are meant. What somebody else changes at the same moment is looked
    at anew, a few times.
    """
    for attempt in range(ATTEMPTS):
        planned = [write_for(one, _live(session, one)) for one in wanted]
        try:
            return _carried_out(session, planned, judge, dry_run=dry_run, accept=",".join(accept))
        except (AlreadyExists, Conflict):
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _carried_out(
    session: Session, planned: list[Planned], judge: Judge, *, dry_run: bool, accept: str
) -> list[Settled]:
    """A set that changes something is tried first, so that what the server completes anew is not written at all."""
    if not dry_run and all(one.live is None for one in planned):
        return _sent(session, planned, _warn)
    asked = wire.query(dryRun="All", forecast=True if dry_run else "", acceptDataLoss=accept)
    tried = _sent(session, planned, _warn, asked)
    judge(tried)
    if dry_run:
        return tried
    left = [
        one if now.outcome != "unchanged" else one._replace(write=None) for one, now in zip(planned, tried, strict=True)
    ]
    return _sent(session, left, _unheard, wire.query(acceptDataLoss=accept))


def write_for(one: Wanted, live: JSON | None) -> Planned:
    """What has to be written so that `live` becomes what is wanted."""
    if live is None:
        return Planned(one, None, {"verb": "create", "object": one.doc})
    patch = difference(live, one.doc, previous(live))
    if not patch:
        return Planned(one, live, None)
    named = {"apiVersion": one.kind.group_version, "kind": one.kind.kind, "name": one.manifest.name}
    space = {"namespace": one.namespace} if one.namespace else {}
    return Planned(one, live, {"verb": "patch", **named, **space, "patch": patch})


def _live(session: Session, one: Wanted) -> JSON | None:
    try:
        return session.connection.get(one.path)
    except NotFound:
        return None


def _sent(session: Session, planned: list[Planned], warn: Warn, asked: str = "") -> list[Settled]:
    sending = [one for one in planned if one.write is not None]
    made: list[JSON] = []
    foreseen: list[JSON] = []
    if sending:
        session.connection.warn = lambda warning: warn(sending, warning)
        doc = {"apiVersion": "nano/v1", "kind": "Transaction", "writes": [one.write for one in sending]}
        try:
            reply = session.connection.write("POST", TRANSACTIONS + asked, doc)
        except (Rejected, Conflict) as error:
            raise _in_manifests(sending, error) from error
        made = reply["results"]
        foreseen = reply.get("forecast") or [{}] * len(made)
    after = iter(zip(made, foreseen, strict=True))
    settled: list[Settled] = []
    for one in planned:
        doc_after, told_of = next(after) if one.write else (None, {})
        settled.append(Settled(one.wanted, *_outcome(one, doc_after), one.live, told_of))
    return settled


def _outcome(one: Planned, made: JSON | None) -> tuple[Outcome, JSON]:
    if one.live is None:
        assert made is not None
        return "created", made
    return ("unchanged", one.live) if made is None or _same(one.live, made) else ("configured", made)


def _warn(sending: list[Planned], warning: str) -> None:
    """Pass on what the server says about a write without refusing it."""
    at, said = _numbered(warning)
    where = f"{sending[at].wanted.title}: " if at is not None and at < len(sending) else ""
    click.echo(f"Warning: {where}{said.removeprefix(': ')}", err=True)


def _unheard(sending: list[Planned], warning: str) -> None:
    """What the trial has said already."""
    del sending, warning


def _in_manifests(sending: list[Planned], error: NanoError) -> NanoError:
    """What is refused, told with the lines of the manifests; of the same class when trying again may help."""
    bad = BadManifests(refused(sending, error), "nothing was stored")
    if not isinstance(error, AlreadyExists | Conflict):
        return bad
    error.args = bad.args
    return error


def refused(sending: list[Planned], error: NanoError) -> Iterator[str]:
    """What the server refuses, each field at the line where it stands."""
    if not error.causes:
        yield str(error)
    for cause in error.causes:
        at, field = _numbered(cause.field)
        said = cause._replace(field=field.removeprefix("."))
        if at is None or at >= len(sending):
            yield told(cause)
        else:
            yield f"{sending[at].wanted.manifest.where(said.field)}: {told(said)}"


def _numbered(text: str) -> tuple[int | None, str]:
    """`writes[3].spec.cpus` as 3 and `.spec.cpus`; None and the text when it names no write."""
    found = WRITE.match(text)
    return (int(found[1]), text[found.end() :]) if found else (None, text)


def _same(before: JSON, after: JSON) -> bool:
    """Whether the patch changed nothing that counts: lists that the server had completed come back as they were.

    What no reply shows, the values of a Secret, still makes a new generation.
    """
    same = before.get("spec") == after.get("spec") and _generation(before) == _generation(after)
    return same and _plain(before) == _plain(after)


def _generation(doc: JSON) -> Any:
    return doc["metadata"].get("generation")


def _plain(doc: JSON) -> tuple[Any, Any]:
    metadata = doc["metadata"]
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    return metadata.get("labels") or {}, annotations


# --- three-way merge (RFC 7386) -------------------------------------------------------------------------


def last_applied(doc: JSON) -> str:
    """The text that kubectl keeps, too: compact JSON without this very annotation, ended by a newline."""
    annotations = {name: value for name, value in _annotations(doc).items() if name != LAST_APPLIED}
    metadata = doc["metadata"] | {"annotations": annotations}
    return orjson.dumps(doc | {"metadata": metadata}, option=orjson.OPT_SORT_KEYS).decode() + "\n"


def previous(live: JSON) -> JSON:
    """What was applied last; {} for an object that nobody has applied yet, or when the text is broken."""
    try:
        found = orjson.loads(_annotations(live).get(LAST_APPLIED, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def difference(live: Mapping[str, Any], wanted: Mapping[str, Any], before: Mapping[str, Any]) -> JSON:
    """The merge patch from `live` to `wanted` that removes what only `before` had and leaves alone what nobody named.

    Lists are replaced as a whole. `status` and null values of the manifest are no wishes.
    """
    patch: JSON = {}
    for name, value in wanted.items():
        old = live.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            earlier = before.get(name)
            if below := difference(old, value, earlier if isinstance(earlier, Mapping) else {}):
                patch[name] = below
        elif value is not None and value != old:
            patch[name] = value
    for name in before:
        if wanted.get(name) is None and name in live:
            patch[name] = None
    patch.pop("status", None)
    return patch


def _placed(doc: JSON, namespace: str) -> JSON:
    return doc | {"metadata": doc["metadata"] | {"namespace": namespace}} if namespace else doc


def _annotations(doc: Mapping[str, Any]) -> dict[str, str]:
    return dict(doc["metadata"].get("annotations") or {})
