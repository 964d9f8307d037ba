"""The API beside etcd in one run: durable creates, reads, a long list, 1,000 watchers (performance.md 1 to 5)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import orjson
import uvloop

from tests.bench import _wire
from tests.bench._servers import etcd, nano

SHORT = bool(os.environ.get("NANO_BENCH_SHORT"))
SECONDS = 1.0 if SHORT else 3.0
ROUNDS = 1 if SHORT else 3
LISTED = 2_000 if SHORT else 10_000
WATCHERS = 200 if SHORT else 1_000
PATH = "/apis/nano/v1/namespaces/default/instances"
NOTE = "x" * 1200
SET = 100
"""Objects in a transaction."""

Once = Callable[[], Awaitable[object]]


def body(name: str) -> bytes:
    """An Instance of about 2 KB once stored."""
    spec = {"cpus": 2, "memory": "4Gi", "disks": [{"name": "system", "size": "20Gi"}], "powerState": "Stopped"}
    metadata = {"name": name, "labels": {"app": "web"}, "annotations": {"note": NOTE}}
    return orjson.dumps({"apiVersion": "nano/v1", "kind": "Instance", "metadata": metadata, "spec": spec})


def member(number: int) -> bytes:
    """A write of a set that makes such an Instance; no two of them have the same sizes."""
    spec = b'{"cpus":%d,"memory":"%dMi","disks":[{"name":"system","size":"%dGi"}],"powerState":"Stopped"}' % (
        1 + number % 64, 512 + number % 16_000, 1 + number % 9_000,
    )  # fmt: skip
    return MEMBER % (number, NOTE.encode(), spec)


MEMBER = (
    b'{"verb":"create","object":{"apiVersion":"nano/v1","kind":"Instance","metadata":{"name":"s-%d",'
    b'"namespace":"default","labels":{"app":"web"},"annotations":{"note":"%b"}},"spec":%b}}'
)


async def rate(workers: list[Once]) -> tuple[float, float]:
    """Calls per second of all workers together, and the median of one in ms."""
    taken: list[float] = []
    until = time.perf_counter() + SECONDS

    async def work(once: Once) -> None:
        while (began := time.perf_counter()) < until:
            await once()
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for once in workers:
            tasks.create_task(work(once))
    return len(taken) / (time.perf_counter() - began), statistics.median(taken) * 1000


_count = iter(range(10**9))


async def nano_create(client: _wire.Http) -> None:
    code, said = await client.call("POST", PATH, body(f"c-{next(_count)}"))
    assert code == 201, said


async def nano_set(client: _wire.Http) -> None:
    writes = b",".join([member(next(_count)) for _ in range(SET)])
    code, said = await client.call("POST", "/apis/nano/v1/transactions", b'{"writes":[%b]}' % writes)
    assert code == 200, said


async def nano_get(client: _wire.Http, name: str) -> None:
    code, said = await client.call("GET", f"{PATH}/{name}")
    assert code == 200, said


async def nano_grow(client: _wire.Http, name: str) -> None:
    patch = b'{"metadata":{"annotations":{"n":"%d"}}}' % next(_count)
    code, said = await client.call("PATCH", f"{PATH}/{name}", patch, "application/merge-patch+json")
    assert code == 200, said


def close(ours: list[_wire.Http], theirs: list[_wire.Grpc]) -> None:
    for one in ours:
        one.close()
    for other in theirs:
        other.close()


async def creates(nano_port: int, etcd_port: int, clients: int) -> tuple[float, float]:
    ours = [await _wire.Http.open(nano_port) for _ in range(clients)]
    theirs = [await _wire.Grpc.open(etcd_port) for _ in range(clients)]
    value = b"v" * 1935
    mine, _ = await rate([lambda c=c: nano_create(c) for c in ours])  # type: ignore[misc]
    its, _ = await rate([lambda c=c: c.call(_wire.PUT, _wire.put(b"/i/%d" % next(_count), value)) for c in theirs])  # type: ignore[misc]
    close(ours, theirs)
    return mine, its


async def batches(nano_port: int, etcd_port: int) -> tuple[float, float]:
    """Objects per second that ten clients make durable, a hundred with each request; and etcd's puts of 100 clients."""
    ours = [await _wire.Http.open(nano_port) for _ in range(10)]
    theirs = [await _wire.Grpc.open(etcd_port) for _ in range(100)]
    mine, _ = await rate([lambda c=c: nano_set(c) for c in ours])  # type: ignore[misc]
    value = b"v" * 1935
    its, _ = await rate([lambda c=c: c.call(_wire.PUT, _wire.put(b"/b/%d" % next(_count), value)) for c in theirs])  # type: ignore[misc]
    close(ours, theirs)
    return mine * SET, its


