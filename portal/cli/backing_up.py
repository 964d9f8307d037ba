"""`nanoctl backup`: the store in one file, from the running server or from its data folder, and the keys in another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.connection import connect, data_folder
from nanovirt.resources import wire
from nanovirt.resources.errors import Rejected

File = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples("""
        backup nano-monday.tar
        backup nano-monday.tar --with-history
        backup nano-monday.tar --data /srv/nano
        backup --keys /root/nano-keys.tar
    """)
)
@click.argument("file", type=File, required=False)
@click.option("--with-history", is_flag=True, help="With the past that the server keeps, not only what is.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Read it, ask no server.")
@click.option("--keys", type=File, metavar="FILE", help="Write the keys of this machine's server there.")
@click.option("--kubeconfig", metavar="FILE", help="Instead of $NANO_KUBECONFIG and the data folder's own.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig to use.")
def backup(
    *,
    file: Path | None,
    with_history: bool,
    data: Path | None,
    keys: Path | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Write the store into a file, at any time.

    Every object, at one revision, from the server or (--data) from its folder, checked before the command is done.
    Images, the disks of guests and the keys are not in it. Keep the file of --keys apart: with both, everything is
    readable; without the keys, secrets stay closed and every host has to be added again.
    """
    if file is None and keys is None:
        raise Misused("name the FILE to write, or --keys FILE")
    if Path("-") in (file, keys):
        raise Misused("a backup is checked where it lies, so it goes into a file: name one instead of -")
    try:
        if file is not None:
            _back_up(file, data, kubeconfig, context, with_history=with_history)
        if keys is not None:
            _back_up_keys(data or data_folder(), keys)
    except OSError as error:
        raise Rejected(f"{error.filename or file or keys} cannot be read or written: {error.strerror}") from error


def _back_up(file: Path, data: Path | None, kubeconfig: str | None, context: str | None, *, with_history: bool) -> None:
    from nanovirt.resources.backup import save, take  # noqa: PLC0415 - other commands do not need the log

    if data is not None:
        contents = save(_shown(take(data / "data", with_history=with_history)), file)
    else:
        connection = connect(kubeconfig, context)
        try:
            contents = save(_shown(connection.pieces("/backup" + wire.query(history=with_history))), file)
        finally:
            connection.close()
    size = file.stat().st_size
    click.echo(f"{file}: revision {contents.revision} of cluster {contents.cluster}, {size} bytes, whole (mode 0600)")


def _shown(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Say on a terminal how far it is; how much it will be nobody knows, since the server goes on writing."""
    size, shown = 0, sys.stderr.isatty()
    for piece in pieces:
        yield piece
        size += len(piece)
        if shown:
            click.echo(f"\r{size >> 20} MiB ", nl=False, err=True)
    if shown:
        click.echo("\r", nl=False, err=True)


def _back_up_keys(folder: Path, file: Path) -> None:
    from nanovirt.resources.keys import keys_of, save_keys  # noqa: PLC0415 - other commands do not need it

    found = keys_of(folder)
    if not found:
        raise Rejected(f"{folder} has no keys: run this on the server's machine, as its user, with its --data")
    save_keys(found, file)
    click.echo(f"{file}: {', '.join(sorted(found))} (mode 0600)")
    click.echo("Whoever has this file is the cluster: keep it in a safe, apart from every other backup", err=True)
