"""Random histories over crash, pause, full and failed disk and compaction: linearizable, and watches keep promises.

One that breaks a rule says its seed; `PYTHONHASHSEED=0 .venv/bin/python -m tests.histories.lives SEED` plays it again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.histories.lives import played

SEEDS = range(1, 201)
SHORT = range(1, 11)
"""Those that are played every time."""


def judged(seed: int) -> tuple[int, list[str], Counter[str]]:
    """The seed, what is wrong with its history, and what happened in it."""
    logging.disable()  # a disk that is full a hundred times says so
    history = played(seed)
    return seed, [f"{rule}: {said}"[:2000] for rule, said in history.violations()], history.tally()


def check(seeds: Iterable[int]) -> None:
    """Play them, on two cores."""
    counts: Counter[str] = Counter()
    broken: dict[int, list[str]] = {}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for seed, found, tally in pool.map(judged, seeds):
            counts += tally
            if found:
                broken[seed] = found[:5]
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))  # noqa: T201 - what was really tried
    assert not broken
    for what in (
        "death",
        "stop",
        "failed disk",
        "unknown outcome",
        "refused",
        "undone",
        "repeated",
        "410",
        "summed up",
    ):
        assert counts[what] > 0, f"{what} did not happen"


@pytest.mark.timeout(300)
def test_short_run_of_histories_breaks_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    check(SHORT)


@pytest.mark.long
@pytest.mark.timeout(7200)  # 9 s each and more, where others use the two processors, too: 1,800 s were too few
def test_two_hundred_histories_break_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    check(SEEDS)
