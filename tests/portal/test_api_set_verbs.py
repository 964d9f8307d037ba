"""Each verb of a set does what the single request of that name does."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from nanovirt.portal.api import transacting
from nanovirt.portal.api.intents import FIELDS, Hand, Intent, intents
from nanovirt.portal.api.requests import Options
from nanovirt.portal.identity import ADMIN
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.openapi import WRITES
from nanovirt.resources.store import Commit, Create, Delete, Update, transact
from tests.portal.api_world import INSTANCES, MERGE, NANO, World, instance, pool
from tests.portal.set_world import JSON, causes, create, machine, named, ready, send


async def test_update_replaces_and_checks_the_revision_in_the_object() -> None:
    async with ready() as w:
        made = await w.make(INSTANCES, instance("web-1", cpus=2))
        made["spec"]["cpus"] = 3
        done = await send(w, {"verb": "update", "object": made})
        assert done.doc["results"][0]["spec"]["cpus"] == 3
        stale = await send(w, {"verb": "update", "object": made})
        assert (stale.code, stale.doc["reason"], causes(stale)) == (409, "Conflict", {"writes[0]": "Conflict"})


@pytest.mark.parametrize("wanted", [{"resourceVersion": "1"}, {"uid": "another"}])
async def test_deletion_of_another_state_is_a_conflict_of_that_write(wanted: dict[str, str]) -> None:
    async with ready() as w:
        await w.make(f"{NANO}/addresspools", pool())
        stale = await send(
            w, *create(machine("a", cpus=0)), named("delete", "AddressPool", "lan", preconditions=wanted)
        )
        assert causes(stale) == {"writes[0].spec.cpus": "FieldValueInvalid", "writes[1]": "Conflict"}


async def test_what_others_change_while_a_set_is_prepared_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transacting, "AT_ONCE", 1)
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1"))
        key = Key("instances", "default", "web-1")
        seen: list[int] = []
        w.store.subscribe(lambda commit: seen.extend(_labels(commit, key)))

        async def label() -> None:
            for count in itertools.count(1):
                doc = json.loads(w.store.get(key).raw)
                doc["metadata"]["labels"]["count"] = str(count)
                await transact(w.store, [Update(key, doc)], "another")

        async with asyncio.TaskGroup() as tasks:
            labelling = tasks.create_task(label())
            change = named("patch", "Instance", "web-1", "default", patch={"spec": {"cpus": 3}})
            done = await send(w, change, *create(*(machine(f"other-{at}") for at in range(100))))
            labelling.cancel()
        assert done.code == 200
        assert len(seen) > 10
        assert seen == sorted(seen), "the patch left the label as it was by then"


def _labels(commit: Commit, key: Key) -> list[int]:
    return [int(one.after.labels.get("count", 0)) for one in commit.changes if one.key == key and one.after]


async def test_generated_names_are_answered() -> None:
    async with ready() as w:
        doc = machine("")
        doc["metadata"] = {"generateName": "web-", "namespace": "default"}
        done = await send(w, *create(doc, json.loads(json.dumps(doc))))
        names = [one["metadata"]["name"] for one in done.doc["results"]]
        assert len({*names}) == 2
        assert all(name.startswith("web-") and len(name) == 9 for name in names)


# --- apply ----------------------------------------------------------------------------------------------


def applied(doc: JSON, **more: Any) -> JSON:
    return {"verb": "apply", "object": doc, **more}


def managers(doc: JSON) -> list[tuple[str, str]]:
    return [(one["manager"], one["operation"]) for one in doc["metadata"].get("managedFields", [])]


async def test_apply_creates_and_changes_as_the_single_request_does() -> None:
    async with ready() as w:
        await apply_alone(w, instance("there", cpus=1, memory="1Gi"), "ann")
        new, there = machine("new", cpus=2), machine("there", memory="2Gi")
        done = await send(w, applied(new), applied(there), query="?fieldManager=ann")
        assert done.code == 200, done.raw
        made, changed = done.doc["results"]
        assert made["spec"]["cpus"] == 2
        assert managers(made) == managers(changed) == [("ann", "Apply")]
        assert (changed["spec"]["memory"], changed["spec"]["cpus"]) == ("2Gi", 1), "what ann leaves out has its default"
        alone = await apply_alone(w, instance("alone", cpus=2), "ann")
        assert fields(made) == fields(alone)
        before = w.store.committed
        again = await send(w, applied(new), applied(there), query="?fieldManager=ann")
        assert (again.doc["results"], w.store.committed) == (done.doc["results"], before), "nothing changes"


def fields(doc: JSON) -> list[JSON]:
    return [one["fieldsV1"] for one in doc["metadata"]["managedFields"]]


async def apply_alone(w: World, doc: JSON, by: str) -> JSON:
    path = f"{INSTANCES}/{doc['metadata']['name']}?fieldManager={by}"
    reply = await w.call("PATCH", path, doc, headers={"Content-Type": "application/apply-patch+yaml"})
    assert reply.code in (200, 201), reply.raw
    return dict(reply.doc)


async def test_conflict_of_an_apply_names_its_write_and_force_takes_the_field() -> None:
    async with ready() as w:
        for name in ("a", "b"):
            await apply_alone(w, instance(name, cpus=1), "ann")
        before = w.store.committed
        a, b = machine("a", cpus=2), machine("b", cpus=2)
        refused = await send(w, applied(machine("new")), applied(a), applied(b, force=True), query="?fieldManager=bob")
        assert (refused.code, refused.doc["reason"]) == (409, "Conflict")
        assert causes(refused) == {"writes[1].spec.cpus": "FieldManagerConflict"}
        assert w.store.committed == before
        for query, more in (("?fieldManager=bob&force=true", {}), ("?force=true", {"fieldManager": "eve"})):
            done = await send(w, applied(a, **more), applied(b, **more), query=query)
            assert [one["spec"]["cpus"] for one in done.doc["results"]] == [2, 2], done.raw
        refused = await send(w, applied(machine("a", cpus=3), force=False), query="?fieldManager=cid&force=true")
        assert causes(refused) == {"writes[0].spec.cpus": "FieldManagerConflict"}, "a write has the last word"


@pytest.mark.parametrize(
    ("write", "field"),
    [
        (applied(machine("a")), "writes[0].fieldManager"),
        (applied(machine("a"), fieldManager="x" * 200), "writes[0].fieldManager"),
        (applied(machine("a"), fieldManager=1), "writes[0].fieldManager"),
        (applied(machine("a"), fieldManager="ann", force="yes"), "writes[0].force"),
        (applied(machine("a"), fieldManager="ann", subresource="status"), "writes[0].subresource"),
        (applied(machine("a") | {"metadata": {"namespace": "default"}}), "writes[0].metadata.name"),
    ],
)
async def test_apply_that_cannot_be_is_refused(write: JSON, field: str) -> None:
    async with ready() as w:
        refused = await send(w, write)
        assert (refused.code, [*causes(refused)]) == (422, [field]), refused.raw


async def test_what_is_applied_may_come_and_go_while_the_set_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transacting, "AT_ONCE", 1)
    async with ready() as w:
        gone = await w.make(f"{NANO}/addresspools", pool("gone"))
        came = pool("came", "10.30.0.0/24")
        writes = [applied(pool("gone")), applied(pool("came", "10.30.0.0/24")), *create(*map(machine, "abcdefgh"))]
        asked = intents(writes, Hand("ann", force=True))
        async with asyncio.TaskGroup() as tasks:
            work = w.api._transactions._transactor.carry_out(ADMIN, asked, Options(dry=False, validation="Strict"))
            sent = tasks.create_task(work)
            for _ in range(4):
                await asyncio.sleep(0)
            came["spec"] |= {"domain": "lab.example", "network": "default"}
            keys = [Key("addresspools", "", name) for name in ("gone", "came")]
            w.store.stage([Delete(keys[0]), Create(keys[1], came)], "another")
            assert not sent.done()
        made, changed = (json.loads(one.raw or b"") for one in sent.result().results[:2])
        assert made["metadata"]["uid"] != gone["metadata"]["uid"], "it was made anew"
        assert changed["spec"]["domain"] == "lab.example", "what another has written meanwhile is still there"


# --- patches --------------------------------------------------------------------------------------------


def operations(name: str, *found: JSON, **more: Any) -> JSON:
    return named("patch", "Instance", name, "default", patchType="json", patch=[*found], **more)


async def test_json_patch_is_carried_out_in_order() -> None:
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1", cpus=2))
        done = await send(
            w,
            operations(
                "web-1",
                {"op": "test", "path": "/spec/cpus", "value": 2},
                {"op": "replace", "path": "/spec/cpus", "value": 3},
                {"op": "add", "path": "/metadata/labels/app", "value": "web"},
            ),
        )
        (found,) = done.doc["results"]
        assert (found["spec"]["cpus"], found["metadata"]["labels"]["app"]) == (3, "web")


async def test_operation_that_fails_is_named_with_its_write() -> None:
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1", cpus=2))
        fine = {"op": "test", "path": "/spec/cpus", "value": 2}
        refused = await send(w, *create(machine("new")), operations("web-1", fine, fine | {"value": 9}))
        assert (refused.code, [*causes(refused)]) == (422, ["writes[1].patch[1]"])


@pytest.mark.parametrize(
    ("write", "field"),
    [
        (operations("a") | {"patch": {}}, "patch"),
        (operations("a") | {"patch": [1]}, "patch"),
        (operations("a") | {"patchType": "strategic"}, "patchType"),
        (operations("a") | {"patchType": ["json"]}, "patchType"),
        (named("patch", "Instance", "a", "default", patch=[]), "patch"),
        (operations("a", subresource="scale"), "subresource"),
        (operations("a", subresource=["status"]), "subresource"),
        (named("delete", "Instance", "a", "default", subresource="status"), "subresource"),
    ],
)
def test_patch_that_cannot_be_read_says_which_field(write: JSON, field: str) -> None:
    (found,) = intents([write])
    assert isinstance(found, NanoError)
    assert [one.field for one in found.causes] == [field]


def test_json_patch_can_be_carried_out_twice() -> None:
    (found,) = intents(
        [operations("a", {"op": "add", "path": "/x", "value": {"y": 1}}, {"op": "remove", "path": "/x/y"})]
    )
    assert isinstance(found, Intent)
    assert found.transform(b"{}") == found.transform(b"{}") == {"x": {}}


@pytest.mark.parametrize(("op", "count"), [("test", 1000), ("copy", 9)])
async def test_json_patches_of_a_set_are_bounded_together(op: str, count: int) -> None:
    async with ready() as w:
        one = {"op": op, "from": "/spec", "path": "/spec", "value": 1}
        refused = await send(w, *(operations(f"w{at}", *[one] * count) for at in range(11)))
        assert (refused.code, "JSON patches of the set" in refused.doc["message"]) == (413, True), refused.raw


# --- the status half ------------------------------------------------------------------------------------


async def test_status_is_written_beside_other_objects_and_leaves_the_rest_alone() -> None:
    async with ready() as w:
        names = ("merged", "patched", "updated")
        docs = {name: await w.make(INSTANCES, instance(name, cpus=2)) for name in names}
        running = {"phase": "Running"}
        done = await send(
            w,
            named(
                "patch", "Instance", "merged", "default", subresource="status", patch={"status": running, "spec": {}}
            ),
            operations("patched", {"op": "add", "path": "/status", "value": running}, subresource="status"),
            {"verb": "update", "subresource": "status", "object": docs["updated"] | {"status": running, "spec": {}}},
            *create(machine("beside")),
        )
        assert done.code == 200, done.raw
        for one in done.doc["results"][:3]:
            assert (one["status"]["phase"], one["spec"]["cpus"], one["metadata"]["generation"]) == ("Running", 2, 1)
        assert {one["metadata"]["resourceVersion"] for one in done.doc["results"]} == {str(w.store.committed)}


@pytest.mark.parametrize(
    ("subject", "kind", "name", "code"),
    [
        ("stranger", "Instance", "web-1", 403),
        ("node-1", "Instance", "web-1", 403),
        ("admin", "Instance", "absent", 404),
        ("admin", "Secret", "key", 405),
    ],
)
async def test_status_in_a_set_is_refused_as_alone(subject: str, kind: str, name: str, code: int) -> None:
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1"))
        await w.store_raw(Key("secrets", "default", "key"), {"spec": {}})
        change = named("patch", kind, name, "default", subresource="status", patch={"status": {"phase": "Running"}})
        place = f"{NANO}/namespaces/default/{kind.lower()}s/{name}/status"
        alone = await w.call("PATCH", place, change["patch"], subject=subject, headers=MERGE)
        assert (await send(w, change, subject=subject)).code == alone.code == code


async def test_status_and_main_half_of_one_object_are_two_sets() -> None:
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1"))
        both = [named("patch", "Instance", "web-1", "default", patch={"spec": {"cpus": 2}})]
        both.append(both[0] | {"subresource": "status", "patch": {"status": {"phase": "Running"}}})
        assert causes(await send(w, *both)) == {"writes[1]": "WrittenTwice"}


# --- described ------------------------------------------------------------------------------------------


def test_the_schema_knows_each_verb_with_its_fields() -> None:
    assert {verb: frozenset(fields) for verb, (fields, _) in WRITES.items()} == FIELDS
