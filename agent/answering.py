"""What the server may ask an agent about one machine, beside the orders that stand in its Placement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from nanovirt.agent.consoles import Consoles
from nanovirt.agent.guests import Guests
from nanovirt.agent.history import History
from nanovirt.agent.listener import Routes, content
from nanovirt.agent.machine import GuestRefused, Machine
from nanovirt.resources.codec import dump, parse
from nanovirt.resources.errors import Conflict, HypervisorError, Malformed
from nanovirt.resources.guest import FROZEN_SECONDS
from nanovirt.resources.placement import Placement
from nanovirt.resources.secret import SecretText

T = TypeVar("T")
QUARTER = 900.0
SILENT = "no guest agent answers; it needs qemu-guest-agent in the guest, and to have started"


def routes(machine: Machine) -> Routes:
    """(method, word) -> who answers."""

    async def screenshot(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET: what the screen shows, as PNG."""
        shown = await machine.screenshot(placement.spec.domain.uuid)
        return web.Response(body=shown, content_type="image/png")

    return {("GET", "screenshot"): screenshot, **Consoles(machine).routes}


def usage_routes(history: History) -> Routes:
    """What the machine has used."""

    async def usage(request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET ?from=&to=&step= (seconds, from and to since 1970; the last quarter of an hour by default): columns."""
        now = time.time()
        start, end = _number(request, "from", now - QUARTER), _number(request, "to", now)
        uuid, step = placement.spec.domain.uuid, int(_number(request, "step", 0))
        columns = await asyncio.to_thread(history.between, uuid, start, end, step, now)
        return web.Response(body=dump(columns), content_type="application/json")

    return {("GET", "usage"): usage}


def guest_routes(guests: Guests) -> Routes:
    """What the guest says."""

    async def guest(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET: what its agent says now, or said last if it is silent; 409 when it was never heard."""
        uuid = placement.spec.domain.uuid
        details = await guests.ask(uuid) or guests.details(uuid)
        if details is None:
            raise Conflict("instances", placement.spec.instance, SILENT)
        return web.Response(body=dump(details.to_json()), content_type="application/json")

    async def password(request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """POST {user, password}: 409 when no agent answers, 400 in its own words when it will not."""
        doc = parse(await content(request))
        user, said = doc.get("user"), doc.get("password")
        if not isinstance(user, str) or not isinstance(said, str):
            raise Malformed("user and password are texts")
        await _obeyed(guests.set_password(placement.spec.domain.uuid, user, SecretText(said)), placement)
        return web.Response(body=b"{}", content_type="application/json")

    async def freeze(request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """POST ?hold=N: how many file systems stand still now, for N seconds at most."""
        seconds = _number(request, "hold", FROZEN_SECONDS)
        count = await _obeyed(guests.freeze(placement.spec.domain.uuid, seconds), placement)
        return web.Response(body=dump({"fileSystems": count}), content_type="application/json")

    async def thaw(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """POST: how many go on."""
        count = await _obeyed(guests.thaw(placement.spec.domain.uuid), placement)
        return web.Response(body=dump({"fileSystems": count}), content_type="application/json")

    return {
        ("GET", "guest"): guest,
        ("POST", "password"): password,
        ("POST", "freeze"): freeze,
        ("POST", "thaw"): thaw,
    }


def silent_routes() -> Routes:
    """For simulated guests, which have no agent."""

    async def silent(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        raise Conflict("instances", placement.spec.instance, SILENT)

    return dict.fromkeys([("GET", "guest"), ("POST", "password"), ("POST", "freeze"), ("POST", "thaw")], silent)


async def _obeyed(order: Awaitable[T], placement: Placement) -> T:
    """What came of an order; Malformed when the guest will not, and Conflict when no agent answers, so that the caller
    takes another way.
    """
    try:
        return await order
    except GuestRefused as error:  # no trouble of the host: whoever asks can ask for something else
        raise Malformed(f"the guest refuses: {error}") from error
    except HypervisorError as error:
        raise Conflict("instances", placement.spec.instance, SILENT) from error


def _number(request: web.BaseRequest, name: str, otherwise: float) -> float:
    said = request.query.get(name)
    if said is None:
        return otherwise
    if not said.replace(".", "", 1).isdecimal() or len(said) > 15:
        raise Malformed(f"{name}: a number of seconds, not {said[:20]!r}")
    return float(said)
