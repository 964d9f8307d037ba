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
            while child.poll() is None and (time.monotonic() < end or killed == KILLS):
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
    killed = lived(folder, seed, calls)
    entries, _ = read_journal(folder / "journal")
    log = FileLog.open(folder / "store", SIZES)
    records = list(log.read())
    log.close()
    snapshots = len([*(folder / "store").glob("*/*.snap*")])
    print(f"seed {seed}: {killed} kills, {len(records)} revisions, {snapshots} snapshots")  # noqa: T201
    assert killed > 0
    assert not violations(entries, records)


@pytest.mark.timeout(300)
def test_history_of_killed_processes_breaks_no_rule(tmp_path: Path) -> None:
    check(tmp_path, 1, 1500)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_more_histories_of_killed_processes_break_no_rule(tmp_path: Path, seed: int) -> None:
    check(tmp_path, seed, 3000)
