"""Consoles of instances: tokens that open one, and the websockets and viewers that are carried on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp
from aiohttp import WSMsgType, web
from pydantic import ValidationError

from nanovirt.portal.api.bodies import document_of
from nanovirt.portal.api.failures import refusal, status_of
from nanovirt.portal.api.replies import document, success
from nanovirt.portal.api.requests import body
from nanovirt.portal.console_tokens import LIFE_SECONDS, ConsoleTokens, Grant, KindOfConsole
from nanovirt.portal.identity import Identities, Subject
from nanovirt.portal.open_consoles import Open, OpenConsoles, Over
from nanovirt.portal.pki import digest
from nanovirt.portal.relaying import WHY_HEADER, Placed, Relay
from nanovirt.portal.sessions import check_origin
from nanovirt.resources import wire
from nanovirt.resources.codec import causes_of
from nanovirt.resources.console import FRAME_MAX, PROTOCOL, TOKEN_PROTOCOL, USER_HEADER
from nanovirt.resources.errors import Conflict, Forbidden, Invalid, NanoError, Unauthorized
from nanovirt.resources.image import Sha256
from nanovirt.resources.kind import GROUP_VERSION, Key
from nanovirt.resources.metadata import Model
from nanovirt.resources.store import Store

log = logging.getLogger(__name__)

BEAT_SECONDS = 15.0
LEAVING_SECONDS = 2.0
WHY_MAX = 6 * 1024
M = TypeVar("M", bound=Model)
Hook = Callable[[web.BaseRequest, Subject, Key], Awaitable[web.StreamResponse]]
Hooks = Mapping[tuple[str, str, str], Hook]
REFUSED = "the token is wrong, was used, or is over; ask for another one"


class ConsoleRequest(Model):
    """What is asked for; `force` takes a serial line from whoever has it."""

    type: KindOfConsole = "vnc"
    force: bool = False


class Admission(Model):
    """What a host's gateway asks: may whoever knows the token with that SHA-256 (hex) see that machine?"""

    digest: Sha256


