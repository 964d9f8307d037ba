"""A host that was taken over replays every call against everything of three hosts, and gets nothing extra."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from aiohttp import web

from nanovirt.portal.agents import Agents
from nanovirt.portal.api.people import people
from nanovirt.portal.identity import Subject
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import transact
from tests.portal.api_world import MERGE, World, world
from tests.portal.people_world import document

HOSTS = ("node-1", "node-2", "node-3")
SUBS = ("", "status", "report", "image", "secrets", "upload", "owner", "token", "console", "password", "scale")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PLACED = "00000000-0000-4000-8000-000000000001"
MINE = {
    ("GET", "/apis/nano/v1/hosts/node-1"),
    ("POST", "/apis/nano/v1/hosts/node-1/report"),
    ("GET", "/apis/nano/v1/namespaces/default/placements/at-node-1"),
    ("GET", "/apis/nano/v1/namespaces/default/placements/at-node-1/image"),
    ("GET", "/apis/nano/v1/namespaces/default/placements/at-node-1/secrets"),
    ("POST", "/apis/nano/v1/namespaces/default/placements/at-node-1/console"),
    ("PUT", "/apis/nano/v1/namespaces/default/placements/at-node-1/status"),
    ("PATCH", "/apis/nano/v1/namespaces/default/placements/at-node-1/status"),
    ("GET", "/apis/nano/v1/placements"),
    ("GET", "/apis/nano/v1/namespaces/default/placements"),
}
"""All that an agent may (security.md 3), call by call."""


@pytest.fixture
async def w() -> AsyncIterator[World]:
    """Everything there is, three times: each object is named after a host."""

    async def image(request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        del request, subject
        return web.Response(body=key.name.encode())

    engines: list[Engine] = []

    async def report(request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        agents = Agents(engines[0], Reports(0.0))
        return await agents.report(request, subject, key)

    hooks: Any = {
        ("placements", "console", "POST"): image,
        ("placements", "image", "GET"): image,
        ("placements", "secrets", "GET"): image,
        ("hosts", "report", "POST"): report,
    }
    async with world({**hooks, **_late(engines)}) as running:
        engines.append(running.store)
        for host in HOSTS:
            await transact(running.store, list(_objects(host)), "test")
        yield running


def _late(engines: list[Engine]) -> Any:
    """The sub-resources of users and owners, on the store that the world makes."""

    def answer(key: tuple[str, str, str]) -> Any:
        async def later(request: web.BaseRequest, subject: Subject, at: Key) -> Any:
            return await people(engines[0])[key](request, subject, at)

        return later

    return {key: answer(key) for key in people(Engine.__new__(Engine))}


def _objects(host: str) -> Any:
    for plural, cls in kinds().items():
        if plural == "hosts":
            made = document(plural, host, computePool="default", enabled=True)
            made.doc["metadata"]["uid"] = host
        elif plural == "placements":
            made = document(plural, f"at-{host}", "default", "alice", **_placement(host))
        else:
            made = document(plural, f"at-{host}", "default" if cls.facts.namespaced else "", "alice")
        yield made


def _placement(host: str) -> dict[str, Any]:
    domain = {"uuid": PLACED, "name": "default.web"}
    spec = {"instance": "web", "instanceUid": PLACED, "host": host, "epoch": 1, "role": "Active", "domain": domain}
    return {**spec, "hostname": "web", "cpu": 1, "memory": "1Gi", "volumes": []}


def calls() -> list[tuple[str, str]]:
    """Every method on every collection, object and sub-resource."""
    found = []
    for plural, cls in [*kinds().items(), ("credentials", None)]:
        root = f"/api/{cls.facts.group_version}" if cls and cls.facts.group_version == "v1" else "/apis/nano/v1"
        inside = "/namespaces/default" if cls and cls.facts.namespaced else ""
        found += [f"{root}/{plural}", f"{root}{inside}/{plural}"]
        for host, sub in product(HOSTS, SUBS):
            name = host if plural == "hosts" else f"at-{host}"
            found.append(f"{root}{inside}/{plural}/{name}" + (f"/{sub}" if sub else ""))
    return [(method, path) for path in dict.fromkeys(found) for method in METHODS]


async def send(w: World, method: str, path: str) -> Any:
    doc: Any = None if method in ("GET", "HEAD", "DELETE") else {"metadata": {}}
    if path.endswith("/report"):
        doc = {"agent": "x"} if doc else None
    return await w.call(method, path, doc, headers=MERGE if method == "PATCH" else {}, subject="node-1")


async def test_every_call_that_is_not_its_own_is_refused_and_changes_nothing(w: World) -> None:
    tried, before = 0, {str(key): entry.raw for plural in kinds() for key, entry in w.store.list(plural)}
    for method, path in calls():
        reply = await send(w, method, path)
        allowed = ("GET" if method == "HEAD" else method, path) in MINE  # not every sub-resource has a head
        answered = reply.code < 400 or reply.code in (400, 422) or (method == "HEAD" and reply.code == 404)
        assert answered if allowed else reply.code in (403, 404, 405), (
            method, path, reply.code, reply.raw,
        )  # fmt: skip
        if not allowed:
            assert b"node-2" not in reply.raw.replace(path.encode(), b"") or b'"reason":"' in reply.raw
        tried += 1
    after = {str(key): entry.raw for plural in kinds() for key, entry in w.store.list(plural)}
    assert {key for key in before if before[key] != after.get(key)} <= {"placements/default/at-node-1"}
    assert after.keys() == before.keys()
    assert tried > 3000


async def test_lists_and_watches_hold_its_own_alone(w: World) -> None:
    for path in ("/apis/nano/v1/placements", "/apis/nano/v1/namespaces/default/placements"):
        for query in ("", "?fieldSelector=spec.host%3Dnode-2", "?labelSelector=nano/owner%3Dalice", "?limit=500"):
            reply = await w.call("GET", path + query, subject="node-1")
            names = [one["metadata"]["name"] for one in reply.doc["items"]]
            assert set(names) <= {"at-node-1"}, query
        reply = await w.call("GET", f"{path}?watch=true&timeoutSeconds=1", subject="node-1")
        shown = [json.loads(line)["object"]["metadata"]["name"] for line in reply.raw.splitlines()]
        assert shown == ["at-node-1"]


@pytest.mark.parametrize("plural", sorted(kinds().keys() - {"placements"}))
async def test_nothing_else_can_be_watched(w: World, plural: str) -> None:
    root = "/api/v1" if plural in ("namespaces", "events") else "/apis/nano/v1"
    assert (await w.call("GET", f"{root}/{plural}?watch=true", subject="node-1")).code == 403


async def test_placement_of_another_host_looks_like_none(w: World) -> None:
    path = "/apis/nano/v1/namespaces/default/placements"
    for sub, method in (("", "GET"), ("/image", "GET"), ("/secrets", "GET"), ("/status", "PUT"), ("/status", "PATCH")):
        theirs = await send(w, method, f"{path}/at-node-2{sub}")
        none = await send(w, method, f"{path}/at-node-9{sub}")
        if sub not in ("/image", "/secrets"):
            assert theirs.raw.replace(b"node-2", b"node-9") == none.raw
        assert theirs.code == 404