async def gets(nano_port: int, etcd_port: int) -> tuple[float, float]:
    ours = [await _wire.Http.open(nano_port) for _ in range(10)]
    theirs = [await _wire.Grpc.open(etcd_port) for _ in range(10)]
    await ours[0].call("POST", PATH, body("get-me"))
    await theirs[0].call(_wire.PUT, _wire.put(b"/get-me", b"v" * 1935))
    mine, _ = await rate([lambda c=c: nano_get(c, "get-me") for c in ours])  # type: ignore[misc]
    its, _ = await rate([lambda c=c: c.call(_wire.RANGE, _wire.field(1, b"/get-me")) for c in theirs])  # type: ignore[misc]
    close(ours, theirs)
    return mine, its


async def lists(nano_port: int) -> tuple[float, float]:
    """Milliseconds of a LIST, and of orjson.dumps of the same."""
    client = await _wire.Http.open(nano_port)
    path = "/apis/nano/v1/namespaces/many/instances"
    await client.call("POST", "/api/v1/namespaces", orjson.dumps({"metadata": {"name": "many"}}))
    code, found = await client.call("GET", path)
    missing = LISTED - len(orjson.loads(found)["items"])
    many = [await _wire.Http.open(nano_port) for _ in range(20)]

    async def fill(one: _wire.Http) -> None:
        for _ in range(missing // 20):
            await one.call("POST", path, body(f"l-{next(_count)}"))

    async with asyncio.TaskGroup() as tasks:
        for one in many:
            tasks.create_task(fill(one))
    taken, dumps = [], []
    for _ in range(5):
        began = time.perf_counter()
        code, found = await client.call("GET", path)
        taken.append(time.perf_counter() - began)
        assert code == 200
        docs = orjson.loads(found)
        began = time.perf_counter()
        orjson.dumps(docs)
        dumps.append(time.perf_counter() - began)
    for one in (client, *many):
        one.close()
    return statistics.median(taken) * 1000, statistics.median(dumps) * 1000


class Crowd:
    """Counts what many watchers see, and when the last of them saw it."""

    def __init__(self) -> None:
        self.seen = 0
        self.at: list[float] = []

    def nano(self, piece: bytes) -> None:
        count = piece.count(b'{"type":"')
        self._add(count)

    def etcd(self, payload: bytes) -> None:
        if len(payload) > 100:
            self._add(payload.count(b"/w/"))

    def _add(self, count: int) -> None:
        self.seen += count
        now = time.perf_counter()
        self.at += [now] * count


async def join_nano(port: int, crowd: Crowd) -> list[asyncio.BaseTransport]:
    loop = asyncio.get_running_loop()
    client = await _wire.Http.open(port)
    _, found = await client.call("GET", f"{PATH}?limit=1")
    client.close()
    rev = orjson.loads(found)["metadata"]["resourceVersion"]
    path = f"{PATH}?watch=true&resourceVersion={rev}&fieldSelector=metadata.name=w"
    made = [
        await loop.create_connection(lambda: _wire.Lines(path, crowd.nano), "127.0.0.1", port) for _ in range(WATCHERS)
    ]
    await asyncio.sleep(0.5)
    return [transport for transport, _ in made]


async def join_etcd(port: int, crowd: Crowd) -> list[asyncio.BaseTransport]:
    made = [await _wire.Grpc.open(port, crowd.etcd) for _ in range(WATCHERS)]
    for one in made:
        one.send(_wire.WATCH, _wire.watch(b"/w/"), end=False)
    await asyncio.sleep(1)
    return [one.transport for one in made if one.transport is not None]


async def paced(once: Once, crowd: Crowd, writes: int, pause: float) -> float:
    """p99 in ms from the beginning of a write to its arrival, over all watchers."""
    late: list[float] = []
    for _ in range(writes):
        crowd.at.clear()
        began = time.perf_counter()
        await once()
        while len(crowd.at) < WATCHERS and time.perf_counter() - began < 5:
            await asyncio.sleep(0.002)
        late += [at - began for at in crowd.at]
        await asyncio.sleep(pause)
    return statistics.quantiles(late, n=100)[98] * 1000


async def flat_out(once: Once, crowd: Crowd) -> float:
    """Events per second that reach all watchers together."""
    crowd.seen = 0
    began, writes = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        await once()
        writes += 1
    while crowd.seen < writes * WATCHERS and time.perf_counter() - began < SECONDS * 4:
        await asyncio.sleep(0.005)
    return crowd.seen / (time.perf_counter() - began)


def _attend(port: int, ready: Event, done: Event) -> None:
    async def attend() -> None:
        crowd = Crowd()
        joined = await join_nano(port, crowd)
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.1)
        for one in joined:
            one.close()

    uvloop.run(attend())


