"""`POST /apis/nano/v1/transactions`: a set of writes is one revision or nothing, and large ones hold up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.store import Change, Commit
from tests.portal.api_world import INSTANCES, NANO, Reply, World, instance, pool
from tests.portal.set_world import COMPUTE, JSON, SETS, create, machine, named, ready, send


class CountedLog(MemoryLog):
    """Says how many records each append had."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []

    async def append(self, records: Any) -> None:
        self.appends.append(len(records))
        await super().append(records)


async def test_a_set_is_one_revision_and_answers_each_object_as_stored() -> None:
    async with ready() as w:
        lan = (await w.make(f"{NANO}/addresspools", pool()))["metadata"]
        await w.make(INSTANCES, instance("old"))
        before = w.store.committed
        done = await send(
            w,
            *create(machine("new", cpus=2)),
            named("patch", "Instance", "old", "default", patch={"spec": {"cpus": 3}}),
            named("delete", "AddressPool", "lan", preconditions={"uid": lan["uid"]}),
            named("expect", "ComputePool", "default", resourceVersion="6"),
            named("expect", "Image", "debian", "shared", absent=True),
        )
        assert done.code == 200, done.raw
        made, patched, gone, kept, absent = done.doc["results"]
        revision = str(before + 1)
        assert (done.doc["kind"], done.doc["metadata"]) == ("Transaction", {"resourceVersion": revision})
        assert w.store.committed == before + 1
        assert (made["spec"]["cpus"], made["metadata"]["labels"]) == (2, {"nano/owner": "admin"})
        assert made == (await w.call("GET", f"{INSTANCES}/new")).doc
        assert (patched["spec"]["cpus"], patched["metadata"]["resourceVersion"]) == (3, revision)
        assert (gone["status"], gone["details"]["uid"]) == ("Success", lan["uid"])
        assert kept["metadata"]["resourceVersion"] == "6"
        assert absent["details"] == {"name": "debian", "kind": "images", "group": "nano"}


async def test_watchers_see_a_set_with_one_resource_version() -> None:
    async with ready() as w, w.watch(INSTANCES, resourceVersion="0") as watch:
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(20))))
        events = [await watch.next() for _ in range(20)]
        assert {one["object"]["metadata"]["resourceVersion"] for one in events} == {
            done.doc["metadata"]["resourceVersion"]
        }


async def test_a_thousand_creates_are_one_request_and_one_commit() -> None:
    log = CountedLog()
    async with ready(log) as w:
        log.appends.clear()
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(1000))))
        assert (done.code, len(done.doc["results"])) == (200, 1000)
        assert log.appends == [1]
        assert len(w.store.list("instances")) == 1000


async def test_others_are_answered_while_a_large_set_is_prepared() -> None:
    async with ready() as w:
        done, seen = await _beside(w, 2000)
        assert done.code == 200
        assert seen > 10


async def _beside(w: World, count: int) -> tuple[Reply, int]:
    """Send a large set; how many other requests were answered meanwhile."""
    seen = 0

    async def look() -> None:
        nonlocal seen
        while True:
            await w.call("GET", f"{NANO}/computepools/default")
            seen += 1

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(count))))
        looking.cancel()
    return done, seen


async def test_dry_run_answers_as_if_and_stores_nothing() -> None:
    async with ready() as w:
        before = w.store.committed
        done = await send(w, *create(machine("web-1")), query="?dryRun=All")
        assert (done.code, done.doc["results"][0]["spec"]["cpus"]) == (200, 1)
        assert (w.store.committed, w.store.list("instances")) == (before, [])
        assert w.api.writer.world.index.uses[Key("computepools", "", "default")] == 0, "the real index is untouched"


async def test_dry_run_may_ask_what_is_foreseen_of_each_write() -> None:
    def foresee(changes: Sequence[Change]) -> dict[Key, JSON]:
        return {one.key: {"host": f"node-for-{one.key.name}"} for one in changes if one.key.plural == "instances"}

    async with ready(foresee=foresee) as w:
        writes = [named("expect", "Image", "x", "shared", absent=True), *create(pool(), machine("web-1"))]
        done = await send(w, *writes, query="?dryRun=All&forecast=true")
        assert done.doc["forecast"] == [{}, {}, {"host": "node-for-web-1"}]
        assert "forecast" not in (await send(w, *writes, query="?dryRun=All")).doc
        assert "forecast" not in (await send(w, *writes, query="?forecast=true")).doc


async def test_the_path_is_documented_and_is_no_kind() -> None:
    async with ready() as w:
        found = (await w.call("GET", NANO)).doc["resources"]
        assert not [one for one in found if "transaction" in one["name"]]
        documented = (await w.call("GET", f"/openapi/v3{NANO}")).doc["paths"]
        assert "dryRun" in [one["name"] for one in documented[SETS]["post"]["parameters"]]


# --- against a model ------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
WRITES = st.lists(
    st.tuples(st.sampled_from(("create", "patch", "delete", "expect")), st.sampled_from(NAMES), st.integers(1, 4)),
    min_size=1,
    max_size=5,
)


@given(sets=st.lists(WRITES, min_size=1, max_size=8))
@settings(max_examples=40)
def test_any_sets_are_visible_as_a_whole_or_not_at_all(sets: list[list[tuple[str, str, int]]]) -> None:
    asyncio.run(_follow_model(sets))


async def _follow_model(sets: list[list[tuple[str, str, int]]]) -> None:
    """ComputePools, which have no finalizers, by name; the model says what each set does."""
    async with ready() as w:
        commits: list[Commit] = []
        w.store.subscribe(commits.append)
        model: dict[str, int] = {}
        for writes in sets:
            before, seen = w.store.committed, len(commits)
            reply = await send(w, *(_write(*one) for one in writes))
            after = _expected(model, writes)
            assert (reply.code == 200) == (after is not None), reply.raw
            await asyncio.sleep(0)
            changed = after is not None and after != model
            assert w.store.committed == before + changed
            assert len(commits) == seen + changed
            model = model if after is None else after
            found = {
                key.name: json.loads(entry.raw)["spec"]["overcommit"]["cpu"]
                for key, entry in w.store.list("computepools")
                if key.name in NAMES
            }
            assert found == model


def _write(verb: str, name: str, value: int) -> JSON:
    if verb == "create":
        doc = COMPUTE | {"metadata": {"name": name}, "spec": {"storagePool": "local", "overcommit": {"cpu": value}}}
        return {"verb": "create", "object": doc}
    more: dict[str, Any] = {"patch": {"patch": {"spec": {"overcommit": {"cpu": value}}}}, "expect": {"absent": True}}
    return named(verb, "ComputePool", name, **more.get(verb, {}))


def _expected(model: dict[str, int], writes: list[tuple[str, str, int]]) -> dict[str, int] | None:
    """What the set makes of the model; None: it is refused."""
    after = dict(model)
    if len({name for _, name, _ in writes}) < len(writes):
        return None
    for verb, name, value in writes:
        if (name in model) != (verb in ("patch", "delete")):
            return None
        if verb in ("create", "patch"):
            after[name] = value
        elif verb == "delete":
            del after[name]
    return after
