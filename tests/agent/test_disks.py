"""Volumes: what is made is whole, what is not ours is left alone, nothing happens outside of the storage folders."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent.disks import Disks, takes_direct
from nanovirt.agent.image_cache import ImageCache
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacedVolume
from tests.agent.small_disk import small_disk

SHA = "ab" * 32
MIB = 2**20


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """One storage folder and an image of 1 MiB."""
    images, volumes = tmp_path / "images", tmp_path / "volumes"
    for folder in (images, volumes):
        folder.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", images / f"{SHA}.qcow2", "1M"], check=True)
    return Disks(ImageCache(images), [f"{volumes}/"])


def volume(file: Path, size: int = 8 * MIB, sha256: str = "") -> PlacedVolume:
    source = {"image": "tiny", "sha256": sha256} if sha256 else None
    made = PlacedVolume.model_validate({"name": "data", "file": "/later", "size": size, "source": source})
    return made.model_copy(update={"file": str(file)})  # also a path that no Placement would have


def told(file: Path) -> dict[str, Any]:
    """What qemu-img says of it."""
    argv = ["qemu-img", "info", "-f", "qcow2", "--output=json", str(file)]
    found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    return found


async def test_overlay_names_its_backing_file_and_its_format(disks: Disks, tmp_path: Path) -> None:
    file = tmp_path / "volumes" / "a.qcow2"
    await disks.make(volume(file, sha256=SHA))
    found = told(file)
    assert found["virtual-size"] == 8 * MIB
    assert found["full-backing-filename"] == str(tmp_path / "images" / f"{SHA}.qcow2")
    assert found["backing-filename-format"] == "qcow2"
    assert file.stat().st_mode & 0o777 == 0o600


async def test_disk_smaller_than_its_image_is_refused(disks: Disks, tmp_path: Path) -> None:
    file = tmp_path / "volumes" / "a.qcow2"
    with pytest.raises(HypervisorError, match="its image has 1048576"):
        await disks.make(volume(file, 512, SHA))
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["../b.qcow2", "volumes/../../b.qcow2", "volumes/sub/b.qcow2", "other/b.qcow2", "volumes", "volumes/.."]
)
async def test_nothing_is_done_outside_of_the_storage_folders(disks: Disks, tmp_path: Path, name: str) -> None:
    (tmp_path / "volumes" / "sub").mkdir()
    file = Path(f"{tmp_path}/{name}")
    for work in (disks.make(volume(file)), disks.volume(str(file)), disks.remove(str(file))):
        with pytest.raises(HypervisorError, match="storage path"):
            await work
    assert sorted(one.name for one in tmp_path.rglob("*.qcow2")) == [f"{SHA}.qcow2"]


async def test_folder_counts_once_it_is_admitted(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    file = tmp_path / "more" / "a.qcow2"
    with pytest.raises(HypervisorError):
        await disks.make(volume(file))
    disks.admit([str(tmp_path / "more")])
    await disks.make(volume(file))
    assert await disks.volume(str(file)) is not None


async def test_link_is_never_followed(disks: Disks, tmp_path: Path) -> None:
    target, link = tmp_path / "images" / f"{SHA}.qcow2", tmp_path / "volumes" / "a.qcow2"
    before = target.read_bytes()
    link.symlink_to(target)
    for work in (disks.make(volume(link)), disks.volume(str(link))):
        with pytest.raises(HypervisorError, match="symbolic link"):
            await work
    await disks.remove(str(link))
    assert target.read_bytes() == before


async def test_file_that_is_no_volume_is_neither_read_nor_replaced(disks: Disks, tmp_path: Path) -> None:
    file = tmp_path / "volumes" / "a.qcow2"
    for content in (b"", b"QFI\xfb", b"something else of somebody else"):
        file.write_bytes(content)
        with pytest.raises(HypervisorError, match="left alone"):
            await disks.make(volume(file))
        assert file.read_bytes() == content
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(HypervisorError, match="left alone"):
        await disks.volume(str(file))


async def test_what_a_killed_agent_left_is_cleared_away(disks: Disks, tmp_path: Path) -> None:
    file = tmp_path / "volumes" / "a.qcow2"
    left = file.with_name("a.qcow2.new")
    left.write_bytes(b"half of it")
    await disks.make(volume(file))
    assert told(file)["virtual-size"] == 8 * MIB
    left.write_bytes(b"half of it")
    await disks.remove(str(file))
    assert list((tmp_path / "volumes").iterdir()) == []


async def test_full_disk_is_told_and_nothing_is_left(disks: Disks, tmp_path: Path) -> None:
    for size in (512, 1100):  # too little to begin with, and too little to end with
        with small_disk(tmp_path / f"small{size}", size) as folder:
            disks.admit([str(folder)])
            if size > 1024:
                os.posix_fallocate(os.open(folder / "other", os.O_CREAT | os.O_WRONLY), 0, 70 * 1024)
            with pytest.raises(NoRoom) as caught:
                await disks.make(volume(folder / "a.qcow2", 2**50))
            assert caught.value.path == str(folder)
            assert [one.name for one in folder.iterdir() if one.name != "other"] == []


async def test_cancelled_making_leaves_nothing(disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_tool(tmp_path, monkeypatch)
    file = tmp_path / "volumes" / "a.qcow2"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await disks.make(volume(file))
    assert list((tmp_path / "volumes").iterdir()) == []


KILLED = """
import asyncio, sys
from pathlib import Path
from nanovirt.agent.disks import Disks
from nanovirt.agent.image_cache import ImageCache
from nanovirt.resources.placement import PlacedVolume
folder = Path(sys.argv[1])
volume = PlacedVolume(name="data", file=f"{folder}/volumes/a.qcow2", size="8Mi")
asyncio.run(Disks(ImageCache(folder / "images"), [f"{folder}/volumes"]).make(volume))
"""


async def test_agent_killed_while_making_leaves_no_half_volume(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = _slow_tool(tmp_path, monkeypatch)
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, tmp_path)
    while not (tmp_path / "pid").exists():
        await asyncio.sleep(0.01)
    agent.kill()
    await agent.wait()
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    file = tmp_path / "volumes" / "a.qcow2"
    assert await disks.volume(str(file)) is None
    tool.unlink()
    await disks.make(volume(file))
    assert [one.name for one in file.parent.iterdir()] == ["a.qcow2"]


def _slow_tool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A qemu-img that makes its file, says its number and hangs."""
    tool = folder / "bin" / "qemu-img"
    tool.parent.mkdir()
    number = f"echo $$ > {folder}/part; mv {folder}/part {folder}/pid"
    tool.write_text(f'#!/bin/sh\necho half > "$6"\n{number}\nexec sleep 1000')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return tool


def test_file_system_is_asked_for_o_direct_without_leaving_a_file(tmp_path: Path) -> None:
    assert takes_direct(tmp_path)
    assert not takes_direct(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
