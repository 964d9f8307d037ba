"""Whatever is wrong with a request is told as a Status, and nothing of it is stored."""

import io
from typing import Any

import pytest

from tests.portal.api_world import INSTANCES, MERGE, NANO, instance, pool, world

POOLS = f"{NANO}/addresspools"
MULTICAST = "01:00:5e:00:00:01"
DEEP = b'{"spec":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}"

BAD: list[tuple[str, str, Any, int, str]] = [
    ("not JSON", INSTANCES, b"{", 400, ""),
    ("a list", INSTANCES, b"[]", 400, ""),
    ("too deep", INSTANCES, DEEP, 400, ""),
    ("too large", INSTANCES, b'{"a":"' + b"x" * 1024 * 1024 + b'"}', 413, ""),
    ("no name", INSTANCES, {"kind": "Instance"}, 422, "metadata.name"),
    ("name that is a path", INSTANCES, instance("../x"), 422, "metadata.name"),
    ("name with capitals", INSTANCES, instance("Web"), 422, "metadata.name"),
    ("name that is a number", INSTANCES, {"metadata": {"name": 5}}, 422, "metadata.name"),
    ("wrong kind", INSTANCES, {**instance(), "kind": "Host"}, 400, ""),
    ("wrong apiVersion", INSTANCES, {**instance(), "apiVersion": "nano/v2"}, 400, ""),
    ("another namespace", INSTANCES, {"metadata": {"name": "a", "namespace": "team-a"}}, 400, ""),
    ("namespace of a cluster-scoped kind", POOLS, {"metadata": {"name": "lan", "namespace": "default"}}, 400, ""),
    ("metadata that is a text", INSTANCES, {"metadata": "x"}, 400, ""),
    ("no namespace in the path", f"{NANO}/instances", instance(), 405, ""),
    ("namespace that is not there", f"{NANO}/namespaces/gone/instances", instance(), 404, ""),
    ("unknown metadata", INSTANCES, {"metadata": {"name": "a", "lables": {}}}, 400, "metadata.lables"),
    ("unknown field at the top", INSTANCES, {**instance(), "specs": {}}, 400, "specs"),
    ("unknown field", INSTANCES, instance(colour="red"), 400, "spec.colour"),
    ("unknown field in a list", INSTANCES, instance(disks=[{"name": "a", "x": 1}]), 400, "spec.disks[0].x"),
    ("negative cpus", INSTANCES, instance(cpus=-1), 422, "spec.cpus"),
    ("wrong unit", INSTANCES, instance(memory="4Gigs"), 422, "spec.memory"),
    ("negative size", INSTANCES, instance(disks=[{"name": "a", "size": "-1Gi"}]), 422, "spec.disks[0].size"),
    ("unknown enum", INSTANCES, instance(powerState="Sleeping"), 422, "spec.powerState"),
    ("not built yet", INSTANCES, instance(scheduling={"affinity": {"a": "b"}}), 422, "spec.scheduling.affinity"),
    ("disk named twice", INSTANCES, instance(disks=[{"name": "a", "size": "1Gi"}] * 2), 422, "spec.disks[1].name"),
    (
        "multicast MAC",
        INSTANCES,
        instance(nics=[{"name": "a", "network": "x", "mac": MULTICAST}]),
        422,
        "spec.nics[0].mac",
    ),
    ("label with a blank", INSTANCES, {"metadata": {"name": "a", "labels": {"a": "b c"}}}, 422, "metadata.labels"),
    ("range outside the subnet", POOLS, pool(last="10.21.0.9"), 422, "spec.ranges[0].last"),
    ("range reversed", POOLS, pool(first="10.20.0.90", last="10.20.0.80"), 422, "spec.ranges[0]"),
    ("system kind", f"{NANO}/addresses", {"metadata": {"name": "a"}}, 403, ""),
    ("unknown kind", f"{NANO}/machines", {"metadata": {"name": "a"}}, 404, ""),
    ("unknown group", "/apis/other/v1/machines", {}, 404, ""),
    ("unknown sub-resource", f"{INSTANCES}/web-1/eject", {}, 404, ""),
    ("unknown path", "/nothing", {}, 404, ""),
]


