"""Each verb of the API does what Kubernetes clients expect of it."""

from typing import Any

import pytest

from nanovirt.portal.api.protobuf import piece
from nanovirt.resources.codec import load
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Update, transact
from tests.portal.api_world import INSTANCES, JSON_PATCH, MERGE, NANO, instance, pool, world

TEMPLATES = f"{NANO}/systemtemplates"


async def test_created_object_has_defaults_and_what_the_server_owns() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance(cpus=2))
        assert made["spec"]["cpus"] == 2
        assert made["spec"]["memory"] == "1Gi"
        assert made["metadata"]["generation"] == 1
        assert made["metadata"]["labels"] == {"nano/owner": "admin"}
        assert made["metadata"]["finalizers"] == ["nano/instance"]
        assert made["metadata"]["uid"]
        assert (await w.call("GET", f"{INSTANCES}/web-1")).doc == made


async def test_list_has_items_in_key_order_and_the_stores_revision() -> None:
    async with world() as w:
        for name in ("b", "a", "c"):
            await w.make(INSTANCES, instance(name))
        listed = (await w.call("GET", INSTANCES)).doc
        assert listed["kind"] == "InstanceList"
        assert listed["apiVersion"] == "nano/v1"
        assert [one["metadata"]["name"] for one in listed["items"]] == ["a", "b", "c"]
        assert listed["metadata"] == {"resourceVersion": str(w.store.committed)}
        assert len((await w.call("GET", f"{NANO}/instances")).doc["items"]) == 3
        assert (await w.call("GET", f"{NANO}/namespaces/team-a/instances")).doc["items"] == []


async def test_put_replaces_the_spec_and_leaves_the_status() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance(cpus=2))
        await w.call("PATCH", f"{INSTANCES}/web-1/status", {"status": {"phase": "Running"}}, headers=MERGE)
        made["spec"]["cpus"] = 3
        made["metadata"].pop("resourceVersion")
        made["status"] = {"phase": "Failed"}
        put = await w.call("PUT", f"{INSTANCES}/web-1", made)
        assert put.code == 200, put.raw
        assert put.doc["spec"]["cpus"] == 3
        assert put.doc["status"]["phase"] == "Running"
        assert put.doc["metadata"]["generation"] == 2
        assert put.doc["metadata"]["finalizers"] == ["nano/instance"]


async def test_put_of_what_is_not_there_is_404_and_creates_nothing() -> None:
    async with world() as w:
        assert (await w.call("PUT", f"{INSTANCES}/web-1", instance())).code == 404
        assert w.store.list("instances") == []


async def test_status_write_ignores_the_spec_and_is_checked() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance(cpus=2))
        change = {"spec": {"cpus": 9}, "status": {"phase": "Running", "host": "node-1"}}
        patched = await w.call("PATCH", f"{INSTANCES}/web-1/status", change, headers=MERGE)
        assert (patched.doc["spec"]["cpus"], patched.doc["status"]["host"]) == (2, "node-1")
        assert patched.doc["metadata"]["generation"] == 1
        bad = await w.call("PATCH", f"{INSTANCES}/web-1/status", {"status": {"phase": "Nice"}}, headers=MERGE)
        assert bad.code == 422
        assert bad.doc["details"]["causes"][0]["field"] == "status.phase"
        assert (await w.call("GET", f"{INSTANCES}/web-1/status")).doc["status"]["phase"] == "Running"


async def test_merge_patch_and_json_patch_change_one_field() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance(cpus=2))
        merged = await w.call("PATCH", f"{INSTANCES}/web-1", {"metadata": {"labels": {"app": "web"}}}, headers=MERGE)
        assert merged.doc["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
        ops = [{"op": "test", "path": "/spec/cpus", "value": 2}, {"op": "replace", "path": "/spec/cpus", "value": 4}]
        patched = await w.call("PATCH", f"{INSTANCES}/web-1", ops, headers=JSON_PATCH)
        assert patched.doc["spec"]["cpus"] == 4
        assert (await w.call("PATCH", f"{INSTANCES}/web-1", ops, headers=JSON_PATCH)).code == 422


@pytest.mark.parametrize("kind", ["application/strategic-merge-patch+json", "text/plain"])
async def test_other_patches_are_415(kind: str) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        refused = await w.call("PATCH", f"{INSTANCES}/web-1", {}, headers={"Content-Type": kind})
        assert (refused.code, refused.doc["reason"]) == (415, "UnsupportedMediaType")


async def test_write_that_changes_nothing_keeps_the_revision() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance(cpus=2))
        same = await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": 2}}, headers=MERGE)
        assert same.doc["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_stale_revision_is_a_conflict() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance(cpus=2))
        await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"cpus": 3}}, headers=MERGE)
        stale = await w.call("PUT", f"{INSTANCES}/web-1", made)
        assert (stale.code, stale.doc["reason"]) == (409, "Conflict")
        change = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
        assert (await w.call("PATCH", f"{INSTANCES}/web-1", change, headers=MERGE)).code == 409


