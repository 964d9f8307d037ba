"""`nanoctl store repair`: the command that a refusal to start names really mends the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from nanovirt.portal.cli import cli
from nanovirt.resources.errors import StoreCorrupt
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.log import Record


def filled(folder: Path, count: int) -> Path:
    """A log of so many records; gives its only segment."""

    async def fill() -> None:
        log = FileLog.open(folder / "data")
        for rev in range(1, count + 1):
            await log.append([Record(rev, b'{"rev":%d}' % rev)])
        log.close()

    asyncio.run(fill())
    (segment,) = (folder / "data" / "wal").iterdir()
    return segment


def repaired(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["store", "repair", *arguments])
    return done.exit_code, done.output


def test_store_that_refuses_to_start_does_so_no_more(tmp_path: Path) -> None:
    segment = filled(tmp_path, 9)
    content = bytearray(segment.read_bytes())
    at = content.index(b'{"rev":5}')
    content[at + 7] ^= 1
    segment.write_bytes(content)
    with pytest.raises(StoreCorrupt) as refused:
        FileLog.open(tmp_path / "data")
    command = refused.value.command.split()
    assert command[:3] == ["nanoctl", "store", "repair"]
    code, said = repaired("--data", str(tmp_path), *command[3:])
    assert (code, "ends at revision 4" in said) == (0, True)
    log = FileLog.open(tmp_path / "data")
    assert log.head() == 4
    log.close()


def test_wrong_revision_and_whole_log_change_nothing(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    assert repaired("--data", str(tmp_path), "--accept-loss-after", "2")[0] == 1
    code, said = repaired("--data", str(tmp_path), "--accept-loss-after", "3")
    assert (code, said) == (0, "nothing to repair: the log is whole up to revision 3\n")


def test_folder_without_a_store_is_named(tmp_path: Path) -> None:
    code, said = repaired("--data", str(tmp_path), "--accept-loss-after", "2")
    assert code == 1
    assert f"{tmp_path}/data is not there" in said
