"""Server-side apply: managers share objects field by field, and are told when one would overwrite another."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanovirt.resources.codec import load
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import by_kind
from nanovirt.resources.store import Update, transact
from tests.portal.api_world import INSTANCES, JSON, JSON_PATCH, MERGE, NANO, Reply, World, instance, pool, world

APPLY = {"Content-Type": "application/apply-patch+yaml"}
WEB = f"{INSTANCES}/web-1"
EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))
ROOT = {"name": "root", "size": "10Gi"}
DATA = {"name": "data", "size": "5Gi"}


async def apply(w: World, doc: JSON, by: str = "ann", path: str = WEB, **query: str) -> Reply:
    words = "".join(f"&{name}={text}" for name, text in query.items())
    return await w.call("PATCH", f"{path}?fieldManager={by}{words}", doc, headers=APPLY)


async def applied(w: World, doc: JSON, by: str = "ann", path: str = WEB, **query: str) -> JSON:
    """Apply, which has to work."""
    reply = await apply(w, doc, by, path, **query)
    assert reply.code in (200, 201), reply.raw
    made: JSON = reply.doc
    return made


def owners(doc: JSON) -> dict[tuple[str, str], Any]:
    """What each manager owns, by name and operation."""
    return {(one["manager"], one["operation"]): one["fieldsV1"] for one in doc["metadata"].get("managedFields", [])}


def conflicts(reply: Reply) -> list[tuple[str, str, str]]:
    assert (reply.code, reply.doc["reason"]) == (409, "Conflict"), reply.raw
    return [(one["reason"], one["message"], one["field"]) for one in reply.doc["details"]["causes"]]


async def test_first_apply_creates_the_object_and_says_who_owns_what() -> None:
    async with world() as w:
        reply = await apply(w, instance(cpus=2, disks=[ROOT]))
        assert reply.code == 201
        (entry,) = reply.doc["metadata"]["managedFields"]
        time = entry.pop("time")
        assert time.endswith("Z")
        assert entry == {
            "manager": "ann",
            "operation": "Apply",
            "apiVersion": "nano/v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:spec": {
                    "f:cpus": {},
                    "f:disks": {'k:{"name":"root"}': {".": {}, "f:name": {}, "f:size": {}}},
                }
            },
        }
        assert (await w.call("GET", WEB)).doc == reply.doc
        assert (await w.call("GET", INSTANCES)).doc["items"][0]["metadata"]["managedFields"] == [entry | {"time": time}]


async def test_yaml_is_read_as_well_as_json() -> None:
    async with world() as w:
        text = b"apiVersion: nano/v1\nkind: Instance\nmetadata:\n  annotations: {day: 2026-11-22}\nspec:\n  cpus: 2\n"
        reply = await w.call("PATCH", f"{WEB}?fieldManager=ann", data=text, headers=APPLY)
        assert reply.code == 201, reply.raw
        assert reply.doc["spec"]["cpus"] == 2
        assert reply.doc["metadata"]["annotations"] == {"day": "2026-11-22"}


async def test_yaml_whose_readers_do_not_agree_is_refused_in_few_words() -> None:
    text = '"[&a0 [x], ' + ", ".join(f"&a{at} [*a{at - 1}, *a{at - 1}, *a{at - 1}]" for at in range(1, 8)) + ']"'
    async with world() as w:
        for cpus in (f"!!int {text}", '!!int "' + "[" * 3000 + '"', "!!bool x", "1e0"):
            body = f"apiVersion: nano/v1\nkind: Instance\nspec:\n  cpus: {cpus}\n".encode()
            reply = await w.call("PATCH", f"{WEB}?fieldManager=ann", data=body, headers=APPLY)
            assert (reply.code, reply.doc["reason"]) == (400, "BadRequest"), reply.raw
            assert "at line 4" in reply.doc["message"]
            assert len(reply.doc["message"]) < 300


async def test_what_a_manager_leaves_out_goes_back_to_its_default() -> None:
    async with world() as w:
        await applied(w, instance(cpus=2, memory="2Gi", disks=[ROOT, DATA], guest={"hostname": "a"}))
        made = await applied(w, instance(memory="2Gi", disks=[DATA]))
        assert made["spec"]["cpus"] == 1
        assert made["spec"]["memory"] == "2Gi"
        assert [disk["name"] for disk in made["spec"]["disks"]] == ["data"]
        assert "hostname" not in made["spec"]["guest"]
        assert made["metadata"]["labels"] == {"nano/owner": "admin"}


async def test_optional_object_with_defaults_goes_as_a_whole() -> None:
    async with world() as w:
        await applied(w, instance(restart={"at": "2026-11-22T06:00:00Z"}, nics=[{"name": "a", "network": "lan"}]))
        made = await applied(w, instance())
        assert "restart" not in made["spec"], "its mode is only a default, which nobody owns"
        assert "nics" not in made["spec"], "an empty list would mean: no network card"


async def test_two_managers_share_the_items_of_a_list() -> None:
    async with world() as w:
        await applied(w, instance(disks=[ROOT]), "ann")
        both = await applied(w, instance(disks=[DATA]), "bob")
        assert [disk["name"] for disk in both["spec"]["disks"]] == ["root", "data"]
        made = await applied(w, instance(disks=[]), "bob")
        assert [disk["name"] for disk in made["spec"]["disks"]] == ["root"]
        assert set(owners(made)) == {("ann", "Apply")}


async def test_field_of_another_manager_is_a_conflict_that_force_wins() -> None:
    async with world() as w:
        await applied(w, instance(cpus=2, disks=[ROOT]), "ann")
        refused = await apply(w, instance(cpus=4, disks=[{"name": "root", "size": "20Gi"}]), "bob")
        assert conflicts(refused) == [
            ("FieldManagerConflict", 'conflict with "ann"', ".spec.cpus"),
            ("FieldManagerConflict", 'conflict with "ann"', '.spec.disks[name="root"].size'),
        ]
        assert 'conflict with "ann": .spec.cpus' in refused.doc["message"]
        assert (await w.call("GET", WEB)).doc["spec"]["cpus"] == 2
        taken = await applied(w, instance(cpus=4), "bob", force="true")
        assert taken["spec"]["cpus"] == 4
        assert owners(taken)["bob", "Apply"] == {"f:spec": {"f:cpus": {}}}
        assert "f:cpus" not in owners(taken)["ann", "Apply"]["f:spec"]
        assert conflicts(await apply(w, instance(cpus=2, disks=[ROOT]), "ann"))[0][1] == 'conflict with "bob"'


async def test_same_value_is_shared_and_stays_until_the_last_owner_leaves_it_out() -> None:
    async with world() as w:
        card = {"name": "a", "network": "lan", "mac": "52:54:00:aa:bb:cc"}
        await applied(w, instance(memory="2Gi", nics=[card]), "ann")
        both = await applied(w, instance(memory="2Gi", nics=[card | {"mac": "52-54-00-AA-BB-CC"}]), "bob")
        assert len(owners(both)) == 2, "another way to write a MAC is the same MAC"
        assert (await applied(w, instance(), "ann"))["spec"]["memory"] == "2Gi"
        assert (await applied(w, instance(), "bob"))["spec"]["memory"] == "1Gi"


async def test_apply_that_changes_nothing_changes_neither_revision_nor_times() -> None:
    async with world() as w:
        first = await applied(w, instance(cpus=2, disks=[ROOT]))
        w.api._clock = lambda: datetime(2030, 1, 1, tzinfo=UTC)
        before = w.store.committed
        assert await applied(w, instance(disks=[ROOT], cpus=2)) == first
        assert w.store.committed == before
        changed = await applied(w, instance(cpus=3, disks=[ROOT]))
        assert changed["metadata"]["managedFields"][0]["time"] == "2030-01-01T00:00:00Z"


@pytest.mark.parametrize("method", ["PUT", "merge", "json"])
async def test_change_without_apply_moves_the_field_to_whoever_made_it(method: str) -> None:
    async with world() as w:
        doc = await applied(w, instance(cpus=2, memory="2Gi"))
        agent = {"User-Agent": "editor/1.2 (linux)"}
        if method == "PUT":
            doc["spec"]["cpus"] = 3
            changed = await w.call("PUT", WEB, doc, headers=agent)
        elif method == "merge":
            changed = await w.call("PATCH", WEB, {"spec": {"cpus": 3}}, headers=MERGE | agent)
        else:
            ops = [{"op": "replace", "path": "/spec/cpus", "value": 3}]
            changed = await w.call("PATCH", f"{WEB}?fieldManager=editor", ops, headers=JSON_PATCH)
        assert owners(changed.doc) == {
            ("ann", "Apply"): {"f:spec": {"f:memory": {}}},
            ("editor", "Update"): {"f:spec": {"f:cpus": {}}},
        }
        ((reason, message, field),) = conflicts(await apply(w, instance(cpus=2, memory="2Gi")))
        assert (reason, field) == ("FieldManagerConflict", ".spec.cpus")
        assert message.startswith('conflict with "editor" using nano/v1 at 20')
        assert (await applied(w, instance(cpus=3, memory="2Gi")))["spec"]["cpus"] == 3


async def test_write_that_changes_no_owned_value_leaves_managed_fields_alone() -> None:
    async with world() as w:
        doc = await applied(w, instance(cpus=2))
        put = await w.call("PUT", WEB, {**doc, "metadata": {"name": "web-1"}})
        assert put.doc == doc
        await w.call("PATCH", f"{WEB}/status", {"status": {"phase": "Running"}}, headers=MERGE)
        assert (await w.call("GET", WEB)).doc["metadata"]["managedFields"] == doc["metadata"]["managedFields"]


async def test_what_stood_there_before_the_first_apply_is_protected() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance(cpus=2, disks=[ROOT]))
        assert "managedFields" not in (await w.call("GET", WEB)).doc["metadata"]
        ((_, message, field),) = conflicts(await apply(w, instance(cpus=4, memory="4Gi")))
        assert message.startswith('conflict with "before-first-apply" using nano/v1 at 20')
        assert field == ".spec.cpus", "memory was a default that nobody chose"
        made = await applied(w, instance(cpus=4, memory="4Gi"), force="true")
        assert made["spec"]["disks"][0]["name"] == "root"
        assert made["metadata"]["generation"] == 2
        disks: JSON = {'k:{"name":"root"}': {".": {}, "f:name": {}, "f:size": {}}}
        assert owners(made)["before-first-apply", "Update"] == {"f:spec": {"f:disks": disks}}


async def test_only_kubectl_takes_over_what_it_applied_by_itself() -> None:
    async with world() as w:
        doc = instance(cpus=2)
        noted = '{"spec":{"cpus":2}}'
        doc["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": noted, "mine": "1"}
        await w.make(INSTANCES, doc)
        (_, message, _), *_ = conflicts(await apply(w, instance(cpus=4)))
        assert message.startswith('conflict with "kubectl-client-side-apply"')
        made = await applied(w, instance(cpus=4), "kubectl")
        assert set(owners(made)) == {
            ("kubectl", "Apply"),
            ("kubectl-client-side-apply", "Update"),
            ("before-first-apply", "Update"),
        }
        assert owners(made)["before-first-apply", "Update"] == {"f:metadata": {"f:annotations": {"f:mine": {}}}}


@pytest.mark.parametrize(("sent", "kept"), [([{}], False), ([], True), (None, True)])
async def test_one_empty_entry_clears_managed_fields_and_an_empty_list_does_not(sent: Any, kept: bool) -> None:
    async with world() as w:
        doc = await applied(w, instance(cpus=2))
        doc["metadata"]["managedFields"] = sent
        put = await w.call("PUT", WEB, doc)
        assert put.code == 200, put.raw
        assert ("managedFields" in put.doc["metadata"]) is kept


async def test_managed_fields_can_be_rewritten_but_not_made_up() -> None:
    async with world() as w:
        doc = await applied(w, instance(cpus=2, memory="2Gi"))
        entry = doc["metadata"]["managedFields"][0] | {"manager": "bob"}
        ops = [
            {"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": doc["metadata"]["resourceVersion"]},
        ]
        moved = await w.call("PATCH", WEB, ops, headers=JSON_PATCH)
        assert moved.code == 200, moved.raw
        assert owners(moved.doc) == {("bob", "Apply"): {"f:spec": {"f:cpus": {}, "f:memory": {}}}}
        wrong: list[JSON] = [
            {"operation": "Eat"}, {"fieldsV1": {"cpus": {}}}, {"fieldsV1": {"f:spec": 1}}, {"manager": 1},
        ]  # fmt: skip
        for bad in wrong:
            change = {"metadata": {"managedFields": [entry | bad]}}
            refused = await w.call("PATCH", WEB, change, headers=MERGE)
            assert refused.code == 422, bad
            assert refused.doc["details"]["causes"][0]["field"].startswith("metadata.managedFields[0]")
        assert (await w.call("GET", WEB)).doc == moved.doc


async def test_object_that_nobody_applied_has_no_managed_fields_whatever_is_sent() -> None:
    async with world() as w:
        doc = instance(cpus=2)
        doc["metadata"]["managedFields"] = [{"manager": "x", "operation": "Update", "fieldsV1": {"f:spec": {}}}]
        made = await w.make(INSTANCES, doc)
        assert "managedFields" not in made["metadata"]
        put = await w.call("PUT", WEB, {**made, "metadata": made["metadata"] | doc["metadata"]})
        assert put.doc == made


async def test_dry_run_shows_the_result_and_the_conflicts_and_stores_nothing() -> None:
    async with world() as w:
        fresh = await apply(w, instance(cpus=2), dryRun="All")
        assert (fresh.code, fresh.doc["spec"]["cpus"]) == (201, 2)
        assert (await w.call("GET", WEB)).code == 404
        await applied(w, instance(cpus=2))
        before = w.store.committed
        assert (await applied(w, instance(cpus=4), dryRun="All"))["spec"]["cpus"] == 4
        assert (await apply(w, instance(cpus=4), "bob", dryRun="All")).code == 409
        assert w.store.committed == before


@pytest.mark.parametrize(
    ("change", "query", "code", "said"),
    [
        ({}, "", 422, "fieldManager"),
        ({}, "?fieldManager=" + "x" * 129, 422, "128"),
        ({"metadata": {"name": "web-1", "managedFields": []}}, "?fieldManager=a", 400, "managedFields must be nil"),
        ({"metadata": {"name": "web-2"}}, "?fieldManager=a", 400, "web-2"),
        ({"metadata": {"resourceVersion": "1"}}, "?fieldManager=a", 409, "modified"),
        ({"metadata": {"uid": "x"}}, "?fieldManager=a", 409, "uid"),
        ({"kind": "Host"}, "?fieldManager=a", 400, "Host"),
        ({"spec": {"cpuz": 2}}, "?fieldManager=a", 400, "cpuz"),
        ({"spec": {"cpus": "many"}}, "?fieldManager=a", 422, "spec.cpus"),
        ({"spec": {"disks": [ROOT, ROOT]}}, "?fieldManager=a", 422, "stands twice"),
        ({"spec": {"disks": {"root": 1}}}, "?fieldManager=a", 422, "spec.disks"),
        ({"spec": {"disks": [{"size": "1Gi"}]}}, "?fieldManager=a", 422, "spec.disks[0].name"),
        ({"spec": []}, "?fieldManager=a", 422, "spec"),
        ({"metadata": 1}, "?fieldManager=a", 400, "metadata"),
    ],
)
async def test_bad_apply_is_refused_and_says_why(change: JSON, query: str, code: int, said: str) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        before = w.store.committed
        refused = await w.call("PATCH", f"{WEB}{query}", instance() | change, headers=APPLY)
        assert (refused.code, said in refused.doc["message"]) == (code, True), refused.raw
        assert w.store.committed == before


@pytest.mark.parametrize("metadata", [{"resourceVersion": "7"}, {"uid": "some"}, {"name": "web-2"}])
async def test_apply_about_an_object_that_is_gone_does_not_make_another(metadata: JSON) -> None:
    async with world() as w:
        doc = instance()
        doc["metadata"] |= metadata
        assert (await apply(w, doc)).code in (400, 409)
        assert w.store.list("instances") == []


async def test_status_and_system_kinds_cannot_be_applied_and_strangers_may_not() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        assert (await apply(w, {"status": {"phase": "Running"}}, path=f"{WEB}/status")).code == 415
        assert (await apply(w, {}, path=f"{NANO}/addresses/lan.10.20.0.50")).code == 403
        for name in ("web-1", "web-2"):
            refused = await w.call(
                "PATCH", f"{INSTANCES}/{name}?fieldManager=a", instance(name), headers=APPLY, subject="stranger"
            )
            assert refused.code in (403, 404)


async def test_unknown_fields_are_owned_by_nobody() -> None:
    async with world() as w:
        made = await apply(w, instance(cpus=2, colour="red"), fieldValidation="Warn")
        assert made.code == 201
        assert "colour" in made.warnings[0]
        assert owners(made.doc) == {("ann", "Apply"): {"f:spec": {"f:cpus": {}}}}


async def test_object_and_what_is_noted_of_it_stay_within_the_limit_of_a_body() -> None:
    async with world() as w:
        labels = {f"l{number:05}": "" for number in range(50_000)}
        refused = await apply(w, instance() | {"metadata": {"labels": labels}})
        assert (refused.code, "managedFields" in refused.doc["message"]) == (413, True)
        assert w.store.list("instances") == []


async def test_labels_and_finalizers_under_nano_are_never_owned() -> None:
    async with world() as w:
        doc = instance()
        doc["metadata"] |= {"labels": {"nano/owner": "eve", "app": "web"}, "finalizers": ["nano/x", "a/b"]}
        made = await applied(w, doc)
        assert made["metadata"]["labels"] == {"nano/owner": "admin", "app": "web"}
        assert set(made["metadata"]["finalizers"]) == {"nano/instance", "a/b"}
        metadata: JSON = {"f:finalizers": {'v:"a/b"': {}}, "f:labels": {"f:app": {}}}
        assert owners(made)["ann", "Apply"] == {"f:metadata": metadata}
        left = await applied(w, instance())
        assert left["metadata"]["labels"] == {"nano/owner": "admin"}
        assert left["metadata"]["finalizers"] == ["nano/instance"]
        assert "managedFields" not in left["metadata"]


async def test_required_fields_and_other_keys_work_for_every_kind() -> None:
    async with world() as w:
        lan = f"{NANO}/addresspools/lan"
        assert (await apply(w, pool(), path=lan)).code == 201
        more = {"spec": {"ranges": [{"name": "high", "first": "10.20.0.150", "last": "10.20.0.160"}]}}
        both = await apply(w, more, "bob", path=lan)
        assert [one["name"] for one in both.doc["spec"]["ranges"]] == ["low", "high"]
        refused = await apply(w, {"spec": {"reserved": ["10.20.0.61"]}}, "bob", path=lan)
        assert [field for _, _, field in conflicts(refused)] == [".spec.reserved"], "a list of addresses is a whole"
        node = f"{NANO}/hosts/node-1"
        for by, network in (("ann", "lan"), ("bob", "dmz")):
            bridges = [{"network": network, "device": f"br-{network}"}]
            assert (await apply(w, {"spec": {"bridges": bridges}}, by, path=node)).code in (200, 201)
        assert len((await w.call("GET", node)).doc["spec"]["bridges"]) == 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
async def test_every_example_can_be_applied_and_applied_again(file: Path) -> None:
    async with world() as w:
        for doc in yaml.safe_load_all(file.read_text()):
            cls = by_kind(doc["kind"])
            assert cls is not None
            space = doc["metadata"].get("namespace", "default") if cls.facts.namespaced else ""
            root = "/api/v1" if cls.facts.group_version == "v1" else NANO
            path = f"{root}{'/namespaces/' + space if space else ''}/{cls.facts.plural}/{doc['metadata']['name']}"
            made = await applied(w, doc, path=path)
            assert await applied(w, doc, path=path) == made
            assert (await apply(w, doc, "bob", path=path)).code == 200
            left = await applied(w, {"spec": doc.get("spec", {})}, path=path)
            assert left["spec"] == made["spec"]


async def test_controllers_writes_keep_managed_fields() -> None:
    async with world() as w:
        made = await applied(w, instance(cpus=2))
        await w.call("DELETE", WEB)
        marked = (await w.call("GET", WEB)).doc
        assert marked["metadata"]["deletionTimestamp"]
        assert marked["metadata"]["managedFields"] == made["metadata"]["managedFields"]
        finalizers = {"metadata": {"name": "web-1", "finalizers": ["nano/instance", "nano/more"]}, "spec": {"cpus": 2}}
        key = Key("instances", "default", "web-1")
        (entry,) = (await transact(w.store, [Update(key, finalizers)], "system:controllers")).entries
        assert entry is not None
        assert load(entry.raw)["metadata"]["managedFields"] == made["metadata"]["managedFields"]


@pytest.mark.parametrize("words", ["force=true", "force=false", "fieldManager=a&force"])
@pytest.mark.parametrize(("headers", "patch"), [(MERGE, {"spec": {"cpus": 9}}), (JSON_PATCH, [])])
async def test_force_is_for_apply_patches_alone(words: str, headers: JSON, patch: Any) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        for path in (WEB, f"{WEB}/status"):
            refused = await w.call("PATCH", f"{path}?{words}", patch, headers=headers)
            assert (refused.code, [cause["field"] for cause in refused.doc["details"]["causes"]]) == (422, ["force"])
