"""The file log killed at, and failed by, each system call it makes: what was acknowledged is there, and no more."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nanovirt.resources.errors import StoreCorrupt
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.log import Record
from nanovirt.resources.recovery import repair
from nanovirt.resources.segments import segment_path
from tests.faults import full_disk
from tests.faults.strace import KILL, NEVER, Ending, Fault, each, python, run
from tests.resources.records import SMALL, records, write_log

BATCHES, PER_BATCH = 4, 3  # the fourth begins a new segment
REPAIR = "import sys, pathlib; from nanovirt.resources.recovery import repair; repair(pathlib.Path(sys.argv[1]), 4)"


def written_under(directory: Path, fault: Fault) -> Ending:
    """How the writer fared on that directory."""
    writer = python("-m", "tests.faults.log_writer", directory / "store", BATCHES, PER_BATCH)
    return run(writer, directory / "trace", fault)


def number(ending: Ending, word: str) -> int:
    """The last revision that the writer said `word` about."""
    return max((int(line.split()[1]) for line in ending.said if line.startswith(word)), default=0)


def recovered(directory: Path) -> list[Record]:
    """What an undisturbed start finds."""
    log = FileLog.open(directory / "store", SMALL)
    found = list(log.read())
    log.close()
    return found


def check_recovery(directory: Path, acked: int) -> None:
    """Everything acknowledged is there, at most one batch more, and each record is what was written."""
    found = recovered(directory)
    assert acked <= len(found) <= acked + PER_BATCH
    assert found == records(1, len(found), size=300)


def written_at_each_moment(directory: Path, syscall: str, what: str) -> dict[Path, Ending]:
    """A run on a directory of its own for every time that the writer makes that call, struck there."""
    (directory / "0").mkdir()
    moments = written_under(directory / "0", Fault(syscall, what, NEVER)).moments
    for when in moments:
        (directory / str(when)).mkdir()
    endings = each(moments, lambda when: written_under(directory / str(when), Fault(syscall, what, when)))
    assert all(ending.hit for ending in endings.values())
    return {directory / str(when): ending for when, ending in endings.items()}


@pytest.mark.parametrize("syscall", ["write", "fdatasync", "fsync", "rename", "fallocate", "ftruncate", "pwrite64"])
def test_log_killed_at_any_call_keeps_what_it_acknowledged(tmp_path: Path, syscall: str) -> None:
    endings = written_at_each_moment(tmp_path, syscall, KILL)
    assert endings
    for directory, ending in endings.items():
        assert ending.killed
        check_recovery(directory, number(ending, "acked"))


@pytest.mark.parametrize("syscall", ["write", "fdatasync"])
def test_log_killed_life_after_life_keeps_what_it_acknowledged(tmp_path: Path, syscall: str) -> None:
    acked = 0
    for when in range(4, 0, -1):
        ending = written_under(tmp_path, Fault(syscall, KILL, when))
        assert ending.killed
        assert number(ending, "found") >= acked or not ending.said
        acked = max(acked, number(ending, "acked"))
    found = recovered(tmp_path)
    assert acked > 0
    assert len(found) >= acked
    assert found == records(1, len(found), size=300)


@pytest.mark.parametrize(("syscall", "error"), [("fdatasync", "EIO"), ("write", "ENOSPC"), ("fsync", "EIO")])
def test_first_error_is_the_end_of_acknowledging(tmp_path: Path, syscall: str, error: str) -> None:
    endings = written_at_each_moment(tmp_path, syscall, f"error={error}")
    assert len(endings) >= BATCHES
    for directory, ending in endings.items():
        assert ending.code == 75
        words = " ".join(line.split()[0] for line in ending.said)
        assert re.fullmatch("refused|found (acked )*(failed )+closed", words), ending
        check_recovery(directory, number(ending, "acked"))


@pytest.mark.parametrize(("syscall", "error"), [("fdatasync", "ENOSPC"), ("write", "EIO")])
def test_failed_call_is_never_tried_again(tmp_path: Path, syscall: str, error: str) -> None:
    FileLog.open(tmp_path / "store", SMALL).close()
    ending = written_under(tmp_path, Fault(syscall, f"error={error}", 2))
    assert ending.hit
    log_thread = ending.calls[-1].split()[0]
    assert "(INJECTED)" in [call for call in ending.calls if call.split()[0] == log_thread][-1]


def test_start_syncs_what_the_writer_before_may_have_left_unsynced(tmp_path: Path) -> None:
    assert written_under(tmp_path, Fault("fdatasync", KILL, 2)).killed
    ending = written_under(tmp_path, Fault("fsync", KILL, NEVER))
    assert number(ending, "found") == 2 * PER_BATCH
    assert "/store/wal/0000000000000001.wal>" in ending.calls[0]


def test_start_that_cannot_sync_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    written_under(tmp_path, Fault("fdatasync", KILL, 3))
    ending = written_under(tmp_path, Fault("fsync", "error=EIO", 1))
    assert ending.code == 75
    assert [line.split()[0] for line in ending.said] == ["refused"]
    check_recovery(tmp_path, acked=2 * PER_BATCH)


def test_new_segment_is_durable_before_it_is_used(tmp_path: Path) -> None:
    calls = ("write", "fsync", "rename", "fdatasync")
    writer = python("-m", "tests.faults.log_writer", tmp_path / "store", BATCHES, PER_BATCH)
    ending = run(writer, tmp_path / "trace", *(Fault(call, KILL, NEVER) for call in calls))
    made = [call.split(maxsplit=1)[1] for call in ending.calls]
    birth = next(index for index, call in enumerate(made) if "0000000000000010.tmp" in call)
    for call, beginning, path in zip(
        made[birth:],
        ["write(", "fsync(", "rename(", "fsync(", "write(", "fdatasync("],
        ["0000000000000010.tmp>", "0000000000000010.tmp>", "0000000000000010.wal", "wal>", "10.wal>", "10.wal>"],
        strict=True,
    ):
        assert call.startswith(beginning), made[birth:]
        assert path in call, made[birth:]


def test_batch_costs_one_sync(tmp_path: Path) -> None:
    writer = python("-m", "tests.faults.log_writer", tmp_path / "store", 1, 64)
    ending = run(writer, tmp_path / "trace", Fault("fdatasync", KILL, NEVER))
    assert ending.said[1] == "acked 64"
    assert len(ending.calls) == 1


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
