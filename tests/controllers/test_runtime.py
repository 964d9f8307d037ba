"""The loop under every controller: retries, declared writes, and bugs that show on the object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from nanovirt.controllers.actions import Action, LookAgain, Transact, set_status
from nanovirt.controllers.runtime import Controller, Runtime
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import load
from nanovirt.resources.defaults import made
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import LogFull
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.log import MemoryLog, Record
from nanovirt.resources.store import Create, Delete, Update, transact

POOL = Key("addresspools", "", "lan")
Plan = Callable[[Document | None, datetime], Iterator[Action]]


def pool() -> Create:
    ranges = [{"name": "a", "first": "10.0.0.5", "last": "10.0.0.9"}]
    return Create(POOL, made("AddressPool", "lan", subnet="10.0.0.0/24", ranges=ranges).to_json())


@asynccontextmanager
async def running(
    plan: Plan, writes: tuple[str, ...] = ("addresspools/status",), log: MemoryLog | None = None
) -> AsyncIterator[tuple[Engine, Runtime]]:
    store = Engine(log or MemoryLog())
    runtime = Runtime(Controller("test", plan, frozenset(["addresspools"]), frozenset(writes), {}), store)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.run()), group.create_task(runtime.run())]
        try:
            yield store, runtime
        finally:
            for task in tasks:
                task.cancel()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def used(number: int) -> Plan:
    def plan(thing: Document | None, _now: datetime) -> Iterator[Action]:
        if isinstance(thing, AddressPool) and thing.status.used != number:
            status = thing.status.model_copy(update={"used": number})
            yield Transact((set_status(thing, status),))

    return plan


async def test_what_is_planned_is_committed_once() -> None:
    async with running(used(3)) as (store, runtime):
        await transact(store, [pool()], "x")
        await until(lambda: store.committed == 2 and runtime.idle)
        assert load(store.get(POOL).raw)["status"]["used"] == 3
        await asyncio.sleep(0.05)
        assert (store.committed, runtime.planned) == (2, 1), "its own write does not wake it"


async def test_bug_shows_on_the_object_and_is_tried_again_until_it_is_gone() -> None:
    tries = 0

    def plan(thing: Document | None, now: datetime) -> Iterator[Action]:
        nonlocal tries
        tries += thing is not None
        if thing is not None and tries < 4:
            raise ZeroDivisionError("by nothing")
        yield from used(7)(thing, now)

    async with running(plan) as (store, _):
        await transact(store, [pool()], "x")
        await until(lambda: store.committed >= 2)
        (ready,) = load(store.get(POOL).raw)["status"]["conditions"]
        assert (ready["status"], ready["reason"]) == ("False", "InternalError")
        assert "ZeroDivisionError: by nothing" in ready["message"]
        await until(lambda: load(store.get(POOL).raw)["status"]["used"] == 7)
        assert (tries, store.committed) == (4, 3), "the same bug is said once"


@pytest.mark.parametrize(
    "op", [Create(Key("images", "a", "b"), {"metadata": {}}), Update(POOL, {"metadata": {}}), Delete(POOL)]
)
async def test_write_that_is_not_declared_is_refused(op: Create | Update | Delete) -> None:
    def plan(thing: Document | None, _now: datetime) -> Iterator[Action]:
        if thing is not None:
            yield Transact((op,))

    async with running(plan) as (store, _):
        await transact(store, [pool()], "x")
        await until(lambda: store.committed >= 2)
        (ready,) = load(store.get(POOL).raw)["status"]["conditions"]
        assert "Undeclared: test may not" in ready["message"]


async def test_plan_on_a_stale_view_is_made_anew() -> None:
    seen: list[int] = []

    def plan(thing: Document | None, _now: datetime) -> Iterator[Action]:
        assert isinstance(thing, AddressPool)
        seen.append(thing.status.used)
        if len(seen) == 1:
            yield Transact((Update(POOL, thing.to_json(), expect=99),))

    async with running(plan, ("addresspools",)) as (store, runtime):
        await transact(store, [pool()], "x")
        await until(lambda: len(seen) == 2 and runtime.idle)
        assert (
            "conditions" not in load(store.get(POOL).raw)["status"]
            or not load(store.get(POOL).raw)["status"]["conditions"]
        )


async def test_key_is_looked_at_again_when_the_plan_says_so() -> None:
    seen = 0

    def plan(_thing: Document | None, _now: datetime) -> Iterator[Action]:
        nonlocal seen
        seen += 1
        if seen < 3:
            yield LookAgain(0.01)

    async with running(plan) as (store, _):
        await transact(store, [pool()], "x")
        await until(lambda: seen == 3)


class Filling(MemoryLog):
    """A log on a disk that is full for a while."""

    full = False
    refused = 0

    async def append(self, records: Sequence[Record]) -> None:
        if self.full:
            self.refused += 1
            raise LogFull("no room")
        await super().append(records)


async def test_full_log_is_waited_for_with_pauses_and_is_no_bug() -> None:
    log = Filling()
    async with running(used(7), log=log) as (store, _):
        await transact(store, [pool()], "setup")
        log.full = True
        await asyncio.sleep(0.5)
        assert 1 <= log.refused <= 8
        log.full = False
        await until(lambda: store.committed == 2)
        status = load(store.get(POOL).raw)["status"]
        assert (status["used"], status["conditions"]) == (7, [])


async def test_cancelled_runtime_takes_no_more_work_while_its_workers_end() -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context["message"]))
    log = Slow()
    store = Engine(log)
    kinds, writes = frozenset(["addresspools"]), frozenset(["addresspools/status"])
    runtime = Runtime(Controller("test", used(7), kinds, writes, {}), store)
    async with asyncio.TaskGroup() as group:
        committer, loop = group.create_task(store.run()), group.create_task(runtime.run())
        await transact(store, [pool()], "setup")
        log.gate.clear()
        runtime.add(POOL)
        await asyncio.sleep(0.05)
        loop.cancel()
        runtime.add(Key("addresspools", "", "late"))
        await asyncio.sleep(0.05)
        log.gate.set()
        committer.cancel()
    assert heard == []


class Slow(MemoryLog):
    """A log whose appends wait while `gate` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, records: Sequence[Record]) -> None:
        await self.gate.wait()
        await super().append(records)
