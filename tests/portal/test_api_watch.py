"""A watch tells every change once and in order, can be resumed, and never holds up whoever writes."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest

from nanovirt.portal.api import fanout, watching
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete, transact
from tests.portal.api_world import INSTANCES, MERGE, NANO, World, instance, pool, world

LABELLED = {"metadata": {"labels": {"app": "web"}}}


async def grow(w: World, cpus: int, name: str = "web-1") -> None:
    await w.call("PATCH", f"{INSTANCES}/{name}", {"spec": {"cpus": cpus}}, headers=MERGE)


async def test_watch_without_revision_begins_with_what_is_there() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("a"))
        async with w.watch(INSTANCES) as watch:
            assert await watch.take(1) == [("ADDED", "a")]
            await w.make(INSTANCES, instance("b"))
            await grow(w, 4, "a")
            assert await watch.take(2) == [("ADDED", "b"), ("MODIFIED", "a")]


async def test_watch_from_a_revision_tells_only_what_came_after() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("a"))
        listed = (await w.call("GET", INSTANCES)).doc["metadata"]["resourceVersion"]
        await w.make(INSTANCES, instance("b"))
        async with w.watch(INSTANCES, resourceVersion=listed) as watch:
            await w.make(INSTANCES, instance("c"))
            assert await watch.take(2) == [("ADDED", "b"), ("ADDED", "c")]


async def test_deleted_event_carries_the_last_state_at_the_new_revision() -> None:
    async with world() as w:
        await w.make(f"{NANO}/addresspools", pool())
        async with w.watch(f"{NANO}/addresspools", resourceVersion=str(w.store.committed)) as watch:
            await w.call("DELETE", f"{NANO}/addresspools/lan")
            event = await watch.next()
            assert event["type"] == "DELETED"
            assert event["object"]["spec"]["subnet"] == "10.20.0.0/24"
            assert event["object"]["metadata"]["resourceVersion"] == str(w.store.committed)


async def test_selector_turns_changes_into_added_and_deleted() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("a"))
        async with w.watch(INSTANCES, labelSelector="app=web") as watch:
            await w.call("PATCH", f"{INSTANCES}/a", LABELLED, headers=MERGE)
            await grow(w, 3, "a")
            await w.call("PATCH", f"{INSTANCES}/a", {"metadata": {"labels": {"app": None}}}, headers=MERGE)
            assert await watch.take(3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_field_selectors_are_decided_by_row_and_by_name() -> None:
    async with world() as w:
        for name in ("a", "b"):
            await w.make(INSTANCES, instance(name))
        now = str(w.store.committed)
        async with (
            w.watch(INSTANCES, fieldSelector="status.phase=Running", resourceVersion=now) as running,
            w.watch(INSTANCES, fieldSelector="metadata.name=b", resourceVersion=now) as named,
            w.watch(f"{INSTANCES}/b", resourceVersion=now) as single,
        ):
            for name in ("a", "b"):
                await w.call("PATCH", f"{INSTANCES}/{name}/status", {"status": {"phase": "Running"}}, headers=MERGE)
            await w.call("PATCH", f"{INSTANCES}/a/status", {"status": {"phase": "Stopped"}}, headers=MERGE)
            assert await running.take(3) == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
            assert await named.take(1) == [("MODIFIED", "b")]
            assert await single.take(1) == [("MODIFIED", "b")]


async def test_other_namespaces_and_kinds_are_not_told() -> None:
    async with world() as w, w.watch(INSTANCES) as watch:
        await w.make(f"{NANO}/namespaces/team-a/instances", instance("far"))
        await w.make(f"{NANO}/addresspools", pool())
        await w.make(INSTANCES, instance("near"))
        assert await watch.take(1) == [("ADDED", "near")]


async def test_history_that_is_gone_is_a_410_event() -> None:
    async with world() as w:
        w.store._ring.oldest = 3
        async with w.watch(INSTANCES, resourceVersion="2") as watch:
            event = await watch.next()
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert await watch.end() == b""


async def test_revision_of_the_future_is_waited_for_and_then_410(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FUTURE_SECONDS", 0.3)
    async with world() as w:
        soon = str(w.store.committed + 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(w.make(INSTANCES, instance("a")))
            async with w.watch(INSTANCES, resourceVersion=soon) as watch:
                await w.make(INSTANCES, instance("b"))
                assert await watch.take(1) == [("ADDED", "b")]
        async with w.watch(INSTANCES, resourceVersion="99999") as watch:
            assert (await watch.next())["object"]["code"] == 410


async def test_time_over_ends_the_stream_normally() -> None:
    async with world() as w, w.watch(INSTANCES, timeoutSeconds="1") as watch:
        assert await watch.end() == b""
        assert w.api.hub.watching == 0


async def test_initial_events_end_with_a_marked_bookmark() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("a"))
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "True"}
        async with w.watch(INSTANCES, **query) as watch:
            assert await watch.take(1) == [("ADDED", "a")]
            mark = await watch.next()
            assert mark["type"] == "BOOKMARK"
            assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            assert mark["object"]["metadata"]["resourceVersion"] == str(w.store.committed)
            await w.make(INSTANCES, instance("b"))
            assert await watch.take(1) == [("ADDED", "b")]


async def test_bookmarks_tell_how_far_the_watch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "TICK_SECONDS", 0.05)
    async with world() as w, w.watch(INSTANCES, allowWatchBookmarks="true") as watch, w.watch(INSTANCES) as plain:
        await w.make(f"{NANO}/addresspools", pool())
        async with asyncio.timeout(30):
            while True:
                event = await watch.next()
                assert event["type"] == "BOOKMARK"
                assert event["object"]["kind"] == "Instance"
                if event["object"]["metadata"]["resourceVersion"] == str(w.store.committed):
                    break
        await w.make(INSTANCES, instance("a"))
        assert await plain.take(1) == [("ADDED", "a")]


async def test_agents_see_their_own_placements_only() -> None:
    async with world() as w:
        path = f"{NANO}/placements"
        now = str(w.store.committed)
        async with (
            w.watch(path, subject="node-1", resourceVersion=now) as one,
            w.watch(path, subject="node-2", fieldSelector="spec.host=node-1", resourceVersion=now) as other,
            w.watch(path, resourceVersion=now) as all_,
        ):
            for number, host in enumerate(("node-1", "node-2", "node-1")):
                await w.store_raw(Key("placements", "default", f"web-{number}"), {"spec": {"host": host}})
            assert await one.take(2) == [("ADDED", "web-0"), ("ADDED", "web-2")]
            assert len(await all_.take(3)) == 3
            with pytest.raises(TimeoutError):
                await other.next(0.1)
        assert (await w.call("GET", f"{NANO}/instances?watch=1", subject="node-1")).code == 403


async def test_deleting_a_host_ends_its_watches() -> None:
    async with world() as w:
        await w.store_raw(Key("hosts", "", "node-1"), {"spec": {"computePool": "default"}})
        async with w.watch(f"{NANO}/placements", subject="node-1", resourceVersion=str(w.store.committed)) as watch:
            await transact(w.store, [Delete(Key("hosts", "", "node-1"))], "admin")
            assert await watch.end() == b""


async def test_table_events_are_tables_of_one_row() -> None:
    async with world() as w:
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        async with w.watch(INSTANCES, accept=accept) as watch:
            await w.make(INSTANCES, instance("a", cpus=3))
            event = (await watch.next())["object"]
            assert event["kind"] == "Table"
            assert event["rows"][0]["cells"][0] == "a"
            assert event["rows"][0]["object"]["metadata"]["name"] == "a"


async def test_commits_of_one_revision_arrive_together_and_in_order() -> None:
    async with world() as w, w.watch(INSTANCES) as watch:
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(w.make(INSTANCES, instance(f"web-{number}")))
        events = [await watch.next() for _ in range(50)]
        revisions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
        assert revisions == sorted(revisions)
        assert len(set(revisions)) == 50


async def test_watch_opened_amid_writes_misses_and_repeats_nothing() -> None:
    async with world() as w:
        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(w.make(INSTANCES, instance(f"web-{number}")))
            seen: list[list[int]] = []

            async def look() -> None:
                async with w.watch(INSTANCES) as watch:
                    events = [await watch.next(20) for _ in range(100)]
                    seen.append(sorted(int(event["object"]["metadata"]["resourceVersion"]) for event in events))

            for delay in range(10):
                await asyncio.sleep(0.002 * delay)
                tasks.create_task(look())
        assert len(seen) == 10
        assert all(one == seen[0] and len(set(one)) == 100 for one in seen)


async def test_crowd_of_watchers_sees_every_change_in_order() -> None:
    async with world() as w, AsyncExitStack() as stack:
        await w.make(INSTANCES, instance("a"))
        now = str(w.store.committed)
        crowd = [await stack.enter_async_context(w.watch(INSTANCES, resourceVersion=now)) for _ in range(90)]
        for cpus in range(2, 12):
            await grow(w, cpus, "a")
        for watch in crowd:
            events = [await watch.next(20) for _ in range(10)]
            assert [event["object"]["spec"]["cpus"] for event in events] == list(range(2, 12))


async def test_reader_that_does_not_read_is_dropped_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "BUFFER_MAX", 256 * 1024)
    monkeypatch.setattr(fanout, "CLOSE_SECONDS", 0.2)
    async with world() as w:
        loop = asyncio.get_running_loop()
        lazy = socket.create_connection(("127.0.0.1", int(w.base.rpartition(":")[2])))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(f"GET {INSTANCES}?watch=1 HTTP/1.1\r\nHost: x\r\nX-Subject: admin\r\n\r\n".encode())
        try:
            async with w.watch(INSTANCES) as watch:
                while w.api.hub.watching < 2:
                    await asyncio.sleep(0.01)
                doc: Any = instance("big")
                doc["metadata"]["annotations"] = {"a": "x" * 200_000}
                await w.make(INSTANCES, doc)
                deadline = loop.time() + 20
                cpus = 1
                while w.api.hub.watching > 1 and loop.time() < deadline:
                    cpus += 1
                    await grow(w, cpus % 500 + 1, "big")
                    await watch.next()
                assert w.api.hub.watching == 1
        finally:
            lazy.close()


async def test_events_are_lines_of_json_with_the_stored_bytes() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance("a"))
        async with w.watch(INSTANCES) as watch:
            line = await watch.response.content.readline()
            assert line.endswith(b"\n")
            assert json.loads(line) == {"type": "ADDED", "object": made}
            assert watch.response.headers["Transfer-Encoding"] == "chunked"
