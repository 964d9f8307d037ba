"""A server that knows one instance on one host, and that host's own port with whatever a test lets it answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from nanovirt.agent.listener import Listener, Routes, Served, listening
from nanovirt.portal.pki import Pki
from nanovirt.portal.relaying import Relay
from nanovirt.resources.access import from_host_credentials, listening_tls
from nanovirt.resources.codec import trusted
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import HostFacts, HostReport
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create
from tests.portal.world import NOW, commit, document, host, placement, running_store

WEB = Key("instances", "default", "web")
PLACED = Key("placements", "default", "web-1")


@dataclass
class RelayWorld:
    """The clock of the reports stands at 7 seconds; `obeyed` is what the host believes to hold."""

    store: Engine
    reports: Reports
    pki: Pki
    relay: Relay
    port: int
    obeyed: dict[Key, Placement]

    def report(self, **facts: object) -> None:
        """The host reports."""
        said = HostFacts.model_validate({"address": "127.0.0.1", "port": self.port, **facts})
        self.reports.hear("h1", HostReport(facts=said), 7.0)

    def placement(self) -> Placement:
        """As the store has it."""
        return trusted(Placement, self.store.get(PLACED).raw)


def instance(name: str = "web") -> Create:
    """An Instance that nothing acts on."""
    key = Key("instances", "default", name)
    return Create(key, document(key, {"disks": [{"name": "system", "size": "1Gi"}]}))


@asynccontextmanager
async def relay_world(folder: Path, routes: Routes, *, names: tuple[str, ...] = ()) -> AsyncIterator[RelayWorld]:
    """The host's certificate names its uid and `names`."""
    pki = Pki(folder, NOW)
    async with running_store() as store:
        await commit(store, host("h1"), host("h2"), instance())
        made = placement("web-1", "h1")
        made.doc["spec"]["instanceUid"] = store.get(WEB).uid
        await commit(store, made)
        shown = pki.host_credentials("h1", store.get(Key("hosts", "", "h1")).uid, "https://127.0.0.1:1", names)
        reports = Reports(0.0)
        relay = Relay(store, reports, pki.relay_context(), lambda: 7.0)
        obeyed: dict[Key, Placement] = {}

        def active(key: Key) -> Placement:
            if key not in obeyed:
                raise NotFound(key.plural, key.name)
            return obeyed[key]

        served = Served(active, routes, lambda: "nano_host_machines 1.0\n")
        tls = listening_tls(from_host_credentials(shown))
        async with listening(Listener(lambda _name: served), 0, tls, "127.0.0.1") as port:
            world = RelayWorld(store, reports, pki, relay, port, obeyed)
            obeyed[PLACED] = world.placement()
            world.report()
            try:
                yield world
            finally:
                await relay.close()
