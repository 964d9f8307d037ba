"""The file log struck at each call that changes its files, its own and those of the process that sums it up.

Killed, torn or failed there: what was acknowledged is found again, nothing else than what was sent is, and after the
first failure nothing is acknowledged any more. The ordinary run takes every tenth call, from a random one on.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.power_cuts import RAM
from tests.faults.promises import Promise, verdict
from tests.faults.strace import python
from tests.faults.striking import EINTR, EIO, ENOSPC, KILL, SHORT, TEAR, Striker, Struck, at_every, build

FRESH, AGAIN = "fresh", "again"
SEED = 19
"""A script with two summings up, history that is given up, and batches beside them."""
BATCHES = {FRESH: 10, AGAIN: 3}
NEVER = 0
MISSES = 20
"""Of one attempt at most: how often the writer and the process that sums up take their turns otherwise than before."""
TOLERATED = {("fallocate", ENOSPC), ("mkdir", EIO), ("mkdir", ENOSPC)}
"""Room is claimed in advance where there is some; a folder that is there already need not be made."""

Attempt = Callable[[int], tuple[Path, Struck]]
every_call = pytest.mark.parametrize(
    "every",
    [
        pytest.param(10, id="some", marks=pytest.mark.timeout(600)),
        pytest.param(1, id="all", marks=[pytest.mark.long, pytest.mark.timeout(2400)]),
    ],
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("striking"))


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder that no disk makes slow; what is struck are calls, not blocks."""
    with TemporaryDirectory(dir=RAM, prefix="nano-struck-") as folder:
        yield Path(folder)


class Scene:
    """A writer on a directory that is new, or was left by another one that died in the middle of a write."""

    def __init__(self, library: Path, scratch: Path, kind: str) -> None:
        self._library, self._scratch = library, scratch
        self._start = Promise(SEED)
        self._batches = BATCHES[FRESH]
        if kind == AGAIN:
            torn = (self._run(f"died-{at}", TEAR, at) for at in itertools.count(6))
            died = next(struck for struck in torn if struck.itself)
            died.below.rename(scratch / "start")
            self._start = self._start.hear(died.said).next_life()
            self._batches = BATCHES[AGAIN]

    def _run(self, name: str, how: str, at: int) -> Struck:
        home = self._scratch / name
        home.mkdir()
        if (self._scratch / "start").exists():
            shutil.copytree(self._scratch / "start", home / "store")
        writer = python("-m", "tests.faults.log_writer", home / "store", self._batches, SEED, self._start.life)
        return Striker(self._library, home / "striker").run(writer, home / "store", how, at)

    def struck(self, how: str, every: int) -> Iterator[Struck]:
        """A run for each call, or every few; each has been recovered from, and its folder is gone."""
        calls = self._run("count", how, NEVER).calls
        moments = range(random.randint(1, min(every, calls)), calls + 1, every)
        print(f"\n{how}: calls {moments} of {calls}")  # noqa: T201 - the figure that goals.md asks for
        return at_every(moments, lambda at: self._attempt(how, at))

    def _attempt(self, how: str, at: int) -> Struck:
        """Strike there; one run makes a few calls fewer than another, and is then struck at any that it has."""
        struck = self._judged(how, at, home := f"{how}-{at}")
        for _ in range(MISSES):
            if struck.strike:
                break
            struck = self._judged(how, random.randint(1, struck.calls), home)
        return struck

    def _judged(self, how: str, at: int, name: str) -> Struck:
        struck, home = self._run(name, how, at), self._scratch / name
        promise = self._start.same()
        wrong = verdict(promise.hear(struck.said), home / "store", goes_on=True)
        assert not wrong, f"{wrong}; {promise}; {struck}"
        shutil.rmtree(home)
        return struck


@pytest.mark.parametrize("how", [KILL, TEAR])
@pytest.mark.parametrize("kind", [FRESH, AGAIN])
@every_call
def test_log_killed_at_any_call_keeps_what_it_acknowledged(
    library: Path, ram: Path, kind: str, how: str, every: int
) -> None:
    where: Counter[str] = Counter()
    for struck in Scene(library, ram, kind).struck(how, every):
        assert not struck.itself or struck.code == -9
        where[f"{'server' if struck.itself else 'summing up'} {struck.call}" if struck.strike else "missed"] += 1
    print(dict(where))  # noqa: T201
    assert not where["missed"]


@pytest.mark.parametrize("error", [EIO, ENOSPC, EINTR, SHORT])
@pytest.mark.parametrize("kind", [FRESH, AGAIN])
@every_call
def test_log_never_acknowledges_after_a_failure(library: Path, ram: Path, kind: str, error: str, every: int) -> None:
    for struck in Scene(library, ram, kind).struck(error, every):
        words = [line.split()[0] for line in struck.said]
        assert "acked" not in after("failed", words), struck
        assert struck.code == (75 if {"failed", "refused"} & set(words) else 0), struck
        if struck.itself and error in {EIO, ENOSPC} and (struck.call, error) not in TOLERATED:
            assert "acked" not in after("struck", words), struck
        if not struck.itself or error == SHORT:
            assert words[-1] == "closed", struck
            assert words.count("acked") == BATCHES[kind], struck


def after(word: str, words: Sequence[str]) -> Sequence[str]:
    """What comes behind the first `word`."""
    return words[words.index(word) + 1 :] if word in words else ()
