"""The file log under strokes of the system: what was acknowledged is there, no more, and no failed call is repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nanovirt.resources.errors import StoreCorrupt
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.recovery import repair
from nanovirt.resources.segments import first_revision, parse, segment_path, segments, walk
from nanovirt.resources.store_directory import read_synced
from tests.faults import full_disk
from tests.faults.promises import Promise, verdict
from tests.faults.strace import KILL, NEVER, Ending, Fault, each, python, run
from tests.resources.records import SMALL, records, write_log

BATCHES, SEED = 4, 13
REPAIR = "import sys, pathlib; from nanovirt.resources.recovery import repair; repair(pathlib.Path(sys.argv[1]), 4)"


def written_under(directory: Path, fault: Fault, life: int = 0) -> Ending:
    """How the writer fared on that directory."""
    writer = python("-m", "tests.faults.log_writer", directory / "store", BATCHES, SEED, life)
    return run(writer, directory / "trace", fault)


def check_recovery(directory: Path, *endings: Ending) -> None:
    """What these writers, one after the other, were told to be durable is there, and only what they sent."""
    promise = Promise(SEED)
    for life, ending in enumerate(endings):
        promise.life = life
        promise.hear(ending.said)
    assert not verdict(promise, directory / "store", goes_on=True)


@pytest.mark.parametrize("syscall", ["write", "fdatasync"])
def test_log_killed_life_after_life_keeps_what_it_acknowledged(tmp_path: Path, syscall: str) -> None:
    endings = [written_under(tmp_path, Fault(syscall, KILL, 4 - life), life) for life in range(4)]
    assert all(ending.killed for ending in endings)
    assert sum("acked" in line for ending in endings for line in ending.said) > 0
    check_recovery(tmp_path, *endings)


@pytest.mark.parametrize(("syscall", "error"), [("fdatasync", "ENOSPC"), ("write", "EIO")])
def test_failed_call_is_never_tried_again(tmp_path: Path, syscall: str, error: str) -> None:
    FileLog.open(tmp_path / "store", SMALL).close()
    ending = written_under(tmp_path, Fault(syscall, f"error={error}", 2))
    assert ending.hit
    log_thread = ending.calls[-1].split()[0]
    assert "(INJECTED)" in [call for call in ending.calls if call.split()[0] == log_thread][-1]


def test_loss_of_what_was_confirmed_before_a_failure_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ending = written_under(tmp_path, Fault("fdatasync", "error=EIO", 4))
    acked = [int(line.split()[1]) for line in ending.said if line.startswith("acked")]
    assert read_synced(store) == acked[-1], "the note that is made each second would not know it yet"
    paths = [path for path in segments(store / "wal") if first_revision(path) <= acked[-1]]
    content = paths[-1].read_bytes()
    frames = list(walk(content, parse(content, 0) or pytest.fail("no header")))
    lost = next(frame for frame in frames if frame.rev == acked[-1] - 1).end
    paths[-1].write_bytes(content[:lost] + bytes(len(content) - lost))
    with pytest.raises(StoreCorrupt, match=f"SYNCED says that revision {acked[-1]} was durable"):
        FileLog.open(store, SMALL)


def test_start_syncs_what_the_writer_before_may_have_left_unsynced(tmp_path: Path) -> None:
    before = written_under(tmp_path, Fault("fdatasync", KILL, 2))
    ending = written_under(tmp_path, Fault("fsync", KILL, NEVER))
    assert before.killed
    assert before.said[-1].replace("sent", "found") == ending.said[0], "nothing was lost, since the system lived on"
    assert "/store/wal/0000000000000001.wal>" in ending.calls[0]


def test_start_that_cannot_sync_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    before = written_under(tmp_path, Fault("fdatasync", KILL, 3))
    ending = written_under(tmp_path, Fault("fsync", "error=EIO", 1), life=1)
    assert ending.code == 75
    assert [line.split()[0] for line in ending.said] == ["refused"]
    check_recovery(tmp_path, before, ending)


def test_batch_costs_one_sync(tmp_path: Path) -> None:
    ending = written_under(tmp_path, Fault("fdatasync", KILL, NEVER))
    appended = [call for call in ending.calls if ".wal>" in call]
    assert len(appended) == BATCHES < int(ending.said[-1].split()[1])


@pytest.mark.parametrize("syscall", ["write", "fsync", "unlink", "ftruncate"])
async def test_repair_killed_at_any_call_can_be_run_again(tmp_path: Path, syscall: str) -> None:
    await write_log(tmp_path / "0", 8, size=1000)
    bad = segment_path(tmp_path / "0" / "wal", 4)
    content = bad.read_bytes()
    bad.write_bytes(content[:1200] + b"?" + content[1201:])
    for copy in range(1, 20):
        shutil.copytree(tmp_path / "0", tmp_path / str(copy))

    def repaired(when: int | str) -> Ending:
        directory = tmp_path / (when if isinstance(when, str) else str(when))
        return run(python("-c", REPAIR, directory), directory / "trace", Fault(syscall, KILL, when))

    (tmp_path / "0").rename(tmp_path / NEVER)
    endings = each(repaired(NEVER).moments, repaired)
    assert endings
    for when, ending in endings.items():
        assert ending.killed
        directory = tmp_path / str(when)
        try:
            FileLog.open(directory, SMALL).close()
        except StoreCorrupt as refusal:
            repair(directory, refusal.last_good)
        log = FileLog.open(directory, SMALL)
        assert list(log.read()) == records(1, 4, size=1000)
        log.close()


def test_full_disk_is_refused_before_writing_and_the_ballast_is_for_deletes(tmp_path: Path) -> None:
    ending = run(full_disk.command(tmp_path, room=1 << 19), tmp_path.with_suffix(".trace"))
    assert ending.said == ["LogFull", "took the disk", "LogFull", "took the ballast", "all there"], ending


def test_disk_that_runs_full_under_the_log_fails_it_and_loses_nothing(tmp_path: Path) -> None:
    ending = run(full_disk.command(tmp_path, room=0), tmp_path.with_suffix(".trace"))
    assert ending.said[:2] == ["StoreFailed", "took the disk"], ending
    assert ending.said[-1] == "all there", ending
