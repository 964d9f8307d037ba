"""The secrets of a seed: whom they are given to, and from when on to nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from nanovirt.portal.identity import Subject
from nanovirt.portal.seeds import Seeds
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Delete, Half, Update, transact
from tests.portal.api_world import NANO, World, world

PLACED = Key("placements", "default", "web-1")
PATH = f"{NANO}/namespaces/default/placements/web-1/secrets"
ADMIN = {"admin": {"name": "ops", "passwordSecret": "login"}, "userDataSecret": "words"}
MACHINE = "00000000-0000-4000-8000-000000000009"


@pytest.fixture
async def w() -> AsyncIterator[World]:
    """An instance with two Secrets, placed on node-1."""
    engines: list[Engine] = []

    async def secrets(request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        return await Seeds(engines[0], Sealer(b"k" * 32)).secrets(request, subject, key)

    async with world({("placements", "secrets", "GET"): secrets}) as running:
        engines.append(running.store)
        space = f"{NANO}/namespaces/default"
        for name, data in {"login": {"password": "horse"}, "words": {"userData": "#cloud-config\n"}}.items():
            doc = {"apiVersion": "nano/v1", "kind": "Secret", "metadata": {"name": name}, "spec": {"data": data}}
            assert (await running.call("POST", f"{space}/secrets", doc)).code == 201
        spec = {"disks": [{"name": "system", "size": "1Gi"}], "guest": ADMIN}
        doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "web"}, "spec": spec}
        made = await running.call("POST", f"{space}/instances", doc)
        assert made.code == 201, made.raw
        await running.store_raw(PLACED, placed(made.doc["metadata"]["uid"]))
        yield running


def placed(uid: str, **changes: Any) -> dict[str, Any]:
    domain = {"uuid": MACHINE, "name": "default.web"}
    spec = {"instance": "web", "instanceUid": uid, "host": "node-1", "epoch": 1, "domain": domain, "hostname": "web"}
    return {"apiVersion": "nano/v1", "kind": "Placement", "metadata": {"name": "web-1"},
            "spec": {**spec, "cpu": 1, "memory": "1Gi", **changes}}  # fmt: skip


async def test_agent_of_the_host_is_told_the_values(w: World) -> None:
    reply = await w.call("GET", PATH, subject="node-1")
    assert (reply.code, reply.doc) == (200, {"password": "horse", "userData": "#cloud-config\n"})
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("subject", "code"), [("node-2", 404), ("stranger", 403)])
async def test_nobody_else_is(w: World, subject: str, code: int) -> None:
    reply = await w.call("GET", PATH, subject=subject)
    assert reply.code == code
    assert b"horse" not in reply.raw


async def test_revision_that_revokes_the_placement_ends_it(w: World) -> None:
    uid = w.store.get(PLACED).row.instance_uid
    await transact(w.store, [Update(PLACED, placed(uid, role="Revoked"), Half.MAIN)], "test")
    assert (await w.call("GET", PATH, subject="node-1")).code == 404


async def test_deleted_placement_is_told_nothing(w: World) -> None:
    await transact(w.store, [Delete(PLACED)], "test")
    assert (await w.call("GET", PATH, subject="node-1")).code == 404


async def test_namesake_of_the_instance_gives_nothing_away(w: World) -> None:
    other = "00000000-0000-4000-8000-000000000005"
    await transact(w.store, [Delete(PLACED)], "test")
    doc = placed(other) | {"metadata": {"name": "web-2", "namespace": "default"}}
    await w.store_raw(Key("placements", "default", "web-2"), doc)
    assert (await w.call("GET", PATH.replace("web-1", "web-2"), subject="node-1")).code == 404


async def test_no_secret_stands_in_the_placement_or_the_instance(w: World) -> None:
    for path in (PATH.removesuffix("/secrets"), f"{NANO}/namespaces/default/instances/web"):
        reply = await w.call("GET", path)
        assert reply.code == 200
        assert b"horse" not in reply.raw
