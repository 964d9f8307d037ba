"""The log on a disk that fails a sync, and then goes on as if nothing had been."""

from __future__ import annotations

import random

import pytest

from tests.faults.lying_disk import CONFIRMS, FORGETS, command
from tests.faults.programs import run_together


@pytest.mark.timeout(200)
def test_log_on_a_disk_that_has_failed_once_keeps_all_that_was_confirmed_before() -> None:
    for found in run_together([command(random.randrange(1 << 32), FORGETS)], timeout=180):
        print(found)  # noqa: T201 - what it did, and the seed


@pytest.mark.timeout(200)
def test_log_is_whole_or_refused_where_the_disk_confirmed_what_it_did_not_write() -> None:
    """Seed 4022238698 loses confirmed records about every second time; which pages are there is up to the kernel."""
    for found in run_together([command(4022238698, CONFIRMS)], timeout=180):
        print(found)  # noqa: T201 - what it did
