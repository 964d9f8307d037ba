"""A backup that is taken while the store is written to and its log is summed up is of one revision all the same."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from nanovirt.resources.restoring import restore
from nanovirt.resources.segments import RAISED
from tests.resources.backups import NOW, contents_of, loaded, replayed, taken
from tests.resources.test_compaction import opened, state


@pytest.mark.timeout(300)
async def test_backups_under_load_while_the_log_is_summed_up_are_each_of_one_revision(tmp_path: Path) -> None:
    """The log keeps everything, so the state that a reader saw at the revision of each backup can be replayed."""
    directory, files, bases = tmp_path / "data", list[Path](), set[str]()
    process = loaded(directory)
    try:
        ends = time.monotonic() + 12
        # However slow the machine is: there are enough, and the log was summed up meanwhile.
        while time.monotonic() < ends or len(files) < 8 or len(bases) < 3:
            with_history = len(files) % 5 == 0
            files.append(taken(directory, with_history=with_history))
            bases.add(contents_of(files[-1]).base)
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    revisions = [contents_of(file).revision for file in files]
    assert revisions == sorted(revisions)
    for number in random.Random(1).sample(range(len(files)), 6):
        new = tmp_path / f"new-{number}"
        restore(files[number], new, NOW)
        async with opened(new) as engine:
            assert engine.committed == revisions[number] + RAISED + 1
            assert state(engine) == replayed(directory, revisions[number])
