"""`nanoctl desired`: how the server's directory of desired objects stands, and what becomes of lost files' objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import Refused, examples
from nanovirt.portal.cli.output import documents
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.tables import Grid, printable, render

JSON = dict[str, Any]
PATH = "/apis/nano/v1/desired"


@click.group(
    epilog=examples("""
        desired status
        desired prune
    """)
)
def desired() -> None:
    """Look at the server's directory of desired objects."""


@desired.command(
    epilog=examples("""
        desired status
        desired status -o yaml
    """)
)
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="The whole document.")
@connected
def status(session: Session, *, output: str | None) -> None:
    """Say what of the directory counts.

    And what does not and why, and which objects have lost their file. Ends with exit code 1 when not everything counts.
    """
    told = session.connection.get(PATH)
    if output:
        click.echo(documents([told], output, single=True), nl=False)
        return
    rule = "deleted" if told["prune"] else "kept"
    click.echo(f"{told['directory']}, applied as {told['user']}; objects without a file are {rule}")
    for line in render(Grid(["FILE", "COUNTS", "REASON", "MESSAGE"], list(_rows(told)))):
        click.echo(line)
    if told["vanished"]:
        click.echo("\nWithout a file: " + ", ".join(_name(one) for one in told["vanished"]))
    bad = [one for some in (told, *told["files"]) for one in some["conditions"] if one["status"] != "True"]
    if bad or not told["conditions"]:
        click.get_current_context().exit(1)


def _rows(told: JSON) -> Iterator[list[str]]:
    for one in told["conditions"]:
        yield ["(all)" if one["type"] == "Ready" else "(gone)", one["status"], one["reason"], printable(one["message"])]
    for file in told["files"]:
        for one in file["conditions"]:
            yield [printable(file["path"]), one["status"], one["reason"], printable(one["message"])]


@desired.command(
    epilog=examples("""
        desired prune
        desired prune --force --yes
    """)
)
@click.option("--force", is_flag=True, help="However many they are, and also what the API side has changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def prune(session: Session, *, force: bool, yes: bool) -> None:
    """Delete the objects whose file is gone, now and once.

    Exactly those that are shown are deleted. Without --force at most a tenth of all objects, or three, go at once, and
    what the API side has changed since stays. Nothing goes while a file cannot be read or the directory is not there.
    """
    told = session.connection.get(PATH)
    if not told["vanished"]:
        click.echo("no object has lost its file")
        return
    click.echo("\n".join(f"{_name(one)} has no file any more" for one in told["vanished"]))
    if not yes:
        click.confirm(f"Delete {len(told['vanished'])} objects, with all that is in them?", abort=True)
    done = session.connection.ask("POST", f"{PATH}/prune", {"objects": told["vanished"], "force": force})
    for one in done["pruned"]:
        click.echo(f"{_name(one)} deleted")
    if len(done["pruned"]) < len(told["vanished"]):
        raise Refused(next(one["message"] for one in done["conditions"] if one["type"] == "Pruned"))


def _name(one: JSON) -> str:
    return "/".join(part for part in (one["kind"].lower(), one["namespace"], one["name"]) if part)
