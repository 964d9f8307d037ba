"""`nanoctl get`: objects as tables, JSON, YAML, names or a layout of one's own, and their changes as they happen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, sentence, tables, templates
from nanovirt.portal.cli.catalogue import Kind, Target
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.connection import AS_TABLE
from nanovirt.portal.cli.moments import at_option
from nanovirt.portal.cli.output import documents, lines, one_document
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire
from nanovirt.resources.errors import Expired, NotFound

JSON = dict[str, Any]
FORMATS = "wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEADING:PATH,..."


@click.command(
    epilog=examples("""
        get instances
        get instances -A -o wide
        get instance/web-1 -o yaml
        get instances -l app=web --field-selector status.phase=Running -w
        get hosts,computepools
        get instances --at 2h
        get instance/web-1 --at 4711 -o yaml
        get instance/web-1 -o jsonpath='{.status.addresses[0].ip}'
        get instances -o custom-columns=NAME:.metadata.name,IP:.status.addresses[*].ip
    """)
)
@click.argument("what", nargs=-1, metavar="KIND [NAME...] | KIND/NAME...", shell_complete=kind_words)
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="Only what has these labels: app=web,tier!=db")
@click.option("--field-selector", default="", metavar="FIELDS", help="Only what has these values: status.phase=Running")
@click.option("-o", "--output", type=templates.Output(), metavar="FORMAT", help=FORMATS)
@at_option
@click.option("--show-managed-fields", "managed", is_flag=True, help="Print who owns which field, too (JSON, YAML).")
@click.option("-w", "--watch", is_flag=True, help="Go on printing changes until interrupted.")
@click.option("--no-headers", is_flag=True, help="Leave out the headings of tables.")
@connected
def get(
    session: Session,
    *,
    what: tuple[str, ...],
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    output: str | None,
    at: str,
    managed: bool,
    watch: bool,
    no_headers: bool,
) -> None:
    """Show objects, as they are or as they were."""
    targets = session.targets(what)
    parameters = {"labelSelector": selector, "fieldSelector": field_selector, "at": at}
    if watch and at:
        raise Misused("--watch tells what is to come; leave --at out")
    if watch and (len(targets) != 1 or output not in (None, "wide")):
        raise Misused("--watch follows one kind or one object, as a table")
    absent = Absent(len(targets))
    if output not in (None, "wide"):
        found = _found(session, targets, absent, everywhere=all_namespaces, parameters=parameters)
        single = len(targets) == 1 and bool(targets[0].name)
        if found or not absent.told:
            _laid_out(found, output, single=single, managed=managed, headings=not no_headers)
        absent.refuse()
        return
    shown = Printer(session, absent, everywhere=all_namespaces, wide=output == "wide", headings=not no_headers)
    shown.print(targets, parameters)
    absent.refuse()
    if watch:
        with until_interrupted():
            shown.follow(targets[0], parameters)


def _laid_out(found: list[JSON], output: str, *, single: bool, managed: bool, headings: bool) -> None:
    layout, _, how = output.partition("=")
    match layout:
        case "jsonpath":
            whole = one_document(found, single=single, managed=managed)
            click.echo(templates.filled(templates.template(how), whole), nl=False)
        case "custom-columns":
            lines(tables.render(templates.grid(found, templates.columns(how)), headings=headings))
        case _:
            click.echo(documents(found, output, single=single, managed=managed), nl=False)


class Absent:
    """Of several objects, those that are not there: the others are shown before that is said."""

    def __init__(self, asked: int) -> None:
        self._several = asked > 1
        self.told: list[NotFound] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Go on when one of several is not there."""
        try:
            yield
        except NotFound as error:
            if not self._several:
                raise
            self.told.append(error)

    def refuse(self) -> None:
        """Say each that is not there, the last by raising it."""
        for error in self.told[:-1]:
            click.echo(f"Error: {sentence(error)}", err=True)
        if self.told:
            raise self.told[-1]


def _found(
    session: Session, targets: Sequence[Target], absent: Absent, *, everywhere: bool, parameters: dict[str, str]
) -> list[JSON]:
    found: list[JSON] = []
    for target in targets:
        if target.name:
            with absent.kept():
                found.append(session.get(target, parameters["at"]))
        else:
            items, _ = session.list(target.kind, everywhere=everywhere, **parameters)
            found += [_whole(target.kind, item) for item in items]
    return found


