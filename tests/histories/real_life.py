"""One life of a history in a process and real time of its own, over the real log with its real summings up.

`python -m tests.histories.real_life DIRECTORY JOURNAL SEED CALLS`: it goes on with what the journal tells, and ends by
itself once all calls are made; whoever started it may stop and kill it at any moment.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from pathlib import Path
from random import Random

from nanovirt.portal.api import fanout
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.serving import ApiServer
from nanovirt.portal.identity import ADMIN
from nanovirt.resources import registry
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog, Sizes
from tests.histories.clients import Client, Population
from tests.histories.journal import Begin, Entry, Journal, Told, Write
from tests.histories.watchers import INTERESTS, Probe, Sink, Watcher

assert registry.MODULES

SIZES = Sizes(segment=1 << 14, ballast=1 << 12, room=0, snapshot=1 << 16)
CLIENTS = 10
SETTLED_SECONDS = 1.0


def read_journal(path: Path) -> tuple[list[Entry], int]:
    """The entries that are whole, and where the last of them ends."""
    entries: list[Entry] = []
    end = 0
    with path.open("ab+") as file:
        file.seek(0)
        while True:
            try:
                entries.append(pickle.load(file))  # noqa: S301 - our own
            except (EOFError, pickle.UnpicklingError):
                return entries, end
            end = file.tell()


async def live(directory: Path, path: Path, seed: int, calls: int) -> None:
    """From the start to the end, if nobody is quicker."""
    entries, end = read_journal(path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.ftruncate(fd, end)
    journal = Journal(lambda entry: os.write(fd, pickle.dumps(entry)))
    journal.go_on(entries)
    chance = Random(f"{seed} {len(entries)}")
    begun = [entry for entry in entries if isinstance(entry, Begin)]
    population = Population(chance, journal, max(calls - len(begun), 1))
    keyed = {
        one.asked.once: (one.client, one.asked) for one in begun if isinstance(one.asked, Write) and one.asked.once
    }
    population.keyed = list(keyed.values())
    log = FileLog.open(directory, SIZES)
    store = Engine(log)
    api = Api(store, lambda _: ADMIN)
    seen = max((entry.lines[0].rev for entry in entries if isinstance(entry, Told)), default=0)
    calm = asyncio.Event()
    sink = Sink(journal, seen)
    watchers = [Watcher(journal, chance, interest) for interest in INTERESTS]
    sink.live(store)
    server = ApiServer(api.handle)
    async with asyncio.TaskGroup() as tasks:
        stays = [tasks.create_task(store.run()), tasks.create_task(log.tend())]
        for watcher in watchers:
            watcher.resume(seen)
            stays.append(tasks.create_task(watcher.live(server, store, calm.is_set)))
        stays.append(tasks.create_task(Probe(journal, chance).live(server, store)))
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(Client(f"c{number}", population, store).live())
        calm.set()
        await asyncio.sleep(SETTLED_SECONDS)
        for watcher in watchers:
            watcher.quiet(store.committed)
        sink.quiet(store.committed)
        journal.frozen = True
        for task in stays:
            task.cancel()
    log.close()


if __name__ == "__main__":
    fanout.TICK_SECONDS = 0.1
    asyncio.run(live(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
