"""A browser's session: what begins, carries and ends it, and what other sites' pages cannot do with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import RawTestServer

from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.identity import ADMIN, Identities
from nanovirt.portal.login import Login
from nanovirt.portal.pki import digest
from nanovirt.portal.sessions import COOKIE, CSRF_HEADER, IDLE, OF_ONE_TOKEN, WHOLE
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.store import Create, transact
from tests.portal.api_world import INSTANCES, NANO, instance

TOKEN = "nano_the-admins-token"
HOST = "nano.example:5850"
OWN = {"Host": HOST, "Origin": f"https://{HOST}", "Sec-Fetch-Site": "same-origin"}


class Browser:
    """Sends what a page of our own would, unless told otherwise; keeps the cookie by hand, since there is no TLS."""

    def __init__(self, session: ClientSession, base: str) -> None:
        self.session, self.base = session, base
        self.cookie = self.csrf = ""
        self.now = datetime(2026, 11, 25, tzinfo=UTC)

    async def ask(self, method: str, path: str, doc: Any = None, **headers: str | None) -> tuple[int, Any, Any]:
        """(code, document, headers) of one request; a header of None is left out."""
        sent = {**OWN, CSRF_HEADER: self.csrf, "Content-Type": "application/json"}
        if self.cookie:
            sent["Cookie"] = f"{COOKIE}={self.cookie}"
        for name, value in headers.items():
            key = name.replace("_", "-")
            sent.pop(key, None)
            if value is not None:
                sent[key] = value
        data = None if doc is None else json.dumps(doc).encode()
        async with self.session.request(method, self.base + path, data=data, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def login(self, token: str = TOKEN, **headers: str | None) -> tuple[int, Any]:
        """Log in; the cookie and the secret are kept."""
        code, doc, got = await self.ask("POST", "/auth/login", {"token": token}, **headers)
        if code == 200:
            self.cookie = got["Set-Cookie"].partition("=")[2].partition(";")[0]
            self.csrf = doc["spec"]["csrf"]
        return code, got.get("Set-Cookie")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A server with the login, and a browser."""
    store = Engine(MemoryLog())
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(store.run())
        await transact(store, [Create(Key("namespaces", "", "default"), {"metadata": {"name": "default"}})], "start")
        held: list[Browser] = []
        identities = Identities(store, {digest(TOKEN): ADMIN}, lambda: held[0].now)
        api = Api(store, identities.identify, pages=Login(identities).pages, standing=identities.standing)
        server = RawTestServer(api.handle)
        await server.start_server()
        try:
            async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
                held.append(Browser(session, f"http://{server.host}:{server.port}"))
                session.cookie_jar.clear()
                yield held[0]
        finally:
            api.close()
            await server.close()
            committer.cancel()


async def test_cookie_is_out_of_reach_of_scripts_and_other_sites() -> None:
    async with browser() as b:
        code, cookie = await b.login()
        assert code == 200
        said = {part.strip().lower() for part in str(cookie).split(";")[1:]}
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= said
        assert not any(part.startswith("domain") for part in said)
        assert TOKEN not in str(cookie)


async def test_session_reads_and_writes_as_its_token_would() -> None:
    async with browser() as b:
        await b.login()
        assert (await b.ask("GET", "/auth/session"))[1]["spec"]["user"] == "admin"
        assert (await b.ask("POST", INSTANCES, instance("web-1")))[0] == 201
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 200


async def test_nobody_is_told_so_without_an_error() -> None:
    async with browser() as b:
        code, doc, _ = await b.ask("GET", "/auth/session")
        assert (code, doc["spec"]) == (200, {})
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401


@pytest.mark.parametrize("token", ["", "nano_wrong", "x" * 300])
async def test_wrong_token_begins_nothing(token: str) -> None:
    async with browser() as b:
        code, cookie = await b.login(token)
        assert code in (400, 401)
        assert cookie is None


FORGED: list[dict[str, str | None]] = [
    {CSRF_HEADER.replace("-", "_"): None},
    {CSRF_HEADER.replace("-", "_"): "guessed"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": f"http://{HOST}"},
    {"Origin": "https://nano.example:5851"},
    {"Origin": "https://nano.example.evil.example:5850"},
    {"Origin": f"https://{HOST}.evil.example"},
    {"Origin": f"https://evil.example@{HOST}"},
    {"Origin": None, "Sec_Fetch_Site": "cross-site"},
    {"Origin": None, "Sec_Fetch_Site": "same-site"},
    {"Origin": None, "Sec_Fetch_Site": None},
]


@pytest.mark.parametrize("headers", FORGED, ids=[str(sorted(one.items(), key=str)) for one in FORGED])
async def test_page_of_another_site_writes_nothing(headers: dict[str, str | None]) -> None:
    async with browser() as b:
        await b.login()
        assert (await b.ask("POST", INSTANCES, instance("web-1"), **headers))[0] == 403
        assert (await b.ask("GET", f"{NANO}/instances"))[1]["items"] == []


async def test_page_of_another_site_neither_reads_nor_logs_in() -> None:
    async with browser() as b:
        assert (await b.login(Origin="https://evil.example"))[0] == 403
        await b.login()
        assert (await b.ask("GET", f"{NANO}/instances", Origin="https://evil.example"))[0] == 403
        assert (await b.ask("GET", f"{NANO}/instances", Origin=None, Sec_Fetch_Site="cross-site"))[0] == 403


async def test_session_that_was_idle_or_went_on_for_too_long_is_over() -> None:
    async with browser() as b:
        await b.login()
        b.now += IDLE + timedelta(seconds=1)
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401
        await b.login()
        for _ in range(int(WHOLE / IDLE)):
            assert (await b.ask("GET", f"{NANO}/instances"))[0] == 200
            b.now += IDLE
        b.now += timedelta(seconds=1)
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401


async def test_logout_and_a_new_login_end_the_session_before() -> None:
    async with browser() as b:
        await b.login()
        first = b.cookie
        await b.login()
        assert b.cookie != first
        second, b.cookie = b.cookie, first
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401
        b.cookie = second
        assert (await b.ask("POST", "/auth/logout"))[0] == 200
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401


async def test_sessions_of_one_token_are_bounded() -> None:
    async with browser() as b:
        cookies = []
        for _ in range(OF_ONE_TOKEN + 1):
            b.cookie = ""
            await b.login()
            cookies.append(b.cookie)
        b.cookie = cookies[0]
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 401
        b.cookie = cookies[1]
        assert (await b.ask("GET", f"{NANO}/instances"))[0] == 200