def _whole(kind: Kind, item: JSON) -> JSON:
    return item if "kind" in item else {"apiVersion": kind.group_version, "kind": kind.kind, **item}


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C is how one ends what has no other end: no error."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)


class Printer:
    """Prints the server's tables, one below the other, and rows of changes below the last one."""

    def __init__(self, session: Session, absent: Absent, *, everywhere: bool, wide: bool, headings: bool) -> None:
        self._session, self._absent = session, absent
        self._everywhere, self._wide, self._headings = everywhere, wide, headings
        self._columns: Sequence[JSON] = ()
        self._widths: Sequence[int] = ()
        self._revision = ""

    def print(self, targets: Sequence[Target], parameters: dict[str, str]) -> None:
        """One table for each kind; several kinds have their names before those of the objects."""
        kinds = list(dict.fromkeys(target.kind for target in targets))
        shown = 0
        for kind in kinds:
            names = [target.name for target in targets if target.kind == kind]
            made = self._grid(kind, names, parameters, prefix=kind.singular if len(kinds) > 1 else "")
            if made.rows:
                lines([""] if shown else [])
                lines(tables.render(made, headings=self._headings))
                shown += 1
        if not shown and not self._absent.told:
            somewhere = not self._everywhere and any(kind.namespaced for kind in kinds)
            where = f" in namespace {self._session.namespace}; -A shows all of them." if somewhere else "."
            click.echo(f"No {', '.join(kind.plural for kind in kinds)} found{where}", err=True)

    def _grid(self, kind: Kind, names: Sequence[str], parameters: dict[str, str], prefix: str) -> tables.Grid:
        pages = list(self._pages(kind, names, parameters))
        if not pages:
            return tables.Grid([], [])
        self._columns = pages[0].get("columnDefinitions") or ()
        self._revision = pages[0]["metadata"].get("resourceVersion", "")
        namespaces = self._everywhere and kind.namespaced and not any(names)
        grids = [
            tables.grid(page, wide=self._wide, namespaces=namespaces, prefix=prefix, columns=self._columns)
            for page in pages
        ]
        made = tables.Grid(grids[0].headings, [row for one in grids for row in one.rows])
        if kind.kind == "Event" and not self._wide:
            made = _nameless(made)
        self._widths = tables.measure(made)
        return made

    def _pages(self, kind: Kind, names: Sequence[str], parameters: dict[str, str]) -> Iterator[JSON]:
        if names == [""]:
            yield from self._session.pages(kind, everywhere=self._everywhere, accept=AS_TABLE, **parameters)
            return
        for name in names:
            path = kind.path(self._session.namespace, name) + wire.query(at=parameters.get("at", ""))
            with self._absent.kept():
                yield self._session.connection.get(path, AS_TABLE)

    def follow(self, target: Target, parameters: dict[str, str]) -> None:
        """Print a row for each change, until interrupted; after a gap in the history all rows are printed again."""
        if target.name:
            parameters = parameters | {"fieldSelector": f"metadata.name={target.name}"}
        path = self._session.collection(target.kind, everywhere=self._everywhere)
        while True:
            try:
                for event in self._session.connection.watch(path, parameters, self._revision, accept=AS_TABLE):
                    self._row(event.object, target)
            except Expired:
                self.print([target], parameters)

    def _row(self, table: JSON, target: Target) -> None:
        self._columns = table.get("columnDefinitions") or self._columns
        namespaces = self._everywhere and target.kind.namespaced and not target.name
        made = tables.grid(table, wide=self._wide, namespaces=namespaces, columns=self._columns)
        if target.kind.kind == "Event" and not self._wide:
            made = _nameless(made)
        self._widths = tables.measure(made, self._widths) if len(self._widths) == len(made.headings) else ()
        lines(tables.render(made, headings=False, widths=self._widths))


def _nameless(made: tables.Grid) -> tables.Grid:
    """Without the names, which nobody gave to Events and nobody asks for."""
    at = made.headings.index("NAME")
    headings, *rows = (cells[:at] + cells[at + 1 :] for cells in (made.headings, *made.rows))
    return tables.Grid(headings, rows)
