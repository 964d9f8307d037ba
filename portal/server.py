"""The listening side of the server: TLS sockets for the API and the portal, and what is served beside the API."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from nanovirt.portal.api.serving import ApiServer
from nanovirt.resources.errors import Unavailable

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
HEADER_MAX = 8 * 1024
SHUTDOWN_SECONDS = 2.0


def bind(port: int, host: str = "") -> socket.socket:
    """A listening TCP socket, on all addresses when `host` is ""; port 0 lets the system choose."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # without the address, which Python appends
        hint = "does a server run already? Else give another port"
        raise Unavailable(f"cannot listen on TCP port {port}: {why}; {hint}") from error


def port_of(listening: socket.socket) -> int:
    """The port that a socket listens on."""
    return int(listening.getsockname()[1])


@asynccontextmanager
async def listening(handle: Handler, sockets: Iterable[socket.socket], tls: ssl.SSLContext) -> AsyncIterator[None]:
    """Serve requests on all `sockets` within the block."""
    server = ApiServer(handle, max_field_size=HEADER_MAX)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        for one in sockets:
            await web.SockSite(runner, one, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()
