"""`nanoctl describe`: one object for a reader, with its conditions and what has happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import examples, tables
from nanovirt.portal.cli.ages import age
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.events import About, History, last_seen
from nanovirt.portal.cli.moments import at_option
from nanovirt.portal.cli.output import as_yaml, lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Forbidden, Malformed, NotFound
from nanovirt.resources.wire import LAST_APPLIED

JSON = dict[str, Any]
HALVES = ("apiVersion", "kind", "metadata", "spec", "status")
APART = ("conditions", "observedGeneration")
EVENTS_MAX = 20


@click.command(
    epilog=examples("""
        describe instance/web-1
        describe host node-1
        describe instances -l app=web
        describe instance/web-1 --at 2026-11-22T06:00
    """)
)
@click.argument("what", nargs=-1, metavar="KIND/NAME... | KIND [NAME...]", shell_complete=kind_words)
@click.option("-l", "--selector", default="", metavar="LABELS", help="All objects of a KIND with these labels.")
@at_option
@connected
def describe(session: Session, *, what: tuple[str, ...], selector: str, at: str) -> None:
    """Show objects at length, with conditions and events.

    With --at as they were, with the events that there were then.
    """
    shown = 0
    for target in session.targets(what):
        if target.name:
            found = [session.get(target, at)]
        else:
            found, _ = session.list(target.kind, labelSelector=selector, at=at)
        for doc in found:
            lines(["", ""] if shown else [])
            events = events_of(session, doc | {"kind": target.kind.kind}, at)
            lines(described({"kind": target.kind.kind, **doc}, events))
            shown += 1
    if not shown:
        raise Malformed("there is nothing to describe")


def described(doc: JSON, events: list[JSON]) -> Iterator[str]:
    """The lines about an object: what it is, the wish, what is, conditions, events."""
    metadata, status = doc["metadata"], doc.get("status") or {}
    space = f" in namespace {metadata['namespace']}" if metadata.get("namespace") else ""
    yield click.style(f"{doc['kind']} {metadata['name']}{space}", bold=True)
    yield from _head(metadata)
    rest = {name: value for name, value in doc.items() if name not in HALVES}
    yield from _section("Spec", doc.get("spec"))
    yield from _section("Status", {name: value for name, value in status.items() if name not in APART})
    yield from _section("Content", rest)
    yield from _conditions(status.get("conditions") or [])
    yield from event_lines(events)


def _head(metadata: JSON) -> Iterator[str]:
    labels = metadata.get("labels") or {}
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    owners = [f"{one['kind'].lower()}/{one['name']}" for one in metadata.get("ownerReferences") or ()]
    facts = {
        "Labels": ", ".join(f"{name}={value}" for name, value in labels.items()),
        "Annotations": ", ".join(f"{name}={value}" for name, value in annotations.items()),
        "Owned by": ", ".join(owners),
        "Created": f"{metadata.get('creationTimestamp', '')} ({age(metadata.get('creationTimestamp', ''))} ago)",
        "Deleting since": metadata.get("deletionTimestamp") or "",
        "Finalizers": ", ".join(metadata.get("finalizers") or ()) if metadata.get("deletionTimestamp") else "",
    }
    for title, said in facts.items():
        if said:
            yield f"{title + ':':<16}{tables.printable(said)}"


def _section(title: str, content: Any) -> Iterator[str]:
    if told := lean(content):
        yield click.style(f"{title}:", bold=True)
        yield from (f"  {tables.printable(line)}" for line in as_yaml(told).rstrip().splitlines())


def lean(value: Any) -> Any:
    """A document without its empty texts, lists and mappings, which say nothing; `source: {upload: {}}` does."""
    if isinstance(value, dict):
        kept = {name: lean(below) for name, below in value.items()}
        kept = {name: below for name, below in kept.items() if below not in (None, "", [], {})}
        return value if not kept and list(value.values()) == [{}] else kept
    return [lean(one) for one in value] if isinstance(value, list) else value


def _conditions(conditions: list[JSON]) -> Iterator[str]:
    if conditions:
        yield click.style("Conditions:", bold=True)
        fields = ("type", "status", "reason", "lastTransitionTime", "message")
        rows = [[str(one.get(field, "")) for field in fields] for one in conditions]
        rows = [[kind, status, reason, age(since), message] for kind, status, reason, since, message in rows]
        yield from _indented(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)


def event_lines(events: list[JSON]) -> Iterator[str]:
    """The latest events, oldest first."""
    if events:
        yield click.style("Events:", bold=True)
        latest = events[-EVENTS_MAX:]
        rows = [[age(last_seen(one)), one.get("type", ""), _counted(one), one.get("message", "")] for one in latest]
        yield from _indented(["AGO", "TYPE", "REASON", "MESSAGE"], rows)


def _counted(event: JSON) -> str:
    count = event.get("count") or 1
    return f"{event.get('reason', '')} (x{count})" if count > 1 else str(event.get("reason", ""))


def _indented(headings: list[str], rows: list[list[str]]) -> Iterator[str]:
    room = tables.columns_of_terminal()
    made = tables.Grid(headings, [[tables.text(cell) for cell in row] for row in rows])
    yield from (f"  {line}" for line in tables.render(tables.wrapped(made, max(0, room - 2)), room=room))


def events_of(session: Session, doc: JSON, at: str = "") -> list[JSON]:
    """What has happened to an object, oldest first; none for who may see none."""
    try:
        return History(session, About.of(doc["kind"], doc["metadata"]), [], everywhere=False, at=at).read()[0]
    except (NotFound, Forbidden):
        return []
