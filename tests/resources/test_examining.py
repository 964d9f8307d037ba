"""Reading a store where it lies: what is wrong is found and named with its remedy, and what stands in it is shown."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanovirt.resources.backup import save, take
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.errors import Invalid, Rejected, StoreCorrupt
from nanovirt.resources.examining import dump, dump_records, examine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.recovery import repair
from nanovirt.resources.restoring import restore
from nanovirt.resources.segments import RAISED, every_segment, first_revision, segments
from nanovirt.resources.snapshots import snapshots
from nanovirt.resources.store_directory import RESTORING, write_synced
from tests.resources.backups import loaded, replayed
from tests.resources.test_backup import store
from tests.resources.test_compaction import TINY, change, live, opened, state

NOW = datetime(2026, 11, 2, tzinfo=UTC)
__all__ = ["store"]


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def found(directory: Path) -> dict[str, str]:
    """What is wrong with which file, and what mends it."""
    return {one.path.name: f"{one.why}; {one.mend}" for one in examine(directory).findings}


async def test_whole_store_is_whole_and_counted(store: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*"))
    seen = examine(store)
    assert seen.findings == []
    assert (seen.oldest, seen.rev, seen.records, seen.snapshots) == (1, 360, 360, 2)
    assert seen.segments == len(every_segment(store))
    assert sorted((path, path.stat().st_mtime_ns, path.stat().st_size) for path in store.rglob("*")) == before


async def test_restored_store_is_whole_across_the_raised_revision(store: Path) -> None:
    save(take(store, with_history=True), store.parent / "b.tar")
    restore(store.parent / "b.tar", store.parent / "new", NOW)
    seen = examine(store.parent / "new")
    assert seen.findings == []
    assert (seen.oldest, seen.rev, seen.records) == (1, 360 + RAISED + 1, 361)


def test_every_damaged_file_is_named(store: Path) -> None:
    """A bit in the middle of any file: those that a start needs with its own words, all others as what they are."""
    for path in [*every_segment(store), *snapshots(store)]:
        content = path.read_bytes()
        flip(path)
        assert path.name in found(store), path
        path.write_bytes(content)
    assert found(store) == {}


def test_damage_that_stops_a_start_is_said_with_the_words_of_the_refusal(store: Path) -> None:
    flip(segments(store / "wal")[0])
    with pytest.raises(StoreCorrupt) as refused:
        FileLog.open(store, TINY)
    (said,) = [one for one in examine(store).findings if one.path.parent.name == "wal"]
    assert refused.value.command in said.mend
    assert said.why.partition(": ")[2] in str(refused.value)


def test_lost_past_is_said_and_hinders_nobody(store: Path) -> None:
    lost = every_segment(store)[3]
    lost.unlink()
    (name,) = found(store)
    assert "something between is lost" in found(store)[name]
    assert first_revision(store / "history" / name) > first_revision(lost)
    FileLog.open(store, TINY).close()


def test_log_that_is_shorter_than_it_was_is_named(store: Path) -> None:
    write_synced(store, 400)
    assert "SYNCED says that revision 400 was durable" in "".join(found(store).values())


def test_torn_tail_and_unfinished_restore_are_named(store: Path) -> None:
    with segments(store / "wal")[-1].open("ab") as file:
        file.write(b"0badc0de 00000000 361 360 40 {")
    (store / "LOCK").write_text("999999999\n")
    assert "the next start cuts them" in found(store)[segments(store / "wal")[-1].name]
    (store / RESTORING).touch()
    assert "nanoctl restore" in found(store)[RESTORING]
    with pytest.raises(Rejected, match="holds no store"):
        examine(store.parent)


def test_store_is_read_while_it_is_written_and_summed_up(tmp_path: Path) -> None:
    process = loaded(tmp_path / "data")
    try:
        ends, seen = time.monotonic() + 6, set[int]()
        while time.monotonic() < ends or len(seen) <= 3:
            one = examine(tmp_path / "data")
            assert one.findings == []
            seen.add(one.rev)
            assert len(list(dump(tmp_path / "data"))) <= 40
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


# --- dump ---


async def test_dump_shows_every_revision_as_it_was(store: Path) -> None:
    async with opened(store) as engine:
        now = state(engine)
    assert [doc["metadata"]["name"] for doc in dump(store)] == sorted(key.name for key in now)
    for rev in (0, 1, 17, 150, 290, 300, 359, 360):
        then = {key.name for key in replayed(store, rev)}
        assert {doc["metadata"]["name"] for doc in dump(store, rev)} == then, rev
    with pytest.raises(Rejected, match="361 has not been; the store is at 360"):
        list(dump(store, 361))
    assert [record["rev"] for record in dump_records(store)] == list(range(1, 361))
    assert [record["rev"] for record in dump_records(store, 20)] == list(range(1, 21))


def test_dump_of_what_is_not_kept_any_more_says_so(store: Path) -> None:
    lost = every_segment(store)[0]
    lost.unlink()
    for rev in (2, first_revision(every_segment(store)[0]) - 1):
        with pytest.raises(Rejected, match="is not kept any more"):
            list(dump(store, rev))
    assert list(dump(store))


async def test_internal_objects_are_shown_only_to_who_asks_for_them(store: Path) -> None:
    save(take(store), store.parent / "b.tar")
    restore(store.parent / "b.tar", store.parent / "new", NOW)
    kinds = [{doc["kind"] for doc in dump(store.parent / "new", internal=internal)} for internal in (False, True)]
    assert kinds[1] - kinds[0] == {"Hold"}
    records = [list(dump_records(store.parent / "new", internal=internal))[-1] for internal in (False, True)]
    assert [len(record["writes"]) for record in records] == [0, 1]


# --- repair, with snapshots and history ---


async def test_repair_gives_up_no_more_than_it_says_beside_snapshots_and_history(store: Path) -> None:
    then = {rev: replayed(store, rev) for rev in range(292, 361)}
    broken = segments(store / "wal")[1]
    flip(broken, 0.4)
    with pytest.raises(StoreCorrupt) as refused:
        FileLog.open(store, TINY)
    good = refused.value.last_good
    assert first_revision(broken) <= good < 360
    with pytest.raises(Invalid):
        repair(store, good - 1)
    done = repair(store, good)
    assert done.rev == good
    assert examine(store).findings == []
    async with opened(store) as engine:
        assert state(engine) == then[good]
        await change(engine, 100, seed=8)
    sum_up(store, live(store), TINY.history)
    assert examine(store).findings == []


async def test_repair_of_a_store_whose_snapshots_are_gone_goes_by_its_history(store: Path) -> None:
    async with opened(store) as engine:
        before = state(engine)
    for path in snapshots(store):
        flip(path)
    assert repair(store, 360).kept == ()
    async with opened(store) as engine:
        assert state(engine) == before
    shutil.rmtree(store / "quarantine")
