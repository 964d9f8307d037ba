"""Rolling back over HTTP: to any revision of the past, as far as its caller may."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.resources.codec import load
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Delete, Update, transact
from tests.portal.api_world import INSTANCES, NANO, World, instance, pool, world
from tests.portal.history_world import (
    BACK,
    HISTORY,
    POOLS,
    WEB,
    back,
    change,
    gone,
    remembering,
    remove,
    revision,
    specs,
    status,
)

JSON = dict[str, Any]


@pytest.fixture(params=["memory", "file"])
async def w(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with remembering(request.param, tmp_path / "data") as running:
        yield running


# --- rolling back ---------------------------------------------------------------------------------------


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
