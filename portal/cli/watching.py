"""`nanoctl watch`: a table that stays up to date in place; on a pipe, a row for each change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.ages import age
from nanovirt.portal.cli.catalogue import Kind
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.connection import AS_TABLE
from nanovirt.portal.cli.getting import Absent, Printer, until_interrupted
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Expired

JSON = dict[str, Any]


@click.command(
    epilog=examples("""
        watch instances
        watch instances -A -o wide
        watch hosts
    """)
)
@click.argument("what", nargs=-1, metavar="KIND", shell_complete=kind_words)
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="Only what has these labels.")
@click.option("--field-selector", default="", metavar="FIELDS", help="Only what has these values.")
@click.option("-o", "--output", type=click.Choice(["wide"]), help="More columns.")
@connected
def watch(
    session: Session,
    *,
    what: tuple[str, ...],
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    output: str | None,
) -> None:
    """Show objects, and keep the table up to date until interrupted."""
    targets = session.targets(what)
    if len(targets) != 1:
        raise Misused("watch follows one kind, or one object")
    parameters = {"labelSelector": selector, "fieldSelector": field_selector}
    if targets[0].name:
        parameters["fieldSelector"] = f"metadata.name={targets[0].name}"
    if sys.stdout.isatty():
        board = Board(session, targets[0].kind, everywhere=all_namespaces, wide=output == "wide")
        with until_interrupted():
            board.run(parameters)
        return
    shown = Printer(session, Absent(1), everywhere=all_namespaces, wide=output == "wide", headings=True)
    shown.print(targets, parameters)
    with until_interrupted():
        shown.follow(targets[0], parameters)


class Board:
    """The rows of a kind as they are now, drawn anew in the terminal as they change, a few times a second at most."""

    def __init__(self, session: Session, kind: Kind, *, everywhere: bool, wide: bool) -> None:
        self._session, self._kind, self._everywhere, self._wide = session, kind, everywhere, wide
        self._columns: Sequence[JSON] = ()
        self._rows: dict[tuple[str, str], JSON] = {}
        self._revision = ""

    def run(self, parameters: dict[str, str]) -> None:
        """Until interrupted."""
        from rich.live import Live  # noqa: PLC0415 - nothing else needs it
        from rich.text import Text  # noqa: PLC0415 - nothing else needs it

        def drawn() -> Text:
            return Text.from_ansi("\n".join(self.lines()), no_wrap=True, overflow="ellipsis")

        with Live(get_renderable=drawn, refresh_per_second=4, screen=True):
            while True:
                self.read(parameters)
                try:
                    self._follow(parameters)
                except Expired:
                    continue

    def _follow(self, parameters: dict[str, str]) -> None:
        path = self._session.collection(self._kind, everywhere=self._everywhere)
        for event in self._session.connection.watch(path, parameters, self._revision, accept=AS_TABLE):
            self.take(event.object, gone=event.type == "DELETED")

    def read(self, parameters: dict[str, str]) -> None:
        """Begin with what is there."""
        self._rows = {}
        self._revision = ""
        for page in self._session.pages(self._kind, everywhere=self._everywhere, accept=AS_TABLE, **parameters):
            self._revision = self._revision or page["metadata"]["resourceVersion"]
            self.take(page)

    def take(self, table: JSON, *, gone: bool = False) -> None:
        """Put rows where they belong, or take them away."""
        self._columns = table.get("columnDefinitions") or self._columns
        for row in table.get("rows") or ():
            metadata = (row.get("object") or {}).get("metadata") or {}
            key = (metadata.get("namespace", ""), metadata.get("name", ""))
            if gone:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row

    def lines(self) -> list[str]:
        """What stands in the terminal: the count, the table, and how many rows do not fit."""
        rows = [self._aged(self._rows[key]) for key in sorted(self._rows)]
        room, height = shutil.get_terminal_size()
        table = {"columnDefinitions": list(self._columns), "rows": rows[: max(1, height - 4)]}
        namespaces = self._everywhere and self._kind.namespaced
        made = tables.render(tables.grid(table, wide=self._wide, namespaces=namespaces), room=room) if rows else []
        hidden = [f"... and {len(rows) - height + 4} more"] if len(rows) > height - 4 else []
        counted = self._kind.singular if len(rows) == 1 else self._kind.plural
        return [f"{len(rows)} {counted} (Ctrl-C ends)", *made, *hidden]

    def _aged(self, row: JSON) -> JSON:
        """The row with its age as of now, since the server told it when something changed last."""
        made = (row.get("object") or {}).get("metadata", {}).get("creationTimestamp", "")
        named = zip(self._columns, row["cells"], strict=True)
        return row | {"cells": [age(made) if column["name"] == "Age" else cell for column, cell in named]}
