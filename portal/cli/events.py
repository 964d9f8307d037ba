"""`nanoctl events`: what has happened, oldest first, and what goes on happening."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.ages import age
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.getting import until_interrupted
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Expired

JSON = dict[str, Any]
WIDTHS: tuple[int, ...] = (5, 7, 14, 20, 0)
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
@click.option("--type", "kind", type=click.Choice(["Normal", "Warning"]), help="Only these.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As documents instead of a table.")
@connected
def events(
    session: Session, *, what: tuple[str, ...], all_namespaces: bool, follow: bool, kind: str | None, output: str | None
) -> None:
    """Show what has happened; those of hosts and pools stand in namespace default."""
    if output and follow:
        raise Misused("events that are followed are shown as a table; leave -o out")
    history = History(session, {"fieldSelector": ",".join(chosen(session, what, kind))}, everywhere=all_namespaces)
    found, revision = history.read()
    if output:
        whole = [{"apiVersion": "v1", "kind": "Event", **one} for one in found]
        click.echo(documents(whole, output, single=False), nl=False)
    elif found or follow:
        lines(history.table(found, headings=True, follow=follow))
    else:
        click.echo("Nothing has happened within the last hour.", err=True)
    if follow:
        with until_interrupted():
            history.follow(revision)


class History:
    """The events that match `parameters`, in one namespace or in all."""

    def __init__(self, session: Session, parameters: dict[str, str], *, everywhere: bool) -> None:
        self._session, self._parameters, self._everywhere = session, parameters, everywhere
        self._kind = session.catalogue.named("events")
        self._widths: Sequence[int] = (9, *WIDTHS) if everywhere else WIDTHS

    def read(self) -> tuple[list[JSON], str]:
        """What is known, oldest first, and the revision from which it goes on."""
        found, revision = self._session.list(self._kind, everywhere=self._everywhere, **self._parameters)
        return sorted(found, key=last_seen), revision

    def follow(self, revision: str) -> None:
        """Print what happens after a revision, for ever."""
        path = self._session.collection(self._kind, everywhere=self._everywhere)
        while True:
            try:
                for event in self._session.connection.watch(path, self._parameters, revision):
                    if event.type in ("ADDED", "MODIFIED"):
                        lines(self.table([event.object], headings=False, follow=True))
            except Expired:
                revision = self.read()[1]

    def table(self, found: Sequence[JSON], *, headings: bool, follow: bool) -> list[str]:
        """Lines, a row for each event; in columns that stay where they are when more are to follow."""
        titles, rows = ["AGO", "TYPE", "REASON", "OBJECT", "MESSAGE"], [_row(one) for one in found]
        if self._everywhere:
            titles = ["NAMESPACE", *titles]
            rows = [[one["metadata"].get("namespace", ""), *row] for one, row in zip(found, rows, strict=True)]
        made = tables.Grid(titles, rows)
        if not follow:
            return tables.render(made, headings=headings)
        self._widths = [*tables.measure(made, self._widths)[:-1], 0]
        return tables.render(made, headings=headings, widths=self._widths)


def chosen(session: Session, what: tuple[str, ...], kind: str | None) -> list[str]:
    """The field selectors that the arguments mean. Raises Misused."""
    terms = [f"type={kind}"] if kind else []
    if not what:
        return terms
    targets = session.targets(what)
    if len(targets) != 1 or not targets[0].name:
        raise Misused("say which one: nanoctl events KIND/NAME")
    return [*terms, f"involvedObject.kind={targets[0].kind.kind}", f"involvedObject.name={targets[0].name}"]


def _row(event: JSON) -> list[str]:
    about = event.get("involvedObject") or {}
    count = event.get("count") or 1
    reason = str(event.get("reason", "")) + (f" (x{count})" if count > 1 else "")
    cells = age(last_seen(event)), event.get("type"), reason, f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    return [tables.text(cell) for cell in (*cells, event.get("message"))]


def last_seen(event: JSON) -> str:
    """When it happened last (RFC 3339)."""
    return str(event.get("lastTimestamp") or event.get("firstTimestamp") or "")
