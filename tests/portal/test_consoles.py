"""Consoles over real sockets: a token from the API, a websocket with it, bytes to a machine, and every refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import RawTestServer

from nanovirt.agent.consoles import Consoles as HostConsoles
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.portal import open_consoles as module
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.people import people
from nanovirt.portal.consoles import Consoles
from nanovirt.portal.identity import ADMIN, Identities
from nanovirt.portal.pki import digest
from nanovirt.portal.sessions import COOKIE, CSRF_HEADER
from nanovirt.resources.console import DENIED, IDLE, MOVED, TAKEN
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacementSpec
from nanovirt.resources.store import Create, Half, Update
from tests.portal.relay_world import WEB, RelayWorld, instance, relay_world
from tests.portal.world import commit, document, placement_spec

PATH = "/apis/nano/v1/namespaces/default/instances/web/console"
GREETING = b"RFB 003.008\n"
ROLE = [{"kinds": ["instances"], "verbs": ["get"]}, {"kinds": ["instances/console"], "verbs": ["create", "delete"]}]


@dataclass
class Desk:
    """The API of a server with one running machine, `web`; `now` is its clock."""

    w: RelayWorld
    session: ClientSession
    base: str
    consoles: Consoles
    machine: SimulatedMachine
    now: list[float]
    tokens: dict[str, str]

    async def ask(self, path: str = PATH, who: str = "admin", method: str = "POST", **doc: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        async with self.session.request(method, self.base + path, json=doc, headers=headers) as reply:
            return reply.status, await reply.json()

    async def token(self, who: str = "admin", **doc: Any) -> str:
        code, made = await self.ask(who=who, **doc)
        assert code == 201, made
        return str(made["spec"]["token"])

    async def open(self, token: str, path: str = PATH, **headers: str) -> ClientWebSocketResponse:
        protocols = ("binary", f"nano.token.{token}")
        return await self.session.ws_connect(self.base + path, protocols=protocols, headers=headers, compress=0)

    async def refused(self, token: str, path: str = PATH, **headers: str) -> int:
        with pytest.raises(WSServerHandshakeError) as error:
            await self.open(token, path, **headers)
        return error.value.status


@pytest.fixture
async def d(tmp_path: Path) -> AsyncIterator[Desk]:
    machine = SimulatedMachine("h1")
    async with relay_world(tmp_path, HostConsoles(machine).routes) as w:
        await _run(machine, w)
        await commit(w.store, instance("other"), *_people())
        now = [0.0]
        tokens = {"admin": "nano_admin"}
        identities = Identities(w.store, {digest(tokens["admin"]): ADMIN})
        consoles = Consoles(w.store, w.relay, identities, lambda: now[0])
        hooks = {**consoles.hooks, **people(w.store)}
        doors = {("instances", "console", "GET"): consoles.page}
        api = Api(w.store, identities.identify, hooks, standing=identities.standing, doors=doors)
        server = RawTestServer(api.handle)
        await server.start_server()
        try:
            async with ClientSession(connector=TCPConnector(limit=0)) as session:
                base = f"http://{server.host}:{server.port}"
                desk = Desk(w, session, base, consoles, machine, now, tokens)
                for name in ("alice", "bob"):
                    _, made = await desk.ask(f"/apis/nano/v1/users/{name}/token")
                    tokens[name] = made["status"]["token"]
                yield desk
        finally:
            api.close()
            await server.close()


async def _run(machine: SimulatedMachine, w: RelayWorld) -> None:
    spec: PlacementSpec = w.placement().spec
    await machine.define(spec, "d")
    await machine.start(spec.domain.uuid)


def _people() -> list[Create]:
    """Alice may open consoles in `default`, of what others own too; bob may nothing."""

    def made(plural: str, name: str, **spec: Any) -> Create:
        return Create(Key(plural, "", name), document(Key(plural, "", name), spec))

    group = {
        "members": ["alice"],
        "namespaces": ["default"],
        "roles": ["viewers"],
        "visibility": {"instances": "Group"},
    }
    return [
        made("users", "alice"),
        made("users", "bob"),
        made("roles", "viewers", rules=ROLE),
        made("groups", "team", **group),
    ]


async def ended(socket: ClientWebSocketResponse) -> int | None:
    """How the server closes it."""
    async with asyncio.timeout(10):
        while (await socket.receive()).type is WSMsgType.BINARY:
            pass
    return socket.close_code


async def read(socket: ClientWebSocketResponse, count: int) -> bytes:
    came = b""
    while len(came) < count:
        message = await socket.receive(5)
        assert message.type is WSMsgType.BINARY, message
        came += message.data
    return came


async def test_bytes_reach_the_screen_and_come_back(d: Desk) -> None:
    socket = await d.open(await d.token(type="vnc"))
    assert socket.protocol == "binary"
    assert await read(socket, len(GREETING)) == GREETING
    await socket.send_bytes(b"\0\xff" * 1000)
    assert await read(socket, 2000) == b"\0\xff" * 1000
    await socket.close()


async def test_answer_says_what_a_client_needs_and_is_not_kept(d: Desk) -> None:
    code, made = await d.ask(type="serial")
    assert code == 201
    assert made["kind"] == "ConsoleToken"
    assert made["spec"]["url"] == PATH
    assert made["spec"]["expiresSeconds"] == 30


async def test_token_opens_once(d: Desk) -> None:
    token = await d.token()
    first = await d.open(token)
    assert await d.refused(token) == 401
    await first.close()
    assert await d.refused(token) == 401


async def test_wrong_late_and_missing_tokens_are_refused_before_it_opens(d: Desk) -> None:
    token = await d.token()
    assert await d.refused(token + "x") == 401
    d.now[0] = 30.0
    assert await d.refused(token) == 401
    with pytest.raises(WSServerHandshakeError) as error:
        await d.session.ws_connect(d.base + PATH, protocols=("binary",))
    assert error.value.status == 401
    async with d.session.get(d.base + PATH) as reply:
        assert reply.status == 401


async def test_token_in_the_address_is_worth_nothing(d: Desk) -> None:
    token = await d.token()
    with pytest.raises(WSServerHandshakeError):
        await d.session.ws_connect(f"{d.base}{PATH}?token={token}", protocols=("binary",))


async def test_token_of_one_instance_opens_no_other(d: Desk) -> None:
    assert await d.refused(await d.token(), PATH.replace("/web/", "/other/")) == 401
    assert await d.refused(await d.token(), PATH.replace("/default/", "/shared/")) == 401


async def test_page_of_another_site_is_refused_and_costs_no_token(d: Desk) -> None:
    token = await d.token()
    assert await d.refused(token, Origin="https://evil.example") == 403
    socket = await d.open(token, Origin=d.base.replace("http:", "https:"))
    await socket.close()


async def test_machine_that_is_off_is_said_before_it_opens(d: Desk) -> None:
    token = await d.token()
    await d.machine.destroy(d.w.placement().spec.domain.uuid)
    assert await d.refused(token) == 409


async def test_host_that_is_away_is_said_before_it_opens(d: Desk) -> None:
    token = await d.token()
    d.w.report(port=1)
    assert await d.refused(token) == 503


async def test_who_may_not_gets_no_token(d: Desk) -> None:
    assert (await d.ask(who="bob"))[0] == 403
    assert (await d.ask(PATH.replace("/web/", "/none/")))[0] == 404
    assert (await d.ask(type="spice"))[0] == 422


async def test_token_is_worth_nothing_once_its_user_may_not_any_more(d: Desk) -> None:
    token = await d.token("alice")
    await _disable(d, "alice")
    assert await d.refused(token) == 401


async def test_console_ends_when_its_user_may_not_any_more(d: Desk) -> None:
    socket = await d.open(await d.token("alice"))
    await _disable(d, "alice")
    assert await ended(socket) == DENIED


def browser(d: Desk) -> tuple[dict[str, str], dict[str, str]]:
    """What a new session of a browser sends with a write, and with a websocket."""
    value, made = d.consoles._identities.sessions.begin(digest(d.tokens["alice"]))
    looking = {"Cookie": f"{COOKIE}={value}", "Origin": d.base.replace("http:", "https:")}
    return {**looking, CSRF_HEADER: made.csrf}, looking


async def test_token_of_a_browsers_session_works_in_that_session_alone(d: Desk) -> None:
    (writing, looking), (_, other) = browser(d), browser(d)

    async def token() -> str:
        async with d.session.post(d.base + PATH, json={}, headers=writing) as reply:
            assert reply.status == 201
            return str((await reply.json())["spec"]["token"])

    assert await d.refused(await token(), **other) == 401
    assert await d.refused(await token()) == 401
    socket = await d.open(await token(), **looking)
    assert await read(socket, len(GREETING)) == GREETING
    await socket.close()


async def test_console_ends_with_the_session_that_opened_it(d: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    writing, looking = browser(d)
    async with d.session.post(d.base + PATH, json={}, headers=writing) as reply:
        token = (await reply.json())["spec"]["token"]
    socket = await d.open(token, **looking)
    d.consoles._identities.sessions._open.clear()
    assert await ended(socket) == DENIED


async def test_console_goes_on_when_something_else_changes(d: Desk) -> None:
    socket = await d.open(await d.token("alice"))
    await _disable(d, "bob")
    assert await read(socket, len(GREETING)) == GREETING
    await socket.send_bytes(b"still here")
    assert await read(socket, 10) == b"still here"
    await socket.close()


async def test_console_ends_when_the_instance_moves(d: Desk) -> None:
    socket = await d.open(await d.token())
    uid = d.w.store.get(WEB).uid
    await commit(d.w.store, placement_spec(d.w.store, "web-1", instanceUid=uid, role="Revoked"))
    assert await ended(socket) == MOVED


async def test_console_ends_with_the_machine(d: Desk) -> None:
    socket = await d.open(await d.token())
    await d.machine.destroy(d.w.placement().spec.domain.uuid)
    await socket.send_bytes(b"?")
    assert await ended(socket) == 1000


async def test_idle_console_ends(d: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    socket = await d.open(await d.token())
    d.now[0] = module.IDLE_SECONDS + 1
    assert await ended(socket) == IDLE


async def test_reset_ends_what_is_open_and_what_could_be_opened(d: Desk) -> None:
    socket, token = await d.open(await d.token()), await d.token()
    code, said = await d.ask(method="DELETE")
    assert (code, said["details"]["params"]) == (200, {"count": 1})
    assert await ended(socket) == DENIED
    assert await d.refused(token) == 401


async def test_number_of_consoles_is_bounded(d: Desk) -> None:
    sockets = [await d.open(await d.token()) for _ in range(module.OF_ONE_INSTANCE)]
    assert await d.refused(await d.token()) == 503
    await sockets[0].close()
    for _ in range(100):
        if len(d.consoles.open) < module.OF_ONE_INSTANCE:
            break
        await asyncio.sleep(0.02)
    socket = await d.open(await d.token())
    for one in (*sockets, socket):
        await one.close()


async def test_serial_line_has_one_user_until_somebody_takes_it(d: Desk) -> None:
    first = await d.open(await d.token("alice", type="serial"))
    await first.send_bytes(b"hello")
    assert await read(first, 5) == b"hello"
    with pytest.raises(WSServerHandshakeError) as error:
        await d.open(await d.token(type="serial"))
    assert error.value.status == 409
    second = await d.open(await d.token(type="serial", force=True))
    assert await ended(first) == TAKEN
    await second.send_bytes(b"mine")
    assert await read(second, 4) == b"mine"
    await second.close()


async def test_of_many_who_race_over_real_websockets_exactly_one_wins(d: Desk) -> None:
    async def attempt(token: str) -> ClientWebSocketResponse | None:
        try:
            return await d.open(token)
        except WSServerHandshakeError:
            return None

    for _ in range(10):
        token = await d.token()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(token)) for _ in range(20)]
        won = [socket for task in tasks if (socket := task.result()) is not None]
        assert len(won) == 1
        await won[0].close()


async def test_no_token_is_in_any_log(d: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token, late = await d.token(), await d.token()
    socket = await d.open(token)
    await socket.close()
    assert await d.refused(late + "x") == 401
    assert any("console opened" in record.message for record in caplog.records)
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert token not in text
    assert late not in text


async def _disable(d: Desk, name: str) -> None:
    key = Key("users", "", name)
    await commit(d.w.store, Update(key, document(key, {"disabled": True}), Half.MAIN))
