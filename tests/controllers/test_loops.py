"""What wakes controllers: owners that wait for dependents, what a restart finds half done, names that come free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nanovirt.controllers.loops import SHORTLY, Loops
from nanovirt.resources.codec import load
from nanovirt.resources.defaults import made
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.metadata import FOREGROUND
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Delete, Op, Update, transact

OWNER, CHILD = (Key("systemtemplates", "", name) for name in ("owner", "child"))
KEPT = "example.com/keep"


@asynccontextmanager
async def committing(store: Engine, *, controlled: bool) -> AsyncIterator[Loops]:
    """The committer runs inside the block, and if wanted the controllers."""
    loops = Loops(store, Reports(0.0))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.run())]
        if controlled:
            tasks.append(group.create_task(loops.run()))
        try:
            yield loops
        finally:
            for one in tasks:
                one.cancel()


async def family(store: Engine, child: str) -> None:
    """An owner that was deleted in the foreground, and a dependent with that finalizer."""
    await transact(
        store, [Create(OWNER, {"metadata": {"name": "owner", "finalizers": [FOREGROUND]}, "spec": {}})], "test"
    )
    uid = store.get(OWNER).uid
    reference = {"apiVersion": "nano/v1", "kind": "SystemTemplate", "name": "owner", "uid": uid}
    metadata: dict[str, Any] = {"name": "child", "finalizers": [child] if child else []}
    metadata["ownerReferences"] = [{**reference, "blockOwnerDeletion": True}]
    await transact(store, [Create(CHILD, {"metadata": metadata, "spec": {}})], "test")
    await transact(store, [Delete(OWNER)], "test")


def released(store: Engine) -> Op:
    """The dependent without its finalizer."""
    doc = load(store.get(CHILD).raw)
    doc["metadata"]["finalizers"] = []
    return Update(CHILD, doc)


async def gone(store: Engine, *left: Key) -> None:
    """Wait until nothing is there but what is `left`."""
    async with asyncio.timeout(10):
        while [key for key, _ in store.list("systemtemplates")] != [*left]:
            await asyncio.sleep(0.005)


async def test_owner_goes_when_its_last_dependent_has_gone() -> None:
    store = Engine(MemoryLog())
    async with committing(store, controlled=True):
        await family(store, KEPT)
        async with asyncio.timeout(10):
            while not store.get(CHILD).deleting:
                await asyncio.sleep(0.005)
        await transact(store, [released(store)], "test")
        await gone(store)


async def test_owner_goes_when_its_dependent_forgets_it() -> None:
    store = Engine(MemoryLog())
    async with committing(store, controlled=True):
        await family(store, KEPT)
        doc = load(store.get(CHILD).raw)
        doc["metadata"]["ownerReferences"] = []
        await transact(store, [Update(CHILD, doc)], "test")
        await gone(store, CHILD)


async def test_deletion_that_a_restart_interrupted_goes_on() -> None:
    log = MemoryLog()
    before = Engine(log)
    async with committing(before, controlled=False):
        await family(before, "")
    after = Engine(log)
    async with committing(after, controlled=True):
        await gone(after)


async def test_dependent_whose_owner_went_just_before_a_restart_goes_too() -> None:
    log = MemoryLog()
    before = Engine(log)
    async with committing(before, controlled=False):
        await transact(before, [Create(OWNER, {"metadata": {"name": "owner"}, "spec": {}})], "test")
        reference = {"apiVersion": "nano/v1", "kind": "SystemTemplate", "name": "owner", "uid": before.get(OWNER).uid}
        metadata = {"name": "child", "ownerReferences": [reference]}
        await transact(before, [Create(CHILD, {"metadata": metadata, "spec": {}})], "test")
        await transact(before, [Delete(OWNER)], "test")
    after = Engine(log)
    async with committing(after, controlled=True):
        await gone(after)


async def test_event_can_be_deleted_in_the_foreground_too() -> None:
    store = Engine(MemoryLog())
    async with committing(store, controlled=True):
        key = Key("events", "default", "e")
        metadata = {"name": "e", "namespace": "default", "finalizers": [FOREGROUND]}
        await transact(store, [Create(key, {"metadata": metadata})], "test")
        await transact(store, [Delete(key)], "test")
        async with asyncio.timeout(10):
            while store.list("events"):
                await asyncio.sleep(0.005)


async def test_set_hears_of_a_name_of_its_members_that_somebody_gives_up() -> None:
    store = Engine(MemoryLog())
    taken = made("Instance", "web-1", "default")
    async with committing(store, controlled=True):
        await transact(store, [Create(taken.key, taken.to_json())], "test")
        web = made("InstanceSet", "web", "default", template={"spec": {"disks": []}})
        await transact(store, [Create(web.key, web.to_json())], "test")
        async with asyncio.timeout(10):
            while b"NamesTaken" not in store.get(web.key).raw:
                await asyncio.sleep(0.01)
            await asyncio.sleep(2 * SHORTLY)  # its members are as they will be, and wake it no more
            await transact(store, [Delete(taken.key)], "test")
            while b"NamesTaken" in store.get(web.key).raw:
                await asyncio.sleep(0.01)
