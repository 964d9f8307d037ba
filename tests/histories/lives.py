"""A history: lives of a server, each ended by a death, a failed disk or a stop, with clients and watchers throughout.

Everything runs in virtual time on one thread, the log's work included, so the seed says all: the same seed, the same
history. `PYTHONHASHSEED=0 .venv/bin/python -m tests.histories.lives SEED [CALLS]` plays it and shows what is wrong.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from nanovirt.portal.api import fanout, watching
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.serving import ApiServer
from nanovirt.portal.identity import ADMIN
from nanovirt.resources import engine, registry, ring, store_directory
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import StoreFailed
from nanovirt.resources.log import Log, Record
from tests.histories.checking import Violation, violations
from tests.histories.clients import Client, Population
from tests.histories.dying import Fate, Killed, Steps
from tests.histories.grounds import Ground, InMemory, OnFiles
from tests.histories.journal import Begin, End, Entry, Expire, Journal, Open, Told, Write
from tests.histories.watchers import INTERESTS, Probe, Sink, Watcher
from tests.simulation.virtual_time import VirtualLoop

assert registry.MODULES

CALLS, CLIENTS, PROBES = 5000, 10, 2
CALLS_IN_A_LIFE = 500
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_SECONDS = 60.0
"""What is not answered by then never is."""
SETTLED_SECONDS = 3.0
"""In which every watcher hears of everything, once nobody is slow or breaks off any more."""


class Death(Exception):
    """The server is killed now."""


class Loop(VirtualLoop):
    """Also does what is meant for threads itself, a moment later; `trouble` is called around it."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance
        self.slowness = 0.001
        """Seconds that work in a thread takes, about; before it and after it."""
        self.trouble: Callable[[], Any] = contextmanager(lambda: iter([None]))
        self.killed = asyncio.Event()
        self.life = 0

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do it a moment later, and say so another moment later; neither when the process is dead by then."""
        del executor
        future = self.create_future()
        self.call_later(self._moment(), self._carry_out, self.life, future, func, args)
        return future

    def _moment(self) -> float:
        return self.slowness * self._chance.random() * self._chance.choice((0.2, 1, 3))

    def _carry_out(self, life: int, future: asyncio.Future[Any], func: Any, args: Any) -> None:
        if life != self.life or self.killed.is_set():
            return
        try:
            with self.trouble():
                result = func(*args)
        except Killed:
            self.killed.set()
        except Exception as error:  # noqa: BLE001 - as an executor does
            self.call_later(self._moment(), self._say, future.set_exception, future, error)
        else:
            self.call_later(self._moment(), self._say, future.set_result, future, result)

    def _say(self, how: Callable[[Any], None], future: asyncio.Future[Any], what: Any) -> None:
        if not future.done():
            how(what)


@dataclass
class History:
    """What came of it: what was written down, what the log holds, and how the lives ended."""

    entries: list[Entry] = field(repr=False)
    records: list[Record] = field(repr=False)
    endings: list[str]
    summings: int = 0
    """Snapshots that were begun."""
    lost: list[int] = field(default_factory=list)
    """Revisions that stood in the log at some start, and do not in the end."""

    def tally(self) -> Counter[str]:
        """How often what makes a history worth playing happened."""
        counts = Counter(self.endings)
        replies = {entry.call: entry.reply for entry in self.entries if isinstance(entry, End)}
        counts["calls"] = sum(isinstance(entry, Begin) for entry in self.entries)
        counts["unknown outcome"] = counts["calls"] - len(replies)
        counts.update(type(reply).__name__.lower() for reply in replies.values())
        keys = [entry for entry in self.entries if isinstance(entry, Begin) and isinstance(entry.asked, Write)]
        counts["repeated"] = len(keys) - len({entry.asked.once or entry.call for entry in keys})  # type: ignore[union-attr]
        counts["watches"] = sum(isinstance(entry, Open) for entry in self.entries)
        counts["events"] = sum(isinstance(entry, Told) for entry in self.entries)
        counts["410"] = sum(isinstance(entry, Expire) for entry in self.entries)
        counts["summed up"] = self.summings
        return counts

    def violations(self) -> list[Violation]:
        """What the checker says."""
        lost = [Violation("lost", f"revision {rev} was durable once") for rev in self.lost]
        silent = [Violation("answer", "a client waits for ever") for ending in self.endings if ending == "no answer"]
        return lost + (silent or violations(self.entries, self.records))


class Play:
    """One history on one log."""

    def __init__(self, loop: Loop, chance: Random, ground: Ground, steps: Steps, calls: int) -> None:
        self._loop, self._chance, self._ground, self._steps = loop, chance, ground, steps
        self.journal = Journal()
        self._population = Population(chance, self.journal, calls)
        self._watchers = [Watcher(self.journal, chance, interest) for interest in INTERESTS]
        self._sinks = [Sink(self.journal)]
        self._calm = False
        self._records: list[Record] = []
        self._summings = 0
        self._doom: tuple[int, Fate] | None = None
        loop.trouble = self._trouble
        self.full = False

    async def run(self) -> History:
        """Life after life, until all calls are made."""
        endings = []
        while self._population.left > 0:
            endings.append(await self._live())
        log = self._ground.open()
        self._take(log)
        kept = list(log.read())
        log.close()
        lost = [rev for rev, (had, has) in enumerate(zip_longest(self._records, kept), 1) if had != has]
        return History(self.journal.entries, kept, endings, self._summings, lost)

    async def _live(self) -> str:
        self._loop.life += 1
        self._loop.killed = asyncio.Event()
        self._calm = self.journal.frozen = False
        log = self._ground.open()
        self._take(log)
        store = Engine(log, self._clock)
        api = Api(store, lambda _: ADMIN, clock=self._clock)
        ending = "stop"
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._people(tasks, store, api, log)
        except* Death:
            ending = "death"
        except* StoreFailed:
            ending = "failed disk"
        except* TimeoutError:
            ending = "no answer"
        self.journal.frozen = True
        for watcher in self._watchers:
            if watcher.stream is not None:
                watcher.stream.wire.drop()
        api.close()
        self._doom, self._loop.slowness, self.full = None, 0.001, False
        for _ in range(5):
            await asyncio.sleep(0)
        if ending in ("death", "no answer"):
            self._ground.abandon(log)
        else:
            log.close()
        return ending

    async def _people(self, tasks: asyncio.TaskGroup, store: Engine, api: Api, log: Log) -> None:
        """Everybody who is there in one life, until it ends."""
        server = ApiServer(api.handle)
        population, left = self._population, self._population.left
        until = max(left - self._chance.randint(1, 2 * CALLS_IN_A_LIFE), 0)
        population.left = left - until
        for sink in self._sinks:
            sink.live(store)
        stays = [tasks.create_task(store.run())]
        stays += [tasks.create_task(one.live(server, store, lambda: self._calm)) for one in self._watchers]
        stays += [tasks.create_task(Probe(self.journal, self._chance).live(server, store)) for _ in range(PROBES)]
        stays += [tasks.create_task(self._sum_up(log)), tasks.create_task(self._hold_up())]
        stays += [tasks.create_task(self._reap(until))]
        try:
            async with asyncio.timeout(LIFE_SECONDS), asyncio.TaskGroup() as clients:
                for number in range(CLIENTS):
                    clients.create_task(Client(f"c{number}", population, store).live())
            await self._settle(store)
        finally:
            population.left += until
        for task in stays:
            task.cancel()

    async def _settle(self, store: Engine) -> None:
        """Let every watcher hear of everything."""
        self._calm, self._doom, self.full = True, None, False
        await asyncio.sleep(SETTLED_SECONDS)
        for watcher in self._watchers:
            watcher.quiet(store.committed)
        for sink in self._sinks:
            sink.quiet(store.committed)

    # --- what befalls it ---

    async def _reap(self, until: int) -> None:
        """End this life, perhaps: at a moment, or at a step of the log's."""
        if until == 0 or self._chance.random() < 0.15:
            await asyncio.Event().wait()
        await asyncio.sleep(self._chance.random() * 0.2)
        if self._chance.random() < 0.7:
            self._doom = self._chance.randint(0, 30), "fail" if self._chance.random() < 0.15 else "die"
            await self._loop.killed.wait()
        raise Death

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Around the work of the log's thread."""
        if self._doom is None:
            yield
            return
        with self._steps.doomed(*self._doom):
            yield
            self._doom = self._steps.left, self._doom[1]

    async def _hold_up(self) -> None:
        """The log's thread is slow, the whole process stands still, or the disk is full, for a while."""
        while True:
            await asyncio.sleep(self._chance.random() * 0.2)
            dice = self._chance.random()
            if dice < 0.3:
                self._loop.slowness = 0.05
            elif dice < 0.6:
                self._loop.jump(self._chance.random())
            elif dice < 0.7 and not self._calm:
                self.full = True
            await asyncio.sleep(self._chance.random() * 0.02)
            self._loop.slowness, self.full = 0.001, False

    async def _sum_up(self, log: Log) -> None:
        while True:
            await asyncio.sleep(self._chance.random() * 0.5)
            if log.head() > len(self._records):
                self._take(log)
            self._summings += self._ground.sum_up(log)

    def _take(self, log: Log) -> None:
        """What is durable now; that it stays so is looked at in the end."""
        self._records += log.read(len(self._records))

    def _clock(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._loop.time())


