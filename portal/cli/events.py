"""`nanoctl events`: what has happened, oldest first, and what goes on happening."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.ages import age
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.getting import until_interrupted
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Expired

JSON = dict[str, Any]
WIDTHS: tuple[int, ...] = (8, 7, 14, 20, 0)
"""Columns are at least so wide while events are followed, since what comes is not known."""


@click.command(
    epilog=examples("""
        events
        events -w
        events instance/web-1
        events -A --type Warning
    """)
)
@click.argument("what", nargs=-1, metavar="[KIND/NAME]", shell_complete=kind_words)
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-w", "--watch", "follow", is_flag=True, help="Then go on with what happens, until interrupted.")
@click.option("--type", "kind", type=click.Choice(["Normal", "Warning"], case_sensitive=False), help="Only these.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As documents instead of a table.")
@connected
def events(
    session: Session, *, what: tuple[str, ...], all_namespaces: bool, follow: bool, kind: str | None, output: str | None
) -> None:
    """Show what has happened to objects, oldest first."""
    if output and follow:
        raise Misused("events that are followed are shown as a table; leave -o out")
    terms = [f"type={kind}"] if kind else []
    about = about_one(session, what) if what else None
    history = History(session, about, terms, everywhere=all_namespaces)
    if follow:
        with until_interrupted():
            found, revision = history.read()
            lines(history.table(found, headings=True, follow=True))
            history.follow(found, revision)
        return
    found, _ = history.read()
    if output:
        whole = [{"apiVersion": "v1", "kind": "Event", **one} for one in found]
        click.echo(documents(whole, output, single=False), nl=False)
    elif found:
        lines(history.table(found, headings=True, follow=False))
    else:
        click.echo("Nothing has happened within the last hour.", err=True)


class About(NamedTuple):
    """The object whose events are asked for; its uid tells it from a namesake that was there before."""

    kind: str
    name: str
    namespace: str
    """Where its events stand: those of cluster-scoped objects in `default`."""
    uid: str

    @classmethod
    def of(cls, kind: str, metadata: JSON) -> About:
        """The object with that metadata."""
        return cls(kind, metadata["name"], metadata.get("namespace") or "default", metadata.get("uid", ""))


def about_one(session: Session, what: tuple[str, ...]) -> About:
    """The one object that the arguments name. Raises Misused, NotFound."""
    targets = session.targets(what)
    if len(targets) != 1 or not targets[0].name:
        raise Misused("say which one: nanoctl events KIND/NAME")
    return About.of(targets[0].kind.kind, session.get(targets[0])["metadata"])


class History:
    """The events in one namespace or in all, of everything or about one object."""

    def __init__(
        self, session: Session, about: About | None, terms: list[str], *, everywhere: bool, at: str = ""
    ) -> None:
        """`terms`: field selectors; `at`: a revision or time, "" is now."""
        self._about, self._everywhere = about, everywhere
        self._session = Session(session.connection, about.namespace) if about else session
        if about is not None:
            terms = [*terms, f"involvedObject.kind={about.kind}", f"involvedObject.name={about.name}"]
        self._parameters = {"fieldSelector": ",".join(terms), "at": at}
        self._kind = session.catalogue.named("events")
        self._widths: Sequence[int] = (9, *WIDTHS) if everywhere else WIDTHS

    def read(self) -> tuple[list[JSON], str]:
        """What is known, oldest first, and the revision from which it goes on."""
        found, revision = self._session.list(self._kind, everywhere=self._everywhere, **self._parameters)
        return sorted(filter(self._wanted, found), key=_when), revision

    def _wanted(self, event: JSON) -> bool:
        told = (event.get("involvedObject") or {}).get("uid")
        return self._about is None or told in (None, "", self._about.uid)

    def follow(self, shown: list[JSON], revision: str) -> None:
        """Print what happens after a revision, for ever; `shown` stands there already."""
        path = self._session.collection(self._kind, everywhere=self._everywhere)
        seen = {_mark(one) for one in shown}
        while True:
            try:
                for event in self._session.connection.watch(path, self._parameters, revision):
                    if event.type in ("ADDED", "MODIFIED"):
                        self._show([event.object], seen)
            except Expired:
                missed, revision = self.read()
                self._show(missed, seen)

    def _show(self, found: list[JSON], seen: set[tuple[str, int]]) -> None:
        fresh = [one for one in found if self._wanted(one) and _mark(one) not in seen]
        seen.update(map(_mark, fresh))
        if fresh:
            lines(self.table(fresh, headings=False, follow=True))

    def table(self, found: Sequence[JSON], *, headings: bool, follow: bool) -> list[str]:
        """Lines, a row for each event; with clock times, in columns that stay, when more are to follow."""
        titles = ["TIME" if follow else "AGO", "TYPE", "REASON", "OBJECT", "MESSAGE"]
        rows = [[clock(last_seen(one)) if follow else age(last_seen(one)), *_row(one)] for one in found]
        if self._everywhere:
            titles = ["NAMESPACE", *titles]
            rows = [[one["metadata"].get("namespace", ""), *row] for one, row in zip(found, rows, strict=True)]
        made = tables.Grid(titles, rows)
        if not follow:
            return tables.render(tables.wrapped(made, tables.columns_of_terminal()), headings=headings)
        self._widths = [*tables.measure(made, self._widths)[:-1], 0]
        return tables.render(made, headings=headings, widths=self._widths)


def _mark(event: JSON) -> tuple[str, int]:
    return event["metadata"]["uid"], event.get("count") or 1


def clock(stamp: str) -> str:
    """`17:05:09`, where the reader is."""
    return datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S") if stamp else "-"


def _row(event: JSON) -> list[str]:
    about = event.get("involvedObject") or {}
    count = event.get("count") or 1
    reason = str(event.get("reason", "")) + (f" (x{count})" if count > 1 else "")
    cells = event.get("type"), reason, f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    return [tables.text(cell) for cell in (*cells, event.get("message"))]


def _when(event: JSON) -> tuple[str, int]:
    """By time; what happened within one second by the order in which it was stored."""
    return last_seen(event), int(event["metadata"].get("resourceVersion") or 0)


def last_seen(event: JSON) -> str:
    """When it happened last (RFC 3339)."""
    return str(event.get("lastTimestamp") or event.get("firstTimestamp") or "")
