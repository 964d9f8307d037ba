"""Consoles of real guests: three viewers through the gateway, the serial line, and who does not get in."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nanovirt.resources.client import Client, path_of
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.cluster import BLANK, NANOCTL, Cluster, instance, instance_key, real_cluster, run
from tests.e2e.hasty_server import LIFE
from tests.e2e.looking import BOOT, PATIENT, look, runs, until
from tests.e2e.processes import ROOT, Process
from tests.e2e.terminals import terminal
from tests.e2e.viewers import (
    GATEWAY,
    abroad,
    different,
    gvnccapture,
    lit,
    remote_viewer,
    text_of,
    told,
    vncviewer,
    x_server,
)
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(900)

ALIKE = 0.02
"""Part of the pixels that may differ between two looks: a cursor blinks, a line may come."""
LIBVIRTD = 16509
"""Of the test bed's own libvirtd."""


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


async def token(client: Client, name: str, namespace: str = "default") -> JSON:
    made = await client.post(path_of(Key("instances", namespace, name), "console"), {"type": "viewer"})
    spec: JSON = made["spec"]
    return spec


async def screen(client: Client, name: str, file: Path) -> Path:
    """What the hypervisor itself says that the screen shows."""
    with file.open("wb") as opened:
        await client.fetch_into(path_of(instance_key(name), "screenshot"), opened)
    return file


