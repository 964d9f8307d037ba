"""Users, Groups and Roles over the API: what holds them, and what stays out of sight."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from nanovirt.resources.kind import Key
from tests.portal.api_world import INSTANCES, NANO, World, instance, world


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as running:
        yield running


def manifest(kind: str, name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


async def a_team(w: World) -> None:
    await w.make(f"{NANO}/users", manifest("User", "alice"))
    await w.make(f"{NANO}/roles", manifest("Role", "operator"))
    group = manifest("Group", "web", members=["alice"], roles=["operator"], namespaces=["team-a"])
    await w.make(f"{NANO}/groups", group)


@pytest.mark.parametrize(
    ("path", "name"), [(f"{NANO}/users", "alice"), (f"{NANO}/roles", "operator"), ("/api/v1/namespaces", "team-a")]
)
async def test_what_a_group_names_is_held_by_it(w: World, path: str, name: str) -> None:
    await a_team(w)
    reply = await w.call("DELETE", f"{path}/{name}")
    assert reply.code == 409
    assert reply.doc["details"]["causes"][0]["reason"] == "InUse"
    assert "groups/web" in reply.doc["message"]
    assert (await w.call("DELETE", f"{NANO}/groups/web")).code == 200
    assert (await w.call("DELETE", f"{path}/{name}")).code == 200


@pytest.mark.parametrize("name", ["nano:admins", "nano:users", "nano:hosts"])
async def test_no_group_can_bear_a_name_that_the_door_knows(w: World, name: str) -> None:
    assert (await w.call("POST", f"{NANO}/groups", manifest("Group", name))).code == 422


async def test_group_may_name_what_does_not_exist_yet(w: World) -> None:
    group = manifest("Group", "web", members=["alice", "bob"], roles=["operator"], namespaces=["team-b"])
    reply = await w.call("POST", f"{NANO}/groups", group)
    assert reply.code == 201
    told = " ".join(reply.warnings)
    assert "spec.members[1]: User bob does not exist" in told
    assert "spec.namespaces[0]: Namespace team-b does not exist" in told


async def test_user_who_owns_something_is_held_until_it_is_gone(w: World) -> None:
    await w.make(f"{NANO}/users", manifest("User", "admin2"))
    w.subjects["admin2"] = type(w.subjects["admin"])("admin2", w.subjects["admin"].groups)
    made = await w.call("POST", INSTANCES, instance("one"), subject="admin2")
    assert made.doc["metadata"]["labels"]["nano/owner"] == "admin2"
    reply = await w.call("DELETE", f"{NANO}/users/admin2")
    assert (reply.code, reply.doc["details"]["causes"][0]["reason"]) == (409, "OwnsObjects")
    assert reply.doc["details"]["causes"][0]["params"] == {"name": "admin2", "count": 1}
    assert (await w.call("POST", INSTANCES, instance("one", cpus=2), subject="admin2")).code == 409
    doc = (await w.call("GET", f"{INSTANCES}/one")).doc
    doc["metadata"]["finalizers"] = []
    await w.call("DELETE", f"{INSTANCES}/one")
    assert (await w.call("DELETE", f"{NANO}/users/admin2")).code == 409, "it waits for its finalizer"


@pytest.mark.parametrize("path", [f"{NANO}/credentials", f"{NANO}/credentials/x", f"{NANO}/credentials?watch=true"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_no_route_serves_credentials(w: World, path: str, method: str) -> None:
    await w.store_raw(Key("credentials", "", "x"), {"spec": {"user": "alice"}})
    reply = await w.call(method, path, {})
    assert reply.code == 404
    assert reply.doc["message"] == "the server could not find the requested resource"


@pytest.mark.parametrize("path", ["/apis/nano/v1", "/openapi/v3/apis/nano/v1", "/openapi/v2", "/apis"])
async def test_no_document_names_credentials(w: World, path: str) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    reply = await w.call("GET", path, headers={"Accept": accept} if path == "/apis" else {})
    assert reply.code == 200
    assert b"secrets" in reply.raw
    assert b"redential" not in reply.raw