@contextmanager
def tight(loop: Loop, chance: Random, full: Callable[[], bool]) -> Iterator[None]:
    """The product with everything so small that it is used up all the time, and with our clock."""
    clock = SimpleNamespace(monotonic=loop.time, sleep=lambda _seconds: None)
    room = store_directory.room
    changes: list[tuple[Any, str, Any]] = [(module, "time", clock) for module in (engine, fanout, watching)]
    changes += [
        (ring, "RING_CHANGES", chance.choice((40, 150, 600))),
        (fanout, "BUFFER_MAX", 6 << 10),
        (fanout, "TICK_SECONDS", 0.02),
        (fanout, "SLICE", chance.choice((2, 30))),
        (watching, "PIECE", chance.choice((500, 1 << 18))),
        (store_directory, "room", lambda directory: -1 if full() else room(directory)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def play(seed: int, directory: Path | None, calls: int = CALLS) -> History:
    """The history of that seed, on a file log in `directory`, or on a memory log."""
    chance = Random(seed)
    steps = Steps(chance)
    loop = Loop(chance)
    ground = InMemory(chance) if directory is None else OnFiles(directory, chance, steps)
    one = Play(loop, chance, ground, steps, calls)
    with asyncio.Runner(loop_factory=lambda: loop) as runner, steps.played(), tight(loop, chance, lambda: one.full):
        return runner.run(one.run())


def played(seed: int, calls: int = CALLS) -> History:
    """The history of that seed, in a folder of its own; every tenth on a memory log."""
    with tempfile.TemporaryDirectory() as folder:
        return play(seed, Path(folder) if seed % 10 else None, calls)


def main() -> int:
    """Play one history; 1 when something is wrong with it."""
    seed, calls = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else CALLS
    history = played(seed, calls)
    found = history.violations()
    for rule, said in found[:20]:
        sys.stdout.write(f"{rule}: {said}\n")
    sys.stdout.write(
        f"seed {seed}: {len(history.records)} revisions, {len(found)} violations, {dict(history.tally())}\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
