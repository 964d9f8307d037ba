"""The server's front: the API and all that plugs into it, on its sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from nanovirt.portal.agents import Agents
from nanovirt.portal.api.adopting import Adoption
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.people import people
from nanovirt.portal.api.transactions import Foresee
from nanovirt.portal.cli.processes import Options
from nanovirt.portal.consoles import Consoles
from nanovirt.portal.desired.desk import pages
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN, Identities, now_utc
from nanovirt.portal.images import Library
from nanovirt.portal.login import Login
from nanovirt.portal.metrics import Metrics
from nanovirt.portal.passwords import Passwords
from nanovirt.portal.pki import Pki
from nanovirt.portal.relayed import relayed
from nanovirt.portal.relaying import Relay
from nanovirt.portal.safekeeping import Safekeeping
from nanovirt.portal.seeds import Seeds
from nanovirt.portal.server import listening as serving
from nanovirt.portal.usage import Figures
from nanovirt.portal.watch_socket import WatchSockets
from nanovirt.portal.web_app import WebApp
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import NanoError
from nanovirt.resources.reports import Reports
from nanovirt.resources.sealing import key_file

log = logging.getLogger(__name__)

RENEWAL_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class Heart:
    """What everything inside the server hangs on."""

    folder: Path
    store: Engine
    reports: Reports
    pki: Pki
    agents: Agents
    api_port: int


@asynccontextmanager
async def listening(
    heart: Heart, sockets: Sequence[socket.socket], group: asyncio.TaskGroup, foresee: Foresee, options: Options
) -> AsyncIterator[None]:
    """The API and all that plugs into it."""
    digest = heart.pki.admin_access(f"https://127.0.0.1:{heart.api_port}")
    identities = Identities(heart.store, {digest: ADMIN})
    library = Library(heart.store, heart.reports, heart.folder / "images")
    filing = group.create_task(library.run())
    relay_tls = heart.pki.relay_context()
    relay = Relay(heart.store, heart.reports, relay_tls)
    consoles = Consoles(heart.store, relay, identities)
    safekeeping = Safekeeping(heart.store, heart.reports, heart.agents, heart.folder / "data", identities.identify)
    sealer = key_file(heart.folder / "secrets.key", needed=bool(heart.store.list("secrets")))
    passwords = Passwords(heart.store, relay, sealer, lambda: api.writer)
    figures = Figures(heart.store, heart.reports, identities.identify, relay)
    metrics = Metrics(heart.store, figures, identities.identify)
    hooks = {
        ("hosts", "report", "POST"): heart.agents.report,
        ("placements", "secrets", "GET"): Seeds(heart.store, sealer).secrets,
        ("instances", "usage", "GET"): figures.instance,
        ("instances", "password", "POST"): passwords.answer,
        ("hosts", "usage", "GET"): figures.host,
        **library.hooks,
        **people(heart.store),
        **Adoption(heart.store, heart.reports, lambda: api.writer).hooks,
        **relayed(relay),
        **consoles.hooks,
    }
    api = Api(
        heart.store,
        identities.identify,
        hooks,
        {**safekeeping.pages, **Login(identities).pages, **figures.pages, **metrics.pages},
        version=version("nanovirt"),
        sealer=sealer,
        standing=identities.standing,
        foresee=foresee,
        doors={("instances", "console", "GET"): consoles.page},
    )
    desired = Desired(
        heart.store,
        api.writer,
        (options.desired or heart.folder / "desired").absolute(),
        partial(identities.user, options.desired_user) if options.desired_user else lambda: ADMIN,
        now_utc,
        user=options.desired_user or ADMIN.name,
        prune=options.desired_prune,
    )
    api.add(pages(desired, identities.identify))
    api.add({("GET", "/ws/v1/watch"): WatchSockets(identities.identify, api.watches).page})
    keeping = group.create_task(desired.run())
    tls = heart.pki.tls_context()
    renewing = group.create_task(_renewing(heart.pki, tls, relay_tls))
    try:
        async with serving(WebApp().around(api.handle), sockets, tls):
            try:
                yield
            finally:
                api.close()
    finally:
        await relay.close()
        filing.cancel()
        keeping.cancel()
        renewing.cancel()


async def _renewing(pki: Pki, tls: ssl.SSLContext, relay: ssl.SSLContext) -> None:
    """Give the listeners, and what calls agents, a new certificate before the old one ends; open connections go on.

    A third of the old one's life is left to put right what hinders it, such as an authority whose key is offline.
    """
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        try:
            pki.renew(tls, (), datetime.now(UTC))
            pki.renew_relay(relay, datetime.now(UTC))
        except (NanoError, OSError) as error:
            log.warning("certificate not renewed; will retry", extra={"detail": str(error)})
