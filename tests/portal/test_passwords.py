"""A guest's password: by its agent, or else by its seed, in the caller's name and never in a reply."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, web

from nanovirt.portal.api.writing import Writer
from nanovirt.portal.identity import ADMIN
from nanovirt.portal.passwords import Passwords
from nanovirt.resources.codec import load, trusted
from nanovirt.resources.errors import Conflict, Malformed, NanoError
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.secret import SecretText
from nanovirt.resources.store import Create, Half, Update, transact
from tests.portal.relay_world import WEB, RelayWorld, relay_world
from tests.portal.world import document, listening

SEALER = Sealer(b"k" * 32)
WORD = "correct-horse-battery"


@dataclass
class Room:
    """A guest whose agent answers, refuses or is silent, and a way to ask for a password."""

    w: RelayWorld
    port: int
    told: list[dict[str, Any]] = field(default_factory=list)
    trouble: NanoError | None = None

    async def ask(self, **doc: Any) -> tuple[int, Any]:
        async with (
            ClientSession() as client,
            client.post(f"http://127.0.0.1:{self.port}/", data=orjson.dumps(doc)) as reply,
        ):
            said = await reply.read()
            assert WORD.encode() not in said
            return reply.status, orjson.loads(said) if said.startswith(b"{") else said.decode()

    def secret(self, name: str) -> str:
        entry = self.w.store.get(Key("secrets", "default", name))
        return SEALER.open("Secret", entry.uid, "password", load(entry.raw)["spec"]["data"]["password"]).reveal()


@asynccontextmanager
async def room(folder: Path) -> AsyncIterator[Room]:
    rooms: list[Room] = []

    async def password(request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
        if rooms[0].trouble is not None:
            raise rooms[0].trouble
        rooms[0].told.append(orjson.loads(await request.read()))
        return web.Response(body=b"{}", content_type="application/json")

    async with relay_world(folder, {("POST", "password"): password}) as w:
        await transact(w.store, [Create(Key("namespaces", "", "default"), {"metadata": {"name": "default"}})], "test")
        whole = trusted(Instance, w.store.get(WEB).raw).to_json()  # as the API stores it, with every default
        await transact(w.store, [Update(WEB, whole, Half.MAIN)], "test")
        writer = Writer(w.store, SEALER)
        passwords = Passwords(w.store, w.relay, SEALER, lambda: writer)

        async def respond(request: web.Request) -> web.StreamResponse:
            return await passwords.answer(request, ADMIN, WEB)

        async with listening(respond) as port:
            rooms.append(Room(w, port))
            yield rooms[0]


async def test_agent_sets_it_at_once(tmp_path: Path) -> None:
    async with room(tmp_path) as r:
        assert await r.ask(user="ops", password=WORD) == (200, {"user": "ops", "applied": "Now"})
        assert await r.ask(password=WORD) == (200, {"user": "root", "applied": "Now"})
        assert [(one["user"], one["password"]) for one in r.told] == [("ops", WORD), ("root", WORD)]
        assert not r.w.store.list("secrets")


async def test_silent_guest_has_it_when_it_starts_next_and_the_answer_says_so(tmp_path: Path) -> None:
    async with room(tmp_path) as r:
        r.trouble = Conflict("instances", "web", "no guest agent answers")
        code, said = await r.ask(user="ops", password=WORD)
        assert (code, said) == (202, {"user": "ops", "applied": "NextStart", "secret": "web-password"})
        assert r.secret("web-password") == WORD
        spec = load(r.w.store.get(WEB).raw)["spec"]
        assert spec["guest"]["admin"] == {"name": "ops", "passwordSecret": "web-password", "sshKeys": []}
        assert WORD.encode() not in r.w.store.get(WEB).raw
        assert (await r.ask(password="another-horse"))[1]["secret"] == "web-password"
        assert r.secret("web-password") == "another-horse"
        code, said = await r.ask(user="root", password=WORD)
        assert code == 400, "the seed tells only the administrator's"


async def test_guest_that_refuses_is_quoted_and_nothing_is_written(tmp_path: Path) -> None:
    async with room(tmp_path) as r:
        r.trouble = Malformed("the guest refuses: no such user")
        assert await r.ask(user="ops", password=WORD) == (400, "BadRequest")
        assert not r.w.store.list("secrets")


async def test_host_that_does_not_answer_is_no_silent_guest(tmp_path: Path) -> None:
    async with room(tmp_path) as r:
        r.w.obeyed.clear()
        assert await r.ask(password=WORD) == (400, "HostUnreachable")
        assert not r.w.store.list("secrets")


async def test_password_of_a_secret_is_taken_from_there(tmp_path: Path) -> None:
    async with room(tmp_path) as r:
        key = Key("secrets", "default", "login")
        uid = "00000000-0000-4000-8000-0000000000aa"
        sealed = SEALER.seal("Secret", uid, "password", SecretText(WORD))
        doc = document(key, {"data": {"password": sealed}})
        doc["metadata"]["uid"] = uid
        await transact(r.w.store, [Create(key, doc)], "test")
        assert (await r.ask(secret="login"))[0] == 200
        assert r.told[0]["password"] == WORD
        assert (await r.ask(secret="nobody"))[1] == "NotFound"


@pytest.mark.parametrize(
    "doc",
    [
        {}, {"password": ""}, {"password": "a\nb"}, {"password": "x" * 513}, {"password": 5}, {"secret": 5},
        {"password": "a", "secret": "b"}, {"user": "a:b", "password": "x"}, {"user": "-x", "password": "x"},
        {"user": 5, "password": "x"}, {"password": "x", "more": 1},
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(tmp_path: Path, doc: dict[str, Any]) -> None:
    async with room(tmp_path) as r:
        assert await r.ask(**doc) == (400, "Invalid")
        assert r.told == []
