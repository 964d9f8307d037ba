"""`nanoctl top`: who uses how much now, the largest first."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from nanovirt.portal.cli import examples, tables
from nanovirt.portal.cli.getting import until_interrupted
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire

JSON = dict[str, Any]
SECONDS = 2.0
UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
FIGURES = ("cpu", "memory", "diskRead", "diskWrite", "netIn", "netOut")
HEADINGS = ["CPU", "MEMORY", "READ/S", "WRITE/S", "IN/S", "OUT/S"]


@click.command(
    epilog=examples("""
        top instances
        top instances -A --sort memory
        top hosts --watch
    """)
)
@click.argument("what", type=click.Choice(["instances", "hosts"]), default="instances")
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("--sort", type=click.Choice(FIGURES), default="cpu", show_default=True, help="By which figure.")
@click.option("--watch", "-w", is_flag=True, help="Again every two seconds, until interrupted.")
@connected
def top(session: Session, *, what: str, all_namespaces: bool, sort: str, watch: bool) -> None:
    """Show what instances or hosts use at this moment.

    Processors that are busy, memory, bytes a second of disks and cards.
    """
    with until_interrupted():
        while True:
            lines = tables.render(_grid(session, what, everywhere=all_namespaces, sort=sort))
            if watch and sys.stdout.isatty():
                click.clear()
            click.echo("\n".join(lines))
            if not watch:
                return
            time.sleep(SECONDS)


def _grid(session: Session, what: str, *, everywhere: bool, sort: str) -> tables.Grid:
    asked = "" if everywhere or what == "hosts" else session.namespace
    found: list[JSON] = session.connection.get(f"/usage/{what}" + wire.query(namespace=asked))["items"]
    own = {"cpu": "hostCpu", "memory": "hostMemory"}.get(sort, sort) if what == "hosts" else sort
    found.sort(key=lambda one: (-one[own], one["name"]))
    if what == "hosts":
        rows = [[one["name"], f"{one['hostCpu']:.2f}", amount(one["hostMemory"]), *_figures(one)[2:]] for one in found]
        return tables.Grid(["NAME", *HEADINGS], rows)
    spaces = ["NAMESPACE"] if everywhere else []
    rows = [[*([one["namespace"]] if everywhere else []), one["name"], one["host"], *_figures(one)] for one in found]
    return tables.Grid([*spaces, "NAME", "HOST", *HEADINGS], rows)


def _figures(one: JSON) -> list[str]:
    return [f"{one['cpu']:.2f}", *(amount(one[name]) for name in FIGURES[1:])]


def amount(number: float) -> str:
    """Bytes as people read them: 1.5Mi."""
    step = 0
    while number >= 1024 and step < len(UNITS) - 1:
        number, step = number / 1024, step + 1
    return f"{number:.0f}{UNITS[step]}" if number >= 10 or not step else f"{number:.1f}{UNITS[step]}"
