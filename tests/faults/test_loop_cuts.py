"""The store on real file systems whose disk loses its power, again and again."""

from __future__ import annotations

import pytest

from tests.faults.loop_cuts import FILESYSTEMS, command
from tests.faults.programs import run_together
from tests.seeds import seeds


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(20, id="some", marks=pytest.mark.timeout(300)),
        pytest.param(100, id="all", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_store_on_a_real_file_system_survives_power_cuts(filesystem: str, cuts: int) -> None:
    for seed in seeds(f"faults/loop_cuts.{filesystem}"):
        print(*run_together([command(filesystem, cuts, seed)], timeout=500))  # noqa: T201 - the figures, and the seed