@pytest.mark.parametrize(("path", "doc", "code", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_create_is_a_status_and_stores_nothing(path: str, doc: Any, code: int, field: str) -> None:
    async with world() as w:
        before = w.store.committed
        if isinstance(doc, bytes):
            said = await w.call("POST", path, data=io.BytesIO(doc), headers={"Content-Type": "application/json"})
        else:
            said = await w.call("POST", path, doc)
        assert said.code == code, said.raw
        assert (said.doc["kind"], said.doc["status"], said.doc["code"]) == ("Status", "Failure", code)
        assert said.doc["message"]
        if field:
            assert field in [cause["field"] for cause in said.doc["details"]["causes"]], said.doc
        assert w.store.committed == before


PATCHES: list[tuple[str, Any, int, str]] = [
    ("immutable field", {"spec": {"computePool": "other"}}, 422, "spec.computePool"),
    ("another name", {"metadata": {"name": "web-2"}}, 400, ""),
    ("another uid", {"metadata": {"uid": "11111111-1111-1111-1111-111111111111"}}, 409, ""),
    ("revision that is none", {"metadata": {"resourceVersion": "new"}}, 400, ""),
    ("old revision", {"metadata": {"resourceVersion": "1"}}, 409, ""),
    ("metadata removed", {"metadata": None}, 0, ""),
    ("spec that is a text", {"spec": "x"}, 422, "spec"),
]


@pytest.mark.parametrize(("doc", "code", "field"), [case[1:] for case in PATCHES], ids=[case[0] for case in PATCHES])
async def test_bad_patch_changes_nothing(doc: Any, code: int, field: str) -> None:
    async with world() as w:
        made = await w.make(INSTANCES, instance())
        said = await w.call("PATCH", f"{INSTANCES}/web-1", doc, headers=MERGE)
        if code:
            assert said.code == code, said.raw
            assert not field or field in [cause["field"] for cause in said.doc["details"]["causes"]]
            assert (await w.call("GET", f"{INSTANCES}/web-1")).doc == made
        else:
            assert said.doc["metadata"]["uid"] == made["metadata"]["uid"]


async def test_encoded_body_is_415() -> None:
    async with world() as w:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        assert (await w.call("POST", INSTANCES, data=b"xx", headers=headers)).code == 415


async def test_chunked_body_over_the_limit_is_413() -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * 64 * 1024

    async with world() as w:
        headers = {"Content-Type": "application/json"}
        assert (await w.call("POST", INSTANCES, data=pieces(), headers=headers)).code == 413


async def test_nobody_is_401_and_a_stranger_403() -> None:
    async with world() as w:
        assert (await w.call("GET", INSTANCES, subject="nobody")).code == 401
        assert (await w.call("GET", INSTANCES, subject="stranger")).code == 403
        assert (await w.call("POST", INSTANCES, instance(), subject="stranger")).code == 403
        assert (await w.call("GET", "/apis", subject="nobody")).code == 401
        assert (await w.call("GET", "/version", subject="nobody")).code == 200


async def test_unknown_names_say_which_kind() -> None:
    async with world() as w:
        said = await w.call("GET", f"{INSTANCES}/gone")
        assert said.doc["message"] == 'instances.nano "gone" not found'
        assert said.doc["details"] == {
            "name": "gone", "kind": "instances", "group": "nano", "params": {"plural": "instances", "name": "gone"},
        }  # fmt: skip


async def test_existing_name_is_a_conflict_and_unknown_method_405() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        said = await w.call("POST", INSTANCES, instance())
        assert (said.code, said.doc["reason"]) == (409, "AlreadyExists")
        assert (await w.call("PUT", INSTANCES, instance())).code == 405
        assert (await w.call("POST", f"{INSTANCES}/web-1", instance())).code == 405
        assert (await w.call("OPTIONS", f"{INSTANCES}/web-1")).code == 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", INSTANCES, "GET, HEAD, POST, DELETE"),
        ("OPTIONS", f"{INSTANCES}/web-1", "GET, HEAD, PUT, PATCH, DELETE"),
        ("DELETE", f"{INSTANCES}/web-1/status", "GET, HEAD, PUT, PATCH"),
        ("POST", "/version", "GET, HEAD"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST"),
    ],
)
async def test_method_that_is_not_possible_is_told_which_ones_are(method: str, path: str, allowed: str) -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        refused = await w.call(method, path)
        assert (refused.code, refused.headers["Allow"], refused.doc["reason"]) == (405, allowed, "MethodNotAllowed")


async def test_head_is_get_without_the_body() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance())
        for path in (INSTANCES, f"{INSTANCES}/web-1", f"{INSTANCES}?watch=true", "/apis/nano/v1"):
            found = await w.call("HEAD", path)
            assert (found.code, found.raw, found.headers["Content-Type"]) == (200, b"", "application/json")
        assert (await w.call("HEAD", f"{INSTANCES}/none")).code == 404


async def test_impersonation_is_refused_and_not_passed_over() -> None:
    async with world() as w:
        for path in (INSTANCES, "/apis/nano/v1", "/version"):
            refused = await w.call("GET", path, headers={"Impersonate-User": "eve"})
            assert (refused.code, refused.doc["reason"]) == (403, "Forbidden")
