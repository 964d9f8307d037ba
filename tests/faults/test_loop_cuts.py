"""The store on real file systems whose disk loses its power, again and again."""

from __future__ import annotations

import random

import pytest

from tests.faults.loop_cuts import FILESYSTEMS, command
from tests.faults.programs import run_together


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(20, id="some", marks=pytest.mark.timeout(300)),
        pytest.param(100, id="all", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_store_on_a_real_file_system_survives_power_cuts(filesystem: str, cuts: int) -> None:
    for found in run_together([command(filesystem, cuts, random.randrange(1 << 32))], timeout=500):
        print(found)  # noqa: T201 - the figures that goals.md asks for, and the seed
