"""`nanoctl wait`: until objects are as wished, or gone; and the watching that every command which waits is built on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from nanovirt.portal.cli import Misused, TimedOut, examples, json_path, tables
from nanovirt.portal.cli.catalogue import Kind, Target
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.output import Progress
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Expired, Rejected

JSON = dict[str, Any]
Met = Callable[[JSON | None], bool]
CONDITION = re.compile(r"condition=(\w+)")
FIELDS = ("metadata", "spec", "status")
"""What objects have, or will have."""
TOLD_MAX = 160
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Seconds(click.ParamType[float]):
    """A time such as 90, 90s, 5m or 1h, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
        if match is None:
            self.fail(f"{value!r} is no time such as 90s, 5m or 1h", param, ctx)
        return float(match[1]) * UNITS[match[2]]


@click.command(
    epilog=examples("""
        wait instance/web-1 --for=condition=Ready
        wait instances -l app=web --for=status.phase=Running --timeout 5m
        wait instance/web-1 --for=delete
    """)
)
@click.argument("what", nargs=-1, metavar="KIND/NAME... | KIND", shell_complete=kind_words)
@click.option("--for", "wish", required=True, metavar="WISH", help="condition=NAME, PATH=VALUE, delete, create.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="All objects of a KIND with these labels.")
@click.option("--all", "every", is_flag=True, help="All objects of a KIND in the namespace.")
@click.option("--timeout", type=Seconds(), default=300, metavar="TIME", help="Such as 90s or 1h.  [default: 5m]")
@connected
def wait(session: Session, *, what: tuple[str, ...], wish: str, selector: str, every: bool, timeout: float) -> None:
    """Wait until objects are as wished.

    The exit code is 3 when the time is up.
    """
    targets = session.targets(what)
    chosen = any(not target.name for target in targets)
    if chosen:
        if not (every or selector):
            raise Misused(f"say which: KIND/NAME, or {what[0]} with -l LABELS or --all")
        targets = [one for target in targets for one in _selected(session, target.kind, selector)]
    if "=" in wish:
        for target in targets[:1] if chosen else targets:
            _check(wish, target, session.get(target))  # NotFound now rather than a time-out later
    until(session, targets, met_by(wish), wish, timeout, say=lambda target: click.echo(f"{target} condition met"))


def nothing_matches(session: Session, kind: Kind, selector: str) -> str:
    """What is said when labels, or --all, choose nothing."""
    labels = f" with labels {selector}" if selector else ""
    return f"no {kind.plural}{labels} in namespace {session.namespace}"


def _check(wish: str, target: Target, doc: JSON) -> None:
    """Refuse a path that begins with no field of an object, and say so of a condition that it does not have yet."""
    met_by(wish)
    if asked := CONDITION.match(wish):
        known = [one["type"] for one in (doc.get("status") or {}).get("conditions") or ()]
        if known and asked[1].lower() not in map(str.lower, known):
            click.echo(f"{target} has no condition {asked[1]} so far; it has {', '.join(known)}", err=True)
        return
    first = re.search(r"\w+", wish.removeprefix("jsonpath="))
    if first and first[0] not in {*doc, *FIELDS}:
        raise Misused(f"--for={wish}: {target} has no field {first[0]}; write condition=Ready or status.phase=Running")


def _selected(session: Session, kind: Kind, selector: str) -> list[Target]:
    items, _ = session.list(kind, labelSelector=selector)
    if not items:
        raise Rejected(nothing_matches(session, kind, selector))
    return [Target(kind, item["metadata"]["name"]) for item in items]


# --- wishes ---------------------------------------------------------------------------------------------


def met_by(wish: str) -> Met:
    """What `--for` asks for, as a question about an object (None: it is not there). Raises Misused."""
    if wish == "delete":
        return lambda doc: doc is None
    if wish == "create":
        return lambda doc: doc is not None
    if CONDITION.match(wish):
        kind, _, truth = wish.removeprefix("condition=").partition("=")
        asked = (truth or "True").lower()
        return lambda doc: doc is not None and condition(doc, kind).get("status", "").lower() == asked
    left, equals, right = wish.removeprefix("jsonpath=").rpartition("=")
    path = left.strip().strip("'\"").strip()
    if not equals or not path or wish.startswith("condition="):
        raise Misused(f"--for={wish}: write condition=Ready, delete, create or a path such as status.phase=Running")
    steps = json_path.relaxed(path)
    wanted = right.strip("'\"")
    return lambda doc: doc is not None and wanted in (json_path.text(one) for one in json_path.values(doc, steps))


def condition(doc: JSON, kind: str) -> JSON:
    """The condition of that type, in any case, or {}. One that is about an older wish does not count."""
    generation = doc["metadata"].get("generation")
    for one in (doc.get("status") or {}).get("conditions") or ():
        if one.get("type", "").lower() == kind.lower():
            seen = one.get("observedGeneration")
            return {} if seen is not None and generation is not None and seen < generation else dict(one)
    return {}


def wrong(condition: JSON) -> bool:
    """Whether a condition is not as one would like it."""
    if condition.get("reason") == "StoppedAsDesired":
        return False
    bad_when_true = condition.get("type") in ("RestartRequired", "Drifted", "Lost")
    return (condition.get("status") == "True") is bad_when_true or condition.get("status") == "Unknown"


# --- waiting --------------------------------------------------------------------------------------------


def until(
    session: Session,
    targets: Sequence[Target],
    met: Met,
    wish: str,
    timeout: float,
    *,
    say: Callable[[Target], None],
    hopeless: Met | None = None,
) -> None:
    """Watch until every target met the wish, telling `say` of each; TimedOut with what keeps the others.

    Rejected at once when `hopeless` says so of an object.
    """
    deadline = time.monotonic() + timeout
    progress = Progress()
    last: dict[Target, JSON | None] = {}
    try:
        for kind in dict.fromkeys(target.kind for target in targets):
            waiting = {target.name: target for target in targets if target.kind == kind}
            due = len(last) + len(waiting)
            for name, doc in _changes(session, kind, sorted(waiting), deadline):
                if name not in waiting:
                    continue
                last[waiting[name]] = doc
                if met(doc):
                    progress.clear()
                    say(waiting.pop(name))
                elif hopeless is not None and hopeless(doc):
                    raise Rejected(f"{waiting[name]}: {explain(doc)}")
                if not waiting:
                    break
                if len(last) < due:
                    continue  # the first list is still being read: what is not looked at yet is not missing
                progress.show(_waiting_for(waiting, last))
            if waiting:
                progress.clear()
                raise TimedOut(_late(list(waiting.values()), last, wish, timeout))
    finally:
        progress.clear()


def _changes(session: Session, kind: Kind, names: Sequence[str], deadline: float) -> Iterator[tuple[str, JSON | None]]:
    """Each named object as it is now and after every change, None for one that is not there."""
    chosen = f"metadata.name={names[0]}" if len(names) == 1 else ""
    while True:  # at least one look, however short the time
        items, revision = session.list(kind, fieldSelector=chosen)
        there = {item["metadata"]["name"]: item for item in items}
        yield from ((name, there.get(name)) for name in names)
        try:
            path = session.collection(kind)
            for event in session.connection.watch(path, {"fieldSelector": chosen}, revision, deadline=deadline):
                yield event.object["metadata"]["name"], None if event.type == "DELETED" else event.object
        except Expired:
            pass
        if time.monotonic() >= deadline:
            return


def _waiting_for(waiting: dict[str, Target], last: dict[Target, JSON | None]) -> str:
    first = next((one for one in waiting.values() if one in last), next(iter(waiting.values())))
    others = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    return f"waiting for {first}{others}: {explain(last.get(first))}"


def _late(late: Sequence[Target], last: dict[Target, JSON | None], wish: str, timeout: float) -> str:
    lines = [f"{target}: {tables.cut(explain(last.get(target)), TOLD_MAX)}" for target in late[:5]]
    more = [f"and {len(late) - 5} more"] if len(late) > 5 else []
    head = f"{wish} not reached after {timeout:g} s: "
    told = lines[0] if len(late) == 1 else "\n  ".join([f"{len(late)} objects", *lines, *more])
    return f"{head}{told}\nMore: nanoctl why {late[0]}"


def explain(doc: JSON | None) -> str:
    """Where an object stands, in a few words: its phase, and why it is not ready."""
    if doc is None:
        return "not there"
    status = doc.get("status") or {}
    phase = "Deleting" if doc["metadata"].get("deletionTimestamp") else status.get("phase") or ""
    told = [one for one in status.get("conditions") or () if wrong(one) and one.get("message")]
    if phase == "Deleting":  # why it did not run before tells nothing any more
        told = [one for one in told if one.get("reason") == "Deleting" or one.get("type") == "Removed"]
    first = sorted(told, key=lambda one: one.get("type") != "Ready")[:1]
    return ", ".join(part for part in (phase, *(str(one["message"]) for one in first)) if part) or "there"
