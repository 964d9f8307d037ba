"""Sub-resources of an instance that its host answers, and nobody else could."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from nanovirt.portal.identity import Subject
from nanovirt.portal.relaying import Relay
from nanovirt.resources.kind import Key

SCREENSHOT_MAX = 32 << 20
LOG_MAX = 8 << 20
Hook = Callable[[web.BaseRequest, Subject, Key], Awaitable[web.StreamResponse]]


def relayed(relay: Relay) -> Mapping[tuple[str, str, str], Hook]:
    """(plural, sub-resource, method) -> who answers; the door has authorized."""

    async def screenshot(_request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """GET instances/NAME/screenshot: what its screen shows, as PNG."""
        shown = await relay.fetch(key, "GET", "screenshot", limit=SCREENSHOT_MAX)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=shown, content_type="image/png", headers=headers)

    async def said(_request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """GET instances/NAME/log: what the guest said on its serial line, as far as it is kept."""
        told = await relay.fetch(key, "GET", "log", limit=LOG_MAX)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.Response(body=told, content_type="text/plain", charset="utf-8", headers=headers)

    return {("instances", "screenshot", "GET"): screenshot, ("instances", "log", "GET"): said}
