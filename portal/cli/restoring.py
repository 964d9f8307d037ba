"""`nanoctl restore`: a store out of a backup, and the word that lets the restored cluster act."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.connection import Connection, connect
from nanovirt.portal.cli.output import lines
from nanovirt.portal.cli.tables import Grid, printable, render
from nanovirt.resources.errors import NotFound, Rejected

File = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples("""
        restore nano-monday.tar --keys nano-keys.tar --data /var/lib/nano
        restore --status
        verify
        restore --confirm
    """)
)
@click.argument("file", type=File, required=False)
@click.option("--keys", type=File, metavar="FILE", help="What `nanoctl backup --keys` has written.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="An empty folder.")
@click.option("--status", is_flag=True, help="Say which hosts a restored cluster waits for.")
@click.option("--confirm", is_flag=True, help="Let a restored cluster act, whoever has not reported.")
@click.option("--kubeconfig", metavar="FILE", help="Instead of $NANO_KUBECONFIG and the data folder's own.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig to use.")
def restore(
    *,
    file: Path | None,
    keys: Path | None,
    data: Path | None,
    status: bool,
    confirm: bool,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Make a store from a backup.

    It is made in an empty data folder; start the server there. Nothing is started, revoked or freed until every host
    has said what it holds: `nanoctl verify` lists where hosts and store differ, and --confirm lets the cluster act
    without those that do not come back.
    """
    if [file is not None, status, confirm].count(True) != 1:
        raise Misused("name a FILE, or --status, or --confirm")
    if file is None:
        _tell(kubeconfig, context, confirm=confirm)
    elif data is None:
        raise Misused("say where to: --data DIR, an empty folder")
    else:
        _restore(file, keys, data)


def _restore(file: Path, keys: Path | None, data: Path) -> None:
    from nanovirt.resources.keys import put_keys, read_keys  # noqa: PLC0415 - other commands do not need it
    from nanovirt.resources.registry import kinds  # noqa: PLC0415
    from nanovirt.resources.restoring import restore as make  # noqa: PLC0415
    from nanovirt.resources.segments import RAISED  # noqa: PLC0415

    kinds()
    try:
        found = read_keys(keys) if keys else {}
        contents = make(file, data / "data", datetime.now(UTC), _say, lambda: put_keys(found, data))
    except OSError as error:
        raise Rejected(f"{error.filename or file} cannot be read or written: {error.strerror}") from error
    click.echo(f"{data}: the state of revision {contents.revision} ({contents.at or 'empty'}), as revision ", nl=False)
    click.echo(f"{contents.revision + RAISED} of the same cluster {contents.cluster}")
    if not found:
        click.echo("Without --keys the server makes a new authority: put pki/ and secrets.key there first", err=True)
    click.echo(f"Start it: nanoctl server --data {data}   then: nanoctl restore --status, nanoctl verify", err=True)


def _say(step: str) -> None:
    click.echo(f"{step} ...", err=True)


def _tell(kubeconfig: str | None, context: str | None, *, confirm: bool) -> None:
    connection = connect(kubeconfig, context)
    try:
        if confirm:
            _confirm(connection)
            return
        said = connection.get("/restore")
    finally:
        connection.close()
    if not said["held"]:
        click.echo("nothing is held: this store was not restored, or has been let go")
        return
    click.echo(f"held since {said['restored']}: the store is that of revision {said['revision']}")
    rows = [[one["name"], str(one["accounted"]), printable(one["message"])] for one in said["hosts"]]
    lines(render(Grid(["HOST", "ACCOUNTED", "MESSAGE"], rows)))


def _confirm(connection: Connection) -> None:
    try:
        connection.ask("DELETE", "/restore")
    except NotFound as error:
        raise Rejected("nothing is held: this store was not restored, or has been let go") from error
    click.echo("the restored cluster acts now")
