"""Consoles of real guests: two independent viewers through the gateway, the serial line, and who does not get in."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanovirt.resources.client import Client, path_of
from nanovirt.resources.codec import JSON
from tests.e2e.cluster import NANOCTL, Cluster, instance, instance_key, real_cluster, run
from tests.e2e.looking import BOOT, look, runs, until
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(900)

ALIKE = 0.02
"""Part of the pixels that may differ between two looks: a cursor blinks, a line may come."""
GATEWAY = 5950
LIBVIRTD = 16509
"""Of the test bed's own libvirtd."""
DISPLAY = ":77"


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """Two hosts; on h1 runs `web`, a guest with a serial line, and on h2 `blank`, which only shows its firmware."""
    with real_cluster(mini_guest) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator, with both machines running."""
    async with cluster.client() as client:
        have = {one["metadata"]["name"] for one in (await client.list("instances"))[0]}
        if not have:
            await client.create(instance("web", scheduling={"host": "h1"}))
            await run(client, "blank", "h2")
            await until(client, instance_key("web"), runs)
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def token(client: Client, name: str, kind: str = "viewer") -> JSON:
    made = await client.post(path_of(instance_key(name), "console"), {"type": kind})
    spec: JSON = made["spec"]
    return spec


async def screen(client: Client, name: str, file: Path) -> Path:
    """What the hypervisor itself says that the screen shows."""
    with file.open("wb") as opened:
        await client.fetch_into(path_of(instance_key(name), "screenshot"), opened)
    return file


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


async def until_alike(client: Client, name: str, seen: Path, folder: Path) -> None:
    """The picture that a viewer saw is the hypervisor's; text on a screen that scrolls meanwhile is looked at again."""
    shown = await screen(client, name, folder / "shown.png")
    assert lit(shown) > 500
    assert different(shown, seen) < ALIKE


def gvnccapture(cluster: Cluster, address: str, user: str, password: str, file: Path) -> str:
    """Let gtk-vnc's capture program look; what it says. It asks a terminal, and believes what a home folder holds."""
    own = shlex.quote(str(ca(cluster)))
    believe = f"mount -t tmpfs none /root && mkdir -p /root/.pki/CA && cp {own} /root/.pki/CA/cacert.pem"
    look_at = f"exec gvnccapture {address}:{GATEWAY - 5900} {shlex.quote(str(file))}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", f"{believe} && {look_at}"])  # noqa: S606
    said, answers, deadline = b"", [(b"sername", user), (b"assword", password)], time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        try:
            piece = os.read(terminal, 4096) if ready else b""
        except OSError:  # the other end is closed
            break
        said += piece
        if answers and answers[0][0] in said.lower().rpartition(b"\n")[2].lower():
            time.sleep(0.5)  # whoever asks for a password throws away what was typed before
            os.write(terminal, answers.pop(0)[1].encode() + b"\n")
            said += b"\n"
        if ready and not piece:
            break
    else:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(terminal)
    return said.decode(errors="replace")


def ca(cluster: Cluster) -> Path:
    return cluster.data / "pki/ca.crt"


