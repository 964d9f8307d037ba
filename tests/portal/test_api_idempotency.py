"""A request with an Idempotency-Key takes effect once, however often it is sent and whatever restarts in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.api import transacting
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.errors import NotFound
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.segments import first_revision, segments
from nanovirt.resources.store import Delete, Update, transact
from tests.portal.api_world import INSTANCES, MERGE, NANO, Reply, World, instance, pool, world
from tests.portal.set_world import SETS, create, machine, named, ready, send

WEB = Key("instances", "default", "web-1")


def key(word: str = "k-1", **more: str) -> dict[str, str]:
    return {"Idempotency-Key": word, **more}


async def remove(w: World, name: str) -> None:
    """Delete an object at once, past its finalizers."""
    at = Key("instances", "default", name)
    free = {"metadata": {"name": name, "namespace": "default", "finalizers": []}, "spec": {}}
    await transact(w.store, [Delete(at), Update(at, free)], "test")


async def test_a_create_is_carried_out_once_and_answered_alike() -> None:
    async with ready() as w:
        first = await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        rev = w.store.committed
        again = await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        assert (first.code, again.code, w.store.committed) == (201, 201, rev)
        assert again.raw == first.raw
        assert (await w.call("POST", INSTANCES, instance(cpus=2))).code == 409, (
            "without a key it is a request of its own"
        )


async def test_a_replay_has_no_second_effect_even_when_the_object_is_gone_or_another() -> None:
    async with ready() as w:
        first = await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        await remove(w, "web-1")
        again = await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        assert (again.code, again.raw) == (201, first.raw)
        with pytest.raises(NotFound):
            w.store.get(WEB)


async def test_a_set_with_generated_names_is_carried_out_once() -> None:
    async with ready() as w:
        await w.make(f"{NANO}/addresspools", pool())
        await w.store_raw(Key("events", "team-a", "e1"), {"reason": "Scheduled"})
        named_later = machine("")
        named_later["metadata"] = {"generateName": "web-", "namespace": "default"}
        writes = [
            *create(named_later, machine("b")),
            named("delete", "AddressPool", "lan"),
            named("expect", "ComputePool", "default", resourceVersion="6"),
            named("expect", "Image", "x", "shared", absent=True),
            named("delete", "Namespace", "team-a"),
        ]
        first = await send(w, *writes, headers=key())
        assert first.code == 200, first.raw
        again = await send(w, *writes, headers=key())
        assert (again.code, again.doc) == (200, first.doc)
        assert len(w.store.list("instances")) == 2


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_replay_after_a_restart_of_the_server_is_answered_alike(kind: str, tmp_path: Path) -> None:
    memory = MemoryLog()

    def log() -> Log:
        return FileLog.open(tmp_path / "data") if kind == "file" else MemoryLog(memory.read(0))

    writes = [*create(machine("a")), named("expect", "ComputePool", "default", resourceVersion="6")]
    opened = log() if kind == "file" else memory
    async with ready(opened) as w:
        first = await send(w, *writes, headers=key())
        rev = w.store.committed
    opened.close()
    opened = log()
    async with world(log=opened, fresh=False) as w:
        again = await send(w, *writes, headers=key())
        assert (again.code, again.doc, w.store.committed) == (200, first.doc, rev)
        seen = await w.call("GET", f"{SETS}/k-1")
        assert (seen.code, seen.doc["metadata"]["resourceVersion"]) == (200, str(rev))
    opened.close()


@pytest.mark.parametrize(
    ("method", "path", "doc", "headers"),
    [
        ("PUT", f"{INSTANCES}/web-1", instance(cpus=5), {}),
        ("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": 5}}, MERGE),
        ("PATCH", f"{INSTANCES}/web-1", {"spec": {"restart": {"at": "2026-11-25T09:00:00Z"}}}, MERGE),
        ("PATCH", f"{INSTANCES}/web-1/status", {"status": {"phase": "Running"}}, MERGE),
        ("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": 1}}, MERGE),
        ("DELETE", f"{INSTANCES}/web-1", None, {}),
        ("DELETE", f"{NANO}/addresspools/lan", None, {}),
        ("DELETE", f"{NANO}/addresspools", None, {}),
    ],
)
async def test_every_write_may_have_a_key(method: str, path: str, doc: Any, headers: dict[str, str]) -> None:
    async with ready() as w:
        await w.make(f"{NANO}/addresspools", pool())
        await w.make(INSTANCES, instance())
        first = await w.call(method, path, doc, headers=key(**headers))
        assert first.code == 200, first.raw
        await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": 7}}, headers=MERGE)
        rev = w.store.committed
        again = await w.call(method, path, doc, headers=key(**headers))
        assert (again.code, again.doc, w.store.committed) == (200, first.doc, rev)


async def test_a_collection_deleted_in_the_foreground_is_counted_alike_though_some_of_it_was_going() -> None:
    async with ready() as w:
        for name in ("a", "b", "c"):
            await w.make(INSTANCES, instance(name))
        slowly = "?propagationPolicy=Foreground"
        assert (await w.call("DELETE", f"{INSTANCES}/c{slowly}")).code == 200
        first, again = [await w.call("DELETE", INSTANCES + slowly, headers=key()) for _ in range(2)]
        assert (first.code, again.code, first.doc["details"]["params"]) == (200, 200, {"count": 3})
        assert again.raw == first.raw


async def test_the_same_key_with_another_request_is_refused() -> None:
    async with ready() as w:
        await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        for path, doc in ((INSTANCES, instance(cpus=3)), (f"{NANO}/namespaces/team-a/instances", instance(cpus=2))):
            other = await w.call("POST", path, doc, headers=key())
            assert (other.code, other.doc["details"]["causes"][0]["reason"]) == (422, "RequestDiffers")
        assert len(w.store.list("instances")) == 1


async def test_keys_of_two_users_have_nothing_to_do_with_each_other() -> None:
    async with ready() as w:
        await w.call("POST", INSTANCES, instance(cpus=2), headers=key())
        assert (await w.call("POST", INSTANCES, instance(cpus=2), headers=key(), subject="stranger")).code == 403
        assert (await w.call("GET", f"{SETS}/k-1", subject="stranger")).code == 404


async def test_who_may_not_see_it_any_more_is_not_answered_with_it() -> None:
    async with ready() as w:
        await w.call("POST", INSTANCES, instance(), headers=key())
        w.subjects["admin"] = replace(w.subjects["stranger"], name="admin")
        assert (await w.call("POST", INSTANCES, instance(), headers=key())).code == 403


async def test_a_twin_in_flight_is_a_conflict_until_the_first_is_durable() -> None:
    log = Slow()
    async with ready(log) as w:
        log.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(w.call("POST", INSTANCES, instance(), headers=key()))
            while w.store.peek(WEB) is None:
                await asyncio.sleep(0.001)
            twin = await w.call("POST", INSTANCES, instance(), headers=key())
            asked = await w.call("GET", f"{SETS}/k-1")
            other = tasks.create_task(w.call("POST", INSTANCES, instance(cpus=2), headers=key()))
            log.gate.set()
        assert [one.code for one in (twin, asked, other.result())] == [409, 409, 422]
        assert twin.doc["details"]["causes"][0]["reason"] == "RequestInFlight"
        assert (await w.call("POST", INSTANCES, instance(), headers=key())).raw == first.result().raw
        assert (await w.call("GET", f"{SETS}/k-1")).code == 200


async def test_a_twin_of_a_set_that_is_still_prepared_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transacting, "AT_ONCE", 1)
    async with ready() as w:
        writes = create(*(machine(f"web-{at}") for at in range(300)))
        async with asyncio.TaskGroup() as tasks:
            sent = [tasks.create_task(send(w, *writes, headers=key())) for _ in range(2)]
        first, twin = sorted((one.result() for one in sent), key=lambda reply: reply.code)
        assert (first.code, twin.code) == (200, 409)
        assert twin.doc["details"]["causes"][0]["reason"] == "RequestInFlight"


async def test_a_client_that_leaves_finds_out_by_its_key() -> None:
    log = Slow()
    async with ready(log) as w:
        log.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(w.call("POST", INSTANCES, instance(), headers=key()))
            while w.store.peek(WEB) is None:
                await asyncio.sleep(0.001)
            leaving.cancel()
        assert (await w.call("GET", f"{SETS}/k-1")).code == 409
        log.gate.set()
        reply = await _settled(w)
        assert reply.doc["metadata"]["resourceVersion"] == str(w.store.committed)
        assert (await w.call("POST", INSTANCES, instance(), headers=key())).code == 201


async def _settled(w: World) -> Reply:
    while (reply := await w.call("GET", f"{SETS}/k-1")).code == 409:
        await asyncio.sleep(0.001)
    return reply


class Slow(MemoryLog):
    """Appends only while its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, records: Any) -> None:
        await self.gate.wait()
        await super().append(records)