async def test_gvnccapture_sees_the_guests_pixels_through_the_gateway(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    """A viewer saw the hypervisor's picture; a screen that its firmware still writes on is looked at again."""
    spec: JSON = {}

    async def alike() -> float:
        spec.update(await token(client, "blank"))
        assert (spec["host"], spec["port"], spec["user"]) == ("10.77.1.2", GATEWAY, "default/blank")
        seen = tmp_path / "seen.png"
        said = await asyncio.to_thread(gvnccapture, cluster, spec["host"], spec["user"], spec["token"], seen)
        assert seen.exists(), said
        shown = await screen(client, "blank", tmp_path / "shown.png")
        return different(shown, seen) if lit(shown) > 500 and lit(seen) > 500 else 1.0

    await look("gvnccapture", alike, lambda part: part < ALIKE)
    again = gvnccapture(cluster, spec["host"], spec["user"], spec["token"], tmp_path / "again.png")
    assert not (tmp_path / "again.png").exists(), again  # the token was used


@pytest.mark.parametrize("what", ["wrong token", "wrong user", "token of another instance"])
async def test_nobody_else_gets_in(cluster: Cluster, client: Client, tmp_path: Path, what: str) -> None:
    spec = await token(client, "blank")
    user, password = spec["user"], spec["token"]
    match what:
        case "wrong token":
            password = password[:-1] + ("A" if password[-1] != "A" else "B")
        case "wrong user":
            user = "default/none"
        case _:
            password = (await token(client, "web"))["token"]
    said = gvnccapture(cluster, spec["host"], user, password, tmp_path / "seen.png")
    assert not (tmp_path / "seen.png").exists(), said


async def test_namesakes_of_two_namespaces_are_opened_by_their_own_tokens_only(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    """Both run on one host, behind one gateway."""
    theirs = Key("instances", "other", "blank")
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    made = instance("blank", disks=BLANK, scheduling={"host": "h2"})
    await client.create({**made, "metadata": {"name": "blank", "namespace": "other"}})
    await until(client, theirs, runs)
    mine = await token(client, "blank")
    for at, (user, password) in enumerate(
        (
            ("other/blank", mine["token"]),
            ("default/blank", (await token(client, "blank", "other"))["token"]),
        )
    ):
        said = gvnccapture(cluster, mine["host"], user, password, tmp_path / f"{at}.png")
        assert not (tmp_path / f"{at}.png").exists(), said
    own = await token(client, "blank", "other")
    assert (own["host"], own["user"]) == (mine["host"], "other/blank")
    said = gvnccapture(cluster, own["host"], own["user"], own["token"], tmp_path / "own.png")
    assert (tmp_path / "own.png").exists(), said
    await client.delete(theirs)


async def test_token_that_is_over_opens_nothing(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """A server whose tokens last seconds: one that was not used in time, beside others that were."""
    usual = cluster.server
    usual.kill()
    argv: list[str | Path] = [sys.executable, ROOT / "tests/e2e/hasty_server.py", "server", "--data", cluster.data]
    cluster.server = Process(cluster.bed.server, argv, "server.log")
    try:
        await cluster.restart_server()
        await until_seen(cluster, client, tmp_path)  # the agent is back
        old, older = [await token(client, "blank") for _ in range(2)]
        assert old["expiresSeconds"] == LIFE
        await asyncio.sleep(LIFE + 0.2)
        said = gvnccapture(cluster, old["host"], old["user"], old["token"], tmp_path / "old.png")
        assert not (tmp_path / "old.png").exists(), said
        with x_server() as display, vncviewer(cluster, older, display) as viewer:
            _, heard = await asyncio.to_thread(viewer.communicate, timeout=PATIENT)
            assert "Authentication failure" in heard
        await until_seen(cluster, client, tmp_path)
    finally:
        cluster.server.kill()
        cluster.server = usual
        await cluster.restart_server()


async def until_seen(cluster: Cluster, client: Client, folder: Path) -> None:
    """Return once a viewer was let in: on a busy machine it may come too late."""
    file = folder / "new.png"
    file.unlink(missing_ok=True)

    async def seen() -> bool:
        spec = await token(client, "blank")
        await asyncio.to_thread(gvnccapture, cluster, spec["host"], spec["user"], spec["token"], file)
        return file.exists()

    await look("viewer", seen, bool)


async def test_remote_viewer_shows_the_guests_pixels_by_the_file_that_nanoctl_writes(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    shown, seen = tmp_path / "shown.png", tmp_path / "seen.png"

    async def alike() -> float:
        await screen(client, "blank", shown)
        await asyncio.to_thread(told, "import", "-window", "root", seen, env=display)
        lettered = text_of(seen)
        return different(shown, lettered) if lit(lettered) > 500 and lit(shown) > 500 else 1.0

    # The server of the test before was started anew: no host is reached before it has reported.
    await look("h2", lambda: screen(client, "blank", shown), lambda _: True)
    with x_server() as display, remote_viewer(cluster, "blank", display, tmp_path) as opened:
        await look("remote-viewer", alike, lambda part: part < ALIKE)
        assert "username=default/blank\n" in opened.read_text()


async def test_tigervnc_shows_the_guests_pixels_and_old_tokens_do_not(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    spec = await token(client, "blank")
    with x_server() as display:
        with vncviewer(cluster, spec, display):
            shown, seen = tmp_path / "shown.png", tmp_path / "seen.png"

            async def alike() -> float:
                await screen(client, "blank", shown)
                await asyncio.to_thread(told, "import", "-window", "root", seen, env=display)
                return different(shown, seen) if lit(shown) > 500 and lit(seen) > 500 else 1.0

            await look("vncviewer", alike, lambda part: part < ALIKE)
        with vncviewer(cluster, spec, display) as viewer:
            _, said = await asyncio.to_thread(viewer.communicate, timeout=PATIENT)
            assert "Authentication failure" in said
        plain = {**spec, "token": (await token(client, "blank"))["token"]}
        with vncviewer(cluster, plain, display, "-SecurityTypes", "None,VncAuth,Plain,TLSPlain,TLSNone") as viewer:
            _, said = await asyncio.to_thread(viewer.communicate, timeout=PATIENT)
            assert "No matching security types" in said or "security" in said.lower()


async def until_ready(cluster: Cluster) -> None:
    async def said() -> str:
        return (await nanoctl(cluster, "console", "web", "--log")).stdout

    await look("guest", said, lambda text: "nano-guest: ready" in text, BOOT)


async def test_serial_line_answers_and_what_was_said_is_kept(cluster: Cluster, client: Client) -> None:
    await until_ready(cluster)
    done = await nanoctl(cluster, "console", "web", "--serial", typed="\r\r")
    assert re.search(r"login:", done.stdout), done.stdout + done.stderr


async def test_serial_line_in_a_terminal_is_talked_on_and_left(cluster: Cluster, client: Client) -> None:
    """All keys but one are the guest's, Ctrl-C too; whoever leaves has the terminal as it was."""
    await until_ready(cluster)
    await asyncio.to_thread(typing, [*NANOCTL, "console", "web", "--serial", "--kubeconfig", str(abroad(cluster))])


def typing(argv: list[str]) -> None:
    with terminal(argv) as line:
        before = line.settings
        line.until("Ctrl-] leaves it")
        line.insist("\r", "login:")  # whoever asks for a name has said so already, or is not there yet
        assert line.settings[3] != before[3]  # it is raw: no echo of its own, no signals
        line.type("root\r")
        line.until("# ")
        line.type("echo $((40 + 2)) is said by $(hostname)\r")
        line.until("42 is said by web\r\n")
        line.until("# ")
        line.type("sh -c 'echo sleeps; exec sleep 1000'\r")  # who says so already is who will hear Ctrl-C
        line.until("\nsleeps\r\n")
        line.type("\x03")
        line.until("# ")
        line.type("echo it was $?\r")
        line.until("it was 130\r\n")
        line.until("# ")
        line.type("exit\r")
        line.until("login:")
        line.type("\x1d")
        line.until("instance/web: left\r\n")
        assert line.ended() == 0
        assert line.settings == before


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
    argv = [*NANOCTL, *words, "--kubeconfig", str(abroad(cluster))]
    return await asyncio.to_thread(
        subprocess.run, argv, input=typed, capture_output=True, text=True, timeout=120, check=False
    )
