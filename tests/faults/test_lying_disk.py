"""The log on a disk that fails a sync, and then goes on as if nothing had been."""

from __future__ import annotations

import pytest

from tests.faults.lying_disk import CONFIRMS, FORGETS, command
from tests.faults.programs import run_together
from tests.seeds import failed_once, seeds


@pytest.mark.timeout(400)
def test_log_on_a_disk_that_has_failed_once_keeps_all_that_was_confirmed_before() -> None:
    for seed in seeds("faults/lying_disk"):
        print(*run_together([command(seed, FORGETS)], timeout=180))  # noqa: T201 - what it did, and the seed


@pytest.mark.timeout(400)
def test_log_is_whole_or_refused_where_the_disk_confirmed_what_it_did_not_write() -> None:
    """The known seed loses confirmed records about every second time; which pages are there is up to the kernel."""
    for seed in failed_once("faults/lying_disk"):
        print(*run_together([command(seed, CONFIRMS)], timeout=180))  # noqa: T201 - what it did
