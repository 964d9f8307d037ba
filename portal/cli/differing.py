"""`nanoctl diff`: what is not the same at two moments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.moments import Moment, local
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.planning import said
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.tables import Grid, render
from nanovirt.resources import wire

JSON = dict[str, Any]
DIFF = "/apis/nano/v1/history/diff"
HEADINGS = ["OBJECT", "FIELD", "BEFORE", "AFTER"]


class MomentOrNow(Moment):
    """A moment, or `now`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See Moment; "" is now."""
        return "" if value == "now" else super().convert(value, param, ctx)


@click.command(
    epilog=examples("""
        diff 4711 4802
        diff 2h now
        diff 4711 now instance/web-1
        diff 4711 now instances --all
    """)
)
@click.argument("one", type=Moment(), metavar="REV|TIME")
@click.argument("other", type=MomentOrNow(), metavar="REV|TIME|now")
@click.argument("what", nargs=-1, metavar="[KIND | KIND/NAME]", shell_complete=kind_words)
@click.option("--all", "every", is_flag=True, help="What the system writes, too, and the status.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As a document instead of a table.")
@connected
def diff(session: Session, *, one: str, other: str, what: tuple[str, ...], every: bool, output: str | None) -> None:
    """Show what was made, changed and deleted between two moments."""
    asked = {"from": one, "to": other, **chosen(session, what)}
    found = session.connection.get(DIFF + wire.query(**asked, all=every))
    if output:
        click.echo(documents([found], output, single=True), nl=False)
        return
    spoken = " to ".join(f"{found[side]['revision']} ({local(found[side]['time'])})" for side in ("from", "to"))
    if not found["items"]:
        click.echo(f"Nothing differs from {spoken}.", err=True)
    else:
        click.echo(f"From {spoken}:", err=True)
        lines(render(Grid(HEADINGS, [row for item in found["items"] for row in _rows(item)])))


def chosen(session: Session, what: tuple[str, ...]) -> dict[str, str]:
    """The parts by which the server chooses objects. Misused: it is not one kind or one object."""
    if not what:
        return {}
    targets = session.targets(what)
    if len(targets) != 1:
        raise Misused("name one kind, or one object as KIND/NAME")
    kind, name = targets[0]
    space = session.namespace if name and kind.namespaced else ""
    return {part: text for part, text in {"kind": kind.plural, "namespace": space, "name": name}.items() if text}


def title(item: JSON) -> str:
    """`instance/web-1`, with its namespace unless that is `default`."""
    space = item.get("namespace", "default")
    return f"{item['kind'].lower()}/{item['name']}" + (f" -n {space}" if space != "default" else "")


def _rows(item: JSON) -> Iterator[list[str]]:
    if item["change"] != "Changed":
        yield [title(item), f"({item['change'].lower()})", "-", "-"]
    for field in item.get("fields") or ():
        yield [title(item), field["path"], said(field.get("before")), said(field.get("after"))]
