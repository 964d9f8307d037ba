"""What lost its file in the directory of desired objects: deleted when that is meant, and never many at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nanovirt.resources.hold import Hold, HoldSpec
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.store import Create, Delete, transact
from tests.portal.desired_world import NOW, machine, several, web, world


async def test_without_prune_everything_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.write("web.yaml", several(2))
        await here.see()
        here.write("web.yaml", several(1))
        await here.see()
        assert here.reasons()[1] == "PruneOff"
        assert not here.store.get(web("web-1")).deleting
        assert await here.desired.prune([web("web-1")], force=False) == [web("web-1")]
        assert here.store.get(web("web-1")).deleting


@pytest.mark.parametrize(
    ("total", "gone", "deleted"), [(4, 3, 3), (4, 4, 0), (29, 3, 3), (29, 4, 0), (50, 5, 5), (50, 6, 0)]
)
async def test_no_more_than_a_tenth_or_three_go_at_once(tmp_path: Path, total: int, gone: int, deleted: int) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("some.yaml", several(total - gone) if total > gone else several(1, 90))
        here.write("web.yaml", several(gone, total - gone))
        await here.see()
        count = len(here.names)
        (here.folder / "web.yaml").unlink()
        for _ in range(4):
            await here.see()
        assert sum(entry.deleting for _, entry in here.store.list("instances")) == (deleted if count == total else 0)
        if not deleted:
            assert here.reasons()[1] == "PruneHeld"


async def test_a_person_may_delete_more_and_only_what_is_named(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("some.yaml", several(1))
        here.write("web.yaml", several(6, 1))
        await here.see()
        (here.folder / "web.yaml").unlink()
        await here.see()
        assert await here.desired.prune([web("web-1"), web("web-2")], force=False) == []
        asked = [web(name) for name in ("web-0", "web-1", "web-2", "web-3", "web-4")]
        assert await here.desired.prune(asked, force=True) == asked[1:]
        assert not here.store.get(web("web-0")).deleting, "it has a file"
        assert not here.store.get(web("web-5")).deleting, "it was not named"


async def test_what_the_api_side_has_changed_stays_without_its_file(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        await here.edit("web-1", disks=[{"name": "system", "size": "1Gi"}, {"name": "data", "size": "1Gi"}])
        here.write("web.yaml", several(1))
        await here.see()
        assert not here.store.get(web("web-1")).deleting
        assert here.reasons()[1] == "PruneContested"
        await here.desired.prune([web("web-1")], force=True)
        assert here.store.get(web("web-1")).deleting


async def test_a_deletion_that_is_refused_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1"), machine("web-2", deletionProtection=True))
        await here.see()
        here.put("web.yaml", machine("web-1", cpus=2))
        await here.see()
        assert here.spec("web-1")["cpus"] == 2
        assert not here.store.get(web("web-2")).deleting
        assert here.reasons()[1] == "PruneRefused"
        assert "deletionProtection" in here.message()


async def test_a_directory_that_is_gone_deletes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        before = here.store.committed
        shutil.rmtree(here.folder)
        await here.see()
        assert here.reasons() == ["DirectoryMissing", "PruneWaits"]
        assert await here.desired.prune([web("web-1")], force=True) == []
        assert here.store.committed == before


async def test_only_a_directory_that_was_used_is_missed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as here:
        here.folder.rmdir()
        await here.see()
        assert not caplog.records
        here.folder.mkdir(mode=0o755)
        here.put("web.yaml", machine("web-1"))
        await here.see()
        shutil.rmtree(here.folder)
        await here.see()
        said = [record.__dict__["detail"] for record in caplog.records]
        assert sum("is not there" in one for one in said) == 1


async def test_a_directory_that_is_emptied_meets_the_guard(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(4))
        await here.see()
        shutil.rmtree(here.folder)
        here.folder.mkdir(mode=0o755)
        for _ in range(3):
            await here.see()
        assert here.reasons()[1] == "PruneHeld"
        assert not any(entry.deleting for _, entry in here.store.list("instances"))


async def test_a_directory_that_takes_the_name_of_another_has_to_settle(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        other = tmp_path / "other"
        shutil.copytree(here.folder, other)
        (other / "web.yaml").write_text(several(1))
        here.folder.rename(tmp_path / "old")
        other.rename(here.folder)
        await here.desired.look()
        assert not here.store.get(web("web-1")).deleting
        await here.see()
        assert here.store.get(web("web-1")).deleting


async def test_nothing_counts_while_git_is_at_work(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        lock = here.write(".git/index.lock", "")
        (here.folder / "web.yaml").unlink()
        here.put("new.yaml", machine("web-9"))
        before = here.store.committed
        await here.see()
        assert here.reasons()[0] == "DirectoryBusy"
        assert here.store.committed == before
        lock.unlink()
        await here.see()
        assert "web-9" in here.names


async def test_nothing_counts_while_a_restored_store_is_held(tmp_path: Path) -> None:
    """What the hosts hold is not known yet: to make and delete machines now would be to act on a guess."""
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        held = Hold(metadata=ObjectMeta(name="restore", uid="hold"), spec=HoldSpec(revision=1, restored=NOW))
        await transact(here.store, [Create(held.key, held.to_json())], "restore")
        (here.folder / "web.yaml").unlink()
        here.put("new.yaml", machine("web-9"))
        before = here.store.committed
        await here.see()
        assert here.reasons()[0] == "DirectoryHeld"
        assert here.store.committed == before
        await transact(here.store, [Delete(held.key)], "holds")
        await here.see()
        assert "web-9" in here.names
