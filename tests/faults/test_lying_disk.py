"""The log on a disk that fails a sync, and then goes on as if nothing had been."""

from __future__ import annotations

import random

import pytest

from tests.faults.lying_disk import command
from tests.faults.programs import run_together


@pytest.mark.timeout(200)
def test_log_believes_no_disk_that_has_failed_once() -> None:
    for found in run_together([command(random.randrange(1 << 32))], timeout=180):
        print(found)  # noqa: T201 - what it did, and the seed
