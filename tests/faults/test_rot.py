"""Rot on the disk: no flipped bit, and no record out of its place, goes unnoticed."""

from __future__ import annotations

import random

import pytest

from tests.faults.programs import CORES, run_together
from tests.faults.strace import python


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(10, id="some", marks=pytest.mark.timeout(600)),
        pytest.param(1, id="all", marks=[pytest.mark.long, pytest.mark.timeout(2400)]),
    ],
)
def test_damage_to_what_was_durable_is_always_noticed(every: int) -> None:
    seed, step = random.randrange(1 << 32), every * CORES
    begins = random.randrange(every)
    parts = [["--seed", seed, "--every", step, "--from", begins + core * every] for core in range(CORES)]
    for found in run_together([python("-m", "tests.faults.rot", *part) for part in parts], timeout=2300):
        print(found)  # noqa: T201 - the figures that goals.md asks for, and the seed
