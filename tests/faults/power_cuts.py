"""A program that cuts the power of a writer's simulated disk in many ways and recovers from each.

`python -m tests.faults.power_cuts --seed N --states N [--of-a-cut N] [--story N]`, or `--again DIRECTORY` for a state
that was kept. A story is several lives of a writer on one directory, each but the first beginning with what a kill or a
power cut of the one before may have left. Every state is recovered; all that was acknowledged has to be there, and
nothing else than what was sent. It says how many different states there were (LOCK and BALLAST make no difference) and
ends with 1 at the first bad one, which it keeps.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.promises import Promise, examine
from tests.faults.recording import Trace, record
from tests.faults.simulated_disk import Rule, SimulatedDisk
from tests.faults.strace import ROOT, python
from tests.faults.tree import Picture, Said, Tree, picture_of

LIVES = 4
KILLED = 0.4
"""So many lives end in a kill, and the next one begins without a power cut."""
BATCHES = 9
"""Group commits of one life."""
OF_A_CUT = 96
"""How many choices are tried at a point that has more than that, unless told otherwise."""
GOES_ON_EVERY = 16
EMPTY: Picture = {}
RAM = Path("/dev/shm")  # noqa: S108 - a folder of our own is made there
KEPT = ROOT / "build" / "faults"
MYSELF = "python -m tests.faults.power_cuts"


class BadState(AssertionError):
    """A legal state of the disk from which the store does not come back whole."""


@dataclass
class Cutter:
    """Goes through stories until `states` different states have been recovered."""

    seed: int
    states: int
    of_a_cut: int
    work: Path
    heads: dict[int, int] = field(default_factory=dict)
    """How far each state that has been recovered came; more may be asked of it later."""
    different: set[int] = field(default_factory=set)
    tally: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def tell(self, story: int) -> None:
        """One story."""
        home, chance = self.work / "disk", random.Random(f"{self.seed} {story}")
        materialize(EMPTY, home)
        promise, before = Promise(seed=story), Trace(Tree(), ())
        for life in range(LIVES):
            writer = python("-m", "tests.faults.log_writer", home / "store", BATCHES, promise.seed, life)
            killed = f"fdatasync:signal=KILL:when={chance.randint(2, BATCHES)}" if chance.random() < KILLED else ""
            trace, begin = record(writer, home, self.work / "strace", after=before, fault=killed), len(before.ops)
            self.lives += 1
            state, left = self._cut_everywhere(trace, begin, promise, chance)
            if len(self.different) >= self.states:
                return
            if killed:  # but the system lives on: the next one finds all that was written, synced or not
                before = trace
                promise = promise.hear(op.line for op in trace.ops[begin:] if isinstance(op, Said)).next_life()
            else:
                materialize(state, home)
                before, promise = Trace(Tree.of(home), ()), left

    def _cut_everywhere(
        self, trace: Trace, begin: int, promise: Promise, chance: random.Random
    ) -> tuple[Picture, Promise]:
        """Recover from cuts after each operation from `begin` on; a random state, and what binds the life after it."""
        kept: tuple[Picture, Promise] | None = None
        tried = 0
        for rule in Rule:
            disk, bound = SimulatedDisk(trace.start, rule), promise.same()
            self.heads.clear()
            for at, op in enumerate(trace.ops):
                disk.do(op)
                if at < begin:
                    continue
                if isinstance(op, Said):
                    bound.hear([op.line])
                    if op.line.startswith("found"):
                        self.heads.clear()  # what was sent behind that must not come back
                for state in self._states(disk, bound, chance):
                    tried += 1
                    self._judge(state, bound, f"{rule.value} rule, after operation {at}: {str(op)[:100]}", tried)
                    self._count(rule, state)
                    if chance.random() < 1 / tried:
                        kept = (state, bound.next_life())
                if len(self.different) >= self.states:
                    break
        assert kept
        return kept

    def _count(self, rule: Rule, state: Picture) -> None:
        self.different.add(key(state))
        self.tally[f"by the {rule.value} rule"] += 1
        self.tally["with a snapshot"] += any(path.endswith(".snap") for path in state)
        self.tally["with history"] += any(path.endswith(".gz") for path in state)
        self.tally["with an unborn file"] += any(path.endswith(".tmp") for path in state)

    def _states(self, disk: SimulatedDisk, bound: Promise, chance: random.Random) -> Iterator[Picture]:
        """Those that have not been recovered yet, or from which less came than there has to be by now."""
        cut = disk.cut()
        for choice in cut.choices(self.of_a_cut, chance):
            state = cut.state(choice)
            head = self.heads.get(key(state))
            if head is None or head < bound.acked:
                yield state

    def _judge(self, state: Picture, promise: Promise, where: str, nth: int) -> None:
        home = self.work / "recovery"
        materialize(state, home)
        wrong, head = examine(promise, home / "store", goes_on=nth % GOES_ON_EVERY == 0)
        self.heads[key(state)] = head
        if wrong:
            kept = KEPT / f"power-cut-{self.seed}"
            materialize(state, kept / "disk")
            (kept / "promise").write_bytes(pickle.dumps(promise))
            raise BadState(f"{wrong}; {promise}; {where}; this state again: {MYSELF} --again {kept}")


def key(state: Picture) -> int:
    """The same for the same state."""
    return hash(frozenset((path, held) for path, held in state.items() if path[6:] not in {"LOCK", "BALLAST"}))


def judge_again(kept: Path, work: Path) -> str:
    """What is wrong with a state that was kept."""
    materialize(picture_of(kept / "disk"), work)
    promise: Promise = pickle.loads((kept / "promise").read_bytes())  # noqa: S301 - written by `_judge`
    return examine(promise, work / "store", goes_on=True)[0]


def materialize(state: Picture, home: Path) -> None:
    """Make a directory hold exactly that."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for path, content in sorted(state.items()):
        if content is None:
            (home / path).mkdir()
        else:
            (home / path).write_bytes(content)


def main() -> int:
    """Tell stories, say what became of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=int, default=sys.maxsize)
    parser.add_argument("--of-a-cut", type=int, default=OF_A_CUT)
    parser.add_argument("--story", type=int, help="only this one of the seed's stories")
    parser.add_argument("--again", type=Path, help="a state that was kept")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that a tail was torn is no news here
    began = time.monotonic()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=RAM, prefix="nano-power-cuts-") as work:
        if options.again:
            wrong = judge_again(options.again, Path(work) / "again")
            print(wrong or "nothing is wrong")  # noqa: T201 - a program's output
            return 1 if wrong else 0
        cutter = Cutter(options.seed, options.states, options.of_a_cut, Path(work))
        story = options.story if options.story is not None else chance.getrandbits(32)
        try:
            while True:
                cutter.tell(story)
                if options.story is not None or len(cutter.different) >= options.states:
                    break
                story = chance.getrandbits(32)
        except BadState as bad:
            print(f"{bad}; its story: {MYSELF} --seed {options.seed} --of-a-cut {options.of_a_cut} --story {story}")  # noqa: T201
            return 1
    count = len(cutter.different)
    rate = count / (time.monotonic() - began)
    kinds = ", ".join(f"{count} {kind}" for kind, count in cutter.tally.items())
    print(f"seed {options.seed}: {count} states of {cutter.lives} lives, 0 bad, {rate:.0f}/s: {kinds}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
