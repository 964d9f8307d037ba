"""Notes of the agent: whole or not there, whatever is killed, and readable by the next agent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nanovirt.agent.memory import FileMemories, KeptMemories, Memories, Memory
from nanovirt.agent.unheard import Told
from nanovirt.resources.devices import DiskFormat
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacedGuest
from tests.agent.placements import UUID, at, placement, restart, uuid

FULL = Memory(
    epoch=3,
    intent="Held",
    started=7,
    restart_at=at(5),
    ended="Shutdown",
    detail="shutdown",
    restarts=(1.5, 2.5),
    asked=9.0,
    boot_id="b",
    volumes=("/a",),
    told=Told(PlacedGuest(time_zone="UTC"), (("data", DiskFormat(mount_path="/srv")),)),
    placement=placement(restart=restart(5)),
)


@pytest.fixture(params=["kept", "files"])
def memories(request: pytest.FixtureRequest, tmp_path: Path) -> Memories:
    return KeptMemories() if request.param == "kept" else FileMemories(tmp_path / "agent")


async def test_first_start_remembers_nothing(memories: Memories) -> None:
    assert await memories.load() == {}


async def test_what_was_kept_is_loaded_by_the_next_agent(memories: Memories) -> None:
    await memories.load()
    await memories.keep(UUID, Memory(epoch=1))
    await memories.keep(UUID, FULL)
    assert await memories.load() == {UUID: FULL}


async def test_what_was_forgotten_is_gone_and_forgetting_twice_is_fine(memories: Memories) -> None:
    await memories.load()
    await memories.keep(UUID, FULL)
    await memories.forget(UUID)
    await memories.forget(UUID)
    assert await memories.load() == {}


async def test_remembered_placement_is_as_it_was(tmp_path: Path) -> None:
    memories = FileMemories(tmp_path)
    await memories.load()
    await memories.keep(UUID, FULL)
    loaded = (await memories.load())[UUID].placement
    assert loaded is not None
    assert loaded.to_json() == placement(restart=restart(5)).to_json()


async def test_half_written_file_is_removed_and_the_one_before_counts(tmp_path: Path) -> None:
    memories = FileMemories(tmp_path)
    await memories.load()
    await memories.keep(UUID, FULL)
    (tmp_path / f"{UUID}.new").write_text('{"epoch": 99')
    assert await memories.load() == {UUID: FULL}
    assert [file.name for file in tmp_path.iterdir()] == [f"{UUID}.json"]


async def test_unreadable_file_is_put_aside_and_the_others_count(tmp_path: Path) -> None:
    memories = FileMemories(tmp_path)
    await memories.load()
    await memories.keep(UUID, FULL)
    (tmp_path / f"{uuid(2)}.json").write_text("{")
    (tmp_path / "notes.json").write_text("{")
    assert await memories.load() == {UUID: FULL}
    assert (tmp_path / f"{uuid(2)}.unreadable").exists()
    assert (tmp_path / "notes.json").exists()


async def test_disk_that_refuses_is_said(tmp_path: Path) -> None:
    memories = FileMemories(tmp_path / "gone")
    with pytest.raises(HypervisorError, match="cannot write"):
        await memories.keep(UUID, FULL)


async def test_notes_are_for_the_agent_alone(tmp_path: Path) -> None:
    await FileMemories(tmp_path / "agent").load()
    assert (tmp_path / "agent").stat().st_mode & 0o077 == 0


KEEPING = """
    import asyncio, sys
    from pathlib import Path
    from nanovirt.agent.memory import FileMemories, Memory

    async def main():
        memories = FileMemories(Path(sys.argv[1]))
        await memories.load()
        for epoch in range(1, 100000):
            await memories.keep(sys.argv[2], Memory(epoch=epoch, detail="x" * 5000))
            print(epoch, flush=True)

    asyncio.run(main())
"""


def test_kill_leaves_the_last_that_was_promised_or_a_newer_one(tmp_path: Path) -> None:
    for moment in range(3):
        command = [sys.executable, "-c", textwrap.dedent(KEEPING), str(tmp_path), UUID]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as writing:
            assert writing.stdout is not None
            promised = [writing.stdout.readline() for _ in range(5 + moment * 7)][-1]
            writing.kill()
            promised = (writing.stdout.readlines() or [promised])[-1]
        found = asyncio.run(FileMemories(tmp_path).load())[UUID]
        assert found.epoch >= int(promised)
        assert len(found.detail) == 5000
