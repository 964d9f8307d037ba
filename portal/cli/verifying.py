"""`nanoctl verify`: where hosts hold something else than the store says."""

from __future__ import annotations

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.output import lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.tables import Grid, printable, render

MEANING = {
    "Silent": "see to the host and its agent",
    "Unknown": "upgrade its agent",
    "Missing": "see `nanoctl why`; its disks may be gone: delete and make it again, or bring them back",
    "Unclaimed": "left alone, and its addresses are given to nobody: undefine it by hand when it is not needed",
    "Elsewhere": "end one of the two by hand before the cluster may act",
    "Ahead": "the cluster goes on from the host's epoch by itself",
}


@click.command(
    epilog=examples("""
        verify
    """)
)
@connected
def verify(session: Session) -> None:
    """List where hosts and store differ.

    Every host is asked what it holds. Exit code 1 if there is any difference.
    """
    said = session.connection.get("/verify")
    found = said["differences"]
    if not found:
        click.echo(f"{said['hosts']} hosts hold what the store says")
        return
    rows = [[printable(str(one[part])) for part in ("host", "what", "machine", "detail")] for one in found]
    lines(render(Grid(["HOST", "WHAT", "MACHINE", "DETAIL"], rows)))
    for what in dict.fromkeys(one["what"] for one in found):
        click.echo(f"{what}: {MEANING.get(what, '')}", err=True)
    click.get_current_context().exit(1)
