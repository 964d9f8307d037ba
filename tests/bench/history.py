"""What a list of the past costs those who read the present meanwhile, and how long it takes itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.pool import Pool
from typing import Any

import uvloop
from aiohttp import ClientSession

from tests.bench._filling import fill, plain
from tests.bench._servers import nano

SHORT = bool(os.environ.get("NANO_BENCH_SHORT"))
OBJECTS = 5_000 if SHORT else 20_000
SECONDS = 3 if SHORT else 10
PAUSE = 0.005
ALARM_MS = 20.0
"""p99 of a small GET while a list of the past is told, if that is also five times what it is otherwise."""
NANO = "/apis/nano/v1"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}


async def small_gets(session: ClientSession, busy: asyncio.Task[Any] | None = None) -> list[float]:
    """Milliseconds of single GETs, for some seconds or as long as `busy` runs."""
    taken: list[float] = []
    until = time.perf_counter() + (3600 if busy else SECONDS)
    while time.perf_counter() < until and not (busy and busy.done()):
        began = time.perf_counter()
        async with session.get("/api/v1/namespaces/default") as reply:
            await reply.read()
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE)
    return taken


async def listing(base: str, path: str, headers: dict[str, str]) -> tuple[float, int]:
    """The same list again and again, so that there is something to measure: seconds and bytes of one."""
    taken, size = [], 0
    until = time.perf_counter() + SECONDS
    async with ClientSession(base) as session:
        while time.perf_counter() < until:
            began = time.perf_counter()
            async with session.get(path, headers=headers) as reply:
                size = sum([len(piece) async for piece in reply.content.iter_chunked(1 << 16)])
            assert reply.status == 200
            taken.append(time.perf_counter() - began)
    return statistics.median(taken), size


def listed(*asked: Any) -> tuple[float, int]:
    return uvloop.run(listing(*asked))


async def measure(port: int) -> float:
    """Print the latencies; the worst p99 that a list of the past caused."""
    base = f"http://127.0.0.1:{port}"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return await _measured(base, pool)


async def _measured(base: str, pool: Pool) -> float:
    worst = 0.0
    async with ClientSession(base) as session:
        async with session.get("/apis/nano/v1/history?limit=1") as reply:
            newest = (await reply.json())["items"][0]["revision"]
        quiet = _say("nothing else", await small_gets(session))
        for title, path, headers in (
            ("list (now)", f"{NANO}/instances", {}),
            ("list --at", f"{NANO}/instances?at={newest}", {}),
            ("list --at, as a table", f"{NANO}/instances?at={newest}", TABLE),
            ("diff of all", f"{NANO}/history/diff?from=0", {}),
        ):
            async with asyncio.TaskGroup() as tasks:
                busy = tasks.create_task(asyncio.to_thread(pool.apply, listed, (base, path, headers)))
                taken = await small_gets(session, busy)
            found = _say(title, taken)
            print("    one takes {:.2f} s, {} bytes".format(*busy.result()))
            worst = max(worst, found) if "at" in path or "diff" in path else worst
    return worst if worst > 5 * quiet else 0.0


def _say(title: str, taken: list[float]) -> float:
    found = statistics.quantiles(taken, n=100)[98]
    print(f"  small GET beside {title:24} p50 {statistics.median(taken):6.2f} ms   p99 {found:6.2f} ms", end="")
    print(f"   most {max(taken):6.2f} ms   ({len(taken)})")
    return found


def main() -> None:
    """Print the figures; ends with 1 when the past holds up the present."""
    print(f"{OBJECTS} instances of 2 KB")
    with nano(lambda log: fill(log, plain(OBJECTS))) as port:
        worst = uvloop.run(measure(port))
    if worst > ALARM_MS:
        print(f"history: beyond the alarm: p99 {worst:.1f} ms, wanted {ALARM_MS} ms")
        sys.exit(1)


if __name__ == "__main__":
    main()
