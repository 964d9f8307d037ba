"""Backup and restore: what is restored is one revision as a reader saw it, under a revision that nobody ever saw."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from datetime import timedelta
from pathlib import Path

import pytest

from nanovirt.resources import backup
from nanovirt.resources.archive import MANIFEST
from nanovirt.resources.backup import save, take
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Expired, NanoError, Rejected, StoreCorrupt
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.hold import HOLD, held
from nanovirt.resources.kind import Key
from nanovirt.resources.recovery import repair
from nanovirt.resources.restoring import restore
from nanovirt.resources.segments import RAISED, first_revision, segments
from nanovirt.resources.snapshots import snapshots
from nanovirt.resources.store import Create, Delete
from nanovirt.resources.store_directory import RESTORING, read_format, read_synced
from tests.resources.backups import NOW, contents_of, summed_up_twice, taken
from tests.resources.test_compaction import TINY, change, doc, key, known, live, opened, state


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    return await summed_up_twice(tmp_path / "data")


async def test_restored_store_holds_what_was_there_at_the_revision_of_the_backup(store: Path) -> None:
    async with opened(store) as engine:
        before, remembered, committed = state(engine), known(engine), engine.committed
        file = taken(store)
        await change(engine, 30, seed=3)
    assert contents_of(file).revision == committed
    restore(file, store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        assert state(engine) == before
        assert known(engine) == remembered
        assert engine.committed == committed + RAISED + 1
        assert held(engine)
        await change(engine, 30, seed=4)


async def test_reuse_of_a_revision_after_a_restore_is_impossible(store: Path) -> None:
    async with opened(store) as engine:
        file = taken(store)
        old = {(entry.rev, key) for key, entry in engine.list("namespaces")}
        for seed in range(3):
            await change(engine, 20, seed=seed)
            old |= {(entry.rev, key) for key, entry in engine.list("namespaces")}
        seen = engine.committed
    restore(file, store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        begun = contents_of(file).revision
        await change(engine, 20, seed=9)
        new = {(entry.rev, key) for key, entry in engine.list("namespaces") if entry.rev > begun}
        assert new
        assert not {rev for rev, _ in new} & {rev for rev, _ in old}
        for rev in (begun, begun + 1, seen, begun + RAISED - 1):
            with pytest.raises(Expired):
                engine.history(rev)
        assert engine.history(begun + RAISED)[0].changes[0].key == HOLD
    identity, before = read_format(store.parent / "new" / "FORMAT"), read_format(store / "FORMAT")
    assert (identity.cluster, identity.incarnation) == (before.cluster, before.incarnation + 1)


async def test_watch_from_before_the_restore_is_gone_also_when_it_was_a_moment_ago(store: Path) -> None:
    """The clock says that everything was within the time that a watch may resume from."""
    file = taken(store, with_history=True)
    restore(file, store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        assert engine._ring.oldest == contents_of(file).revision + RAISED


async def test_history_reads_on_across_the_restore(store: Path) -> None:
    log = FileLog.open(store, TINY)
    before = list(log.read())
    log.close()
    file = taken(store, with_history=True)
    restore(file, store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        await change(engine, 5)
    log = FileLog.open(store.parent / "new", TINY)
    after = list(log.read())
    head = before[-1].rev
    assert after[: len(before)] == before
    assert [record.rev for record in after[len(before) :]] == list(range(head + RAISED + 1, head + RAISED + 7))
    assert next(log.read(head + 5)).rev == head + RAISED + 1
    log.close()


async def test_backup_without_history_holds_the_newest_snapshot_and_the_log_behind_it(store: Path) -> None:
    contents = contents_of(taken(store))
    first = first_revision(segments(store / "wal")[0])
    assert contents.base == f"snap/{first - 1:016d}.json.snap"
    assert sorted(contents.files) == sorted(
        ["FORMAT", contents.base, *(f"wal/{path.name}" for path in segments(store / "wal"))]
    )
    history = contents_of(taken(store, with_history=True))
    assert {Path(name).name for name in history.files} >= {path.name for path in (store / "history").iterdir()}


async def test_restored_store_is_backed_up_and_restored_again(store: Path) -> None:
    async with opened(store) as engine:
        before, committed = state(engine), engine.committed
    restore(taken(store), store.parent / "one", NOW)
    restore(taken(store.parent / "one", with_history=True), store.parent / "two", NOW)
    async with opened(store.parent / "two") as engine:
        assert state(engine) == before
        assert engine.committed == committed + 2 * (RAISED + 1)
        await change(engine, 300)
    sum_up(store.parent / "two", live(store.parent / "two"), TINY.history)
    assert read_format(store.parent / "two" / "FORMAT").incarnation == 3


async def test_damaged_beginning_of_a_restored_store_is_replaced_by_its_history(store: Path) -> None:
    restore(taken(store), store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        before, committed = state(engine), engine.committed
    snapshots(store.parent / "new")[0].write_bytes(b"{}")
    async with opened(store.parent / "new") as engine:
        assert (state(engine), engine.committed, bool(held(engine))) == (before, committed, True)
        with pytest.raises(Expired):
            engine.history(committed - 2)
        await change(engine, 300)
    sum_up(store.parent / "new", live(store.parent / "new"), TINY.history)
    async with opened(store.parent / "new", lambda: NOW + timedelta(days=1)) as engine:
        assert held(engine)


async def test_restored_store_without_any_record_of_its_own_goes_on_above_its_revision(store: Path) -> None:
    """Its beginning is damaged, its only record, too, and a person has accepted that."""
    restore(taken(store), store.parent / "new", NOW)
    snapshots(store.parent / "new")[0].write_bytes(b"{}")
    first = segments(store.parent / "new" / "wal")[0]
    content = bytearray(first.read_bytes().rstrip(b"\0"))
    content[-9] ^= 1
    first.write_bytes(content)
    with pytest.raises(StoreCorrupt) as refused_:
        FileLog.open(store.parent / "new", TINY)
    assert refused_.value.last_good == 360 + RAISED
    repair(store.parent / "new", 360 + RAISED)
    async with opened(store.parent / "new") as engine:
        assert engine.committed == 360 + 2 * RAISED
        with pytest.raises(Expired):
            engine.history(360)
        await change(engine, 3, seed=12)
        assert engine.committed > 360 + 2 * RAISED


@pytest.mark.parametrize("count", [0, 1, 7])
async def test_store_that_was_never_summed_up_is_restored(tmp_path: Path, count: int) -> None:
    async with opened(tmp_path / "data") as engine:
        await change(engine, count)
        before = state(engine)
        file = await asyncio.to_thread(taken, tmp_path / "data")
    restore(file, tmp_path / "new", NOW)
    async with opened(tmp_path / "new") as engine:
        assert (state(engine), engine.committed) == (before, count + RAISED + 1)
        await change(engine, 5, seed=8)
        committed = engine.committed
    async with opened(tmp_path / "new") as engine:
        assert engine.committed == committed > count + RAISED + 1


async def test_backup_ends_before_what_is_not_known_to_be_durable(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "NOTED_SECONDS", 0.1)
    async with opened(store) as engine:
        synced = read_synced(store) or 0
        await engine.stage([Create(key(99), doc(99))], "alice").durable()
        await engine.stage([Delete(key(99))], "alice").durable()
        assert (read_synced(store), engine.committed) == (synced, synced + 2)
        (store / "LOCK").write_text(f"{os.getpid()}\n")
        assert contents_of(taken(store)).revision == max(synced, live(store) - 1) < engine.committed
        (store / "LOCK").write_text("999999999\n")
        assert contents_of(taken(store)).revision == engine.committed


async def test_torn_tail_is_left_out(store: Path) -> None:
    async with opened(store) as engine:
        committed = engine.committed
    with segments(store / "wal")[-1].open("ab") as file:
        file.write(b"0badc0de 00000000 361 360 40 {")
    assert contents_of(taken(store)).revision == committed


def test_backup_is_the_owners_alone_and_never_replaces_another_file(tmp_path: Path) -> None:
    FileLog.open(tmp_path / "data", TINY).close()
    mask = os.umask(0)
    try:
        file = taken(tmp_path / "data")
    finally:
        os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Rejected, match="already"):
        save(take(tmp_path / "data"), file)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    with pytest.raises(Rejected, match="holds no store"):
        list(take(tmp_path / "nothing"))


def test_common_tar_reads_a_backup(tmp_path: Path) -> None:
    FileLog.open(tmp_path / "data", TINY).close()
    with tarfile.open(taken(tmp_path / "data")) as tar:
        assert [one.name for one in tar] == ["FORMAT", MANIFEST]


# --- interrupted ---


def test_restore_killed_anywhere_is_run_again(tmp_path: Path) -> None:
    async def fill() -> dict[Key, bytes]:
        async with opened(tmp_path / "data") as engine:
            await change(engine, 300)
            return state(engine)

    before = asyncio.run(fill())
    file, new, chance = taken(tmp_path / "data", with_history=True), tmp_path / "new", random.Random(7)
    program = (
        "import sys; from datetime import datetime, UTC; from pathlib import Path; "
        "from nanovirt.resources.registry import kinds; from nanovirt.resources.restoring import restore; kinds(); "
        "print('begins', flush=True); restore(Path(sys.argv[1]), Path(sys.argv[2]), datetime.now(UTC)); print('done')"
    )
    tries, killed, longest = 0, 0, 0.25
    while tries < 16 or killed < 3:
        tries += 1
        process = subprocess.Popen([sys.executable, "-c", program, str(file), str(new)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * longest)
        process.kill()
        done = b"done" in process.stdout.read()
        process.stdout.close()
        process.wait()
        finished = new.is_dir() and not (new / RESTORING).exists() and (new / "FORMAT").exists()
        assert finished or not done
        longest *= 0.8 if finished else 1.1  # however fast the machine is
        if not finished:
            killed += new.is_dir() and any(new.iterdir())
            if new.is_dir() and (new / RESTORING).exists():
                with pytest.raises(NanoError, match="run the same"):
                    FileLog.open(new, TINY)
            continue
        log = FileLog.open(new, TINY)
        assert {key: raw for key, raw in state(Engine(log)).items() if key != HOLD} == before
        log.close()
        shutil.rmtree(new)


def test_store_is_never_restored_over_another_one(store: Path) -> None:
    file = taken(store)
    before = sorted((path, path.stat().st_size) for path in store.rglob("*"))
    with pytest.raises(Rejected, match="not empty"):
        restore(file, store, NOW)
    assert sorted((path, path.stat().st_size) for path in store.rglob("*")) == before


async def test_deleted_objects_stay_deleted(store: Path) -> None:
    async with opened(store) as engine:
        if not engine.peek(key(1)):
            await engine.stage([Create(key(1), doc(1))], "alice").durable()
        await engine.stage([Delete(key(1))], "alice").durable()
    restore(taken(store), store.parent / "new", NOW)
    async with opened(store.parent / "new") as engine:
        assert engine.peek(key(1)) is None
