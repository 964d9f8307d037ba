"""`nanoctl console`, `nanoctl screenshot`: the screen and the serial line of an instance."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.completion import instance_names
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Forbidden, Rejected

JSON = dict[str, Any]
TRUSTED = Path(".pki/CA/cacert.pem")
"""Below the home directory: where gtk-vnc, and so remote-viewer, finds the authority that it believes."""


@click.command(
    epilog=examples("""
        console web-1
        console web-1 --print
        console web-1 --serial --force
        console web-1 --log | tail -50
        console web-1 --reset
    """)
)
@click.argument("name", shell_complete=instance_names)
@click.option("--print", "printing", is_flag=True, help="Print what to type instead of opening a viewer.")
@click.option("--serial", is_flag=True, help="Join the serial line in this terminal; Ctrl-] leaves it.")
@click.option("--force", is_flag=True, help="With --serial: take the line from whoever has it.")
@click.option("--log", is_flag=True, help="Print what the guest said on its serial line.")
@click.option("--reset", is_flag=True, help="Cut off everybody who looks, and take back unused tokens.")
@connected
def console(session: Session, *, name: str, printing: bool, serial: bool, force: bool, log: bool, reset: bool) -> None:
    """Open the screen of an instance, or its serial line."""
    if sum((printing, serial, log, reset)) > 1 or (force and not serial):
        raise Misused("give one of --print, --serial (with --force), --log and --reset")
    (target,) = session.targets((name if "/" in name else f"instance/{name}",))
    if log:
        _, said = session.connection.raw("GET", target.kind.path(session.namespace, target.name, "log"))
        click.echo(said, nl=False)
        if sys.stdout.isatty() and said and not said.endswith(b"\n"):
            click.echo()  # the prompt of a shell stands on a line of its own
        if not said:
            click.echo(f"{target} has said nothing on its serial line", err=True)
    elif reset:
        told = session.connection.ask("DELETE", target.kind.path(session.namespace, target.name, "console"))
        click.echo(f"{target} console reset; {told['details']['params']['count']} cut off")
    elif serial:
        _join(session, target, force=force)
    else:
        _view(session, target, printing=printing)


@click.command(epilog=examples("screenshot web-1 -o web-1.png"))
@click.argument("name", shell_complete=instance_names)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Or NAME.png.")
@connected
def screenshot(session: Session, *, name: str, output: Path | None) -> None:
    """Write what the screen of an instance shows into a PNG file."""
    (target,) = session.targets((name if "/" in name else f"instance/{name}",))
    _, shown = session.connection.raw("GET", target.kind.path(session.namespace, target.name, "screenshot"))
    file = output or Path(f"{target.name}.png")
    try:
        file.write_bytes(shown)
    except OSError as error:
        raise Rejected(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file} written ({len(shown)} bytes)")


def _token(session: Session, target: Target, **asked: Any) -> JSON:
    path = target.kind.path(session.namespace, target.name, "console")
    spec: JSON = session.connection.ask("POST", path, asked)["spec"]
    return spec


def _join(session: Session, target: Target, *, force: bool) -> None:
    """The serial line, until the guest, somebody else or Ctrl-] ends it."""
    _say_if_off(session, target)
    from nanovirt.portal.cli.serial_line import join  # noqa: PLC0415 - aiohttp is slow to load

    spec = _token(session, target, type="serial", force=force)
    if sys.stderr.isatty():
        click.echo(f"{target}: serial line; Ctrl-] leaves it", err=True)
    why = join(session.connection.credentials, spec["url"], spec["token"])
    click.echo(f"\r\n{target}: {why}", err=True)


def _say_if_off(session: Session, target: Target) -> None:
    """A token is given for what is off, too: it may have started until somebody looks."""
    try:
        phase = (session.get(target).get("status") or {}).get("phase")
    except Forbidden:  # consoles may be somebody's who sees no instance
        return
    if phase in ("Pending", "Stopped", "Failed"):
        click.echo(f"Warning: {target} is {phase}; there is nothing to be seen until it starts", err=True)


def _view(session: Session, target: Target, *, printing: bool) -> None:
    """The screen, in a viewer of the person's own."""
    _say_if_off(session, target)
    spec = _token(session, target, type="viewer")
    viewer = shutil.which("remote-viewer")
    ca = _authority(session.connection.credentials.ca_pem)
    if printing or viewer is None or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        click.echo(typed(spec, ca))
        click.echo(f"The password opens it once, within {spec['expiresSeconds']} s.", err=True)
        return
    trusted = Path.home() / TRUSTED
    if not trusted.is_file() or ca.read_text() not in trusted.read_text():
        click.echo(f"Warning: remote-viewer asks {trusted} whom it believes; put {ca} there", err=True)
    with tempfile.NamedTemporaryFile("w", prefix="nano-", suffix=".vv", delete=False) as file:  # mode 0600
        file.write(settings(spec, str(target.name)))
    try:
        subprocess.run([viewer, "--", file.name], check=False)
    finally:
        Path(file.name).unlink(missing_ok=True)


def settings(spec: JSON, title: str) -> str:
    """What remote-viewer reads (virt-viewer's manual, CONNECTION FILE); it removes the file itself."""
    lines = {"type": "vnc", "host": spec["host"], "port": spec["port"], "username": spec["user"]}
    lines |= {"password": spec["token"], "title": title, "delete-this-file": 1}
    return "[virt-viewer]\n" + "".join(f"{name}={value}\n" for name, value in lines.items())


def typed(spec: JSON, ca: Path) -> str:
    """The line that opens TigerVNC's viewer; the environment, unlike arguments, shows to nobody else."""
    where = f"[{spec['host']}]" if ":" in spec["host"] else spec["host"]
    words = ["vncviewer", "-SecurityTypes", "X509Plain", "-X509CA", str(ca), f"{where}::{spec['port']}"]
    return f"VNC_USERNAME={shlex.quote(spec['user'])} VNC_PASSWORD={spec['token']} {shlex.join(words)}"


def _authority(pem: str) -> Path:
    """A file with the authority of the cluster, which viewers are to believe."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nano"
    file = folder / f"ca-{hashlib.sha256(pem.encode()).hexdigest()[:12]}.crt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != pem:
            file.write_text(pem)
    except OSError as error:
        raise Rejected(f"{file} cannot be written: {error.strerror}") from error
    return file