class Consoles:
    """`hooks` answer below instances and placements; `page` opens a websocket for whoever has a token."""

    def __init__(
        self, store: Store, relay: Relay, identities: Identities, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds that never jump."""
        self._store, self._relay, self._identities, self._clock = store, relay, identities, clock
        self.tokens = ConsoleTokens()
        self.open = OpenConsoles(store, relay, identities, clock)

    @property
    def hooks(self) -> Hooks:
        """(plural, sub-resource, method) -> who answers; the door has authorized."""
        return {
            ("instances", "console", "POST"): self.issue,
            ("instances", "console", "DELETE"): self.reset,
            ("placements", "console", "POST"): self.admit,
        }

    # --- tokens ---

    async def issue(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST instances/NAME/console {type, force}: a token, shown once. Raises Conflict, HostUnreachable, Invalid."""
        raw = await body(request)
        asked = _read(ConsoleRequest, document_of(request, raw) if raw else {})
        placed = self._relay.placed(key)
        facts = self._relay.facts(placed.host)
        session = self._identities.sessions.of(request) if "Authorization" not in request.headers else None
        life = LIFE_SECONDS[asked.type]
        grant = Grant(subject, key, placed.instance_uid, asked.type, asked.force, session, self._clock() + life)
        spec: dict[str, Any] = {"type": asked.type, "expiresSeconds": int(life)}
        if asked.type == "viewer":
            if facts.gateway is None:
                raise Conflict(key.plural, key.name, f"host {placed.host} has no gateway for viewers")
            where = facts.gateway.address
            spec["host"] = (request.url.host or where) if where in LOOPBACK else where
            spec |= {"port": facts.gateway.port, "user": f"{key.namespace}/{key.name}"}
        else:
            spec["url"] = wire.path(GROUP_VERSION, key.plural, key.namespace, key.name, "console")
        spec["token"] = self.tokens.issue(grant, self._clock())
        log.info("console token given", extra=_named(grant))
        made = {"kind": "ConsoleToken", "apiVersion": GROUP_VERSION, "metadata": {"name": key.name}, "spec": spec}
        answer = document(made, 201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    async def reset(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """DELETE instances/NAME/console: unused tokens are worth nothing any more, and whoever looks is cut off."""
        del request
        uid = self._store.get(key).uid
        self.tokens.revoke(uid)
        cut = self.open.reset(uid)
        log.info("console reset", extra={"user": subject.name, "instance": f"{key.namespace}/{key.name}"})
        return document(success({"name": key.name, "kind": "instances", "params": {"count": cut}}))

    # --- a browser, or nanoctl ---

    async def page(self, request: web.BaseRequest, key: Key) -> web.StreamResponse:
        """GET instances/NAME/console, websocket: the token in it is who asks. All is checked before it opens.

        A refusal stands in the header Nano-Refusal too, since clients of websockets read no bodies.
        """
        try:
            return await self._page(request, key)
        except NanoError as error:
            answer = refusal(error)
            answer.headers[WHY_HEADER] = json.dumps(status_of(error))[:WHY_MAX]
            return answer

    async def _page(self, request: web.BaseRequest, key: Key) -> web.StreamResponse:
        if "Origin" in request.headers:
            check_origin(request)
        grant = self.tokens.take(digest(_token(request)), self._clock())
        if grant is None or grant.instance != key or grant.kind == "viewer":
            raise Unauthorized(REFUSED)
        if grant.session is not None and self._identities.sessions.of(request) is not grant.session:
            raise Unauthorized("the token was given to another session; ask for another one")
        mine = self.open.begin(grant)
        try:
            named = {USER_HEADER: grant.subject.name[:100]}
            force = "true" if grant.force else ""
            async with self._relay.open(key, grant.kind, headers=named, force=force) as agent:
                return await self._carry(request, agent, mine)
        finally:
            self.open.end(mine)

    async def _carry(
        self, request: web.BaseRequest, agent: aiohttp.ClientWebSocketResponse, mine: Open
    ) -> web.WebSocketResponse:
        client = web.WebSocketResponse(
            protocols=(PROTOCOL,), compress=False, heartbeat=20.0, max_msg_size=FRAME_MAX, timeout=LEAVING_SECONDS
        )
        await client.prepare(request)
        log.info("console opened", extra=_named(mine.grant, mine.placed))

        async def up() -> None:
            async for message in client:
                if message.type is not WSMsgType.BINARY:
                    return
                mine.heard = self._clock()
                await agent.send_bytes(message.data)
                await asyncio.sleep(0)  # a side that never waits would leave the loop to nobody else

        async def down() -> None:
            async for message in agent:
                if message.type is not WSMsgType.BINARY:
                    return
                await client.send_bytes(message.data)
                await asyncio.sleep(0)
            raise Over(agent.close_code if (agent.close_code or 0) >= 4000 else 1000)  # type: ignore[arg-type]

        code = 1000
        try:
            code = await _until_one_ends(up, down, lambda: self.open.watch(mine))
        finally:
            log.info("console closed", extra={**_named(mine.grant, mine.placed), "code": code})
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(LEAVING_SECONDS):
                    await client.close(code=code)
        return client

    # --- a viewer, through the gateway of the host ---

    async def admit(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST placements/NAME/console {digest}, by the host's agent: an answer that goes on for as long as it may."""
        asked = _read(Admission, document_of(request, await body(request)))
        grant = self.tokens.take(asked.digest, self._clock())
        if grant is None or grant.kind != "viewer":
            raise Forbidden(REFUSED)
        mine = self.open.begin(grant)
        try:
            if mine.placed.key != key or mine.placed.host != subject.host:
                raise Forbidden(REFUSED)
            response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-store"})
            await response.prepare(request)
            log.info("console opened", extra=_named(grant, mine.placed))

            async def beat() -> None:
                while True:
                    mine.heard = self._clock()  # whether a viewer idles, its gateway knows
                    await response.write(b"\n")
                    await asyncio.sleep(BEAT_SECONDS)

            try:
                code = await _until_one_ends(beat, lambda: self.open.watch(mine))
                await response.write(f"{code}\n".encode())
            finally:
                log.info("console closed", extra=_named(grant, mine.placed))
            return response
        finally:
            self.open.end(mine)


LOOPBACK = ("", "127.0.0.1", "::1", "localhost")


async def _until_one_ends(*ways: Callable[[], Awaitable[None]]) -> int:
    """Run all until the first ends; the code that it ended with."""

    async def until_over(way: Callable[[], Awaitable[None]]) -> None:
        await way()
        raise Over

    code = 1000
    try:
        async with asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(until_over(way))
    except* Over as ended:
        code = next(one.code for one in ended.exceptions if isinstance(one, Over))
    except* (OSError, aiohttp.ClientError):
        code = 1011
    return code


def _token(request: web.BaseRequest) -> str:
    """The token among the subprotocols that a client offers. Raises Unauthorized."""
    offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    tokens = [one.removeprefix(TOKEN_PROTOCOL) for one in offered if one.startswith(TOKEN_PROTOCOL)]
    if len(tokens) != 1 or PROTOCOL not in offered or "Upgrade" not in request.headers:
        raise Unauthorized(f"open it as a websocket with the subprotocols `{PROTOCOL}` and `{TOKEN_PROTOCOL}TOKEN`")
    return tokens[0]


def _read(kind: type[M], doc: Any) -> M:
    try:
        return kind.model_validate({name: doc[name] for name in doc if name not in ("kind", "apiVersion")})
    except ValidationError as error:
        raise Invalid.of(causes_of(error)) from error


def _named(grant: Grant, placed: Placed | None = None) -> dict[str, object]:
    """What the log says of a console: never its token."""
    key = grant.instance
    named: dict[str, object] = {
        "user": grant.subject.name,
        "instance": f"{key.namespace}/{key.name}",
        "type": grant.kind,
    }
    return named | ({"host": placed.host} if placed is not None else {})
