"""`nanoctl store`: looking at the data folder of a server, and mending the log of one that refuses to start."""

from __future__ import annotations

from pathlib import Path

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.connection import data_folder
from nanovirt.resources.errors import Rejected


@click.group(epilog=examples("store repair --accept-loss-after 4711"))
def store() -> None:
    """Look at the store where it lies, and mend it."""


DATA = click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The server's own.")


@store.command(
    epilog=examples("""
        store verify
        store verify --data /srv/nano
    """)
)
@DATA
def verify(*, data: Path | None) -> None:
    """Say whether the store is whole.

    Every byte of it is read; the server may run. What is wrong is named with what mends it, and the exit code is 1.
    """
    from nanovirt.resources.examining import examine  # noqa: PLC0415 - other commands do not need the log

    found = examine(_folder(data))
    for one in found.findings:
        click.echo(f"{one.path}: {one.why}\n  What to do: {one.mend}.")
    click.echo(
        f"{'not ' if found.findings else ''}whole: revisions {found.oldest} to {found.rev} in {found.records} records, "
        f"{found.segments} segments and {found.snapshots} snapshots, {found.size} bytes; "
        f"cluster {found.identity.cluster}, incarnation {found.identity.incarnation}"
    )
    if found.findings:
        click.get_current_context().exit(1)


@store.command(
    epilog=examples("""
        store dump > objects.jsonl
        store dump --at 4711 | jq -c 'select(.kind == "Instance")'
        store dump --records | jq -c '[.rev, .at, .by]'
    """)
)
@DATA
@click.option("--at", type=click.IntRange(0), metavar="REV", help="As it was then.  [default: as it is]")
@click.option("--records", is_flag=True, help="The log, revision by revision, instead of what it leads to.")
@click.option("--internal", is_flag=True, help="With what no API serves, such as the digests of tokens.")
def dump(*, data: Path | None, at: int | None, records: bool, internal: bool) -> None:
    """Print every object as JSON.

    One line for each; the server may run. The values of Secrets stay sealed.
    """
    import orjson  # noqa: PLC0415 - other commands do not need the log

    from nanovirt.resources import examining  # noqa: PLC0415
    from nanovirt.resources.registry import kinds  # noqa: PLC0415

    kinds()
    folder = _folder(data)
    if records:
        found = examining.dump_records(folder, at, internal=internal)
    else:
        found = examining.dump(folder, at, internal=internal)
    for one in found:
        click.echo(orjson.dumps(one))


@store.command(
    epilog=examples("""
        store repair --accept-loss-after 4711
        store repair --data /srv/nano --accept-loss-after 4711
    """)
)
@DATA
@click.option(
    "--accept-loss-after", type=click.IntRange(0), required=True, metavar="REV", help="The last good revision."
)
def repair(*, data: Path | None, accept_loss_after: int) -> None:
    """Give up what comes after the last good revision.

    The refusal of the server names that revision. Copies of all that is given up stay in quarantine/. Restore a backup
    instead, if there is one: machines that were made after that revision run on, but Nano does not know them any more.
    """
    from nanovirt.resources.recovery import repair as mend  # noqa: PLC0415 - other commands do not need the log

    done = mend(_folder(data), accept_loss_after)
    if not done.dropped and not done.kept:
        click.echo(f"nothing to repair: the log is whole up to revision {done.rev}")
        return
    click.echo(f"the log ends at revision {done.rev}; {done.dropped} bytes were given up, copies:")
    for path in done.kept:
        click.echo(f"  {path}")


def _folder(data: Path | None) -> Path:
    folder = (data or data_folder()) / "data"
    if not folder.is_dir():
        raise Rejected(f"{folder} is not there; name the server's data folder by --data DIR")
    return folder
