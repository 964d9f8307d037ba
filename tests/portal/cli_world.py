"""The real API over TLS on a thread of its own, and `nanoctl` run against it, for the tests of portal/cli."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from click.testing import CliRunner, Result

from nanovirt.portal.api.dispatch import Api, HookTable
from nanovirt.portal.api.people import people
from nanovirt.portal.api.transactions import Foresee, nothing
from nanovirt.portal.cli import cli
from nanovirt.portal.desired.desk import pages
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN, Identities, now_utc
from nanovirt.portal.pki import Pki
from nanovirt.resources import registry
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.defaults import defaults
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, Delete, Half, Op, Update, transact

FIRST = ("Namespace", "SystemTemplate")
"""What a server begins with and every cluster has here, too; pools are the business of each test."""
POOL = """
apiVersion: nano/v1
kind: AddressPool
metadata: {name: NAME, labels: {a: "1"}}
spec:
  network: NAME
  subnet: 10.30.0.0/24
  dns: [10.30.0.1]
  ranges: [{name: low, first: 10.30.0.50, last: 10.30.0.99}]
"""
assert registry.MODULES


@dataclass
class Trap:
    """Loses the answers of that many writes, once they have been carried out, with the connection."""

    answers: int = 0
    sent: list[tuple[str, str]] = field(default_factory=list)
    """Method and Idempotency-Key of every write that has come."""

    def springs(self, request: web.BaseRequest) -> bool:
        if request.method == "GET":
            return False
        self.sent.append((request.method, request.headers.get("Idempotency-Key", "")))
        self.answers -= 1
        return self.answers >= 0


@dataclass
class Cluster:
    """A running server: its data folder holds admin.kubeconfig; `does` is how a test plays the controllers."""

    data: Path
    url: str
    store: Engine
    loop: asyncio.AbstractEventLoop
    threads: list[threading.Thread] = field(default_factory=list)
    trap: Trap = field(default_factory=Trap)

    @property
    def kubeconfig(self) -> Path:
        return self.data / "admin.kubeconfig"

    def nanoctl(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command; an unexpected exception is a failure of the test."""
        environment = {"NANO_KUBECONFIG": str(self.kubeconfig), "_NANOCTL_COMPLETE": None}
        result = CliRunner(env=environment).invoke(cli, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def says(self, *arguments: str, stdin: str = "") -> str:
        """The standard output of a command that has to work."""
        result = self.nanoctl(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    def does(self, *ops: Op) -> None:
        """Commit a transaction as the controllers do."""
        made: Future[Any] = asyncio.run_coroutine_threadsafe(transact(self.store, ops, "system"), self.loop)
        made.result(5)

    def object(self, plural: str, name: str, namespace: str = "") -> JSON:
        return load(self.store.get(Key(plural, namespace, name)).raw)

    def status(self, plural: str, name: str, namespace: str = "", **status: Any) -> None:
        """Write the status half."""
        key = Key(plural, namespace, name)
        self.does(Update(key, self.object(plural, name, namespace) | {"status": status}, Half.STATUS))

    def running(self, name: str, host: str = "node-1", ip: str = "10.20.0.50") -> None:
        """What `instances` writes when a machine is as wished."""
        generation = self.object("instances", name, "default")["metadata"]["generation"]
        ready = {"type": "Ready", "status": "True", "reason": "AsDesired", "message": "The machine is as desired."}
        address = {"nic": "nic0", "ip": ip, "mac": "52:54:00:00:00:01", "source": "Pool"}
        self.status(
            "instances", name, "default", phase="Running", host=host, observedGeneration=generation,
            addresses=[address], conditions=[ready | {"lastTransitionTime": "2026-11-22T09:00:00Z"}],
        )  # fmt: skip

    def creates(self, plural: str, name: str, namespace: str = "", **halves: Any) -> None:
        facts = registry.kinds()[plural].facts
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        doc = {"apiVersion": facts.group_version, "kind": facts.kind, "metadata": metadata, **halves}
        self.does(Create(Key(plural, namespace, name), doc))

    def library(self) -> None:
        """Image shared/mini, which `nanoctl run` looks for."""
        self.creates("images", "mini", "shared", spec={"source": {"upload": {}}})

    def removes(self, plural: str, name: str, namespace: str = "") -> None:
        """Delete an object at once, whatever its finalizers wait for."""
        key = Key(plural, namespace, name)
        doc = self.object(plural, name, namespace)
        free = doc | {"metadata": doc["metadata"] | {"finalizers": []}}
        self.does(Delete(key), *([Update(key, free, Half.MAIN)] if doc["metadata"].get("finalizers") else []))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen while a command waits."""

        def wait_and_act() -> None:
            time.sleep(seconds)
            act()

        thread = threading.Thread(target=wait_and_act)
        self.threads.append(thread)
        thread.start()


@contextmanager
def cluster(
    data: Path, hooks: HookTable | None = None, foresee: Foresee = nothing, *, desired: bool = False
) -> Iterator[Cluster]:
    """A server with the namespaces `default` and `shared` and the system templates, which ends with the block.

    `desired`: it applies the directory of that name.
    """
    started: Future[Cluster] = Future()
    stopping = asyncio.Event()

    async def serve() -> None:
        store = Engine(MemoryLog())
        pki = Pki(data, datetime.now(UTC))
        async with asyncio.TaskGroup() as tasks:
            committer = tasks.create_task(store.run())
            first = [thing for thing in defaults() if thing.facts.kind in FIRST]
            await transact(store, [Create(thing.key, thing.to_json()) for thing in first], "start")
            socket_ = socket.create_server(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{socket_.getsockname()[1]}"
            identities = Identities(store, {pki.admin_access(url): ADMIN})
            api = Api(
                store,
                identities.identify,
                {**(hooks or {}), **people(store)},
                sealer=Sealer(b"k" * 32),
                standing=identities.standing,
                foresee=foresee,
            )
            keeper = Desired(
                store, api.writer, data / "desired", lambda: ADMIN, now_utc, user=ADMIN.name, settle=0.05, rescan=0.5
            )
            api.add(pages(keeper, identities.identify))
            keeping = tasks.create_task(keeper.run()) if desired else None
            trap = Trap()

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                answer = await api.handle(request)
                if trap.springs(request) and request.transport is not None:
                    request.transport.abort()
                return answer

            server = web.Server(handle, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            try:
                site = web.SockSite(runner, socket_, ssl_context=pki.tls_context())
                await site.start()
                started.set_result(Cluster(data, url, store, asyncio.get_running_loop(), trap=trap))
                await stopping.wait()
            finally:
                api.close()
                for connection in server.connections:
                    if connection.transport is not None:
                        connection.transport.abort()
                await asyncio.sleep(0.05)
                await runner.cleanup()
            committer.cancel()
            if keeping is not None:
                keeping.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    running = started.result(10)
    try:
        yield running
    finally:
        for one in running.threads:
            one.join()
        running.loop.call_soon_threadsafe(stopping.set)
        thread.join()


def pool(name: str, **spec: Any) -> str:
    """A manifest of an AddressPool."""
    doc = yaml.safe_load(POOL.replace("NAME", name))
    return json.dumps(doc | {"spec": doc["spec"] | spec})


def machine(wish: str = "Running", phase: str = "Running", **spec: Any) -> JSON:
    """What power and waits look at: an Instance that has caught up with its spec."""
    conditions = [{"type": "Ready", "status": "True", "observedGeneration": 2}]
    status = {"phase": phase, "observedGeneration": 2, "conditions": conditions}
    return {"metadata": {"name": "web", "generation": 2}, "spec": {"powerState": wish, **spec}, "status": status}
