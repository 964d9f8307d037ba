"""Histories of real processes, stopped and killed at any moment: the same checker finds nothing wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from nanovirt.resources.file_log import FileLog
from tests.faults.strace import ROOT, python
from tests.histories.checking import violations
from tests.histories.real_life import SIZES, read_journal

KILLS = 5
"""At most, in one history; the last life is left alone."""
MOST = 1 << 20
"""Bytes of the journal, of which a history of 1500 calls writes four times as many: no life may be longer."""
TRIES = 5
"""A machine that lets the writer run and us not finds nobody to kill; then another history is told."""


def lived(folder: Path, seed: int, calls: int) -> int:
    """Life after life until all calls are made; how many were ended by us."""
    chance = Random(seed)
    journal = folder / "journal"
    command = python("-m", "tests.histories.real_life", folder / "store", journal, seed, calls)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.src'}"}
    for killed in range(KILLS + 1):
        before = journal.stat().st_size if journal.exists() else 0
        child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], env=env, cwd=ROOT)
        try:
            while child.poll() is None and (not journal.exists() or journal.stat().st_size == before):
                time.sleep(0.01)
            end = time.monotonic() + chance.uniform(0.1, 2.0)
            while child.poll() is None and (
                killed == KILLS or (time.monotonic() < end and journal.stat().st_size < before + MOST)
            ):
                time.sleep(chance.uniform(0, 0.2))
                os.kill(child.pid, signal.SIGSTOP)
                time.sleep(chance.uniform(0, 0.05))
                os.kill(child.pid, signal.SIGCONT)
            if child.poll() is not None:
                assert child.returncode == 0
                return killed
        finally:
            child.kill()
            child.wait()
    raise AssertionError("the last life was ended by somebody else")


def check(folder: Path, seed: int, calls: int) -> None:
    """A history in which somebody was killed breaks no rule."""
    assert any(judged(folder / str(number), seed, calls) for number in range(TRIES)), "nobody was killed"


def judged(folder: Path, seed: int, calls: int) -> int:
    """Have one, and look whether it breaks a rule; how many were killed in it."""
    folder.mkdir()
    killed = lived(folder, seed, calls)
    entries, _ = read_journal(folder / "journal")
    log = FileLog.open(folder / "store", SIZES)
    records = list(log.read())
    log.close()
    snapshots = len([*(folder / "store").glob("*/*.snap*")])
    print(f"seed {seed}: {killed} kills, {len(records)} revisions, {snapshots} snapshots")  # noqa: T201
    assert not violations(entries, records)
    return killed


@pytest.mark.timeout(300)
def test_history_of_killed_processes_breaks_no_rule(tmp_path: Path) -> None:
    check(tmp_path, 1, 1500)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_more_histories_of_killed_processes_break_no_rule(tmp_path: Path, seed: int) -> None:
    check(tmp_path, seed, 3000)