@contextmanager
def attending(port: int) -> Iterator[None]:
    """A crowd in a process of its own, so that what it receives does not hold up the client that writes."""
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_attend, args=(port, ready, done), daemon=True)
    process.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        done.set()
        process.join(10)
        process.kill()


async def watchers(nano_port: int, etcd_port: int) -> list[tuple[str, float, float]]:
    """(what, ours, theirs) of goals 4 and 5."""
    client, other = await _wire.Http.open(nano_port), await _wire.Grpc.open(etcd_port)
    await client.call("POST", PATH, body("w"))
    await client.call("POST", PATH, body("quiet"))
    value = b"v" * 1935

    async def ours() -> None:
        await nano_grow(client, "w")

    async def its() -> None:
        await other.call(_wire.PUT, _wire.put(b"/w/1", value))

    _, alone = await rate([lambda: nano_grow(client, "quiet")])
    with attending(nano_port):
        _, watched = await rate([ours])
    results = []
    crowd = Crowd()
    joined = await join_nano(nano_port, crowd)
    p99, events = await paced(ours, crowd, 20, 0.05), await flat_out(ours, crowd)
    for one in joined:
        one.close()
    await asyncio.sleep(0.5)
    crowd = Crowd()
    joined = await join_etcd(etcd_port, crowd)
    its_p99, its_events = await paced(its, crowd, 20, 0.05), await flat_out(its, crowd)
    for one in joined:
        one.close()
    results.append((f"{WATCHERS} watchers, paced, p99 ms", p99, its_p99))
    results.append((f"{WATCHERS} watchers, flat out, events/s", events, its_events))
    results.append((f"write p50 ms, seen by {WATCHERS}; by nobody", watched, alone))
    client.close()
    other.close()
    return results


async def one_round() -> list[tuple[str, float, float]]:
    with nano() as ours, etcd() as theirs:
        table = [(f"creates/s, {clients} clients", *await creates(ours, theirs, clients)) for clients in (1, 10, 100)]
        table.append((f"objects/s in sets of {SET}; puts/s, 100 clients", *await batches(ours, theirs)))
        table.append(("GET/s, 10 clients", *await gets(ours, theirs)))
        table.append((f"LIST {LISTED} ms; orjson.dumps of it", *await lists(ours)))
        return table + await watchers(ours, theirs)


@dataclass(frozen=True)
class Bound:
    """What performance.md wants of a ratio, and where it raises an alarm (None: nowhere); `most`: less is better."""

    goal: float
    alarm: float | None
    most: bool = False

    def breached(self, ratio: float) -> bool:
        return self.alarm is not None and (ratio > self.alarm if self.most else ratio < self.alarm)

    def __str__(self) -> str:
        sign = "<=" if self.most else ">="
        return f"{sign} {self.goal}" + (f", alarm {self.alarm}" if self.alarm is not None else "")


BOUNDS = (
    Bound(1.0, 0.4), Bound(0.8, 0.35), Bound(0.6, None),
    Bound(5.0, 1.0),
    Bound(2.0, 1.0), Bound(4.0, 8.0, most=True),
    Bound(0.5, 1.2, most=True), Bound(1.4, 0.8), Bound(1.5, 4.0, most=True),
)  # fmt: skip
"""Of the rows, in their order."""


def main() -> None:
    """Print the table; ends with 1 when a median ratio is beyond its alarm."""
    rounds = [uvloop.run(one_round()) for _ in range(ROUNDS)]
    print(f"{'':44} {'Nano':>10} {'anchor':>10} {'ratio':>7}   {'all ratios':20} goal")
    breached = []
    for bound, rows in zip(BOUNDS, zip(*rounds, strict=True), strict=True):
        ratios = [ours / anchor for _, ours, anchor in rows]
        ours, anchor = statistics.median(row[1] for row in rows), statistics.median(row[2] for row in rows)
        every, ratio = " ".join(f"{one:.2f}" for one in ratios), statistics.median(ratios)
        print(f"{rows[0][0]:44} {ours:10.2f} {anchor:10.2f} {ratio:7.2f}   {every:20} {bound}")
        if bound.breached(ratio):
            breached.append(rows[0][0])
    if breached:
        print(f"api: beyond the alarm: {'; '.join(breached)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
