"""What is kept of a guest's serial line, and how much."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanovirt.agent import serial_log
from nanovirt.agent.serial_log import LIMIT, before, connect, read, remove, trim, trim_all
from nanovirt.resources.errors import Conflict


def test_short_log_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * LIMIT)
    assert not trim(log)
    assert read(log) == b"x" * LIMIT


def test_long_log_keeps_its_end_and_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" + b"x" * LIMIT)
        assert trim(log)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert read(log) == b"x" * LIMIT + b"new"


def test_two_files_are_all_that_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for letter in (b"a", b"b", b"c"):
        with log.open("ab") as writer:
            writer.write(letter * (3 * LIMIT))
        trim_all(tmp_path)
    assert read(log) == b"c" * LIMIT
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "a.log.1"}
    remove(log)
    assert list(tmp_path.iterdir()) == []
    assert read(log) == b""


def test_log_that_cannot_be_written_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_bytes(b"x" * (LIMIT + 1))
    whole = trim

    def failing(log: Path) -> bool:
        if log.name == "a.log":
            raise OSError(28, "No space left on device")
        return whole(log)

    monkeypatch.setattr(serial_log, "trim", failing)
    trim_all(tmp_path)
    assert (tmp_path / "a.log").stat().st_size == LIMIT + 1
    assert before(tmp_path / "b.log").exists()


async def test_line_without_anybody_behind_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="does not run"):
        await connect(tmp_path / "none.sock")
