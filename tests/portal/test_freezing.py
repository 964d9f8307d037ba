"""Letting a guest stand still: for how long, what its host answers, and what it may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, web

from nanovirt.portal.api.failures import refusal
from nanovirt.portal.identity import ADMIN
from nanovirt.portal.relayed import relayed
from nanovirt.resources.errors import Conflict, NanoError
from nanovirt.resources.placement import Placement
from tests.portal.relay_world import WEB, relay_world
from tests.portal.world import listening


@dataclass
class Room:
    """A host that says `answer`, or is in trouble; `held` is for how long it was asked to."""

    port: int = 0
    answer: bytes = b'{"fileSystems": 2}'
    trouble: NanoError | None = None
    held: list[str] = field(default_factory=list)

    async def ask(self, word: str, body: bytes = b"") -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}/{word}"
        async with ClientSession() as client, client.post(url, data=body) as reply:
            return reply.status, orjson.loads(await reply.read())


@asynccontextmanager
async def room(folder: Path) -> AsyncIterator[Room]:
    made = Room()

    async def told(request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
        if made.trouble is not None:
            raise made.trouble
        made.held.append(request.query.get("hold", ""))
        return web.Response(body=made.answer, content_type="application/json")

    async with relay_world(folder, {("POST", "freeze"): told, ("POST", "thaw"): told}) as w:
        hooks = relayed(w.relay)

        async def respond(request: web.Request) -> web.StreamResponse:
            try:
                return await hooks["instances", request.path.strip("/"), "POST"](request, ADMIN, WEB)
            except NanoError as error:
                return refusal(error)

        async with listening(respond) as made.port:
            yield made


async def test_guest_stands_still_for_as_long_as_asked_and_goes_on(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        assert await made.ask("freeze") == (200, {"fileSystems": 2, "seconds": 30})
        assert await made.ask("freeze", b'{"seconds": 60}') == (200, {"fileSystems": 2, "seconds": 60})
        assert await made.ask("thaw") == (200, {"fileSystems": 2})
        assert made.held == ["30", "60", ""]


@pytest.mark.parametrize(
    "body", ['{"seconds": 0}', '{"seconds": 61}', '{"seconds": 1.5}', '{"seconds": true}', '{"s": 1}']
)
async def test_wrong_wish_does_not_reach_the_host(tmp_path: Path, body: str) -> None:
    async with room(tmp_path) as made:
        assert (await made.ask("freeze", body.encode()))[0] == 422
        assert made.held == []


@pytest.mark.parametrize(
    "answer", ["", "[]", "{}", '{"fileSystems": -1}', '{"fileSystems": "2"}', '{"fileSystems": 99999}']
)
async def test_nonsense_of_a_host_is_no_answer(tmp_path: Path, answer: str) -> None:
    async with room(tmp_path) as made:
        made.answer = answer.encode()
        assert (await made.ask("freeze"))[0] == 503
        assert (await made.ask("thaw"))[0] == 503


async def test_silence_of_the_guest_is_told(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        made.trouble = Conflict("instances", "web", "no guest agent answers")
        status, said = await made.ask("freeze")
        assert status == 409
        assert "no guest agent answers" in said["message"]
