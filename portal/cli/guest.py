"""`nanoctl guest`, `password`, `freeze` and `thaw`: what goes on inside a machine, a way in, and standing still."""

from __future__ import annotations

import sys
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.completion import instance_names
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.topping import amount

JSON = dict[str, Any]
FACTS = (("agent", "Agent"), ("hostname", "Name"), ("os", "System"), ("kernel", "Kernel"), ("timeZone", "Time zone"))


def _path(session: Session, name: str, part: str) -> str:
    kind, _, bare = name.rpartition("/")
    if kind not in ("", "instance", "instances", "inst", "vm"):
        raise Misused(f"{name} is no instance; write instance/NAME or NAME")
    return session.catalogue.named("instances").path(session.namespace, bare, part)


@click.command(epilog=examples("guest web-1"))
@click.argument("name", shell_complete=instance_names)
@connected
def guest(session: Session, *, name: str) -> None:
    """Show what the guest agent of an instance says.

    Its system, addresses and file systems.
    """
    found = session.connection.get(_path(session, name, "guest"))
    report = found["report"]
    for field, said in FACTS:
        if report.get(field):
            click.echo(f"{said + ':':<12}{tables.printable(str(report[field]))}")
    click.echo(f"{'Users:':<12}{found['users']}")
    for one in report.get("addresses", ()):
        click.echo(f"{'Address:':<12}{tables.text(one['ip'])}   {tables.text(one['mac'])}")
    rows = [
        [tables.text(one["mounted"]), tables.text(one["type"]), amount(one["total"]), amount(one["used"]), _part(one)]
        for one in found["fileSystems"]
    ]
    if rows:
        click.echo("\n" + "\n".join(tables.render(tables.Grid(["MOUNTED", "TYPE", "SIZE", "USED", "USE"], rows))))


def _part(one: JSON) -> str:
    return f"{100 * one['used'] // one['total']}%" if one["total"] else "-"


@click.command(
    epilog=examples("""
        password web-1
        password instance/web-1 --user ops --secret web-admin
        password web-1 --stdin
    """)
)
@click.argument("name", shell_complete=instance_names)
@click.option("--user", metavar="USER", help="Of the guest.  [default: its administrator, else root]")
@click.option("--secret", metavar="NAME", help="Take it from this Secret, key `password`.")
@click.option("--stdin", is_flag=True, help="Read it from standard input, one line.")
@connected
def password(session: Session, *, name: str, user: str | None, secret: str | None, stdin: bool) -> None:
    """Set the password of a guest's user.

    By its guest agent now, or without one at its next start.
    """
    if secret and stdin:
        raise Misused("give --secret or --stdin, not both")
    asked: JSON = {"secret": secret} if secret else {"password": _typed(stdin=stdin)}
    if user:
        asked["user"] = user
    done = session.connection.write("POST", _path(session, name, "password"), asked)
    if done["applied"] == "Now":
        click.echo(f"password of {done['user']} set")
    else:
        click.echo(
            f"no guest agent answers: the password of {done['user']} is set when the guest starts next "
            f"(secret/{done['secret']})"
        )


@click.command(epilog=examples("freeze web-1 --seconds 10"))
@click.argument("name", shell_complete=instance_names)
@click.option("--seconds", type=int, metavar="N", help="Until they go on by themselves, 60 at most.  [default: 30]")
@connected
def freeze(session: Session, *, name: str, seconds: int | None) -> None:
    """Let the file systems of a guest stand still.

    By its guest agent, for a copy of its disks. Programs that write wait meanwhile.
    """
    asked: JSON = {} if seconds is None else {"seconds": seconds}
    done = session.connection.write("POST", _path(session, name, "freeze"), asked)
    click.echo(f"{_named(done)} of {name} frozen for {done['seconds']} s at most; nanoctl thaw {name} ends it")


@click.command(epilog=examples("thaw web-1"))
@click.argument("name", shell_complete=instance_names)
@connected
def thaw(session: Session, *, name: str) -> None:
    """Let the file systems of a guest go on."""
    done = session.connection.write("POST", _path(session, name, "thaw"), {})
    click.echo(f"{_named(done)} of {name} thawed")


def _named(done: JSON) -> str:
    count = done["fileSystems"]
    return "1 file system" if count == 1 else f"{count} file systems"


def _typed(*, stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Misused("there is no terminal to type it in; give --stdin, or --secret NAME")
    said: str = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    return said
