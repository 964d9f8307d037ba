"""The log by itself: how long a start takes, and what a snapshot costs those who write meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import uvloop

from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.segments import first_revision, segments
from nanovirt.resources.snapshots import snapshots
from nanovirt.resources.store import Create, Update
from tests.bench._filling import NOTE, fill, plain

SHORT = bool(os.environ.get("NANO_BENCH_SHORT"))
OBJECTS = 10_000 if SHORT else 100_000
LOG_BYTES = 64 << 20 if SHORT else 1 << 30
ROUNDS = 1 if SHORT else 3
WRITE_SECONDS = 3 if SHORT else 10
ALARM = 2.0
"""p99 of a write while a snapshot is taken, as a multiple of what it is otherwise."""
NEVER = 1 << 60
Seconds = float


@contextmanager
def folder() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def in_child(work: Callable[[Path], Seconds], directory: Path) -> Seconds:
    """Run that in a process of its own, as a server starts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (directory,))


def started(directory: Path) -> Seconds:
    """Until a store has every object."""
    began = time.perf_counter()
    log = FileLog.open(directory)
    Engine(log)
    taken = time.perf_counter() - began
    log.close()
    return taken


def parsed(directory: Path) -> Seconds:
    """The anchor: until orjson has read every object of the newest snapshot once."""
    began = time.perf_counter()
    for line in snapshots(directory)[0].open("rb"):
        if line.startswith(b"{"):
            orjson.loads(line)
    return time.perf_counter() - began


def live(directory: Path) -> int:
    return first_revision(segments(directory / "wal")[-1])


def starting(directory: Path) -> None:
    """A start with a snapshot of many objects, and one with a long log behind a small one."""
    fill(directory, plain(OBJECTS))
    without = [in_child(started, directory) for _ in range(ROUNDS)]
    began = time.perf_counter()
    done = sum_up(directory, live(directory), 1 << 30)
    taken = time.perf_counter() - began
    with_one = [in_child(started, directory) for _ in range(ROUNDS)]
    anchor = [in_child(parsed, directory) for _ in range(ROUNDS)]
    print(f"{OBJECTS} objects, snapshot of {done.size / 1e6:.0f} MB made in {taken:.1f} s")
    print(f"  start from the log alone   {statistics.median(without):6.2f} s")
    print(f"  start from the snapshot    {statistics.median(with_one):6.2f} s", end="")
    print(f"   orjson.loads of it {statistics.median(anchor):.2f} s")


async def rewrite(directory: Path, upto: int) -> None:
    """Write a thousand objects anew until the log has so many bytes."""
    log = FileLog.open(directory, Sizes(snapshot=NEVER))
    store = Engine(log)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(store.run())
        size, number = 0, 0
        while size < upto:
            number += 1
            tickets = [store.stage([_write(store, one, number)], "bench") for one in range(1000)]
            for ticket in tickets:
                await ticket.durable()
            size += 1000 * (len(NOTE) + 1200)
        running.cancel()
    log.close()


def _write(store: Engine, number: int, turn: int) -> Create | Update:
    key = Key("namespaces", "", f"n-{number}")
    note = f"{turn} {NOTE} {'y' * 1000}"
    doc = {"metadata": {"name": key.name, "annotations": {"note": note}}}
    return Update(key, doc) if store.peek(key) else Create(key, doc)


def long_log(directory: Path) -> None:
    uvloop.run(rewrite(directory, LOG_BYTES))
    size = sum(path.stat().st_size for path in segments(directory / "wal"))
    taken = [in_child(started, directory) for _ in range(ROUNDS)]
    print(f"log of {size / 2**30:.2f} GiB, {first_revision(segments(directory / 'wal')[-1])} revisions, no snapshot")
    print(f"  start                      {statistics.median(taken):6.2f} s")


async def latencies(store: Engine, seconds: float | None, busy: asyncio.Task[object] | None = None) -> list[float]:
    """Milliseconds of single durable writes, one after another, for so long or as long as `busy` runs."""
    taken: list[float] = []
    until = time.perf_counter() + (seconds or 3600)
    while time.perf_counter() < until and not (busy and busy.done()):
        began = time.perf_counter()
        await store.stage([_write(store, len(taken) % 1000, len(taken))], "bench").durable()
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)
    return taken


async def while_summing_up(directory: Path) -> tuple[list[float], list[float]]:
    """Latencies without a snapshot, and while one is made."""
    log = FileLog.open(directory, Sizes(snapshot=NEVER))
    store = Engine(log)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(store.run())
        quiet = await latencies(store, WRITE_SECONDS)
        summing = group.create_task(log._sum_up(live(directory)))
        loud = await latencies(store, None, summing)
        running.cancel()
    log.close()
    return quiet, loud


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    """Print the figures; ends with 1 when a snapshot slows writes beyond the alarm."""
    with folder() as directory:
        starting(directory / "many")
    with folder() as directory:
        long_log(directory / "long")
    ratios = []
    for _ in range(ROUNDS):
        with folder() as directory:
            fill(directory / "many", plain(OBJECTS))
            quiet, loud = uvloop.run(while_summing_up(directory / "many"))
        ratios.append(p99(loud) / p99(quiet))
        p50 = f"p50 {statistics.median(quiet):.2f} and {statistics.median(loud):.2f} ms"
        print(
            f"write without and during a snapshot ({len(loud)} writes): {p50}, p99 {p99(quiet):.2f} and {p99(loud):.2f}"
        )
    print(f"  p99 ratio {statistics.median(ratios):.2f}   ({' '.join(f'{one:.2f}' for one in ratios)}), alarm {ALARM}")
    if statistics.median(ratios) > ALARM:
        print("store: beyond the alarm: write p99 during a snapshot")
        sys.exit(1)


if __name__ == "__main__":
    main()
