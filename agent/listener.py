"""The agent's own port: the server asks about a machine that is Active here; both sides show certificates."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web

from nanovirt.agent.exposition import TYPE
from nanovirt.resources import errors
from nanovirt.resources.codec import dump
from nanovirt.resources.credentials import ADMINS, SERVERS
from nanovirt.resources.errors import Conflict, Forbidden, HypervisorError, NanoError, NotAllowed, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement

UID_HEADER = "Nano-Placement-Uid"
"""Which Placement the server means, since another may have borne its name."""
WHY_HEADER = "Nano-Refusal"
"""The refusal again, as ASCII, for whoever wanted a websocket and so reads no body."""
MESSAGE_MAX = 500
HEADER_MAX = 8 * 1024
BODY_MAX = 1 << 20
SHUTDOWN_SECONDS = 1.0
CODES: Mapping[type[NanoError], int] = {
    errors.Malformed: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAllowed: 405,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.Rejected: 400,
    errors.Unavailable: 503,
    NanoError: 500,
}
Route = Callable[[web.BaseRequest, Placement], Awaitable[web.StreamResponse]]
Routes = Mapping[tuple[str, str], Route]
"""(method, word) -> who answers `/placements/NAMESPACE/NAME/WORD`; raises NanoError to refuse."""


@dataclass(frozen=True)
class Served:
    """One host: which Placements are obeyed there (NotFound, Conflict otherwise), and what can be asked about them."""

    active: Callable[[Key], Placement]
    routes: Routes = field(default_factory=dict)
    figures: Callable[[], str] | None = None
    """What `GET /metrics` answers, to administrators too: there is nothing in it that Prometheus needs a server for."""


class Listener:
    """Answers the server's requests; `host` finds who is meant by the name that was called, the uid of the Host."""

    def __init__(self, host: Callable[[str], Served | None]) -> None:
        self._host = host

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; a refusal is told as a Status document."""
        try:
            return await self._answer(request)
        except NanoError as error:
            return refusal(error)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        served = self._host((request.host or "").partition(":")[0])
        if parts == ["metrics"] and request.method == "GET" and served is not None and served.figures is not None:
            _only(request, SERVERS, ADMINS)
            return web.Response(body=served.figures().encode(), headers={"Content-Type": TYPE})
        _only(request, SERVERS)
        if served is None or len(parts) != 4 or parts[0] != "placements":
            raise NotFound("paths", request.path[:200])
        _, namespace, name, word = parts
        methods = [method for method, known in served.routes if known == word]
        if request.method not in methods:
            raise NotAllowed(f"{request.method} {word[:40]} is not known here", *methods)
        placement = served.active(Key("placements", namespace, name))
        if request.headers.get(UID_HEADER) != placement.metadata.uid:
            raise Conflict("placements", name, "another Placement of that name is meant")
        return await served.routes[request.method, word](request, placement)


def _only(request: web.BaseRequest, *organizations: str) -> None:
    """Whoever else has a certificate of the authority (users, other hosts, administrators) has no business there."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    said = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    named = [value for name, value in said if name == "organizationName"]
    if len(named) != 1 or named[0] not in organizations:
        raise Forbidden("only the server may call an agent, and administrators its /metrics")


def refusal(error: NanoError) -> web.Response:
    """The reply that tells the server of `error`."""
    code = next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)
    params = {"code": error.code} if isinstance(error, HypervisorError) else error.params
    doc = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": error.reason}
    doc |= {"message": str(error)[:MESSAGE_MAX], "details": {"params": params}}
    headers = {WHY_HEADER: json.dumps(doc)}
    return web.Response(body=dump(doc), status=code, content_type="application/json", headers=headers)


@asynccontextmanager
async def listening(listener: Listener, port: int, tls: ssl.SSLContext, host: str = "") -> AsyncIterator[int]:
    """Serve within the block, on all addresses when `host` is ""; gives the port. HypervisorError when it is taken."""
    server = web.Server(
        listener.handle, access_log=None, handler_cancellation=True, auto_decompress=False, max_field_size=HEADER_MAX
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise HypervisorError(f"the agent cannot listen on TCP port {port}: {error.strerror or error}") from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def content(request: web.BaseRequest, limit: int = BODY_MAX, seconds: float = 10.0) -> bytes:
    """The body of a request. Raises TooLarge, Malformed."""
    try:
        async with asyncio.timeout(seconds):
            return await request.clone(client_max_size=limit).read()
    except web.HTTPRequestEntityTooLarge as error:
        raise errors.TooLarge(f"the body has more than {limit} bytes") from error
    except TimeoutError as error:
        raise errors.Malformed(f"the body did not arrive within {seconds:g} s") from error
