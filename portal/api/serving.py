"""The HTTP server under the API: aiohttp without its router, told to answer even its own errors with a Status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from nanovirt.portal.api.failures import failure
from nanovirt.portal.api.replies import reply
from nanovirt.resources.codec import dump

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
KEEPALIVE_SECONDS = 75.0
WORDS = {400: "BadRequest", 500: "InternalError", 504: "Timeout"}


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Log as aiohttp does, and answer with a Status; a bug tells its details to the log only.

        A client that has left before it was answered is nobody's error.
        """
        if not isinstance(exc, ConnectionError):
            super().handle_error(request, status, exc, message)
        said = HTTPStatus(status).description or HTTPStatus(status).phrase
        response = reply(dump(failure(status, WORDS.get(status, "InternalError"), said, {})), status)
        response.force_close()
        return response


class ApiServer(web.Server):
    """Makes a Connection per client for `Api.handle` or what wraps it; give it to `web.ServerRunner`."""

    def __init__(self, handle: Handler, **kwargs: Any) -> None:
        """Watches end with their client (handler_cancellation); bodies are never decompressed."""
        settings: dict[str, Any] = {
            "auto_decompress": False,
            "access_log": None,
            "keepalive_timeout": KEEPALIVE_SECONDS,
        }
        super().__init__(handle, handler_cancellation=True, **(settings | kwargs))

    def __call__(self) -> Connection:
        """A connection was accepted."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)
