"""`nanoctl kubeconfig`, `host add`, `upload`, `version`, `completion`, the process commands, and how fast it starts."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from nanovirt.portal.cli import LAZY, PROCESSES, Commands, cli
from nanovirt.portal.cli.processes import Options, Processes
from nanovirt.portal.identity import Subject
from nanovirt.resources.access import from_credentials_file
from nanovirt.resources.client import Client
from nanovirt.resources.errors import Conflict
from nanovirt.resources.kind import Key
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
HEAVY = ("aiohttp", "pydantic", "libvirt", "rich", "cryptography", "asyncio", "nanovirt.agent", "nanovirt.controllers")
CONTENT = os.urandom(20 << 20)


class Received:
    """The server's half of an upload, as far as `nanoctl` needs it."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.length = 0
        self.sha256 = ""

    async def offset(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        del request, subject, key
        said = {"Content-Length": "0", "Upload-Offset": str(len(self.bytes))} | (
            {"Upload-Length": str(self.length)} if self.length else {}
        )
        return web.Response(headers=said)

    async def receive(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        del subject, key
        if request.query["offset"] == "0":
            self.bytes.clear()
        assert int(request.query["offset"]) == len(self.bytes)
        self.length = int(request.query["total"])
        self.sha256 = request.query.get("sha256", "")
        while piece := await request.content.readany():
            self.bytes += piece
        return web.Response(status=204)


received = Received()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    hooks = {("images", "upload", "HEAD"): received.offset, ("images", "upload", "PUT"): received.receive}
    with cluster(tmp_path_factory.mktemp("cli"), hooks) as made:
        yield made


@pytest.fixture
def image(running: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A file, and the Image that waits for it."""
    received.__init__()  # type: ignore[misc]
    doc = {"apiVersion": "nano/v1", "kind": "Image", "metadata": {"name": "up"}, "spec": {"source": {"upload": {}}}}
    running.says("apply", "-f", "-", stdin=json.dumps(doc))
    running.status("images", "up", "default", phase="Ready")
    file = tmp_path / "image.raw"
    file.write_bytes(CONTENT)
    yield file
    running.removes("images", "up", "default")


# --- upload ---------------------------------------------------------------------------------------------


def test_an_upload_brings_every_byte_and_its_hash(running: Cluster, image: Path) -> None:
    told = running.says("upload", "image/up", str(image))
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (bytes(received.bytes) == CONTENT, received.sha256) == (True, digest)
    assert told.splitlines() == [f"image/up uploaded ({len(CONTENT)} bytes, sha256 {digest})", "image/up is Ready"]


def test_an_upload_goes_on_where_it_was_cut(running: Cluster, image: Path) -> None:
    received.bytes += CONTENT[:9_000_001]
    received.length = len(CONTENT)
    running.says("upload", "image/up", str(image))
    assert bytes(received.bytes) == CONTENT


def test_what_began_with_another_file_begins_anew(running: Cluster, image: Path) -> None:
    received.bytes += b"something else"
    received.length = 99
    running.says("upload", "image/up", str(image))
    assert bytes(received.bytes) == CONTENT


def test_a_complete_image_takes_no_other_bytes(running: Cluster, image: Path) -> None:
    received.bytes += b"whole"
    received.length = 5
    result = running.nanoctl("upload", "image/up", str(image))
    assert result.exit_code == 1
    assert "all its bytes already" in result.stderr


def test_a_refused_image_ends_the_upload_with_its_reason(running: Cluster, image: Path) -> None:
    refused = {"type": "Ready", "status": "False", "reason": "ImageRejected", "message": "The file was refused: odd"}
    running.status("images", "up", "default", phase="Failed", conditions=[refused])
    result = running.nanoctl("upload", "image/up", str(image))
    assert result.exit_code == 1
    assert "The file was refused: odd" in result.stderr


async def test_the_client_uploads_as_well(running: Cluster, image: Path) -> None:
    received.bytes += CONTENT[:9_000_001]
    received.length = len(CONTENT)
    seen: list[tuple[int, int]] = []
    with image.open("rb") as file:
        async with Client.from_kubeconfig(running.kubeconfig) as client:
            key = Key("images", "default", "up")
            await client.upload(key, file, lambda sent, total: seen.append((sent, total)))
            assert bytes(received.bytes) == CONTENT
            assert received.sha256 == hashlib.sha256(CONTENT).hexdigest()
            assert seen[-1] == (len(CONTENT), len(CONTENT))
            with pytest.raises(Conflict):
                await client.upload(key, file)


# --- access ---------------------------------------------------------------------------------------------


def test_the_kubeconfig_is_printed_with_another_address(running: Cluster) -> None:
    told = yaml.safe_load(running.says("kubeconfig", "--server", "https://10.0.0.1:5870"))
    assert told["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:5870"
    assert running.nanoctl("kubeconfig", "--server", "10.0.0.1").exit_code == 2


def test_merging_keeps_what_is_there_and_is_private(
    running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / ".kube" / "config"
    monkeypatch.setenv("KUBECONFIG", str(mine))
    running.says("kubeconfig", "--merge")
    mine.write_text(mine.read_text().replace("current-context: nano", "current-context: other"))
    running.says("kubeconfig", "--merge")
    assert yaml.safe_load(mine.read_text())["current-context"] == "nano"
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600


def test_host_add_writes_credentials_that_the_server_knows(running: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "node-1.json"
    arguments = ["host", "add", "node-1", "--data", str(running.data), "--bridge", "office=br0", "-o", str(file)]
    arguments += ["--bridge", "lab=br1:0,10,20-29"]
    assert "host/node-1 is there" in running.says(*arguments)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = running.object("hosts", "node-1")
    assert made["spec"]["bridges"] == [
        {"network": "office", "device": "br0"},
        {"network": "lab", "device": "br1", "vlans": ["0", "10", "20-29"]},
    ]
    found = from_credentials_file(file)
    assert (found.server, found.host) == (running.url, "node-1")
    assert json.loads(file.read_text())["uid"] == made["metadata"]["uid"]
    assert running.nanoctl(*arguments).exit_code == 0


async def test_the_agent_of_an_added_host_sees_its_own_host(running: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "node-2.json"
    running.says("host", "add", "node-2", "--data", str(running.data), "-o", str(file))
    async with Client.from_credentials_file(file) as agent:
        assert (await agent.get(Key("hosts", "", "node-2")))["metadata"]["name"] == "node-2"


def test_host_add_away_from_the_server_says_where_to_run_it(running: Cluster, tmp_path: Path) -> None:
    (tmp_path / "admin.kubeconfig").write_text(running.kubeconfig.read_text())
    result = running.nanoctl("host", "add", "node-3", "--data", str(tmp_path), "-o", str(tmp_path / "x.json"))
    assert result.exit_code == 1
    assert "on the server's machine" in result.stderr


def test_versions_of_both_ends_are_told(running: Cluster) -> None:
    assert [line.split()[0] for line in running.says("version").splitlines()] == ["nanoctl", "server"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(running: Cluster, shell: str) -> None:
    assert "nanoctl" in running.says("completion", shell)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("nanoctl get insta", {"instances"}),
        ("nanoctl get host/nod", {"host/node-1", "host/node-2"}),
        ("nanoctl get hosts nod", {"node-1", "node-2"}),
        ("nanoctl des", {"describe"}),
    ],
)
def test_completion_offers_kinds_and_names(running: Cluster, words: str, expected: set[str]) -> None:
    environment = os.environ | {
        "NANO_KUBECONFIG": str(running.kubeconfig), "_NANOCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
    }  # fmt: skip
    code = "import sys; sys.argv[0] = 'nanoctl'; from nanovirt.portal.cli import cli; cli(prog_name='nanoctl')"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert expected <= {line.partition(",")[2] for line in told.stdout.splitlines()}


# --- the group ------------------------------------------------------------------------------------------


def group(started: list[tuple[str, Options]] | None = None) -> Commands:
    """The group with processes that only note what they are started with, and end with code 7."""
    notes = started if started is not None else []

    def note(name: str) -> Callable[[Options], int]:
        def run(options: Options) -> int:
            notes.append((name, options))
            return 7

        return run

    made = Commands("nanoctl")
    made.processes = Processes(up=note("up"), server=note("server"), agent=note("agent"))
    return made


NARROW = 80 - 2 - 6 - max(map(len, LAZY))
"""Columns that a line of the help leaves for what a command does, in a terminal of 80."""


@pytest.mark.parametrize("name", [*PROCESSES, *LAZY])
def test_every_command_has_a_line_of_purpose_and_examples(name: str) -> None:
    command = group().get_command(click.Context(group()), name)
    assert command is not None
    found = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
    for one in found:
        assert one.help
        assert not one.get_short_help_str(NARROW).endswith("..."), "a list of commands has room for all of it"
        assert one.help.splitlines()[0].endswith(".")
        assert "Examples:" in (one.epilog or "")
        assert CliRunner().invoke(one, ["--help"]).exit_code == 0


def test_up_takes_the_options_that_are_promised(tmp_path: Path) -> None:
    started: list[tuple[str, Options]] = []
    words = f"up --data {tmp_path} --api-port 1 --portal-port 2 --agent-port 3 --bridge br0 --libvirt-uri test:///x"
    words += " --accelerator tcg --simulated-hosts 4 --no-agent"
    assert CliRunner().invoke(group(started), words.split()).exit_code == 7
    options = Options(tmp_path, 1, 2, 3, "br0", "test:///x", "tcg", 4, agent=False)
    assert started == [("up", options)]


def test_the_defaults_are_the_promised_ones(tmp_path: Path) -> None:
    started: list[tuple[str, Options]] = []
    CliRunner().invoke(group(started), ["up"])
    credentials = tmp_path / "c.json"
    credentials.touch()
    CliRunner().invoke(group(started), ["agent", "--credentials", str(credentials), "--server", "https://a:1"])
    (_, up), (_, agent) = started
    assert (up.api_port, up.portal_port, up.agent_port, up.accelerator, up.agent) == (5870, 5850, 5860, "auto", True)
    assert (agent.server, agent.credentials) == ("https://a:1", credentials)


def test_a_command_loads_only_what_it_needs(running: Cluster) -> None:
    """The two slowest imports alone would take longer than a person should wait for a table."""
    code = (
        "import sys; from nanovirt.portal.cli import cli; cli(standalone_mode=False); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "get", "namespaces", "--kubeconfig", str(running.kubeconfig)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_the_composed_group_is_the_same_one() -> None:
    assert isinstance(cli, Commands)
    assert set(LAZY) <= set(cli.list_commands(click.Context(cli)))