async def test_a_refused_request_and_a_dry_run_leave_the_key_free() -> None:
    async with ready() as w:
        assert (await w.call("POST", INSTANCES, instance(cpus=0), headers=key())).code == 422
        assert (await w.call("POST", f"{INSTANCES}?dryRun=All", instance(), headers=key())).code == 201
        assert (await w.call("GET", f"{SETS}/k-1")).code == 404
        assert (await w.call("POST", INSTANCES, instance(), headers=key())).code == 201
        assert (await w.call("POST", f"{INSTANCES}?dryRun=All", instance("b"), headers=key())).code == 201


@pytest.mark.parametrize("word", ["", "a b", "x" * 201])
async def test_key_that_cannot_be_is_refused(word: str) -> None:
    async with ready() as w:
        assert (await w.call("POST", INSTANCES, instance(), headers=key(word))).code == 400
        assert w.store.list("instances") == []


async def test_what_became_of_a_key_is_told() -> None:
    async with ready() as w:
        made = await w.call("POST", INSTANCES, instance(), headers=key("a/b"))
        seen = await w.call("GET", f"{SETS}/a%2Fb")
        metadata = seen.doc["metadata"]
        assert (metadata["name"], metadata["resourceVersion"]) == ("a/b", made.doc["metadata"]["resourceVersion"])
        assert metadata["creationTimestamp"].endswith("Z")
        unknown = await w.call("GET", f"{SETS}/never")
        assert (unknown.code, unknown.doc["reason"]) == (404, "NotFound")
        assert (await w.call("DELETE", f"{SETS}/a%2Fb")).code == 405


async def test_answer_that_has_left_the_history_is_said_to_have(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, Sizes(segment=1 << 13, ballast=1 << 12, room=0, history=0))
    async with ready(log) as w:
        first = await w.call("POST", INSTANCES, instance(), headers=key())
        while len(segments(tmp_path / "wal")) < 3:
            await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": w.store.committed}}, headers=MERGE)
        sum_up(tmp_path, first_revision(segments(tmp_path / "wal")[-1]), 0)
        again = await w.call("POST", INSTANCES, instance(), headers=key())
        said = again.doc["details"]["causes"][0]
        assert (again.code, said["reason"]) == (409, "RequestForgotten")
        assert f"revision {first.doc['metadata']['resourceVersion']}," in said["message"]
    log.close()
