"""`nanoctl host`: adding a server to the cluster, until joining by token exists."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.connection import Connection, connect, data_folder
from nanovirt.portal.cli.session import Session
from nanovirt.resources.errors import NotFound, Rejected

JSON = dict[str, Any]
LOCAL = ("127.0.0.1", "localhost", "::1")


@click.group(epilog=examples("host add node-2 --bridge default=br0 --server https://10.20.0.5:5870"))
def host() -> None:
    """Add servers to the cluster."""


@host.command(
    epilog=examples("""
        host add node-2 --bridge default=br0 --server https://10.20.0.5:5870
        host add node-3 --bridge default=br0 --bridge office=br1:10,20-29
        agent --server https://10.20.0.5:5870 --credentials node-2.json --bridge br0
    """)
)
@click.argument("name")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The server's own.")
@click.option("--server", metavar="URL", help="How that host reaches the server.  [default: as the admin does]")
@click.option("--pool", default="default", show_default=True, metavar="POOL", help="ComputePool of the host.")
@click.option(
    "--bridge",
    "bridges",
    multiple=True,
    metavar="NETWORK=DEVICE[:VLANS]",
    help="A bridge, where it leads, and VLANs such as 0,10,20-29.",
)
@click.option("--address", "addresses", multiple=True, metavar="IP|NAME", help="By which VNC viewers reach that host.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Or NAME.json.")
def add(
    *,
    name: str,
    data: Path | None,
    server: str | None,
    pool: str,
    bridges: tuple[str, ...],
    addresses: tuple[str, ...],
    output: Path | None,
) -> None:
    """Create a Host and write the credentials file of its agent.

    Works on the server's own machine, because it signs with the authority in the data folder. Copy the file to the host
    in a way that nobody can read, and start `nanoctl agent` with it.
    """
    folder = data or data_folder()
    connection = connect(str(folder / "admin.kubeconfig"), None)
    try:
        address = (server or connection.credentials.server).rstrip("/")
        made = _host(connection, name, pool, bridges)
        file = output or Path(f"{name}.json")
        _write(folder, (name, made["metadata"]["uid"]), address, addresses, file)
    finally:
        connection.close()
    click.echo(f"host/{name} is there, its credentials are in {file} (mode 0600)")
    if urlsplit(address).hostname in LOCAL:
        click.echo(f"Warning: {address} reaches the server from this machine only; give --server for others", err=True)
    click.echo(f"On the host: nanoctl agent --server {address} --credentials {file.name}", err=True)


def _host(connection: Connection, name: str, pool: str, bridges: tuple[str, ...]) -> JSON:
    """The Host of that name, created if need be."""
    session = Session(connection, None)
    kind = session.catalogue.named("hosts")
    try:
        there = connection.get(kind.path(name=name))
        if bridges or there["spec"].get("computePool") != pool:
            click.echo(f"host/{name} is there already; its pool and bridges stay as they are", err=True)
        return there
    except NotFound:
        spec: JSON = {"computePool": pool}
        if bridges:
            spec["bridges"] = [_bridge(one) for one in bridges]
        doc = {"apiVersion": kind.group_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}
        return connection.write("POST", kind.path(), doc)


def _bridge(text: str) -> JSON:
    network, _, rest = text.rpartition("=")
    device, limited, vlans = rest.partition(":")
    made: JSON = {"network": network or "default", "device": device}
    return made | {"vlans": vlans.split(",")} if limited else made


def _write(folder: Path, host: tuple[str, str], server: str, addresses: tuple[str, ...], file: Path) -> None:
    from nanovirt.portal.pki import Pki, save_credentials  # noqa: PLC0415 - cryptography is slow to load

    if not (folder / "pki" / "ca.key").is_file():
        raise Rejected(f"{folder / 'pki' / 'ca.key'} is not there: run this on the server's machine, with its --data")
    try:
        save_credentials(Pki(folder, datetime.now(UTC)).host_credentials(*host, server, addresses), file)
    except OSError as error:
        raise Rejected(f"{error.filename or file} cannot be read or written: {error.strerror}") from error
