"""`nanoctl up`, `server` and `agent`: the options of the long-running commands, and whom they are handed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.connection import data_folder
from nanovirt.resources.quantities import Bytes

Accelerator = Literal["auto", "kvm", "tcg"]
PORT = click.IntRange(0, 65535)
DIRECTORIES = ("desired", "desired-user", "desired-prune", "export")


class Amount(click.ParamType[int]):
    """Bytes as people write them: `4Gi`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        try:
            return int(Bytes(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True)
class Options:
    """What a server, an agent or both are started with; port 0 lets the system choose, `bridge` "" means none given."""

    data: Path = field(default_factory=data_folder)
    api_port: int = 5870
    portal_port: int = 5850
    agent_port: int = 5860
    bridge: str = ""
    libvirt_uri: str = "qemu:///system"
    accelerator: Accelerator = "auto"
    simulated_hosts: int = 0
    history: int = 1 << 30
    """Bytes of history that the store keeps at most."""
    agent: bool = True
    server: str = ""
    """For an agent by itself: the URL of the server."""
    credentials: Path | None = None
    """For an agent by itself: the file that `nanoctl host add` wrote."""
    desired: Path | None = None
    """The directory of desired objects; None: DIR/desired."""
    desired_user: str = ""
    """As whom it is applied; "": the administrator."""
    desired_prune: bool = False
    export: Path | None = None
    """Where every object is written as a file; None: DIR/export, if that is there."""
    verbose: bool = False
    console_port: int = 5950
    """For viewers of third parties; 0: none are let in."""


@dataclass(frozen=True)
class Processes:
    """What runs until it is told to end: each takes its options and returns the exit code."""

    up: Callable[[Options], int]
    server: Callable[[Options], int]
    agent: Callable[[Options], int]


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Those of OPTIONS, in that order."""

    def declared(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return declared


OPTIONS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "data": click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), default=data_folder, metavar="DIR",
        help="Where all state lies.  [default: /var/lib/nano as root, else ~/.local/share/nano]",
    ),
    "api": click.option("--api-port", type=PORT, default=5870, show_default=True, help="TCP port of the API."),
    "portal": click.option("--portal-port", type=PORT, default=5850, show_default=True, help="TCP port of the portal."),
    "port": click.option("--agent-port", type=PORT, default=5860, show_default=True, help="TCP port of the agent."),
    "console": click.option(
        "--console-port", type=PORT, default=5950, show_default=True, help="TCP port for VNC viewers; 0: none.",
    ),
    "bridge": click.option("--bridge", default="", metavar="NAME", help="Bridge that instances are attached to."),
    "uri": click.option(
        "--libvirt-uri", default="qemu:///system", show_default=True, metavar="URI", help="Which libvirt to use.",
    ),
    "accelerator": click.option(
        "--accelerator", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True,
        help="auto takes KVM where it really works.",
    ),
    "simulated": click.option(
        "--simulated-hosts", type=click.IntRange(0, 1000), default=0, metavar="N", help="Add N hosts without metal.",
    ),
    "history": click.option(
        "--history", type=Amount(), default="1Gi", show_default=True, metavar="SIZE",
        help="How much disk the past may take, compressed.",
    ),
    "desired": click.option(
        "--desired", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
        help="Manifests in here are applied, and again when they change.  [default: desired/ in --data]",
    ),
    "desired-user": click.option(
        "--desired-user", default="", metavar="NAME", help="The User who applies them.  [default: the administrator]",
    ),
    "desired-prune": click.option(
        "--desired-prune", is_flag=True, help="Delete objects when their file is gone; at most a tenth, or 3, at once.",
    ),
    "export": click.option(
        "--export", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
        help="Write every object into a file of its own here.  [default: export/ in --data, if it is there]",
    ),
    "no-agent": click.option("--no-agent", is_flag=True, help="Do not make this machine a host."),
    "verbose": click.option("-v", "--verbose", is_flag=True, help="Log at level DEBUG."),
}  # fmt: skip


def command(name: str, processes: Processes) -> click.Command:
    """The command of that name, handing its options to the composition root's callable."""
    return {"up": _up, "server": _server, "agent": _agent}[name](processes)


def _ended(code: int) -> None:
    click.get_current_context().exit(code)


def _up(processes: Processes) -> click.Command:
    @click.command(
        epilog=examples("""
            up
            up --bridge br0
            up --simulated-hosts 10 --no-agent --data /tmp/nano
        """)
    )
    @_options(
        "data",
        "api",
        "portal",
        "port",
        "console",
        "bridge",
        "uri",
        "accelerator",
        "simulated",
        "history",
        "no-agent",
        *DIRECTORIES,
        "verbose",
    )
    def up(*, no_agent: bool, **given: Any) -> None:
        """Run server and agent on this machine."""
        _ended(processes.up(Options(agent=not no_agent, **given)))

    return up


def _server(processes: Processes) -> click.Command:
    @click.command(
        epilog=examples("""
            server
            server --data /srv/nano --api-port 5870
        """)
    )
    @_options("data", "api", "portal", "simulated", "history", *DIRECTORIES, "verbose")
    def server(**given: Any) -> None:
        """Run the server: store, API, controllers and portal."""
        _ended(processes.server(Options(agent=False, **given)))

    return server


def _agent(processes: Processes) -> click.Command:
    @click.command(
        epilog=examples("""
            agent --server https://10.20.0.5:5870 --credentials node-2.json --bridge br0
        """)
    )
    @click.option("--server", default="", metavar="URL", help="The server.  [default: as the credentials say]")
    @click.option(
        "--credentials", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
        help="The file that `nanoctl host add` wrote.",
    )  # fmt: skip
    @_options("data", "port", "console", "bridge", "uri", "accelerator", "verbose")
    def agent(**given: Any) -> None:
        """Run the agent of this host."""
        _ended(processes.agent(Options(**given)))

    return agent
