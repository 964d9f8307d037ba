"""`nanoctl timeline`: what has happened to one object, which it outlives, with who, when and what changed."""

from __future__ import annotations

from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.moments import Moment, local
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.planning import said
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire

JSON = dict[str, Any]
HEADINGS = ["TIME", "REVISION", "BY", "WHAT", "DETAIL"]


@click.command(
    epilog=examples("""
        timeline instance/web-1
        timeline instance/web-1 --limit 500
        timeline instance web-1 --uid 2f1c... -o yaml
    """)
)
@click.argument("what", nargs=-1, metavar="KIND/NAME", shell_complete=kind_words)
@click.option("--uid", default="", metavar="UID", help="Only of this one, not of others that had its name.")
@click.option("--limit", type=click.IntRange(1), default=100, metavar="N", help="The newest entries.  [default: 100]")
@click.option("--until", type=Moment(), default="", metavar="REV|TIME", help="Up to this moment.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As a document instead of a table.")
@connected
def timeline(session: Session, *, what: tuple[str, ...], uid: str, limit: int, until: str, output: str | None) -> None:
    """Tell what has happened to an object, also to a deleted one.

    The newest entries, oldest first: who changed what, what was decided, what its host reported, events.
    """
    targets = session.targets(what)
    if len(targets) != 1 or not targets[0].name:
        raise Misused("say which one: nanoctl timeline KIND/NAME")
    path = targets[0].kind.path(session.namespace, targets[0].name, "timeline")
    found = pages(session, path, limit, uid=uid, at=until)
    if output:
        click.echo(documents([found], output, single=True), nl=False)
        return
    rows = [_row(one) for one in reversed(found["items"])]
    lines(tables.render(tables.wrapped(tables.Grid(HEADINGS, rows), tables.columns_of_terminal())))
    if "continue" in found["metadata"]:
        click.echo(f"There is more before that; --limit shows it.{_since(found)}", err=True)
    elif found["since"]["time"]:
        click.echo(_since(found).strip(), err=True)


def pages(session: Session, path: str, limit: int, **parameters: str) -> JSON:
    """One document with the newest entries, of as many pages as that takes."""
    going_on, items = "", list[JSON]()
    while True:
        asked = wire.query(limit=limit - len(items), **parameters, **{"continue": going_on})
        page = session.connection.get(path + asked)
        items += page["items"]
        going_on = page["metadata"].get("continue", "")
        if not going_on or len(items) >= limit:
            return page | {"items": items}


def _since(found: JSON) -> str:
    since = found["since"]
    return f" History begins with revision {since['revision']} ({local(since['time'])})." if since["time"] else ""


def _row(one: JSON) -> list[str]:
    kind, _, rest = one["object"].partition("/")
    about = f" ({kind}/{rest.rpartition('/')[2]})" if kind == "placements" else ""
    cells = local(one["time"]), one["revision"], one["by"], one["type"] + about, _detail(one)
    return [tables.text(cell) for cell in cells]


def _detail(one: JSON) -> str:
    parts = [f"{one['reason']}: {one.get('message', '')}"] if one.get("reason") else []
    parts += [f"on {one['host']} at epoch {one['epoch']}"] if one.get("host") else []
    for field in one.get("fields") or ():
        values = f" {said(field['before'])} -> {said(field['after'])}" if "after" in field else ""
        parts.append(f"{field['path']}{values}")
    return "; ".join(parts)
