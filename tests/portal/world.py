"""A small cluster for tests of the portal: a store that commits, a few hosts, pools and placements, and TLS servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import ClientSession, TCPConnector, web

from nanovirt.portal.pki import Pki
from nanovirt.resources import registry
from nanovirt.resources.codec import JSON
from nanovirt.resources.credentials import HostCredentials
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.store import Create, Delete, Half, Op, Update, transact

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
assert registry.kinds(), "importing it is what registers them"


@asynccontextmanager
async def running_store() -> AsyncIterator[Engine]:
    """A store in memory whose committer runs."""
    engine = Engine(MemoryLog(), lambda: NOW)
    async with asyncio.TaskGroup() as group:
        committer = group.create_task(engine.run())
        try:
            yield engine
        finally:
            committer.cancel()


async def commit(store: Engine, *ops: Op) -> None:
    """Commit, and wait until everybody who follows the store has heard of it."""
    await transact(store, ops, "test")
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def document(key: Key, spec: JSON, status: JSON | None = None) -> JSON:
    facts = registry.kinds()[key.plural].facts
    metadata = {"name": key.name} | ({"namespace": key.namespace} if key.namespace else {})
    return {
        "apiVersion": facts.group_version,
        "kind": facts.kind,
        "metadata": metadata,
        "spec": spec,
        "status": status or {},
    }


def host(name: str, **spec: object) -> Create:
    key = Key("hosts", "", name)
    return Create(key, document(key, {"computePool": "default", "enabled": True, **spec}))


def pool(name: str, path: str) -> Create:
    key = Key("storagepools", "", name)
    return Create(key, document(key, {"type": "Local", "local": {"path": path}}))


def placement(name: str, on: str, *, epoch: int = 1, role: str = "Active", volumes: tuple[JSON, ...] = ()) -> Create:
    key = Key("placements", "default", name)
    uid = "00000000-0000-4000-8000-000000000001"
    spec = {
        "instance": "web",
        "instanceUid": uid,
        "host": on,
        "epoch": epoch,
        "role": role,
        "domain": {"uuid": uid, "name": "default.web"},
        "hostname": "web",
        "cpu": 1,
        "memory": "1Gi",
        "volumes": list(volumes),
    }
    return Create(key, document(key, spec))


def placement_spec(store: Engine, name: str, **changed: object) -> Update:
    """An update of some fields of the spec."""
    key = Key("placements", "default", name)
    doc = placement(name, store.get(key).row.host).doc
    return Update(key, doc | {"spec": doc["spec"] | changed}, Half.MAIN)


def gone(plural: str, name: str, namespace: str = "") -> Delete:
    return Delete(Key(plural, namespace, name))


@asynccontextmanager
async def listening(
    respond: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """An aiohttp server in which every path leads to `respond`; errors of Nano become their reason. Its port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await respond(request)
        except NanoError as error:
            return web.Response(status=400, text=error.reason)

    app = web.Application(client_max_size=2**40)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


def client_tls(ca: str, folder: Path | None = None, pem: str = "") -> ssl.SSLContext:
    """How a client of ours speaks TLS: trusts `ca`, checks the name, shows the certificate and key in `pem`."""
    context = ssl.create_default_context(cadata=ca)
    if pem:
        assert folder is not None
        file = folder / "client.pem"
        file.write_text(pem)
        context.load_cert_chain(file)
    return context


def session(tls: ssl.SSLContext) -> ClientSession:
    return ClientSession(connector=TCPConnector(ssl=tls))


def credentials_pem(credentials: HostCredentials) -> str:
    return credentials.key + credentials.certificate


def admin_pem(pki: Pki, directory: Path) -> str:
    pki.admin_access("https://127.0.0.1:5870")
    return (directory / "pki" / "admin.pem").read_text()
