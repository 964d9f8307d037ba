"""`nanoctl store`: mending the log of a server that refuses to start; works on its data folder, without the server."""

from __future__ import annotations

from pathlib import Path

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.connection import data_folder
from nanovirt.resources.errors import Rejected


@click.group(epilog=examples("store repair --accept-loss-after 4711"))
def store() -> None:
    """Mend the store of a stopped server."""


@store.command(
    epilog=examples("""
        store repair --accept-loss-after 4711
        store repair --data /srv/nano --accept-loss-after 4711
    """)
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The server's own.")
@click.option(
    "--accept-loss-after", type=click.IntRange(0), required=True, metavar="REV", help="The last good revision."
)
def repair(*, data: Path | None, accept_loss_after: int) -> None:
    """Give up what comes after the last good revision.

    The refusal of the server names that revision. Copies of all that is given up stay in quarantine/. Restore a backup
    instead, if there is one: machines that were made after that revision run on, but Nano does not know them any more.
    """
    from nanovirt.resources.recovery import repair as mend  # noqa: PLC0415 - other commands do not need the log

    folder = (data or data_folder()) / "data"
    if not folder.is_dir():
        raise Rejected(f"{folder} is not there; name the server's data folder by --data DIR")
    done = mend(folder, accept_loss_after)
    if not done.dropped and not done.kept:
        click.echo(f"nothing to repair: the log is whole up to revision {done.rev}")
        return
    click.echo(f"the log ends at revision {done.rev}; {done.dropped} bytes were given up, copies:")
    for path in done.kept:
        click.echo(f"  {path}")
