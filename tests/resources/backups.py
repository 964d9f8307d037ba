"""Backups of a store that was summed up twice, and tar over them, for the tests of backup and restore."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson

from nanovirt.resources.backup import save, take
from nanovirt.resources.backup_contents import Contents, inspect
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.kind import Key
from nanovirt.resources.segments import first_revision, segments
from tests.resources.test_compaction import TINY, change, live, opened

NOW = datetime(2026, 11, 2, tzinfo=UTC)
LOAD = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.registry import kinds
from tests.resources.test_compaction import TINY, change
kinds()
async def main():
    log = FileLog.open(Path(sys.argv[1]), replace(TINY, history=1 << 30))
    engine = Engine(log)
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        group.create_task(log.tend())
        while True:
            await change(engine, 50, seed=engine.committed)
            with open(sys.argv[2], "w") as file:
                file.write(str(engine.committed))
asyncio.run(main())
"""


async def summed_up_twice(folder: Path) -> Path:
    """300 revisions, summed up twice, and some more."""
    async with opened(folder) as engine:
        await change(engine, 300)
    for first in (first_revision(segments(folder / "wal")[4]), live(folder)):
        sum_up(folder, first, TINY.history)
    async with opened(folder) as engine:
        await change(engine, 60, seed=2)
    return folder


def taken(store: Path, *, with_history: bool = False) -> Path:
    file = store.parent / f"backup-{len(list(store.parent.iterdir()))}.tar"
    save(take(store, with_history=with_history), file)
    return file


def contents_of(file: Path) -> Contents:
    with file.open("rb") as opened_:
        return inspect(opened_)[0]


def tar(file: Path, *members: tuple[tarfile.TarInfo, bytes], format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w", format=format_) as made:
        for info, content in members:
            info.size = info.size or len(content)
            made.addfile(info, io.BytesIO(content))
    return file


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def loaded(directory: Path) -> subprocess.Popen[bytes]:
    """A process that writes without a pause and sums up what it has written."""
    said = directory.parent / "committed"
    process = subprocess.Popen([sys.executable, "-c", LOAD, str(directory), str(said)])
    while not said.exists() or not said.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    return process


def replayed(directory: Path, upto: int) -> dict[Key, bytes]:
    """The state of a store at a revision, from its first record on."""
    found: dict[Key, bytes] = {}
    log = FileLog.open(directory, TINY)
    engine = Engine(log)
    assert engine.committed >= upto
    for record in log.read():
        for write in orjson.loads(record.body)["writes"] if record.rev <= upto else ():
            at = Key(write["kind"], write["namespace"], write["name"])
            found.pop(at, None)
            if write["verb"] == "put":
                found[at] = orjson.dumps(write["object"])
    log.close()
    return found