async def test_refusal_waits_until_what_it_gives_away_can_be_read() -> None:
    async with world() as w:
        w.store.stage([Create(Key("systemtemplates", "", "base"), {"metadata": {"name": "base"}})], "bob", patient=True)
        doc = {"apiVersion": "nano/v1", "kind": "SystemTemplate", "metadata": {"name": "base"}, "spec": {}}
        assert (await w.call("POST", TEMPLATES, doc)).code == 409
        assert w.store.get(Key("systemtemplates", "", "base")).rev == w.store.committed


async def test_delete_waits_for_finalizers_and_answers_with_the_object() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        marked = await w.call("DELETE", f"{INSTANCES}/web-1", {"propagationPolicy": "Background"})
        assert marked.doc["metadata"]["deletionTimestamp"]
        change = {"metadata": {"finalizers": None}}
        assert (await w.call("PATCH", f"{INSTANCES}/web-1", change, headers=MERGE)).code == 200
        assert (await w.call("GET", f"{INSTANCES}/web-1")).code == 200, "the finalizers under nano/ are the server's"


async def test_delete_without_finalizers_answers_success_with_the_uid() -> None:
    async with world() as w:
        made = await w.make(f"{NANO}/addresspools", pool())
        gone = await w.call("DELETE", f"{NANO}/addresspools/lan")
        assert (gone.code, gone.doc["status"]) == (200, "Success")
        assert gone.doc["details"]["uid"] == made["metadata"]["uid"]
        assert (await w.call("GET", f"{NANO}/addresspools/lan")).code == 404


@pytest.mark.parametrize("key", ["a b", "ü", "a/b/c", "-x", "x-", "/x", "x/", "A.b/c", "x" * 64])
async def test_a_label_that_no_selector_can_name_is_refused_and_one_that_is_there_stays(key: str) -> None:
    async with world() as w:
        await w.make(f"{NANO}/addresspools", pool())
        change = {"metadata": {"labels": {key: "v"}}}
        refused = await w.call("PATCH", f"{NANO}/addresspools/lan", change, headers=MERGE)
        assert (refused.code, refused.doc["details"]["causes"][0]["field"]) == (422, "metadata.labels")
        kept = load(w.store.get(Key("addresspools", "", "lan")).raw)
        kept["metadata"]["labels"][key] = "v"  # as an older release stored it
        await transact(w.store, [Update(Key("addresspools", "", "lan"), kept)], "system")
        more = {"metadata": {"labels": {"example.com/tier_1.b": "v"}}}
        changed = await w.call("PATCH", f"{NANO}/addresspools/lan", more, headers=MERGE)
        assert changed.doc["metadata"]["labels"] == {"nano/owner": "admin", key: "v", "example.com/tier_1.b": "v"}


async def test_what_a_set_makes_gets_no_label_that_no_selector_can_name() -> None:
    async with world() as w:
        doc = instance("web")
        doc["kind"], doc["spec"] = (
            "InstanceSet",
            {"template": {"metadata": {"labels": {"a b": "v"}}, "spec": doc["spec"]}},
        )
        refused = await w.call("POST", f"{NANO}/namespaces/default/instancesets", doc)
        assert (refused.code, refused.doc["details"]["causes"][0]["field"]) == (422, "spec.template.metadata.labels")


async def test_own_finalizers_can_be_given_and_taken() -> None:
    async with world() as w:
        doc = pool()
        doc["metadata"]["finalizers"] = ["example/wait"]
        await w.make(f"{NANO}/addresspools", doc)
        assert (await w.call("DELETE", f"{NANO}/addresspools/lan")).doc["metadata"]["deletionTimestamp"]
        change: Any = {"metadata": {"finalizers": []}}
        done = await w.call("PATCH", f"{NANO}/addresspools/lan", change, headers=MERGE)
        assert (done.code, done.doc["kind"]) == (200, "AddressPool"), "clients read the answer as the object"
        assert "finalizers" not in done.doc["metadata"]
        assert (await w.call("GET", f"{NANO}/addresspools/lan")).code == 404


