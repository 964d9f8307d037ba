"""What the server may ask an agent about one machine, beside the orders that stand in its Placement."""

from __future__ import annotations

from aiohttp import web

from nanovirt.agent.listener import Routes
from nanovirt.agent.machine import Machine
from nanovirt.resources.placement import Placement


def routes(machine: Machine) -> Routes:
    """(method, word) -> who answers."""

    async def screenshot(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET: what the screen shows, as PNG."""
        shown = await machine.screenshot(placement.spec.domain.uuid)
        return web.Response(body=shown, content_type="image/png")

    return {("GET", "screenshot"): screenshot}
