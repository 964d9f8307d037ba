"""The file log beyond the contract: its files, its lock, its room, its text."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import threading
import time
import uuid
from pathlib import Path

import pytest

from nanovirt.resources import file_log
from nanovirt.resources.errors import LogFull, NanoError, StoreFailed, Unavailable
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.log import Record
from nanovirt.resources.segments import write_all
from nanovirt.resources.store_directory import read_synced
from tests.resources.records import SMALL, record, records, write_log


def lines(directory: Path) -> list[list[str]]:
    """Every line of every segment, split into its six fields."""
    texts = [path.read_bytes().rstrip(b"\0").decode() for path in sorted((directory / "wal").iterdir())]
    return [line.split(" ", 5) for text in texts for line in text.splitlines()]


def test_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path / "deep" / "store", SMALL)
    fields = json.loads((tmp_path / "deep" / "store" / "FORMAT").read_text())
    assert fields == {"version": 2, "cluster": log.identity.cluster, "incarnation": 1}
    assert str(uuid.UUID(log.identity.cluster)) == log.identity.cluster
    log.close()


def test_store_keeps_its_identity(tmp_path: Path) -> None:
    first = FileLog.open(tmp_path, SMALL)
    first.close()
    second = FileLog.open(tmp_path, SMALL)
    second.close()
    assert second.identity == first.identity


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_nobody_else_may_read_anything(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        await write_log(tmp_path / "store", 12, size=900)
    finally:
        os.umask(before)
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_second_opener_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    with pytest.raises(Unavailable) as refusal:
        FileLog.open(tmp_path, SMALL)
    assert str(tmp_path) in str(refusal.value)
    assert f"process {os.getpid()} " in str(refusal.value)
    await log.append(records(1, 1))
    log.close()
    FileLog.open(tmp_path, SMALL).close()


def test_refused_opening_leaves_no_lock(tmp_path: Path) -> None:
    FileLog.open(tmp_path, SMALL).close()
    content = (tmp_path / "FORMAT").read_bytes()
    (tmp_path / "FORMAT").write_bytes(b"{}")
    with pytest.raises(NanoError):
        FileLog.open(tmp_path, SMALL)
    (tmp_path / "FORMAT").write_bytes(content)
    FileLog.open(tmp_path, SMALL).close()


def test_directory_that_cannot_be_used_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFailed, match="file"):
        FileLog.open(tmp_path / "file", SMALL)


async def test_line_carries_chain_revision_synced_revision_and_length(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    await log.append(records(1, 2))
    await log.append(records(3, 3))
    log.close()
    header, first, second, third = lines(tmp_path)
    assert json.loads(header[5]) == {"segment": 1, "cluster": log.identity.cluster}
    assert [line[2] for line in (header, first, second, third)] == ["0", "1", "2", "3"]
    assert [line[3] for line in (first, second, third)] == ["0", "0", "2"]
    assert [line[1] for line in (header, first, second, third)] == ["00000000", header[0], first[0], second[0]]
    assert all(int(line[4]) == len(line[5]) for line in (header, first, second, third))
    assert json.loads(third[5])["rev"] == 3


async def test_segments_are_preallocated_named_after_their_first_revision_and_sealed(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    for rev in range(1, 8):
        await log.append([record(rev, size=1000)])
    log.close()
    names = ["0000000000000001.wal", "0000000000000004.wal", "0000000000000007.wal"]
    paths = sorted((tmp_path / "wal").iterdir())
    assert [path.name for path in paths] == names
    assert [path.stat().st_size == SMALL.segment for path in paths] == [False, False, True]
    assert all(path.read_bytes().endswith(b"}\n") for path in paths[:2])


async def test_batch_larger_than_a_segment_gets_a_segment_of_its_own(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    await log.append(records(1, 1))
    await log.append(records(2, 40, size=500))
    await log.append(records(41, 41))
    log.close()
    log = FileLog.open(tmp_path, SMALL)
    assert list(log.read()) == [*records(1, 1), *records(2, 40, size=500), *records(41, 41)]
    log.close()


async def test_disk_without_room_takes_nothing_and_later_goes_on(tmp_path: Path) -> None:
    await write_log(tmp_path, 2)
    before = lines(tmp_path)
    full = FileLog.open(tmp_path, Sizes(segment=1 << 12, ballast=1 << 12, room=1 << 60))
    for _ in range(2):
        with pytest.raises(LogFull, match="nothing was written"):
            await full.append(records(3, 3))
    assert full.head() == 2
    full.close()
    assert lines(tmp_path) == before
    log = FileLog.open(tmp_path, SMALL)
    await log.append(records(3, 3))
    log.close()


async def test_ballast_is_held_given_up_once_and_taken_again(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    ballast = tmp_path / "BALLAST"
    assert ballast.stat().st_blocks * 512 >= SMALL.ballast
    assert log.make_room()
    assert not ballast.exists()
    assert not log.make_room()
    await log.append(records(1, 1))
    assert ballast.stat().st_size == SMALL.ballast
    log.close()


async def test_idle_log_notes_what_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_log, "NOTE_SYNCED_EVERY", 0.02)
    log = FileLog.open(tmp_path, SMALL)
    for rev in range(1, 4):
        await log.append([record(rev)])
        deadline = time.monotonic() + 5
        while read_synced(tmp_path) != rev and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert read_synced(tmp_path) == rev
    assert (tmp_path / "SYNCED").stat().st_size == 16
    log.close()


async def test_busy_log_notes_what_was_synced_at_most_once_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_log, "NOTE_SYNCED_EVERY", 60.0)
    log = FileLog.open(tmp_path, SMALL)
    for rev in range(1, 6):
        await log.append([record(rev)])
    assert read_synced(tmp_path) == 0
    log.close()
    assert read_synced(tmp_path) == 5


async def test_cancelled_append_is_still_accounted_for(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await log.append(records(1, 3))
    log.close()
    log = FileLog.open(tmp_path, SMALL)
    assert list(log.read()) in ([], records(1, 3))
    await log.append([record(log.head() + 1)])
    log.close()


def test_writing_goes_on_after_a_short_write() -> None:
    """A signal cuts a write short once the pipe is full; Python tries again by itself only when nothing was written."""
    reader, writer = os.pipe()
    content = os.urandom(1 << 20)
    received = bytearray()
    main = threading.get_ident()

    def interrupt_then_read() -> None:
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGUSR1)
        while chunk := os.read(reader, 1 << 16):
            received.extend(chunk)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    thread = threading.Thread(target=interrupt_then_read)
    thread.start()
    try:
        write_all(writer, content)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
        signal.signal(signal.SIGUSR1, before)
    assert bytes(received) == content


async def test_text_is_for_ordinary_tools(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, SMALL)
    await log.append([Record(1, '{"name":"Zürich"}'.encode())])
    log.close()
    assert [json.loads(line[5]) for line in lines(tmp_path)][1:] == [{"name": "Zürich"}]
