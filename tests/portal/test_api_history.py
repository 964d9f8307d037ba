"""The past over HTTP: objects as they were, what happened to one, what differs, and rolling back to any of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.api import recounting
from nanovirt.resources.codec import dump, load
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.store import Create, Delete, Half, Update, transact
from tests.portal.api_world import INSTANCES, NANO, Reply, World, instance, pool, world

JSON = dict[str, Any]
POOLS, HISTORY = f"{NANO}/addresspools", f"{NANO}/history"
BACK = f"{HISTORY}/rollback"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
SMALL = Sizes(segment=1 << 14, ballast=1 << 12, room=0)
WEB = Key("instances", "default", "web-1")


@pytest.fixture(params=["memory", "file"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    log: Log = MemoryLog() if request.param == "memory" else FileLog.open(tmp_path / "data", SMALL)
    try:
        async with world(log=log) as running:
            yield running
    finally:
        log.close()


async def change(w: World, name: str = "web-1", subject: str = "admin", **spec: Any) -> JSON:
    headers = {"Content-Type": "application/merge-patch+json"}
    made = await w.call("PATCH", f"{INSTANCES}/{name}", {"spec": spec}, headers=headers, subject=subject)
    assert made.code == 200, made.raw
    found: JSON = made.doc
    return found


async def remove(w: World, path: str, key: Key) -> None:
    """Delete, and do what the controllers would do until it is gone."""
    assert (await w.call("DELETE", path)).code == 200
    if entry := w.store.peek(key):
        doc = load(entry.raw)
        doc["metadata"]["finalizers"] = []
        await transact(w.store, [Update(key, doc)], "system:controllers")


async def gone(w: World, name: str = "web-1") -> None:
    await remove(w, f"{INSTANCES}/{name}", Key("instances", "default", name))


def revision(doc: JSON) -> int:
    return int(doc["metadata"]["resourceVersion"])


def names(reply: Reply) -> list[str]:
    return [one["metadata"]["name"] for one in reply.doc["items"]]


async def status(w: World, key: Key, **said: Any) -> None:
    doc = load(w.store.get(key).raw) | {"status": said}
    await transact(w.store, [Update(key, doc, Half.STATUS)], "system:agent")


# --- get and list ---------------------------------------------------------------------------------------


async def test_object_is_told_as_it_was_byte_by_byte(w: World) -> None:
    made = await w.make(INSTANCES, instance())
    first = (await w.call("GET", f"{INSTANCES}/web-1")).raw
    await change(w, cpus=3)
    at = {"at": str(revision(made))}
    assert (await w.call("GET", f"{INSTANCES}/web-1", params=at)).raw == first
    await gone(w)
    for path in (f"{INSTANCES}/web-1", f"{INSTANCES}/web-1/status"):
        found = await w.call("GET", path, params=at)
        assert (found.code, found.raw) == (200, first)
    assert (await w.call("HEAD", f"{INSTANCES}/web-1", params=at)).code == 200
    table = await w.call("GET", f"{INSTANCES}/web-1", params=at, headers=TABLE)
    assert [row["object"]["metadata"]["name"] for row in table.doc["rows"]] == ["web-1"]


async def test_time_means_the_last_revision_by_then(w: World) -> None:
    await w.make(INSTANCES, instance())
    newest = (await w.call("GET", HISTORY)).doc["items"][0]
    await asyncio.sleep(0.01)
    await change(w, cpus=3)
    then = await w.call("GET", f"{INSTANCES}/web-1", params={"at": newest["time"]})
    assert then.doc["spec"]["cpus"] == 1
    later = await w.call("GET", f"{INSTANCES}/web-1", params={"at": "2100-01-01T00:00:00Z"})
    assert later.doc["spec"]["cpus"] == 3
    early = await w.call("GET", f"{INSTANCES}/web-1", params={"at": "2001-01-01T00:00:00Z"})
    assert early.code == 404


async def test_list_is_told_as_it_was(w: World) -> None:
    for name in ("b", "a", "c"):
        await w.make(INSTANCES, instance(name))
    await w.make(f"{NANO}/namespaces/team-a/instances", instance("z"))
    await change(w, "a", cpus=2)
    then = await w.call("GET", INSTANCES)
    rev = str(revision(then.doc))
    await gone(w, "b")
    await change(w, "a", cpus=4)
    found = await w.call("GET", INSTANCES, params={"at": rev})
    assert found.doc["items"] == then.doc["items"]
    assert (found.doc["kind"], found.doc["apiVersion"]) == ("InstanceList", "nano/v1")
    assert found.doc["metadata"] == {"resourceVersion": rev}
    assert names(await w.call("GET", f"{NANO}/instances", params={"at": rev})) == ["a", "b", "c", "z"]
    assert names(await w.call("GET", INSTANCES, params={"at": "3"})) == []
    chosen = {"at": rev, "fieldSelector": "metadata.name!=b"}
    assert names(await w.call("GET", INSTANCES, params=chosen)) == ["a", "c"]
    table = await w.call("GET", INSTANCES, params={"at": rev}, headers=TABLE)
    assert [row["object"]["metadata"]["name"] for row in table.doc["rows"]] == ["a", "b", "c"]
    assert table.doc["metadata"] == {"resourceVersion": rev}
    head = await w.call("HEAD", INSTANCES, params={"at": rev})
    assert (head.code, head.raw) == (200, b"")


async def test_list_of_the_past_comes_in_pages(w: World) -> None:
    for number in range(5):
        await w.make(INSTANCES, instance(f"i-{number}"))
    rev = str(w.store.committed)
    await gone(w, "i-3")
    seen, token = [], ""
    for _ in range(3):
        page = await w.call("GET", INSTANCES, params={"at": rev, "limit": "2", "continue": token})
        assert page.doc["metadata"]["resourceVersion"] == rev
        seen += names(page)
        token = page.doc["metadata"].get("continue", "")
    assert seen == [f"i-{number}" for number in range(5)]
    assert not token


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ({"at": "999"}, 422, "revision 999 is not there yet; the newest is 3"),
        ({"at": "yesterday"}, 422, "neither a revision nor a time"),
        ({"at": ""}, 422, "neither a revision nor a time"),
        ({"at": "1", "watch": "true"}, 400, "leave at=... out"),
        ({"at": "1", "limit": "x"}, 400, "limit"),
        ({"at": "1", "continue": "x"}, 400, "continue token"),
        ({"at": "1", "fieldSelector": "x=y"}, 400, "cannot be selected"),
    ],
)
async def test_what_cannot_be_asked_of_the_past(query: dict[str, str], code: int, said: str) -> None:
    async with world() as w:
        found = await w.call("GET", INSTANCES, params=query)
        assert found.code == code, found.raw
        assert said in found.doc["message"]


async def test_secret_of_the_past_shows_no_values(w: World) -> None:
    path = f"{NANO}/namespaces/default/secrets"
    await w.make(path, {"metadata": {"name": "s"}, "spec": {"data": {"key": "hush-hush"}}})
    first = str(w.store.committed)
    await w.call(
        "PATCH",
        f"{path}/s",
        {"spec": {"data": {"key": "other"}}},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    sealed = load(w.store.get(Key("secrets", "default", "s")).raw)["spec"]["data"]["key"]
    for asked in (
        f"{path}/s?at={first}",
        f"{path}?at={first}",
        f"{path}/s/timeline",
        f"{HISTORY}/diff?from={first}&all=1",
    ):
        found = await w.call("GET", asked)
        assert found.code == 200, found.raw
        assert b"hush" not in found.raw
        assert sealed[:16].encode() not in found.raw
        assert b"v1" not in found.raw.replace(b"nano/v1", b"")
    shown = (await w.call("GET", f"{path}/s?at={first}")).doc
    assert ("data" in shown["spec"], shown["status"]["keys"]) == (False, ["key"])
    differing = (await w.call("GET", f"{HISTORY}/diff?from={first}")).doc["items"]
    assert [one["fields"] for one in differing] == [[{"path": "spec.data"}]]


# --- timeline -------------------------------------------------------------------------------------------


async def life(w: World) -> str:
    """An instance that was made, decided on, run, changed and deleted; its uid."""
    made = await w.make(INSTANCES, instance())
    uid = str(made["metadata"]["uid"])
    placement = Key("placements", "default", "web-1-1")
    spec = {
        "instance": "web-1", "instanceUid": uid, "host": "node-1", "epoch": 1, "hostname": "web-1", "cpu": 1,
        "memory": "1Gi", "domain": {"uuid": uid, "name": "default.web-1"},
    }  # fmt: skip
    await w.store_raw(placement, {"apiVersion": "nano/v1", "kind": "Placement", "spec": spec})
    scheduled = {"type": "Scheduled", "status": "True", "reason": "Scheduled", "message": "Placed on node-1."}
    await status(w, WEB, phase="Starting", conditions=[scheduled])
    await status(w, placement, state="Running")
    event = {
        "reason": "Started",
        "message": "It runs.",
        "involvedObject": {"kind": "Instance", "name": "web-1", "uid": uid},
    }
    await w.store_raw(Key("events", "default", "e1"), {"apiVersion": "v1", "kind": "Event", **event})
    await status(w, WEB, phase="Running", conditions=[scheduled])
    await change(w, cpus=3)
    free = load(w.store.get(placement).raw) | {"metadata": {"name": "web-1-1", "namespace": "default"}}
    await transact(w.store, [Delete(placement), Update(placement, free)], "system")
    await gone(w)
    return uid


def kinds_of(items: list[JSON]) -> list[str]:
    return [f"{one['type']} {one['object'].partition('/')[0]}" for one in items]


async def test_timeline_outlives_its_object(w: World) -> None:
    uid = await life(w)
    path = f"{INSTANCES}/web-1/timeline"
    assert (await w.call("GET", f"{INSTANCES}/web-1")).code == 404
    told = await w.call("GET", path)
    assert told.code == 200, told.raw
    items = told.doc["items"]
    assert kinds_of(items) == [
        "Deleted instances", "DeletionAsked instances", "Deleted placements", "Changed instances", "Phase instances",
        "Event events", "Reported placements", "Decided instances", "Phase instances", "Decided placements",
        "Created instances",
    ]  # fmt: skip
    by_type = {one["type"]: one for one in items}
    assert by_type["Changed"]["fields"] == [{"path": "spec.cpus", "before": 1, "after": 3}]
    assert (by_type["Changed"]["by"], by_type["Created"]["by"]) == ("admin", "admin")
    assert by_type["Reported"]["by"] == "system:agent"
    assert by_type["Event"]["message"] == "It runs."
    assert items[9]["host"] == "node-1"
    assert [one["revision"] for one in items] == sorted((one["revision"] for one in items), key=int, reverse=True)
    assert told.doc["since"] == {"revision": "0", "time": ""}
    made = await w.make(INSTANCES, instance(cpus=7))
    both = (await w.call("GET", path)).doc["items"]
    assert kinds_of(both) == ["Created instances", *kinds_of(items)]
    only = (await w.call("GET", path, params={"uid": uid})).doc["items"]
    assert only == items
    new = (await w.call("GET", path, params={"uid": made["metadata"]["uid"]})).doc["items"]
    assert kinds_of(new) == ["Created instances"]
    assert (await w.call("GET", path, params={"uid": "other"})).code == 404


async def test_timeline_comes_in_pages_that_end_between_revisions(w: World) -> None:
    await life(w)
    whole = (await w.call("GET", f"{INSTANCES}/web-1/timeline")).doc["items"]
    for limit in (1, 2, 5, 100):
        items, token = [], ""
        for _ in range(20):
            page = await w.call("GET", f"{INSTANCES}/web-1/timeline", params={"limit": str(limit), "continue": token})
            items += page.doc["items"]
            if not (token := page.doc["metadata"].get("continue", "")):
                break
        assert items == whole


async def test_page_that_takes_too_long_ends_and_is_gone_on_from(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await life(w)
    whole = (await w.call("GET", f"{INSTANCES}/web-1/timeline")).doc["items"]
    monkeypatch.setattr(recounting, "PAGE_SECONDS", -1.0)
    page = await w.call("GET", f"{INSTANCES}/web-1/timeline")
    assert page.code == 200, page.raw
    assert page.doc["metadata"]["continue"]
    assert len(page.doc["items"]) < len(whole)


async def test_timeline_of_nothing_is_not_found(w: World) -> None:
    assert (await w.call("GET", f"{INSTANCES}/web-9/timeline")).code == 404
    refused = await w.call("POST", f"{INSTANCES}/web-9/timeline", {})
    assert (refused.code, refused.headers["Allow"]) == (405, "GET, HEAD")


# --- differences and revisions --------------------------------------------------------------------------


async def test_differences_name_what_people_changed(w: World) -> None:
    for name in ("a", "b"):
        await w.make(INSTANCES, instance(name))
    first = w.store.committed
    await gone(w, "a")
    await change(w, "b", cpus=2, description="x")
    await status(w, Key("instances", "default", "b"), phase="Running")
    await w.make(POOLS, pool())
    expected: list[JSON] = [
        {"kind": "AddressPool", "name": "lan", "change": "Created"},
        {"kind": "Instance", "namespace": "default", "name": "a", "change": "Deleted"},
        {
            "kind": "Instance", "namespace": "default", "name": "b", "change": "Changed",
            "fields": [
                {"path": "spec.description", "before": "", "after": "x"},
                {"path": "spec.cpus", "before": 1, "after": 2},
            ],
        },
    ]  # fmt: skip
    found = await w.call("GET", f"{HISTORY}/diff", params={"from": str(first)})
    assert found.doc["items"] == expected
    assert (found.doc["from"]["revision"], found.doc["to"]["revision"]) == (str(first), str(w.store.committed))
    assert found.doc["from"]["time"] < found.doc["to"]["time"]
    of_b = {"from": str(first), "kind": "instance", "namespace": "default", "name": "b"}
    assert (await w.call("GET", f"{HISTORY}/diff", params=of_b)).doc["items"] == expected[2:]
    with_status = (await w.call("GET", f"{HISTORY}/diff", params=of_b | {"all": "true"})).doc["items"]
    assert {"path": "status.phase", "before": "Pending", "after": "Running"} in with_status[0]["fields"]
    back = {"from": str(w.store.committed), "to": str(first), "kind": "inst"}
    changes = [one["change"] for one in (await w.call("GET", f"{HISTORY}/diff", params=back)).doc["items"]]
    assert changes == ["Created", "Changed"]
    await w.make(INSTANCES, instance("a"))
    replaced = await w.call("GET", f"{HISTORY}/diff", params=of_b | {"name": "a"})
    assert replaced.doc["items"] == [expected[1] | {"change": "Replaced", "fields": []}]


async def test_revisions_say_who_wrote_what(w: World) -> None:
    await w.make(INSTANCES, instance())
    await change(w, cpus=2)
    found = (await w.call("GET", HISTORY, params={"limit": "2"})).doc
    assert [one["writes"] for one in found["items"]] == [[{"verb": "put", "object": "instances/default/web-1"}]] * 2
    assert [one["by"] for one in found["items"]] == ["admin", "admin"]
    rest = (await w.call("GET", HISTORY, params={"continue": found["metadata"]["continue"]})).doc
    revs = [int(one["revision"]) for one in (*found["items"], *rest["items"])]
    assert revs == list(range(w.store.committed, 0, -1))
    assert "continue" not in rest["metadata"]
    assert (await w.call("GET", HISTORY, subject="stranger")).code == 403


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"{HISTORY}/nothing", 404), ("GET", f"{HISTORY}/diff/x", 404), ("POST", HISTORY, 405),
        ("DELETE", f"{HISTORY}/diff", 405), ("GET", BACK, 405), ("GET", f"{HISTORY}/diff", 400),
        ("GET", f"{HISTORY}/diff?from=x", 422), ("GET", f"{HISTORY}/diff?from=1&to=99", 422),
        ("GET", f"{HISTORY}/diff?from=1&kind=x", 422), ("GET", f"{HISTORY}?at=99", 422),
    ],
)  # fmt: skip
async def test_paths_of_the_history_refuse_in_words(method: str, path: str, code: int) -> None:
    async with world() as w:
        found = await w.call(method, path)
        assert found.code == code, found.raw
        assert found.doc["kind"] == "Status"


# --- rolling back ---------------------------------------------------------------------------------------


async def back(w: World, to: int | str, subject: str = "admin", query: str = "", **asked: Any) -> Reply:
    doc = {"to": str(to), "objects": {}, **asked}
    return await w.call("POST", BACK + query, doc, subject=subject)


def specs(w: World) -> dict[Key, bytes]:
    """The main halves of what people write."""
    found = {}
    for plural in ("instances", "addresspools", "images", "computepools"):
        for key, entry in w.store.list(plural):
            doc = load(entry.raw)
            labels = {name: text for name, text in doc["metadata"].get("labels", {}).items() if name != "nano/owner"}
            found[key] = dump({"spec": doc["spec"], "labels": labels, "notes": doc["metadata"].get("annotations", {})})
    return found


async def test_rollback_restores_what_was_and_says_what_it_leaves(w: World) -> None:
    for name in ("a", "b"):
        await w.make(INSTANCES, instance(name))
    first, before = w.store.committed, specs(w)
    uid = w.store.get(Key("instances", "default", "a")).uid
    await gone(w, "a")
    await change(w, "b", cpus=2)
    await w.make(INSTANCES, instance("c"))
    newest = w.store.committed
    planned = await back(w, first, query="?dryRun=All")
    assert planned.code == 200, planned.raw
    assert w.store.committed == newest
    assert planned.doc["changes"] == [
        {"kind": "Instance", "namespace": "default", "name": "a", "action": "Created", "effect": "Live", "fields": []},
        {
            "kind": "Instance", "namespace": "default", "name": "b", "action": "Restored", "effect": "NextStart",
            "fields": [{"path": "spec.cpus", "before": 2, "after": 1, "effect": "NextStart"}],
        },
    ]  # fmt: skip
    assert planned.doc["left"] == [{"kind": "Instance", "namespace": "default", "name": "c", "reason": "CreatedSince"}]
    done = await back(w, first, plan=planned.doc["plan"])
    assert done.code == 200, done.raw
    assert done.doc["changes"] == planned.doc["changes"]
    assert revision(done.doc) == w.store.committed == newest + 1, "one revision"
    after = specs(w)
    assert after.pop(Key("instances", "default", "c"))
    assert after == before
    assert w.store.get(Key("instances", "default", "a")).uid != uid
    again = await back(w, first)
    assert (again.doc["changes"], w.store.committed) == ([], newest + 1)
    clean = await back(w, first, deleteNew=True)
    assert [one["action"] for one in clean.doc["changes"]] == ["Deleted"]
    assert clean.doc["changes"][0]["effect"] == "DataLoss"
    assert w.store.get(Key("instances", "default", "c")).deleting


async def test_rollback_of_an_object_that_never_was_is_refused(w: World) -> None:
    await w.make(INSTANCES, instance("a"))
    first = w.store.committed
    await w.make(INSTANCES, instance("b"))
    asked = {"kind": "Instance", "namespace": "default", "name": "typo"}
    refused = await back(w, first, objects=asked)
    assert (refused.code, refused.doc["reason"]) == (404, "NotFound"), refused.raw
    made_since = await back(w, first, objects=asked | {"name": "b"})
    assert (made_since.code, made_since.doc["changes"]) == (200, [])


async def test_rollback_of_some_leaves_the_others(w: World) -> None:
    for space in ("default", "team-a"):
        for name in ("a", "b"):
            await w.make(f"{NANO}/namespaces/{space}/instances", instance(name))
    first = w.store.committed
    headers = {"Content-Type": "application/merge-patch+json"}
    for space in ("default", "team-a"):
        for name in ("a", "b"):
            path = f"{NANO}/namespaces/{space}/instances/{name}"
            await w.call("PATCH", path, {"spec": {"cpus": 5}}, headers=headers)
    await w.make(POOLS, pool())
    one = await back(w, first, objects={"kind": "Instance", "namespace": "default", "name": "a"})
    assert [(one["namespace"], one["name"]) for one in one.doc["changes"]] == [("default", "a")]
    part = await back(w, first, objects={"namespace": "team-a"}, query="?dryRun=All")
    assert [(one["namespace"], one["name"]) for one in part.doc["changes"]] == [("team-a", "a"), ("team-a", "b")]
    assert part.doc["left"] == []
    whole = await back(w, first)
    assert len(whole.doc["changes"]) == 3
    assert [one["name"] for one in whole.doc["left"]] == ["lan"]


async def test_rollback_that_admission_refuses_changes_nothing_and_names_objects(w: World) -> None:
    await w.make(INSTANCES, instance("a"))
    await w.make(POOLS, pool("lan"))
    first = w.store.committed
    await change(w, "a", cpus=2)
    await remove(w, f"{POOLS}/lan", Key("addresspools", "", "lan"))
    await w.make(POOLS, pool("wan"))
    newest = w.store.committed
    refused = await back(w, first)
    assert refused.code == 422, refused.raw
    assert [one["field"] for one in refused.doc["details"]["causes"]] == ["addresspools/lan.spec.subnet"]
    assert "writes[" not in refused.raw.decode()
    assert w.store.committed == newest
    assert (await back(w, first, deleteNew=True)).code == 200


async def test_rollback_that_disrupts_more_than_allowed_is_refused(w: World) -> None:
    await w.make(INSTANCES, instance())
    first = w.store.committed
    await change(w, cpus=2)
    await status(w, WEB, phase="Running", placement="web-1-1", host="node-1")
    newest = w.store.committed
    refused = await back(w, first, maxDisruption="Live")
    assert refused.code == 422
    assert "its effect is Restart, worse than Live" in refused.doc["message"]
    assert w.store.committed == newest
    assert (await back(w, first, maxDisruption="Restart")).code == 200


async def test_rollback_that_is_not_what_was_planned_is_refused(w: World) -> None:
    await w.make(INSTANCES, instance())
    first = w.store.committed
    await change(w, cpus=2)
    plan = (await back(w, first, query="?dryRun=All")).doc["plan"]
    await change(w, description="somebody else")
    newest = w.store.committed
    refused = await back(w, first, plan=plan)
    assert (refused.code, w.store.committed) == (409, newest)
    assert "look at the plan again" in refused.doc["message"]


async def test_rollback_makes_the_former_owner_the_owner(w: World) -> None:
    key = Key("images", "default", "i")
    await transact(w.store, [Create(Key("users", "", "alice"), {"metadata": {"name": "alice"}, "spec": {}})], "x")
    doc = {"apiVersion": "nano/v1", "kind": "Image", "spec": {"type": "Disk", "source": {"upload": {}}}}
    await w.store_raw(key, doc | {"metadata": {"labels": {"nano/owner": "alice", "a": "b"}}})
    first = w.store.committed
    await transact(w.store, [Delete(key)], "alice")
    assert (await back(w, first)).code == 200
    assert dict(w.store.get(key).labels) == {"nano/owner": "alice", "a": "b"}


async def test_rights_and_secrets_are_not_rolled_back_along_with_the_rest(w: World) -> None:
    group = {"metadata": {"name": "g"}, "spec": {"members": ["admin"]}}
    await w.make(f"{NANO}/groups", group)
    await w.make(f"{NANO}/namespaces/default/secrets", {"metadata": {"name": "s"}, "spec": {"data": {"k": "v"}}})
    first = w.store.committed
    headers = {"Content-Type": "application/merge-patch+json"}
    await w.call("PATCH", f"{NANO}/groups/g", {"spec": {"members": []}}, headers=headers)
    await w.call("DELETE", f"{NANO}/namespaces/default/secrets/s")
    whole = await back(w, first)
    assert whole.doc["changes"] == []
    assert [(one["kind"], one["reason"]) for one in whole.doc["left"]] == [("Group", "Apart"), ("Secret", "Apart")]
    named = await back(w, first, objects={"kind": "Group", "name": "g"})
    assert [one["action"] for one in named.doc["changes"]] == ["Restored"]


async def test_what_something_else_made_is_left_to_that(w: World) -> None:
    """A set makes its members, and takes them away: a rollback of the set is enough."""
    owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "s", "uid": "u", "controller": True}
    first = 0
    for name in ("old", "new"):
        first = w.store.committed
        doc = instance(name)
        metadata = {"ownerReferences": [owner]}
        await w.store_raw(Key("instances", "default", name), {**doc, "kind": "Instance", "metadata": metadata})
    await gone(w, "old")
    done = await back(w, first, deleteNew=True)
    assert done.doc["changes"] == []
    assert [(one["name"], one["reason"]) for one in done.doc["left"]] == [("old", "Owned"), ("new", "Owned")]


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        ({"to": "1"}, "objects"), ({"objects": {}}, "to"), ({"to": 1, "objects": {}}, "to"),
        ({"to": "1", "objects": {}, "x": 1}, "x"), ({"to": "1", "objects": {"x": "y"}}, "objects.x"),
        ({"to": "1", "objects": {"kind": "placements"}}, "objects.kind"), ({"to": "99", "objects": {}}, "at"),
        ({"to": "1", "objects": {"name": "web-1"}}, "objects.kind"), ({"to": "1", "objects": {"kind": 1}}, "objects"),
        ({"to": "1", "objects": {}, "maxDisruption": "None"}, "maxDisruption"),
        ({"to": "1", "objects": {}, "deleteNew": "yes"}, "deleteNew"), ({"to": "1", "objects": {}, "plan": 1}, "plan"),
    ],
)  # fmt: skip
async def test_bodies_of_a_rollback_are_read_strictly(doc: JSON, said: str) -> None:
    async with world() as w:
        refused = await w.call("POST", BACK, doc)
        assert (refused.code, refused.doc["details"]["causes"][0]["field"]) == (422, said)


async def test_rollback_takes_no_idempotency_key(w: World) -> None:
    refused = await w.call("POST", BACK, {"to": "1", "objects": {}}, headers={"Idempotency-Key": "k"})
    assert (refused.code, "finds nothing to do" in refused.doc["message"]) == (400, True)


# --- any of the last 50 revisions -----------------------------------------------------------------------


async def stir(w: World, chance: random.Random) -> None:
    """One change of a kind that people make, whatever comes of it."""
    name, headers = f"i-{chance.randrange(4)}", {"Content-Type": "application/merge-patch+json"}
    match chance.randrange(6):
        case 0:
            await w.call("POST", INSTANCES, instance(name, cpus=chance.randrange(1, 9)))
        case 1 | 2:
            labels = {"app": chance.choice(("web", "db", None))}
            spec = {"cpus": chance.randrange(1, 9), "description": "d" * chance.randrange(3)}
            patch = {"metadata": {"labels": labels, "annotations": labels}, "spec": spec}
            await w.call("PATCH", f"{INSTANCES}/{name}", patch, headers=headers)
        case 3:
            if (await w.call("GET", f"{INSTANCES}/{name}")).code == 200:
                await gone(w, name)
        case 4:
            at = chance.randrange(3)
            await w.call(
                "POST", POOLS, pool(f"p-{at}", f"10.{at}.0.0/24", last=f"10.{at}.0.{chance.randrange(90, 99)}")
            )
        case _:
            at = chance.randrange(3)
            key = Key("addresspools", "", f"p-{at}")
            if w.store.peek(key):
                await remove(w, f"{POOLS}/p-{at}", key)


@pytest.mark.parametrize("seed", [1, 2])
async def test_rollback_to_any_of_the_last_50_revisions_gives_byte_equal_specs(w: World, seed: int) -> None:
    chance = random.Random(seed)
    states = {w.store.committed: specs(w)}
    w.store.subscribe(lambda commit: states.__setitem__(commit.rev, specs(w)))
    while len(states) < 51:
        await stir(w, chance)
    for rev in chance.sample(sorted(states)[-50:], 50):
        expected = states[rev]
        before = w.store.committed
        done = await back(w, rev, deleteNew=True)
        assert done.code == 200, done.raw
        assert w.store.committed <= before + 1
        for key, entry in w.store.list("instances"):
            if entry.deleting:  # what the controllers do
                doc = load(entry.raw)
                doc["metadata"]["finalizers"] = []
                await transact(w.store, [Update(key, doc)], "system")
        assert specs(w) == expected, rev
    assert len(states) > 51
    assert json.loads((await w.call("GET", HISTORY, params={"limit": "1"})).raw)["items"]
