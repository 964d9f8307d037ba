"""Real kubectl against an API over TLS in this process, whose store a test can look into."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.serving import ApiServer
from nanovirt.portal.identity import ADMIN, Identities, Subject
from nanovirt.portal.pki import Pki
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Create, transact
from tests.kubectl import Kubectl, KubectlError, kubectl

POOL = """\
apiVersion: nano/v1
kind: AddressPool
metadata: {name: lan, labels: {site: a}}
spec:
  subnet: 10.20.0.0/24
  gateway: 10.20.0.1
  ranges: [{name: low, first: 10.20.0.50, last: 10.20.0.99}]
"""
INSTANCE = """\
apiVersion: nano/v1
kind: Instance
metadata: {name: web-1, labels: {app: web}}
spec:
  cpus: 2
  memory: 2Gi
  disks: [{name: system, size: 10Gi}]
  nics: [{name: lan, addressPool: lan}]
"""


class Cluster:
    """The store behind the server, and kubectl in front of it."""

    def __init__(self, store: Engine, client: Kubectl) -> None:
        self.store, self.client = store, client

    async def run(self, *args: str, text: str | None = None) -> str:
        """Run kubectl, which has to succeed."""
        return await asyncio.to_thread(self.client.run, *args, input=text)

    async def fails(self, *args: str, text: str | None = None) -> str:
        """Run kubectl, which has to fail; what it said."""
        with pytest.raises(KubectlError) as caught:
            await self.run(*args, text=text)
        return caught.value.stderr

    async def object(self, *args: str) -> Any:
        """An object as JSON."""
        return json.loads(await self.run("get", *args, "-o", "json"))


@asynccontextmanager
async def cluster(directory: Path, version: str) -> AsyncIterator[Cluster]:
    """A server on loopback with its own authority, and a kubectl that knows it."""
    assert kinds()
    store = Engine(MemoryLog())
    pki = Pki(directory, datetime.now(UTC))
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(store.run())
        for name in ("default", "shared"):
            await transact(store, [Create(Key("namespaces", "", name), {"metadata": {"name": name}})], "start")
        known: list[Identities] = []  # the token is made when the port is known

        def identify(request: web.BaseRequest) -> Subject:
            return known[0].identify(request)

        api = Api(store, identify)
        runner = web.ServerRunner(ApiServer(api.handle), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=pki.tls_context(["127.0.0.1"]))
        await site.start()
        try:
            port = runner.addresses[0][1]
            known.append(Identities(store, {pki.admin_access(f"https://127.0.0.1:{port}"): ADMIN}))
            yield Cluster(store, Kubectl(kubectl(version), directory / "admin.kubeconfig"))
        finally:
            api.close()
            await runner.cleanup()
            committer.cancel()