@contextmanager
def x_server() -> Iterator[dict[str, str]]:
    """The environment of a screen in memory."""
    words = ["Xvfb", DISPLAY, "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                if Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists():  # noqa: S108 - where X has its sockets
                    break
                time.sleep(0.1)
            yield {**os.environ, "DISPLAY": DISPLAY}
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


async def test_gvnccapture_sees_the_guests_pixels_through_the_gateway(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    spec = await token(client, "blank")
    assert (spec["host"], spec["port"], spec["user"]) == ("10.77.1.2", GATEWAY, "default/blank")
    said = gvnccapture(cluster, spec["host"], spec["user"], spec["token"], tmp_path / "seen.png")
    assert (tmp_path / "seen.png").exists(), said
    await until_alike(client, "blank", tmp_path / "seen.png", tmp_path)

    again = gvnccapture(cluster, spec["host"], spec["user"], spec["token"], tmp_path / "again.png")
    assert not (tmp_path / "again.png").exists(), again  # the token was used


@pytest.mark.parametrize("what", ["wrong token", "wrong user", "another namespace", "token of another instance"])
async def test_nobody_else_gets_in(cluster: Cluster, client: Client, tmp_path: Path, what: str) -> None:
    spec = await token(client, "blank")
    user, password = spec["user"], spec["token"]
    match what:
        case "wrong token":
            password = password[:-1] + ("A" if password[-1] != "A" else "B")
        case "wrong user":
            user = "default/none"
        case "another namespace":
            user = "shared/blank"
        case _:
            password = (await token(client, "web"))["token"]
    said = gvnccapture(cluster, spec["host"], user, password, tmp_path / "seen.png")
    assert not (tmp_path / "seen.png").exists(), said


async def test_tigervnc_shows_the_guests_pixels_and_old_tokens_do_not(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    spec = await token(client, "blank")
    with x_server() as display:
        with vncviewer(cluster, spec, display):
            shown, seen = tmp_path / "shown.png", tmp_path / "seen.png"
            for _ in range(60):
                await screen(client, "blank", shown)
                await asyncio.to_thread(told, "import", "-window", "root", seen, env=display)
                if lit(seen) > 500 and different(shown, seen) < ALIKE:
                    break
                await asyncio.sleep(0.5)
            assert lit(shown) > 500
            assert different(shown, seen) < ALIKE
        with vncviewer(cluster, spec, display) as viewer:
            _, said = await asyncio.to_thread(viewer.communicate, timeout=60)
            assert "Authentication failure" in said
        plain = {**spec, "token": (await token(client, "blank"))["token"]}
        with vncviewer(cluster, plain, display, "-SecurityTypes", "None,VncAuth,Plain,TLSPlain,TLSNone") as viewer:
            _, said = await asyncio.to_thread(viewer.communicate, timeout=60)
            assert "No matching security types" in said or "security" in said.lower()


async def test_serial_line_answers_and_what_was_said_is_kept(cluster: Cluster, client: Client) -> None:
    async def said() -> str:
        return (await nanoctl(cluster, "console", "web", "--log")).stdout

    await look("guest", said, lambda text: "nano-guest: ready" in text, BOOT)
    done = await nanoctl(cluster, "console", "web", "--serial", typed="\r\r")
    assert re.search(r"login:", done.stdout), done.stdout + done.stderr


async def test_screenshot_is_written(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "web.png"
    done = await nanoctl(cluster, "screenshot", "web", "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert file.read_bytes().startswith(b"\x89PNG")


async def test_what_is_printed_opens_tigervnc(cluster: Cluster, client: Client) -> None:
    done = await nanoctl(cluster, "console", "web", "--print")
    assert re.search(r"^VNC_USERNAME=default/web VNC_PASSWORD=nano_\S+ vncviewer -SecurityTypes X509Plain", done.stdout)
    assert done.stdout.strip().endswith("10.77.1.1::5950")


async def test_nothing_on_a_host_speaks_plain_vnc(cluster: Cluster, client: Client) -> None:
    for name, agent in cluster.agents.items():
        ports = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{agent.host.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == "0A":
                    ports.add(int(local.rpartition(":")[2], 16))
        assert {5860, GATEWAY} <= ports <= {5860, GATEWAY, LIBVIRTD}, name


async def test_no_token_is_in_any_log(cluster: Cluster, client: Client) -> None:
    for log in (cluster.server.log, *(agent.log for agent in cluster.agents.values())):
        text = log.read_text(errors="replace")
        assert "nano_" not in text
    assert "console opened" in cluster.server.log.read_text()


async def nanoctl(cluster: Cluster, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """As a person on the client's machine."""
    kubeconfig = cluster.data / "client.kubeconfig"
    if not kubeconfig.exists():
        text = cluster.kubeconfig.read_text().replace("https://127.0.0.1:5870", cluster.url)
        kubeconfig.write_text(text)
    argv = [*NANOCTL, *words, "--kubeconfig", str(kubeconfig)]
    return await asyncio.to_thread(
        subprocess.run, argv, input=typed, capture_output=True, text=True, timeout=120, check=False
    )
