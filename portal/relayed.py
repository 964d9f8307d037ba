"""Sub-resources of an instance that its host answers, and nobody else could."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from pydantic import ValidationError

from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import body
from nanovirt.portal.identity import Subject
from nanovirt.portal.relaying import Relay
from nanovirt.resources.codec import JSON, parse
from nanovirt.resources.errors import HostUnreachable, Invalid, NanoError
from nanovirt.resources.guest import FROZEN_MAX, FROZEN_SECONDS, GuestDetails
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason

SCREENSHOT_MAX = 32 << 20
LOG_MAX = 8 << 20
GUEST_SECONDS = 20.0
FILE_SYSTEMS_MAX = 10_000
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

    async def freeze(request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """POST instances/NAME/freeze {seconds}: its file systems stand still; replies {fileSystems, seconds}.

        They go on by `thaw`, or by themselves after so many seconds. Conflict when no guest agent answers.
        """
        seconds = _seconds(await body(request))
        told = await relay.fetch(key, "POST", "freeze", seconds=GUEST_SECONDS, hold=str(seconds))
        return document({"fileSystems": _count(told, key), "seconds": seconds})

    async def thaw(_request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """POST instances/NAME/thaw: they go on; replies {fileSystems}."""
        told = await relay.fetch(key, "POST", "thaw", seconds=GUEST_SECONDS)
        return document({"fileSystems": _count(told, key)})

    return {
        ("instances", "freeze", "POST"): freeze,
        ("instances", "thaw", "POST"): thaw,
        ("instances", "screenshot", "GET"): screenshot,
        ("instances", "log", "GET"): said,
        ("instances", "guest", "GET"): guest,
    }


def _seconds(raw: bytes) -> int:
    """For how long. Raises Invalid."""
    doc: JSON = parse(raw) if raw else {}
    for field in doc:
        if field != "seconds":
            raise Invalid(field, Reason.FieldUnknown, known="seconds")
    seconds = doc.get("seconds", FROZEN_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 < seconds <= FROZEN_MAX:
        raise Invalid("seconds", f"a whole number of seconds from 1 to {FROZEN_MAX}")
    return seconds


def _count(told: bytes, key: Key) -> int:
    """How many file systems its host says. HostUnreachable for nonsense: a host may have been taken."""
    try:
        count = parse(told).get("fileSystems")
    except NanoError:
        count = None
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= FILE_SYSTEMS_MAX:
        raise HostUnreachable(f"the host of {key.name} answers nonsense about its guest")
    return count
