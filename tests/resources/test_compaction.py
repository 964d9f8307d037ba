"""Snapshots and history of the file log: what they hold, what a start makes of them, what is given up and when."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanovirt.resources import compaction, store_directory
from nanovirt.resources.compaction import File, due, sum_up, superfluous
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Expired, NanoError, StoreCorrupt
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.recovery import repair
from nanovirt.resources.registry import kinds
from nanovirt.resources.segments import every_segment, first_revision, segments, written
from nanovirt.resources.snapshots import open_snapshot, revision_of, snapshot_path, snapshots
from nanovirt.resources.store import Create, Delete, Once, Op, Update
from nanovirt.resources.store_directory import read_format, write_synced

TINY = Sizes(segment=1 << 13, ballast=1 << 12, room=0, snapshot=1 << 14, history=1 << 20)
kinds()
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def key(number: int) -> Key:
    return Key("namespaces", "", f"n-{number}")


def doc(number: int, says: str = "") -> dict[str, object]:
    return {"metadata": {"name": f"n-{number}", "annotations": {"says": says}}}


@asynccontextmanager
async def opened(directory: Path, clock: Callable[[], datetime] = lambda: NOW) -> AsyncIterator[Engine]:
    """A store over the log in a directory, as a server has it but for the summing up."""
    log = FileLog.open(directory, TINY)
    try:
        engine = Engine(log, clock)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(engine.run())
            yield engine
            running.cancel()
    finally:
        log.close()


async def change(engine: Engine, count: int, seed: int = 1) -> None:
    """That many revisions of creations, updates and deletions among 40 names, some under a key of the client."""
    chance = random.Random(seed)
    for _ in range(count):
        number, says = chance.randrange(40), "x" * chance.randrange(400)
        there = engine.peek(key(number))
        op: Op = Create(key(number), doc(number, says))
        if there:
            op = Delete(key(number)) if chance.random() < 0.3 else Update(key(number), doc(number, says))
        rev = engine.committed
        once = Once(f"k-{rev}", f"d-{rev}") if chance.random() < 0.2 else None
        await engine.stage([op], "alice", once=once).durable()


def state(engine: Engine) -> dict[Key, bytes]:
    return {key: entry.raw for key, entry in engine.list("namespaces")}


def known(engine: Engine) -> list[object]:
    return list(engine._ledger.say())


def live(directory: Path) -> int:
    """First revision of the segment that is being written."""
    return first_revision(segments(directory / "wal")[-1])


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """300 revisions in more than ten segments."""
    async with opened(tmp_path / "data") as engine:
        await change(engine, 300)
    assert len(segments(tmp_path / "data" / "wal")) > 10
    return tmp_path / "data"


async def test_store_is_the_same_after_a_snapshot(store: Path) -> None:
    async with opened(store) as engine:
        before, remembered, committed, at = state(engine), known(engine), engine.committed, engine._last_at
    assert before
    assert remembered
    done = sum_up(store, live(store), TINY.history)
    assert done.rev == live(store) - 1
    assert [first_revision(path) for path in segments(store / "wal")] == [done.rev + 1]
    async with opened(store, lambda: NOW + timedelta(hours=1)) as engine:
        assert engine._ring.oldest == done.rev
        assert state(engine) == before
        assert known(engine) == remembered
        assert (engine.committed, engine._last_at) == (committed, at)
        assert await engine.recall(remembered[0]["rev"])  # type: ignore[index]


def test_summing_up_makes_way_for_others_at_every_record(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_way: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: made_way.append(None))
    first = live(store)
    sum_up(store, first, TINY.history)
    assert len(made_way) > 2 * first, "each record is read twice: for its place, and for what it says"


async def test_snapshot_upon_snapshot_is_what_one_snapshot_would_be(store: Path, tmp_path: Path) -> None:
    step, once = tmp_path / "step", tmp_path / "once"
    shutil.copytree(store, step)
    shutil.copytree(store, once)
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in firsts[2:]:
        sum_up(step, first, TINY.history)
    sum_up(once, firsts[-1], TINY.history)
    names = [sorted(set(snapshot.read_bytes().splitlines())) for snapshot in (snapshots(step)[0], snapshots(once)[0])]
    assert names[0] == names[1]


async def test_start_reads_back_far_enough_for_watches(store: Path) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[3], firsts[6], firsts[9]):
        sum_up(store, first, TINY.history)
    async with opened(store) as engine:  # the clock says that all of it happened just now
        assert engine._ring.oldest == firsts[6] - 1
        assert [commit.rev for commit in engine.history(firsts[6] - 1)] == list(range(firsts[6], 301))
        with pytest.raises(Expired):
            engine.history(firsts[6] - 2)


async def test_history_holds_every_record(store: Path) -> None:
    log = FileLog.open(store, TINY)
    before = list(log.read())
    log.close()
    for first in [first_revision(path) for path in segments(store / "wal")][3::3]:
        sum_up(store, first, TINY.history)
    assert (store / "history" / "0000000000000001.wal.gz").exists()
    log = FileLog.open(store, TINY)
    assert list(log.read()) == before
    for after in range(0, 301, 7):
        assert list(log.read(after)) == before[after:]
    log.close()


async def test_what_the_history_has_given_up_is_said_to_be_gone(store: Path) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[5], firsts[-1]):
        sum_up(store, first, 0)
    assert min(map(first_revision, every_segment(store))) == firsts[5]
    log = FileLog.open(store, TINY)
    with pytest.raises(Expired):
        next(log.read(firsts[5] - 2))
    assert next(log.read(firsts[5] - 1)).rev == firsts[5]
    log.close()


async def test_two_snapshots_stay_at_hand_and_older_ones_become_history(store: Path) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")][2:7]
    for first in firsts:
        sum_up(store, first, TINY.history)
    assert sorted(revision_of(path) + 1 for path in (store / "snap").iterdir()) == firsts[-2:]
    older = sorted(path for path in (store / "history").iterdir() if ".snap" in path.name)
    assert [revision_of(path) + 1 for path in older] == firsts[:-2]
    assert all(open_snapshot(path, cluster(store)) for path in older)


def cluster(store: Path) -> str:
    return read_format(store / "FORMAT").cluster


async def test_damaged_snapshot_is_set_aside_and_the_one_before_stands_in(store: Path) -> None:
    async with opened(store) as engine:
        before = state(engine)
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[4], firsts[-1]):
        sum_up(store, first, TINY.history)
    newest = snapshots(store)[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    async with opened(store, lambda: NOW + timedelta(hours=1)) as engine:
        assert state(engine) == before
        assert engine._ring.oldest == firsts[4] - 1
    assert not newest.exists()
    assert (store / "quarantine" / newest.name).read_bytes() == content
    assert sum_up(store, live(store), TINY.history).rev == firsts[-1] - 1
    assert open_snapshot(newest, cluster(store))


async def test_damaged_snapshot_does_not_count_as_one_at_hand(store: Path) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[2], firsts[4]):
        sum_up(store, first, TINY.history)
    rotten = snapshots(store)[0]
    rotten.write_bytes(rotten.read_bytes()[:-1])
    sum_up(store, firsts[6], 0)
    assert [revision_of(path) + 1 for path in snapshots(store)] == [firsts[6], firsts[2]]
    assert all(open_snapshot(path, cluster(store)) for path in snapshots(store))
    assert (store / "quarantine" / rotten.name).exists()


async def test_damaged_snapshot_without_the_log_behind_it_is_refused(store: Path) -> None:
    sum_up(store, live(store), 0)
    for path in (store / "history").iterdir():
        path.unlink()
    snapshots(store)[0].write_bytes(b"{}")
    with pytest.raises(StoreCorrupt, match="--accept-loss-after 0"):
        FileLog.open(store, TINY)


async def test_flipped_bits_of_a_snapshot_are_found(store: Path) -> None:
    sum_up(store, live(store), TINY.history)
    path = snapshots(store)[0]
    content = bytearray(path.read_bytes())
    for at in {*range(200), *range(200, len(content), 13), *range(len(content) - 80, len(content))}:
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        assert open_snapshot(path, cluster(store)) is None, at
        content[at] ^= 1 << at % 8
    path.write_bytes(content[:-1])
    assert open_snapshot(path, cluster(store)) is None
    path.write_bytes(content)
    assert open_snapshot(path, cluster(store))
    assert open_snapshot(path, "another") is None
    moved = path.with_name(f"{1:016d}.json.snap")
    path.rename(moved)
    assert open_snapshot(moved, cluster(store)) is None


async def test_damaged_history_spares_the_start(store: Path) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[4], firsts[-1]):
        sum_up(store, first, TINY.history)
    async with opened(store) as engine:
        before = state(engine)
        assert engine._ring.oldest == firsts[4] - 1
    packed = store / "history" / f"{firsts[5]:016d}.wal.gz"
    content = packed.read_bytes()
    packed.write_bytes(content[:-20])
    async with opened(store) as engine:
        assert state(engine) == before
        assert engine._ring.oldest == firsts[-1] - 1
    log = FileLog.open(store, TINY)
    with pytest.raises(NanoError, match=packed.name):
        list(log.read())
    log.close()


async def test_lost_segment_behind_the_newest_snapshot_is_refused(store: Path) -> None:
    sum_up(store, live(store), TINY.history)
    write_synced(store, live(store) - 1)
    segments(store / "wal")[-1].unlink()
    with pytest.raises(StoreCorrupt, match="the segment that follows the newest snapshot is missing"):
        FileLog.open(store, TINY)
    repair(store, revision_of(snapshots(store)[0]))
    async with opened(store) as engine:
        await change(engine, 1)


async def test_damaged_log_is_not_summed_up(store: Path) -> None:
    path = segments(store / "wal")[3]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = sorted(store.rglob("*"))
    with pytest.raises(NanoError, match=path.name):
        sum_up(store, live(store), TINY.history)
    assert sorted(store.rglob("*")) == before


async def test_missing_segment_is_not_summed_up(store: Path) -> None:
    segments(store / "wal")[-2].unlink()
    with pytest.raises(NanoError, match="ends at"):
        sum_up(store, live(store), TINY.history)
    assert not snapshots(store)


async def test_running_log_sums_itself_up(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, TINY)
    engine = Engine(log)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(engine.run()), group.create_task(log.tend())]
        async with asyncio.timeout(60):
            while len(list((tmp_path / "snap").glob("*.snap"))) < 2:
                await change(engine, 20, seed=engine.committed)
        for task in tasks:
            task.cancel()
    before = state(engine)
    log.close()
    assert len(segments(tmp_path / "wal")) < len(every_segment(tmp_path))
    async with opened(tmp_path) as engine:
        assert state(engine) == before


async def test_log_goes_on_when_the_summing_up_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "replaced by an upgrade"))
    log = FileLog.open(tmp_path / "data", TINY)
    engine = Engine(log)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(engine.run()), group.create_task(log.tend())]
        async with asyncio.timeout(30):
            while "could not be summed up" not in caplog.text:
                await change(engine, 20, seed=engine.committed)
        await change(engine, 20, seed=engine.committed)
        for task in tasks:
            task.cancel()
    log.close()


def test_summing_up_dies_with_its_server_and_the_next_one_starts_at_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from nanovirt.resources.file_log import FileLog
from tests.resources.test_compaction import TINY
async def main():
    log = FileLog.open(Path({str(store)!r}), TINY)
    async with asyncio.TaskGroup() as group:
        group.create_task(log.tend())
        while not list(Path({str(store)!r}).glob("*/*.tmp")):
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ending = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ending.returncode == -9
    monkeypatch.setattr(store_directory, "DEATH_SECONDS", 60.0)
    began = time.monotonic()
    FileLog.open(store, TINY).close()
    assert time.monotonic() - began < 30
    assert not list(store.glob("*/*.tmp"))


async def test_old_store_is_opened_and_marked(store: Path) -> None:
    mark = (store / "FORMAT").read_text()
    (store / "FORMAT").write_text(mark.replace('"version": 2', '"version": 1'))
    for name in ("snap", "history"):
        (store / name).rmdir()
    async with opened(store) as engine:
        assert engine.committed == 300
    assert (store / "FORMAT").read_text() == mark


def test_summing_up_waits_for_as_much_log_as_the_last_snapshot() -> None:
    assert not due(sealed=63, snapshot=10, least=64)
    assert due(sealed=64, snapshot=10, least=64)
    assert not due(sealed=99, snapshot=100, least=64)
    assert due(sealed=100, snapshot=100, least=64)


def test_history_gives_up_its_oldest_until_it_fits() -> None:
    files = [File(Path(str(rev)), rev, 10) for rev in (30, 1, 20, 10)]
    assert superfluous(files, 40, 100) == []
    assert superfluous(files, 39, 100) == [Path("1")]
    assert superfluous(files, 15, 100) == [Path("1"), Path("10"), Path("20")]
    assert superfluous(files, 0, 10) == [Path("1"), Path("10")]


def test_files_are_the_owners_alone(store: Path) -> None:
    before = os.umask(0)
    try:
        sum_up(store, live(store), TINY.history)
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o077 == 0 for path in store.rglob("*"))


def test_history_is_read_by_common_tools(store: Path) -> None:
    plain = written(segments(store / "wal")[0])
    sum_up(store, live(store), TINY.history)
    packed = store / "history" / f"{1:016d}.wal.gz"
    assert subprocess.run(["zcat", packed], capture_output=True, check=True).stdout == plain
    *rest, last = snapshot_path(store, live(store) - 1).read_bytes().splitlines(keepends=True)
    assert last == b"sha256 %b\n" % hashlib.sha256(b"".join(rest)).hexdigest().encode()


def kept(store: Path) -> int:
    """Bytes of the history."""
    return sum(path.stat().st_size for path in (store / "history").iterdir())


async def test_history_gives_way_when_a_snapshot_lacks_room(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[2], firsts[4], firsts[6]):
        sum_up(store, first, TINY.history)
    oldest = min((store / "history").iterdir())
    before = kept(store)
    sealed = sum(path.stat().st_size for path in segments(store / "wal") if first_revision(path) < live(store))
    free = snapshots(store)[0].stat().st_size + sealed + 9_000 - 100
    monkeypatch.setattr(compaction, "room", lambda _directory: free + before - kept(store))
    sum_up(store, live(store), TINY.history, reserve=9_000)
    assert not oldest.exists()
    at_hand = sorted((store / "snap").iterdir())
    monkeypatch.setattr(compaction, "room", lambda _directory: 5_000)
    with pytest.raises(NanoError, match="make room there"):
        sum_up(store, live(store) + 1, TINY.history, reserve=6_000)
    assert sorted((store / "snap").iterdir()) == at_hand


async def test_history_gives_way_only_behind_snapshots_that_are_whole(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = [first_revision(path) for path in segments(store / "wal")]
    for first in (firsts[2], firsts[4], firsts[6]):
        sum_up(store, first, TINY.history)
    for path in (store / "snap").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    history = sorted((store / "history").iterdir())
    monkeypatch.setattr(compaction, "room", lambda _directory: 5_000)
    with pytest.raises(NanoError, match="make room there"):
        sum_up(store, live(store), TINY.history, reserve=6_000)
    rest = [path for path in sorted((store / "history").iterdir()) if path in history]
    assert [path for path in rest if path.name.endswith(".snap.gz")], "the start needs the one that is whole"
    async with opened(store) as engine:
        assert engine.committed == 300
