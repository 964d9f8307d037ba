"""The seeds of tests that draw lots: a new one each time, and for good those that have failed once."""

from __future__ import annotations

import random
from pathlib import Path

KNOWN = Path(__file__).parent / "regressions" / "seeds.txt"


def failed_once(test: str) -> list[int]:
    """The seeds that regressions/seeds.txt has for the test (or program) of that name."""
    lines = (line.split() for line in KNOWN.read_text().splitlines() if not line.startswith("#"))
    return [int(words[1]) for words in lines if words and words[0] == test]


def seeds(test: str) -> list[int]:
    """Those, and a new one."""
    return [*failed_once(test), random.randrange(1 << 32)]
