"""Sub-resources of an instance that its host answers, and nobody else could."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from pydantic import ValidationError

from nanovirt.portal.api.replies import document
from nanovirt.portal.identity import Subject
from nanovirt.portal.relaying import Relay
from nanovirt.resources.errors import HostUnreachable
from nanovirt.resources.guest import GuestDetails
from nanovirt.resources.kind import Key

SCREENSHOT_MAX = 32 << 20
LOG_MAX = 8 << 20
GUEST_SECONDS = 20.0
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

    async def guest(_request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """GET instances/NAME/guest: what its guest agent says now. Read here once more: a host may have been taken."""
        told = await relay.fetch(key, "GET", "guest", seconds=GUEST_SECONDS)
        try:
            details = GuestDetails.model_validate_json(told)
        except ValidationError as error:
            raise HostUnreachable(f"the host of {key.name} answers nonsense about its guest") from error
        return document(details.to_json())

    return {
        ("instances", "screenshot", "GET"): screenshot,
        ("instances", "log", "GET"): said,
        ("instances", "guest", "GET"): guest,
    }
