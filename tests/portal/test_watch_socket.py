"""Many watches over one socket: state, changes, refusals and limits, each by its own number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSServerHandshakeError

from nanovirt.portal import watch_socket
from nanovirt.portal.watch_socket import PROTOCOL, WATCHES_MAX, WatchSockets
from tests.portal.api_world import INSTANCES, NANO, World, instance, world

ALL = f"{NANO}/instances"


@asynccontextmanager
async def socket_of(w: World, subject: str = "admin") -> AsyncIterator[ClientWebSocketResponse]:
    """An open socket."""
    w.api.add({("GET", "/ws/v1/watch"): WatchSockets(w.api.identify, w.api.watches).page})
    url = f"{w.base}/ws/v1/watch"
    async with w.session.ws_connect(url, protocols=(PROTOCOL,), headers={"X-Subject": subject}) as socket:
        yield socket


async def said(socket: ClientWebSocketResponse) -> Any:
    async with asyncio.timeout(30):
        return json.loads(await socket.receive_str())


async def state(socket: ClientWebSocketResponse, ident: int) -> tuple[list[str], str]:
    """The names of a first state, and the revision that it reaches."""
    names: list[str] = []
    while True:
        message = await said(socket)
        assert message["id"] == ident
        for event in message["events"]:
            if event["type"] == "BOOKMARK":
                return names, event["object"]["metadata"]["resourceVersion"]
            names.append(event["object"]["metadata"]["name"])


async def test_first_state_and_then_every_change() -> None:
    async with world() as w, socket_of(w) as socket:
        await w.make(INSTANCES, instance("web-1"))
        await socket.send_json({"op": "watch", "id": 7, "path": ALL})
        assert (await state(socket, 7))[0] == ["web-1"]
        await w.make(INSTANCES, instance("web-2"))
        message = await said(socket)
        assert [(event["type"], event["object"]["metadata"]["name"]) for event in message["events"]] == [
            ("ADDED", "web-2")
        ]


async def test_several_watches_share_the_socket_and_each_ends_by_itself() -> None:
    async with world() as w, socket_of(w) as socket:
        await socket.send_json({"op": "watch", "id": 1, "path": ALL})
        await state(socket, 1)
        await socket.send_json({"op": "watch", "id": 2, "path": f"{NANO}/hosts"})
        await state(socket, 2)
        await socket.send_json({"op": "unwatch", "id": 1})
        await socket.send_json({"op": "ping"})
        assert (await said(socket))["op"] == "pong"
        await w.make(INSTANCES, instance("unseen"))
        await w.make(f"{NANO}/hosts", {"apiVersion": "nano/v1", "kind": "Host", "metadata": {"name": "node-1"}})
        message = await said(socket)
        assert message["id"] == 2
        assert message["events"][0]["object"]["metadata"]["name"] == "node-1"


async def test_watch_goes_on_where_it_was() -> None:
    async with world() as w, socket_of(w) as socket:
        await socket.send_json({"op": "watch", "id": 1, "path": ALL})
        _, revision = await state(socket, 1)
        await socket.send_json({"op": "unwatch", "id": 1})
        await w.make(INSTANCES, instance("missed"))
        await socket.send_json({"op": "watch", "id": 3, "path": ALL, "resourceVersion": revision})
        message = await said(socket)
        assert (message["id"], message["events"][0]["object"]["metadata"]["name"]) == (3, "missed")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"path": "/apis/nano/v1/nothings"}, 404),
        ({"path": "/somewhere"}, 404),
        ({"path": ALL, "fieldSelector": "spec.nothing=1"}, 400),
        ({"path": ALL, "resourceVersion": "abc"}, 400),
    ],
)
async def test_refusal_concerns_one_watch(asked: dict[str, str], code: int) -> None:
    async with world() as w, socket_of(w) as socket:
        await socket.send_json({"op": "watch", "id": 4, **asked})
        message = await said(socket)
        assert (message["id"], message["error"]["code"]) == (4, code)
        await socket.send_json({"op": "watch", "id": 5, "path": ALL})
        await state(socket, 5)


async def test_too_many_watches_are_refused_and_the_others_go_on() -> None:
    async with world() as w, socket_of(w) as socket:
        for ident in range(WATCHES_MAX):
            await socket.send_json({"op": "watch", "id": ident, "path": ALL})
            await state(socket, ident)
        await socket.send_json({"op": "watch", "id": 999, "path": ALL})
        message = await said(socket)
        assert (message["id"], message["error"]["code"]) == (999, 403)


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", '{"op": "fly"}', '{"op": "watch", "id": "1"}', '{"op": "watch", "id": -1}']
)
async def test_what_cannot_be_understood_is_said_and_the_socket_stays(text: str) -> None:
    async with world() as w, socket_of(w) as socket:
        await socket.send_str(text)
        assert (await said(socket))["error"]["code"] == 400
        await socket.send_json({"op": "ping"})
        assert (await said(socket))["op"] == "pong"


async def test_client_that_does_not_read_is_told_to_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is small here, and nothing is taken meanwhile: what waits never grows past it."""
    monkeypatch.setattr(watch_socket, "PENDING_MAX", 2000)
    monkeypatch.setattr(watch_socket, "FLUSH_SECONDS", 0.5)
    async with world() as w, socket_of(w) as socket:
        await socket.send_json({"op": "watch", "id": 1, "path": ALL})
        await state(socket, 1)
        for number in range(20):
            await w.make(INSTANCES, instance(f"web-{number}"))
        while "error" not in (message := await said(socket)):
            pass
        assert (message["id"], message["error"]["code"]) == (1, 410)


async def test_stranger_gets_no_socket() -> None:
    async with world() as w:
        with pytest.raises(WSServerHandshakeError) as refused:
            async with socket_of(w, subject=""):
                pass
        assert refused.value.status == 401