async def test_delete_precondition_on_another_uid_is_a_conflict() -> None:
    async with world() as w:
        await w.make(f"{NANO}/addresspools", pool())
        wrong = {"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}}
        assert (await w.call("DELETE", f"{NANO}/addresspools/lan", wrong)).code == 409
        assert (await w.call("GET", f"{NANO}/addresspools/lan")).code == 200


async def test_collection_is_deleted_by_selector_all_or_nothing() -> None:
    async with world() as w:
        for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
            doc = instance(name, deletionProtection=name == "b")
            doc["metadata"]["labels"] = {"app": app}
            await w.make(INSTANCES, doc)
        refused = await w.call("DELETE", f"{INSTANCES}?labelSelector=app%3Dweb")
        assert refused.code == 409
        assert not any(entry.deleting for _, entry in w.store.list("instances"))
        await w.call("PATCH", f"{INSTANCES}/b", {"spec": {"deletionProtection": False}}, headers=MERGE)
        assert (await w.call("DELETE", f"{INSTANCES}?labelSelector=app%3Dweb")).code == 200
        assert [key.name for key, entry in w.store.list("instances") if entry.deleting] == ["a", "b"]


@pytest.mark.parametrize(("method", "doc"), [("POST", instance("new")), ("DELETE", None)])
async def test_dry_run_answers_as_if_and_stores_nothing(method: str, doc: Any) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        before = w.store.committed
        path = INSTANCES if method == "POST" else f"{INSTANCES}/web-1"
        said = await w.call(method, f"{path}?dryRun=All", doc)
        assert said.code in (200, 201)
        assert said.doc["metadata"]["uid"]
        assert w.store.committed == before
        assert [key.name for key, entry in w.store.list("instances") if not entry.deleting] == ["web-1"]


async def test_dry_run_refuses_what_a_real_one_would() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        assert (await w.call("POST", f"{INSTANCES}?dryRun=All", instance())).code == 409
        assert (await w.call("POST", f"{INSTANCES}?dryRun=Some", instance("x"))).code == 400
        patched = await w.call("PATCH", f"{INSTANCES}/web-1?dryRun=All", {"spec": {"cpus": 7}}, headers=MERGE)
        assert patched.doc["spec"]["cpus"] == 7
        assert (await w.call("GET", f"{INSTANCES}/web-1")).doc["spec"]["cpus"] == 1


async def test_generated_names_have_five_random_letters() -> None:
    async with world() as w:
        doc = instance()
        doc["metadata"] = {"generateName": "web-"}
        names = {(await w.make(INSTANCES, doc))["metadata"]["name"] for _ in range(3)}
        assert len(names) == 3
        assert {len(name) for name in names} == {9}


async def test_unknown_field_is_refused_warned_of_or_ignored() -> None:
    async with world() as w:
        doc = instance("a", colour="red")
        strict = await w.call("POST", INSTANCES, doc)
        assert strict.code == 400
        assert 'unknown field "spec.colour"' in strict.doc["message"]
        warned = await w.call("POST", f"{INSTANCES}?fieldValidation=Warn", doc)
        assert warned.code == 201
        assert warned.warnings[0] == r'299 - "unknown field \"spec.colour\""'
        assert "colour" not in warned.doc["spec"]
        doc["metadata"]["name"] = "b"
        ignored = await w.call("POST", f"{INSTANCES}?fieldValidation=Ignore", doc)
        assert (ignored.code, [one for one in ignored.warnings if "colour" in one]) == (201, [])


async def test_objects_travel_the_same_way_back() -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance(disks=[{"name": "system", "size": "20Gi"}]))
        made["metadata"].pop("resourceVersion")
        put = await w.call("PUT", f"{INSTANCES}/web-1", made)
        assert put.doc["metadata"]["generation"] == 1
        assert put.doc == (await w.call("GET", f"{INSTANCES}/web-1")).doc


async def test_a_limit_holds_for_a_collection_that_is_deleted_too() -> None:
    async with world() as w:
        for name in ("a", "b", "c"):
            await w.make(TEMPLATES, {"metadata": {"name": name}})
        assert (await w.call("DELETE", f"{TEMPLATES}?limit=2")).code == 200
        assert [one["metadata"]["name"] for one in (await w.call("GET", TEMPLATES)).doc["items"]] == ["c"]


@pytest.mark.parametrize("query", [True, False])
async def test_propagation_policy_becomes_a_finalizer(query: bool) -> None:
    async with world() as w:
        for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
            await w.make(TEMPLATES, {"metadata": {"name": finalizer.lower()}})
            path = f"{TEMPLATES}/{finalizer.lower()}" + (f"?propagationPolicy={policy}" if query else "")
            gone = await w.call("DELETE", path, None if query else {"propagationPolicy": policy})
            assert gone.doc["metadata"]["finalizers"] == [finalizer]
            assert gone.doc["metadata"]["deletionTimestamp"]
        await w.make(TEMPLATES, {"metadata": {"name": "a"}})
        refused = await w.call("DELETE", f"{TEMPLATES}/a", {"propagationPolicy": "Sideways"})
        assert (refused.code, refused.doc["details"]["causes"][0]["field"]) == (422, "propagationPolicy")
        plain = await w.call("DELETE", f"{TEMPLATES}/a", {"propagationPolicy": "Background", "gracePeriodSeconds": 0})
        assert plain.doc["status"] == "Success"


async def test_delete_options_in_protobuf_are_obeyed() -> None:
    async with world() as w:
        made = await w.make(TEMPLATES, {"metadata": {"name": "a"}})
        head = piece(1, piece(1, "v1") + piece(2, "DeleteOptions"))
        headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}

        async def delete(options: bytes) -> Any:
            body = b"k8s\0" + head + piece(2, options)
            return await w.call("DELETE", f"{TEMPLATES}/a", headers=headers, data=body)

        assert (await delete(piece(2, piece(1, "another uid")))).code == 409
        dry = await delete(piece(2, piece(1, made["metadata"]["uid"])) + piece(5, "All"))
        assert dry.code == 200
        waiting = await delete(piece(4, "Foreground"))
        assert waiting.doc["metadata"]["finalizers"] == ["foregroundDeletion"]
