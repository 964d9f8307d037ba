"""A running API on a real socket over the real engine on a memory log, for the tests of portal/api."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession, TCPConnector, web
from aiohttp.test_utils import RawTestServer

from nanovirt.portal.api.dispatch import Api, HookTable
from nanovirt.portal.api.transactions import Foresee, nothing
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.pki import HOSTS
from nanovirt.resources import registry
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Unauthorized
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, transact

JSON = dict[str, Any]
NANO = "/apis/nano/v1"
INSTANCES = f"{NANO}/namespaces/default/instances"
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}

assert registry.MODULES


def instance(name: str = "web-1", **spec: Any) -> JSON:
    """An Instance manifest."""
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": spec}


def pool(name: str = "lan", subnet: str = "10.20.0.0/24", first: str = "", last: str = "") -> JSON:
    """An AddressPool manifest; addresses .50 to .99 of the subnet, .60 reserved."""
    net = subnet.partition("/")[0].rpartition(".")[0]
    ranges = [{"name": "low", "first": first or f"{net}.50", "last": last or f"{net}.99"}]
    spec = {"subnet": subnet, "gateway": f"{net}.1", "ranges": ranges, "reserved": [f"{net}.60"]}
    return {"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": name}, "spec": spec}


@dataclass
class Reply:
    """An answer, read to its end."""

    code: int
    headers: Any
    raw: bytes

    @property
    def doc(self) -> Any:
        """The JSON in it."""
        return json.loads(self.raw)

    @property
    def warnings(self) -> list[str]:
        """Its Warning headers."""
        return list(self.headers.getall("Warning", []))


@dataclass
class World:
    """The engine, the API and a client of it."""

    store: Engine
    api: Api
    session: ClientSession
    base: str
    subjects: dict[str, Subject] = field(default_factory=dict)

    async def call(self, method: str, path: str, doc: Any = None, **kwargs: Any) -> Reply:
        """One request; `doc` is sent as JSON."""
        headers = dict(kwargs.pop("headers", {}))
        subject = kwargs.pop("subject", "admin")
        headers["X-Subject"] = subject
        if doc is not None:
            kwargs["data"] = json.dumps(doc).encode()
            headers.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.base + path, headers=headers, **kwargs) as response:
            return Reply(response.status, response.headers, await response.read())

    async def make(self, path: str, doc: JSON) -> JSON:
        """Create, which has to work."""
        made = await self.call("POST", path, doc)
        assert made.code == 201, made.raw
        found: JSON = made.doc
        return found

    async def store_raw(self, key: Key, doc: JSON) -> None:
        """What controllers do: write past the API."""
        metadata = {**doc.get("metadata", {}), "name": key.name}
        if key.namespace:
            metadata["namespace"] = key.namespace
        await transact(self.store, [Create(key, {**doc, "metadata": metadata})], "system:controllers")

    @asynccontextmanager
    async def watch(self, path: str, subject: str = "admin", **query: str) -> AsyncIterator[Watch]:
        """An open watch."""
        query["watch"] = "true"
        headers = {"X-Subject": subject, "Accept": query.pop("accept", "application/json")}
        async with self.session.get(self.base + path, params=query, headers=headers) as response:
            assert response.status == 200, await response.read()
            yield Watch(response)


@dataclass
class Watch:
    """The events of an open watch."""

    response: ClientResponse

    async def next(self, seconds: float = 30) -> JSON:
        """The next event."""
        async with asyncio.timeout(seconds):
            line = await self.response.content.readline()
        assert line, "the watch ended"
        event: JSON = json.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """The next events as (type, name)."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def end(self, seconds: float = 30) -> bytes:
        """What comes until the end."""
        async with asyncio.timeout(seconds):
            return await self.response.content.read()


@asynccontextmanager
async def world(
    hooks: HookTable | None = None, log: Log | None = None, *, fresh: bool = True, foresee: Foresee = nothing
) -> AsyncIterator[World]:
    """A world with the namespaces `default`, `shared` and `team-a`, unless the log has them already.

    The header X-Subject says who asks.
    """
    subjects = {"admin": ADMIN, "stranger": Subject("stranger", ())}
    for host in ("node-1", "node-2"):
        subjects[host] = Subject(f"host:{host}", (HOSTS,), host=host)

    def identify(request: web.BaseRequest) -> Subject:
        found = subjects.get(request.headers.get("X-Subject", ""))
        if found is None:
            raise Unauthorized("who are you?")
        return found

    store = Engine(log or MemoryLog())
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(store.run())
        for name in ("default", "shared", "team-a") if fresh else ():
            await transact(store, [Create(Key("namespaces", "", name), {"metadata": {"name": name}})], "start")
        api = Api(store, identify, hooks, sealer=Sealer(b"k" * 32), foresee=foresee)
        server = RawTestServer(api.handle)
        await server.start_server()
        try:
            async with ClientSession(connector=TCPConnector(limit=0)) as session:
                yield World(store, api, session, f"http://{server.host}:{server.port}", subjects)
        finally:
            api.close()
            await server.close()
            committer.cancel()
