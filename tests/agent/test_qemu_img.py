"""The one place that runs qemu-img: its argument lists, and what happens when the tool fails, hangs or is not there."""

import ast
import asyncio
import time
from pathlib import Path

import pytest

from nanovirt.agent import qemu_img
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A qemu-img of the test's own, found before the real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "qemu-img"


def write(tool: Path, script: str) -> None:
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


def test_only_one_module_runs_qemu_img() -> None:
    rooms = (ROOT / room for room in ("agent", "controllers", "portal", "resources"))
    users = {
        file.relative_to(ROOT).as_posix()
        for room in rooms
        for file in room.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value == "qemu-img"
    }
    assert users == {"agent/qemu_img.py"}


def test_every_format_is_given_and_names_stand_behind_the_options() -> None:
    file, image = Path("/v/-o.qcow2"), Path("/images/a.qcow2")
    assert qemu_img.create_argv(file, 512) == ("qemu-img", "create", "-q", "-f", "qcow2", "--", "/v/-o.qcow2", "512")
    overlay = qemu_img.create_argv(file, 512, image)
    assert overlay[5:9] == ("-F", "qcow2", "-b", "/images/a.qcow2")
    convert = qemu_img.convert_argv(Path("/in"), "raw", Path("/out"), 60)
    assert convert[convert.index("qemu-img") :] == (
        *("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "--", "/in", "/out"),
    )
    assert {"--cpu=60", f"--as={qemu_img.MEMORY}"} <= set(convert)


@pytest.mark.parametrize("name", ["json:{}", "nbd://host/x", "relative.qcow2", "-h"])
def test_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(HypervisorError, match="absolute"):
        qemu_img.create_argv(Path(name), 512)


async def test_complaint_is_told(tool: Path, tmp_path: Path) -> None:
    write(tool, "echo 'qemu-img: the moon is full' >&2; exit 1")
    with pytest.raises(HypervisorError, match="the moon is full"):
        await qemu_img.create(tmp_path / "x", 512)


async def test_full_disk_is_told_apart(tool: Path, tmp_path: Path) -> None:
    write(tool, "echo 'qemu-img: /x: Could not write: No space left on device' >&2; exit 1")
    with pytest.raises(NoRoom) as caught:
        await qemu_img.create(tmp_path / "x", 512)
    assert caught.value.path == str(tmp_path)


async def test_tool_speaks_english_and_writes_for_its_owner_only(tool: Path, tmp_path: Path) -> None:
    write(tool, f"echo $LC_ALL > {tmp_path}/said; echo made > {tmp_path}/made")
    await qemu_img.create(tmp_path / "made", 512)
    assert (tmp_path / "said").read_text() == "C\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


async def test_hanging_tool_is_ended(tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tool, f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    monkeypatch.setattr(qemu_img, "CREATE_SECONDS", 0.5)
    with pytest.raises(HypervisorError, match="within"):
        await qemu_img.create(tmp_path / "x", 512)
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_tool_that_nobody_waits_for_is_ended(tool: Path, tmp_path: Path) -> None:
    write(tool, f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(qemu_img.create(tmp_path / "x", 512))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        waiting.cancel()
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


async def test_conversion_may_take_only_so_much_of_the_processor(tool: Path, tmp_path: Path) -> None:
    write(tool, "while :; do :; done")
    begun = time.monotonic()
    with pytest.raises(HypervisorError, match="it was ended"):
        await qemu_img.convert(tmp_path / "in", "raw", tmp_path / "out", 1)
    assert time.monotonic() - begun < 60


async def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HypervisorError, match="qemu-utils"):
        await qemu_img.create(tmp_path / "x", 512)
