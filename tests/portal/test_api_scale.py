"""The sub-resource `scale`: read, replaced and patched by clients that know nothing else of an InstanceSet."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.codec import decode
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import SET_LABEL
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.scale import SUBRESOURCE
from tests.portal.api_world import INSTANCES, JSON_PATCH, MERGE, NANO, Reply, World, instance, world
from tests.portal.people_world import document, group, people_world, role
from tests.portal.set_world import named, send

SETS = f"{NANO}/namespaces/default/instancesets"
WEB, SCALE = f"{SETS}/web", f"{SETS}/web/scale"
DISK = {"name": "system", "size": "10Gi"}


def a_set(name: str = "web", replicas: int = 3, **spec: Any) -> dict[str, Any]:
    spec = {"replicas": replicas, "template": {"spec": {"disks": [DISK]}}, **spec}
    return {"apiVersion": "nano/v1", "kind": "InstanceSet", "metadata": {"name": name}, "spec": spec}


def scale(replicas: int | None, **metadata: str) -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", **metadata}, "spec": spec}


async def replicas(w: World) -> int:
    return int((await w.call("GET", WEB)).doc["spec"]["replicas"])


async def test_scale_shows_wish_state_and_selector() -> None:
    async with world() as w:
        made = await w.make(SETS, a_set())
        status = {"replicas": 2, "selector": "nano/instance-set=web"}
        await w.call("PATCH", f"{WEB}/status", {"status": status}, headers=MERGE)
        found = (await w.call("GET", SCALE)).doc
        metadata = found.pop("metadata")
        assert found == {"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {"replicas": 3}, "status": status}
        assert (metadata["name"], metadata["namespace"]) == ("web", "default")
        assert (metadata["uid"], int(metadata["resourceVersion"])) == (made["metadata"]["uid"], w.store.committed)


@pytest.mark.parametrize("content_type", ["application/json", None])
async def test_put_changes_the_wish_and_nothing_else(content_type: str | None) -> None:
    async with world() as w:
        made = await w.make(SETS, a_set(displayName="Front"))
        headers = {"Content-Type": content_type} if content_type else {}
        raw = b'{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":7}}'
        put = await w.call("PUT", SCALE, data=raw, headers=headers, skip_auto_headers=("Content-Type",))
        assert (put.code, put.doc["kind"], put.doc["spec"]) == (200, "Scale", {"replicas": 7})
        after = (await w.call("GET", WEB)).doc
        assert after["spec"] == {**made["spec"], "replicas": 7}
        assert after["metadata"]["generation"] == 2


async def test_put_without_replicas_means_none_as_clients_in_go_write_it() -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        assert (await w.call("PUT", SCALE, scale(None))).doc["spec"] == {"replicas": 0}
        assert await replicas(w) == 0


@pytest.mark.parametrize(
    ("headers", "patch"),
    [
        (MERGE, {"spec": {"replicas": 5}}),
        (JSON_PATCH, [{"op": "replace", "path": "/spec/replicas", "value": 5}]),
    ],
    ids=["merge", "json"],
)
async def test_patch_changes_the_wish(headers: dict[str, str], patch: Any) -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        patched = await w.call("PATCH", SCALE, patch, headers=headers)
        assert (patched.code, patched.doc["spec"]) == (200, {"replicas": 5})
        assert await replicas(w) == 5


async def test_dry_run_tells_and_stores_nothing() -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        dry = await w.call("PATCH", f"{SCALE}?dryRun=All", {"spec": {"replicas": 9}}, headers=MERGE)
        assert (dry.code, dry.doc["spec"]) == (200, {"replicas": 9})
        assert await replicas(w) == 3


async def test_scale_of_an_older_state_is_a_conflict() -> None:
    async with world() as w:
        version = (await w.make(SETS, a_set()))["metadata"]["resourceVersion"]
        assert (await w.call("PUT", SCALE, scale(4, resourceVersion=version))).code == 200
        late = await w.call("PUT", SCALE, scale(5, resourceVersion=version))
        assert (late.code, late.doc["reason"]) == (409, "Conflict")
        stale = {"metadata": {"resourceVersion": version}, "spec": {"replicas": 5}}
        assert (await w.call("PATCH", SCALE, stale, headers=MERGE)).code == 409
        other = scale(5, uid="00000000-0000-0000-0000-000000000000")
        assert (await w.call("PUT", SCALE, other)).code == 409
        assert await replicas(w) == 4


@pytest.mark.parametrize(
    ("doc", "code", "field"),
    [
        (scale(-1), 422, "spec.replicas"),
        (scale(1001), 422, "spec.replicas"),
        ({**scale(1), "spec": {"replicas": "many"}}, 422, "spec.replicas"),
        ({**scale(1), "spec": {"replicaz": 1}}, 400, "spec.replicaz"),
        ({**scale(1), "kind": "InstanceSet"}, 400, ""),
        ({**scale(1), "apiVersion": "nano/v1"}, 400, ""),
        ({"metadata": {"name": "web"}}, 422, "spec"),
        (scale(1) | {"metadata": {"name": "other"}}, 400, ""),
        (scale(1) | {"metadata": []}, 400, ""),
    ],
)
async def test_bad_scale_is_refused_with_its_field(doc: dict[str, Any], code: int, field: str) -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        refused = await w.call("PUT", SCALE, doc)
        assert refused.code == code, refused.raw
        if field:
            assert field in [one["field"] for one in refused.doc["details"]["causes"]]
        assert await replicas(w) == 3


async def test_other_kinds_have_no_scale_and_a_scale_is_neither_made_nor_deleted() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        await w.make(SETS, a_set())
        assert (await w.call("GET", f"{INSTANCES}/web-1/scale")).code == 404
        assert (await w.call("PUT", f"{INSTANCES}/web-1/scale", scale(1))).code == 404
        for method in ("POST", "DELETE"):
            assert (await w.call(method, SCALE, scale(1))).code == 405
        apply = {"Content-Type": "application/apply-patch+yaml"}
        assert (await w.call("PATCH", f"{SCALE}?fieldManager=x", scale(1), headers=apply)).code == 415
        assert (await w.call("GET", f"{SETS}/none/scale")).code == 404


async def test_managed_fields_tell_who_scaled() -> None:
    async with world() as w:
        apply = {"Content-Type": "application/apply-patch+yaml"}
        await w.call("PATCH", f"{WEB}?fieldManager=me", a_set(), headers=apply)
        await w.call("PATCH", f"{SCALE}?fieldManager=scaler", {"spec": {"replicas": 5}}, headers=MERGE)
        fields = (await w.call("GET", WEB)).doc["metadata"]["managedFields"]
        owners = [one["manager"] for one in fields if "f:replicas" in one["fieldsV1"].get("f:spec", {})]
        assert owners == ["scaler"]


async def test_scale_repeated_under_its_key_is_answered_as_a_scale() -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        key = {"Idempotency-Key": "5f2c7c9a-once", **MERGE}
        first, again = [await w.call("PATCH", SCALE, {"spec": {"replicas": 5}}, headers=key) for _ in range(2)]
        assert (first.code, again.code) == (200, 200)
        assert first.doc == again.doc
        assert again.doc["kind"] == "Scale"


async def test_discovery_and_openapi_know_scale_by_its_own_kind() -> None:
    async with world() as w:
        legacy = (await w.call("GET", NANO)).doc["resources"]
        found = {one["name"]: one for one in legacy if one["name"].endswith("/scale")}
        scalable = {f"{plural}/{SUBRESOURCE}" for plural, cls in KINDS.items() if cls.facts.scaling}
        assert found.keys() == scalable == {"instancesets/scale"}
        entry = found["instancesets/scale"]
        assert (entry["group"], entry["version"], entry["kind"]) == ("autoscaling", "v1", "Scale")
        assert entry["verbs"] == ["get", "patch", "update"]
        accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
        groups = (await w.call("GET", "/apis", headers=accept)).doc["items"]
        sets = next(one for one in groups[0]["versions"][0]["resources"] if one["resource"] == "instancesets")
        subs = {one["subresource"]: one["responseKind"] for one in sets["subresources"]}
        assert subs["scale"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        schema = (await w.call("GET", "/openapi/v3/apis/nano/v1")).doc
        path = schema["paths"]["/apis/nano/v1/namespaces/{namespace}/instancesets/{name}/scale"]
        assert path["put"]["x-kubernetes-group-version-kind"]["kind"] == "Scale"
        assert "io.k8s.api.autoscaling.v1.Scale" in schema["components"]["schemas"]
        assert b"autoscaling.v1.Scale" in (await w.call("GET", "/openapi/v2")).raw


# --- who may ----------------------------------------------------------------------------------------------


async def test_scale_has_a_right_of_its_own() -> None:
    async with people_world() as p:
        await p.does(
            role("scaler", (["instancesets/scale"], ["get", "update", "patch"])),
            role("editor", (["instancesets"], ["get", "update", "patch"])),
            role("looker", (["instancesets/scale"], ["get"])),
        )
        for name in ("scaler", "editor", "looker"):
            await p.user(name)
            await p.does(group(name, [name], [name], ["team-a"], {"instancesets": "Group"}))
        await p.does(document("instancesets", "web", "team-a", "bob", replicas=3, nameRule="web-{index}"))
        path = f"{NANO}/namespaces/team-a/instancesets/web"
        patch = {"spec": {"replicas": 4}}
        expected = {"scaler": (200, 200, 403), "editor": (403, 403, 200), "looker": (200, 403, 403)}
        for who, (reading, scaling, editing) in expected.items():
            assert (await p.call(who, "GET", f"{path}/scale")).code == reading, who
            assert (await p.call(who, "PATCH", f"{path}/scale", patch)).code == scaling, who
            assert (await p.call(who, "PATCH", path, patch)).code == editing, who
            for verb, code in (("get", reading), ("patch", scaling), ("update", scaling)):
                said = await p.can(who, verb, "instancesets", "team-a", "web", "scale")
                assert said == (code != 403), (who, verb)


async def test_scale_of_what_one_may_not_see_is_like_that_of_what_is_not_there() -> None:
    async with people_world() as p:
        await p.does(role("scaler", (["instancesets/scale", "instancesets"], ["get", "update", "patch"])))
        await p.user("alice")
        await p.does(group("a", ["alice"], ["scaler"], ["team-a"]))
        await p.does(document("instancesets", "theirs", "team-a", "bob", replicas=3))
        sets = f"{NANO}/namespaces/team-a/instancesets"
        for method, doc in (("GET", None), ("PATCH", {"spec": {"replicas": 1}}), ("PUT", scale(1))):
            there = await p.call("alice", method, f"{sets}/theirs/scale", doc)
            gone = await p.call("alice", method, f"{sets}/absent/scale", doc)
            assert (there.code, there.raw.replace(b"theirs", b"absent")) == (404, gone.raw)


# --- admission --------------------------------------------------------------------------------------------


def _causes(reply: Reply) -> dict[str, str]:
    return {one["field"]: one["reason"] for one in reply.doc["details"]["causes"]}


async def test_template_is_checked_like_an_instance() -> None:
    async with world() as w:
        disks = [{"name": "a"}, {"name": "a", "size": "1Gi"}]
        nics = [{"name": "lan", "addressPool": "lan", "ip": "10.20.0.50", "mac": "52:54:00:00:00:01"}]
        bad = {"spec": {"cpus": 0, "startPriority": 3}}
        refused = await w.call("POST", SETS, a_set(template=bad))
        assert _causes(refused) == {"spec.template.spec.cpus": "FieldValueInvalid"}
        refused = await w.call("POST", SETS, a_set(template={"spec": {"disks": disks, "nics": nics, "memory": "1Ki"}}))
        assert _causes(refused) == {
            "spec.template.spec.disks[1].name": "FieldDuplicate",
            "spec.template.spec.disks[0].size": "FieldValueRequired",
            "spec.template.spec.memory": "FieldValueInvalid",
            "spec.template.spec.nics[0].ip": "NotInTemplate",
            "spec.template.spec.nics[0].mac": "NotInTemplate",
        }
        for rule in ("web", "{index}{index}", "Web-{index}", "w" * 60 + "-{index}", "{index}-{nane}"):
            assert _causes(await w.call("POST", SETS, a_set(nameRule=rule))) == {"spec.nameRule": "FieldValueInvalid"}
        assert _causes(await w.call("POST", SETS, a_set("w.b"))) == {"spec.nameRule": "FieldValueInvalid"}
        assert _causes(await w.call("POST", SETS, a_set("w.b", nameRule="w-{index}"))).keys() == {"metadata.name"}
        assert (await w.call("POST", SETS, a_set(template={"metadata": {"name": "x"}}))).code == 400


async def test_name_rule_stays_as_it_is() -> None:
    async with world() as w:
        await w.make(SETS, a_set())
        moved = await w.call("PATCH", WEB, {"spec": {"nameRule": "other-{index}"}}, headers=MERGE)
        assert _causes(moved) == {"spec.nameRule": "FieldImmutable"}


async def test_reference_of_a_template_warns_keeps_its_target_and_shows_nothing_of_others() -> None:
    async with world() as w:
        template = {"spec": {"disks": [{"name": "system", "source": {"image": "mini"}}]}}
        made = await w.call("POST", SETS, a_set(template=template))
        assert made.code == 201
        missing = "spec.template.spec.disks[0].source.image: Image mini does not exist."
        assert any(missing in one for one in made.warnings)
        image = {"metadata": {"name": "mini"}, "spec": {"type": "Disk", "source": {"upload": {}}}}
        await w.make(f"{NANO}/namespaces/default/images", image)
        refused = await w.call("DELETE", f"{NANO}/namespaces/default/images/mini")
        assert (refused.code, "instancesets/default/web" in refused.doc["message"]) == (409, True)


async def test_user_cannot_use_in_a_template_what_he_may_not_see() -> None:
    async with people_world() as p:
        await p.does(role("maker", (["instancesets", "images"], ["get", "create"])))
        await p.user("alice")
        await p.does(group("a", ["alice"], ["maker"], ["team-a"]))
        spec = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
        await p.does(document("images", "theirs", "team-a", "bob", **spec))
        doc = a_set(template={"spec": {"disks": [{"name": "system", "source": {"image": "theirs"}}]}})
        refused = await p.call("alice", "POST", f"{NANO}/namespaces/team-a/instancesets", doc)
        assert _causes(refused) == {"spec.template.spec.disks[0].source.image": "ReferenceMissing"}


async def test_set_does_not_grow_from_what_its_user_may_not_see_any_more() -> None:
    async with people_world() as p:
        rules = (["instancesets", "images"], ["get", "create", "update", "patch"]), (["instancesets/scale"], ["update"])
        await p.does(role("maker", *rules))
        for name in ("alice", "bob"):
            await p.user(name)
        await p.does(group("a", ["alice"], ["maker"], ["team-a"]))
        spec = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
        await p.does(document("images", "mini", "team-a", "alice", **spec))
        sets = f"{NANO}/namespaces/team-a/instancesets"
        template = {"spec": {"disks": [{"name": "system", "source": {"image": "mini"}}]}}
        assert (await p.call("alice", "POST", sets, a_set(template=template, replicas=3))).code == 201
        given = await p.call("admin", "POST", f"{NANO}/namespaces/team-a/images/mini/owner", {"user": "bob"})
        assert given.code == 200
        for replicas, code in ((2, 200), (3, 422)):
            for path, doc in (("", {"spec": {"replicas": replicas}}), ("/scale", scale(replicas))):
                verb = "PUT" if path else "PATCH"
                answer = await p.call("alice", verb, f"{sets}/web{path}", doc)
                assert answer.code == code, (replicas, path, answer.raw)
        assert (await p.call("alice", "PATCH", f"{sets}/web", {"spec": {"displayName": "x"}})).code == 200
        assert (await p.call("admin", "PUT", f"{sets}/web/scale", scale(4))).code == 200


async def test_set_with_a_protected_member_stays() -> None:
    async with world() as w:
        made = await w.make(SETS, a_set())
        owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "web", "uid": made["metadata"]["uid"]}
        member = instance("web-1", deletionProtection=True)
        member["metadata"] |= {"ownerReferences": [owner], "namespace": "default"}
        await w.make(INSTANCES, {**member, "metadata": {**member["metadata"], "name": "strange"}})
        member["metadata"]["labels"] = {"nano/instance-set": "web"}
        await w.store_raw(Key("instances", "default", "web-1"), decode(Instance, member).to_json())
        refused = await w.call("DELETE", WEB)
        assert (refused.code, "deletionProtection of its member web-1" in refused.doc["message"]) == (409, True)
        free = await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"deletionProtection": False}}, headers=MERGE)
        assert free.code == 200, free.raw
        assert (await w.call("DELETE", WEB)).code == 200


@pytest.mark.parametrize(("before", "code"), [(True, 200), (False, 409)])
async def test_protection_that_a_set_of_writes_ends_or_begins_counts_for_its_deletions(before: bool, code: int) -> None:
    async with world() as w:
        made = await w.make(SETS, a_set())
        owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "web", "uid": made["metadata"]["uid"]}
        member = instance("web-1", deletionProtection=before)
        member["metadata"] |= {"ownerReferences": [owner], "labels": {SET_LABEL: "web"}, "namespace": "default"}
        await w.store_raw(Key("instances", "default", "web-1"), decode(Instance, member).to_json())
        turned = {"spec": {"deletionProtection": not before}}
        writes = (
            named("patch", "Instance", "web-1", "default", patch=turned),
            named("delete", "InstanceSet", "web", "default"),
        )
        sent = await send(w, *writes)
        assert sent.code == code, sent.raw


async def test_nobody_gives_an_instance_the_labels_of_a_member() -> None:
    async with world() as w:
        doc = instance()
        doc["metadata"]["labels"] = {"nano/instance-set": "web", "nano/template": "x", "app": "web"}
        assert (await w.make(INSTANCES, doc))["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
