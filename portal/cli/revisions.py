"""`nanoctl log`: the newest revisions of the whole store, with who made them and what they wrote."""

from __future__ import annotations

from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.moments import Moment, local
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.timelines import pages

JSON = dict[str, Any]
HISTORY = "/apis/nano/v1/history"
HEADINGS = ["REVISION", "TIME", "BY", "WROTE"]
SHOWN = 3


@click.command(
    epilog=examples("""
        log
        log --limit 200 --until 2h
        log -o yaml
    """)
)
@click.argument("what", default="", metavar="")
@click.option("--limit", type=click.IntRange(1), default=20, metavar="N", help="The newest ones.  [default: 20]")
@click.option("--until", type=Moment(), default="", metavar="REV|TIME", help="Up to this moment.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As a document instead of a table.")
@connected
def log(session: Session, *, what: str, limit: int, until: str, output: str | None) -> None:
    """List revisions, newest first (for the administrator)."""
    if what:
        raise Misused(
            f"of one object: nanoctl timeline {what}; what a guest said on its serial line: console NAME --log"
        )
    found = pages(session, HISTORY, limit, at=until)
    if output:
        click.echo(documents([found], output, single=True), nl=False)
    else:
        lines(tables.render(tables.Grid(HEADINGS, [_row(one) for one in found["items"]])))


def _row(one: JSON) -> list[str]:
    wrote = [("-" if write["verb"] == "delete" else "") + write["object"] for write in one["writes"]]
    rest = one["count"] - SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    cells = one["revision"], local(one["time"]), one["by"], ", ".join(wrote[:SHOWN]) + more
    return [tables.text(cell) for cell in cells]
