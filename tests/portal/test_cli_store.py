"""`nanoctl store`, `backup` and `restore` on a data folder: what a refusal to start names really mends the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from nanovirt.portal.cli import cli
from nanovirt.resources.errors import StoreCorrupt
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.log import Record
from nanovirt.resources.segments import RAISED, segments
from tests.resources.test_compaction import change, opened


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
    assert log.head() == 4 + RAISED
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


def said(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [*arguments])
    return done.exit_code, done.output


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A server's data folder with a store and keys."""
    async with opened(tmp_path / "nano" / "data") as engine:
        await change(engine, 30)
    (tmp_path / "nano" / "secrets.key").write_bytes(b"k" * 32)
    return tmp_path / "nano"


def test_store_is_verified_and_dumped_where_it_lies(data: Path) -> None:
    code, output = said("store", "verify", "--data", str(data))
    assert (code, output.startswith("whole: revisions 1 to 30 in 30 records")) == (0, True)
    code, output = said("store", "dump", "--data", str(data))
    assert code == 0
    assert {orjson.loads(line)["kind"] for line in output.splitlines()} == {"Namespace"}
    code, output = said("store", "dump", "--data", str(data), "--records", "--at", "3")
    assert [orjson.loads(line)["rev"] for line in output.splitlines()] == [1, 2, 3]
    code, output = said("store", "dump", "--data", str(data), "--at", "31")
    assert (code, "has not been" in output) == (1, True)
    segment = segments(data / "data" / "wal")[0]
    segment.write_bytes(segment.read_bytes().replace(b"alice", b"mallo", 1))
    code, output = said("store", "verify", "--data", str(data))
    command = f"nanoctl store repair --data {data.resolve()} --accept-loss-after 0"
    assert (code, command in output) == (1, True)


def test_store_is_backed_up_and_restored_from_its_folder(data: Path, tmp_path: Path) -> None:
    backup, keys, new = (str(tmp_path / name) for name in ("b.tar", "k.tar", "new"))
    code, output = said("backup", backup, "--data", str(data), "--keys", keys)
    assert (code, "revision 30 of cluster" in output, "secrets.key" in output) == (0, True, True)
    assert said("backup", backup, "--data", str(data)) == (
        1, f"Error: {backup} is there already; give the backup another name\n",
    )  # fmt: skip
    code, output = said("restore", backup, "--keys", keys, "--data", new)
    assert (code, "as revision 1000030 of the same cluster" in output) == (0, True)
    assert (Path(new) / "secrets.key").read_bytes() == b"k" * 32
    code, output = said("store", "verify", "--data", new)
    assert (code, output.startswith("whole: revisions 1 to 1000031")) == (0, True)
    code, output = said("restore", backup, "--data", new)
    assert (code, "is not empty" in output) == (1, True)


def test_backup_and_restore_that_are_not_written_as_they_have_to_be_say_how(tmp_path: Path) -> None:
    assert said("backup")[0] == said("backup", "-", "--data", str(tmp_path))[0] == 2
    assert said("restore")[0] == said("restore", "--status", "--confirm")[0] == 2
    (tmp_path / "b.tar").touch()
    assert said("restore", str(tmp_path / "b.tar"))[0] == 2
    code, output = said("restore", str(tmp_path / "missing.tar"), "--data", str(tmp_path / "new"))
    assert (code, "cannot be read" in output) == (1, True)
    assert not (tmp_path / "new").exists()
    code, output = said("backup", "--keys", str(tmp_path / "k.tar"), "--data", str(tmp_path))
    assert (code, "has no keys" in output) == (1, True)
