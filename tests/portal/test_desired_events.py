"""What is done in the directory of desired objects while its keeper runs: found by the kernel's events or without."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN
from tests.portal.desired_world import NOW, World, machine, several, world


async def _until(here: World, *names: str, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while {key.name for key, entry in here.store.list("instances") if not entry.deleting} != set(names):
            await asyncio.sleep(0.02)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.net", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, umask=0o022, text=True
    )
    return done.stdout


@pytest.mark.timeout(300)
async def test_a_git_repository_is_the_directory(tmp_path: Path) -> None:
    """Commits and checkouts are applied; a broken file changes nothing, and a deleted directory deletes nothing."""
    async with world(tmp_path, prune=True) as here, asyncio.TaskGroup() as group:
        here.desired = Desired(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", prune=True, settle=0.2
        )
        keeping = group.create_task(here.desired.run())
        folder = here.folder
        _git(folder, "init", "-q", "-b", "main")
        here.write("web.yaml", several(3))
        _git(folder, "add", ".")
        _git(folder, "commit", "-qm", "Three machines")
        await _until(here, "web-0", "web-1", "web-2")

        _git(folder, "checkout", "-qb", "more")
        here.put("more.yaml", machine("web-7"), machine("web-8"))
        (folder / "web.yaml").write_text(several(2))
        _git(folder, "add", ".")
        _git(folder, "commit", "-qm", "Two more, one less")
        await _until(here, "web-0", "web-1", "web-7", "web-8")
        await here.let_go("web-2")
        _git(folder, "checkout", "-q", "main")
        await _until(here, "web-0", "web-1", "web-2")
        for name in ("web-7", "web-8"):
            await here.let_go(name)
        _git(folder, "checkout", "-q", "more")
        await _until(here, "web-0", "web-1", "web-7", "web-8")

        await here.desired.look()  # what was applied is noted by then
        before = here.store.committed
        (folder / "web.yaml").write_text("apiVersion: nano/v1\nkind: [\n")
        async with asyncio.timeout(60):
            while here.reasons("web.yaml") != ["FileBroken"]:
                await asyncio.sleep(0.02)
        assert "web.yaml:3" in here.message("web.yaml")
        assert here.store.committed == before
        _git(folder, "checkout", "-q", "--", "web.yaml")

        shutil.rmtree(folder)
        async with asyncio.timeout(60):
            while here.reasons()[0] != "DirectoryMissing":
                await asyncio.sleep(0.02)
        assert not any(entry.deleting for key, entry in here.store.list("instances") if key.name != "web-2")
        keeping.cancel()


@pytest.mark.timeout(90)
async def test_what_no_event_tells_of_is_found_all_the_same(tmp_path: Path) -> None:
    """Queues overflow, and other machines write over NFS: nobody says so."""

    class Deaf(Desired):
        async def _hints(self) -> None:
            await asyncio.Event().wait()

    async with world(tmp_path) as here, asyncio.TaskGroup() as group:
        here.desired = Deaf(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", settle=0.05, rescan=0.3
        )
        keeping = group.create_task(here.desired.run())
        await asyncio.sleep(0.2)
        here.put("web.yaml", machine("web-1"))
        await _until(here, "web-1")
        keeping.cancel()


async def test_a_bug_is_told_and_does_not_end_the_server(tmp_path: Path) -> None:
    class Buggy(Desired):
        async def look(self) -> bool:
            raise ZeroDivisionError("by zero")

    async with world(tmp_path) as here, asyncio.TaskGroup() as group:
        here.desired = Buggy(here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin")
        keeping = group.create_task(here.desired.run())
        async with asyncio.timeout(60):
            while here.reasons() != ["InternalError"]:
                await asyncio.sleep(0.01)
        assert "ZeroDivisionError" in here.message()
        keeping.cancel()
