"""Viewers of third parties on a screen in memory, and how much what they show differs from what was to be seen."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanovirt.resources.codec import JSON
from tests.e2e.cluster import NANOCTL, Cluster
from tests.e2e.looking import PATIENT

GATEWAY = 5950
TEXT = "#A8A8A8"
"""The colour of what a firmware writes in text mode."""


def gvnccapture(cluster: Cluster, address: str, user: str, password: str, file: Path) -> str:
    """Let gtk-vnc's capture program look; what it says. It asks a terminal, and believes what a home folder holds."""
    look_at = f"gvnccapture {address}:{GATEWAY - 5900} {shlex.quote(str(file))}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("unshare", believing(cluster, look_at))  # noqa: S606
    said, answers, deadline = b"", [("sername", user), ("assword", password)], time.monotonic() + PATIENT
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        try:
            piece = os.read(terminal, 4096) if ready else b""
        except OSError:  # the other end is closed
            break
        said += piece
        if answers and answers[0][0].encode() in said.lower().rpartition(b"\n")[2]:
            word, answer = answers.pop(0)
            until_silent(terminal, deadline if word == "assword" else time.monotonic() + 0.5)
            os.write(terminal, answer.encode() + b"\n")
            said += b"\n"
        if ready and not piece:
            break
    else:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(terminal)
    return said.decode(errors="replace")


def until_silent(terminal: int, deadline: float) -> None:
    """Return once keys are not shown any more: whoever asks for a password throws away what was typed before."""
    while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
        time.sleep(0.02)


def believing(cluster: Cluster, command: str) -> list[str]:
    """The argv of a shell command that finds the authority where gtk-vnc looks: in the home that passwd names."""
    believe = f"mount -t tmpfs none /root && mkdir -p /root/.pki/CA && cp {ca(cluster)} /root/.pki/CA/cacert.pem"
    return ["unshare", "-m", "sh", "-c", f"{believe} && exec {command}"]


def ca(cluster: Cluster) -> Path:
    return cluster.data / "pki/ca.crt"


@contextmanager
def x_server() -> Iterator[dict[str, str]]:
    """The environment of a screen in memory that is there, with a number that nobody else has."""
    words = ["Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            number = server.stdout.readline().strip()
            assert number.isdigit(), "Xvfb ended before there was a screen"
            yield {**os.environ, "DISPLAY": f":{number}"}
        finally:
            server.terminate()


@contextmanager
def vncviewer(cluster: Cluster, spec: JSON, display: dict[str, str], *more: str) -> Iterator[subprocess.Popen[str]]:
    """TigerVNC's viewer, as `nanoctl console --print` says to start it."""
    given = {**display, "VNC_USERNAME": spec["user"], "VNC_PASSWORD": spec["token"]}
    words = ["vncviewer", "-SecurityTypes", "X509Plain", "-X509CA", str(ca(cluster)), "-Log", "*:stderr:30", *more]
    words += ["-ReconnectOnError=0", "-AlertOnFatalError=0", f"{spec['host']}::{spec['port']}"]
    with subprocess.Popen(words, env=given, stderr=subprocess.PIPE, text=True) as viewer:
        try:
            yield viewer
        finally:
            viewer.kill()


@contextmanager
def remote_viewer(cluster: Cluster, name: str, display: dict[str, str], folder: Path) -> Iterator[Path]:
    """`nanoctl console NAME` of a person who has virt-viewer; gives a copy of the file that it was opened with."""
    home, found, kept = folder / "home", folder / "bin/remote-viewer", folder / "opened.vv"
    (home / ".pki/CA").mkdir(parents=True)
    shutil.copyfile(ca(cluster), home / ".pki/CA/cacert.pem")
    found.parent.mkdir()
    real = shlex.join(believing(cluster, '/usr/bin/remote-viewer "$@"'))
    found.write_text(f'#!/bin/sh\ncp "$2" {kept}\nexec {real} sh "$@"\n')
    found.chmod(0o755)
    given = {**display, "HOME": str(home), "XDG_CACHE_HOME": str(home), "PATH": f"{found.parent}:{os.environ['PATH']}"}
    argv = [*NANOCTL, "console", name, "--kubeconfig", str(abroad(cluster))]
    with subprocess.Popen(argv, env=given, stdout=subprocess.DEVNULL, start_new_session=True) as viewer:
        try:
            yield kept
        finally:
            with suppress(ProcessLookupError):
                os.killpg(viewer.pid, signal.SIGTERM)


def abroad(cluster: Cluster) -> Path:
    """The administrator's kubeconfig for the client's machine."""
    kubeconfig = cluster.data / "client.kubeconfig"
    if not kubeconfig.exists():
        kubeconfig.write_text(cluster.kubeconfig.read_text().replace("https://127.0.0.1:5870", cluster.url))
    return kubeconfig


def different(one: Path, other: Path) -> float:
    """The part of the pixels that differ, wherever a window stands on its screen: the first text marks the corner."""
    width, height = map(int, told("identify", "-format", "%w %h", one).split())
    (left, top), (x, y) = corner(one), corner(other)
    moved = ["-gravity", "NorthWest", "-splice", f"{max(0, left - x)}x{max(0, top - y)}"]
    moved += ["-crop", f"{width}x{height}+{max(0, x - left)}+{max(0, y - top)}", "+repage"]
    moved += ["-background", "black", "-extent", f"{width}x{height}"]
    window = other.with_suffix(".window.png")
    told("convert", other, "-background", "black", *moved, window)
    words = ["compare", "-metric", "AE", "-fuzz", "20%", str(one), str(window), "null:"]
    return float(subprocess.run(words, capture_output=True, text=True, check=False).stderr.split()[0]) / (
        width * height
    )


def text_of(file: Path) -> Path:
    """The same picture with the text of a firmware alone: the frame of a window around it is of other colours."""
    made = file.with_suffix(".text.png")
    told("convert", file, "-fill", "black", "+opaque", TEXT, made)
    return made


def corner(file: Path) -> tuple[int, int]:
    """Where the first lit pixels are."""
    x, y = told("convert", file, "-trim", "-format", "%X %Y", "info:").split()
    return int(x), int(y)


def lit(file: Path) -> int:
    """Pixels that are not black."""
    said = told("convert", file, "-fill", "white", "+opaque", "black", "-format", "%[fx:mean*w*h]", "info:")
    return round(float(said))


def told(*words: str | Path, **more: dict[str, str]) -> str:
    """What a program of ImageMagick says."""
    argv = [str(word) for word in words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=more.get("env"))
    assert done.returncode == 0, done.stderr
    return done.stdout
