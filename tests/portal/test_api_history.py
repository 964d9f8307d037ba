"""The past over HTTP: objects as they were, what happened to one, and what differs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.api import recounting
from nanovirt.resources.codec import load
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete, Update, transact
from tests.portal.api_world import INSTANCES, NANO, World, instance, pool, world
from tests.portal.history_world import (
    BACK,
    HISTORY,
    POOLS,
    TABLE,
    WEB,
    change,
    gone,
    names,
    remembering,
    revision,
    status,
)

JSON = dict[str, Any]


@pytest.fixture(params=["memory", "file"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with remembering(request.param, tmp_path / "data") as running:
        yield running


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
