"""Real kubectl, the oldest and the newest that is supported, does its work against the API over TLS."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.serving import ApiServer
from nanovirt.portal.identity import ADMIN, Identities, Subject
from nanovirt.portal.pki import Pki
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Create, Half, Update, transact
from tests.kubectl import VERSIONS, Kubectl, KubectlError, kubectl

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

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("version", VERSIONS)]


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

    async def status(self, name: str, **status: Any) -> None:
        """What the controllers do."""
        key = Key("instances", "default", name)
        await transact(self.store, [Update(key, {"status": status}, Half.STATUS)], "system:controllers")


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


def lines(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}|\t", line.strip()) for line in text.splitlines() if line.strip()]


async def test_discovery(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        assert "nano/v1" in await c.run("api-versions")
        found = await c.run("api-resources")
        assert re.search(r"instances\s+inst,vm\s+nano/v1\s+true\s+Instance", found) or "inst,vm" in found
        assert "namespaces" in found
        assert "+nano" in await c.run("version")
        assert json.loads(await c.run("get", "--raw", "/apis/nano/v1"))["kind"] == "APIResourceList"


async def test_create_get_describe_delete(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run("create", "-f", "-", text=POOL)
        assert "instance.nano/web-1 created" in await c.run("create", "-f", "-", text=INSTANCE)
        await c.status(
            "web-1", phase="Running", host="node-1", addresses=[{"nic": "lan", "ip": "10.20.0.50", "mac": "x"}]
        )
        head, row = lines(await c.run("get", "vm"))
        assert head == ["NAME", "PHASE", "HOST", "IP", "CPUS", "MEMORY", "AGE"]
        assert row[:6] == ["web-1", "Running", "node-1", "10.20.0.50", "2", "2Gi"]
        assert "MAC" in await c.run("get", "instances", "-o", "wide")
        assert (await c.run("get", "instances", "-o", "name")).strip() == "instance.nano/web-1"
        assert "team" not in await c.run("get", "inst", "-A")
        assert "web-1" in await c.run("get", "nano", "-A")
        assert "web-1" in await c.run("get", "inst", "-l", "app=web", "--show-labels")
        assert "web-1" in await c.run(
            "get", "inst", "-l", "app in (web,db)", "--field-selector", "status.phase=Running"
        )
        assert "web-1" not in await c.run("get", "inst", "--field-selector", "status.phase!=Running")
        assert await c.run("get", "inst", "-o", "jsonpath={.items[*].spec.cpus}") == "2"
        assert "status.nope" in await c.fails("get", "inst", "--field-selector", "status.nope=1")
        involved = {"kind": "Instance", "namespace": "default", "name": "web-1"}
        uid = (await c.object("inst", "web-1"))["metadata"]["uid"]
        event = {
            "metadata": {"name": "e1", "namespace": "default"},
            "involvedObject": {**involved, "uid": uid},
            "type": "Normal",
            "reason": "Scheduled",
            "message": "Placed on node-1.",
            "lastTimestamp": "2026-11-22T06:00:00Z",
            "count": 1,
        }
        await transact(c.store, [Create(Key("events", "default", "e1"), event)], "system:controllers")
        described = await c.run("describe", "instance", "web-1")
        assert "Placed on node-1." in described
        assert "Memory" in described
        assert "Scheduled" in await c.run("get", "events")
        assert "is still used by instances/default/web-1" in await c.fails("delete", "addresspool", "lan")
        assert "deleted" in await c.run("delete", "instance", "web-1", "--wait=false")
        assert (await c.object("inst", "web-1"))["metadata"]["deletionTimestamp"]


async def test_apply_edit_and_patch(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        assert "created" in await c.run("apply", "-f", "-", text=POOL + "---\n" + INSTANCE)
        # An Instance would be "configured": kubectl compares its lists as a whole, and ours have defaults in them.
        assert "unchanged" in await c.run("apply", "-f", "-", text=POOL)
        changed = INSTANCE.replace("cpus: 2", "cpus: 3")
        assert "cpus: 3" in (await asyncio.to_thread(c.client.run, "diff", "-f", "-", input=changed, check=False))
        assert "configured" in await c.run("apply", "-f", "-", text=changed)
        assert "configured" in await c.run(
            "apply", "--dry-run=server", "-f", "-", text=changed.replace("cpus: 3", "cpus: 5")
        )
        found = await c.object("inst", "web-1")
        assert (found["spec"]["cpus"], found["metadata"]["generation"]) == (3, 2)
        assert "patched" in await c.run("patch", "inst", "web-1", "--type=merge", "-p", '{"spec":{"cpus":4}}')
        ops = '[{"op":"replace","path":"/spec/cpus","value":5}]'
        assert "patched" in await c.run("patch", "inst", "web-1", "--type=json", "-p", ops)
        assert "no change" in await c.run("patch", "inst", "web-1", "--type=merge", "-p", '{"spec":{"cpus":5}}')
        assert "labeled" in await c.run("label", "inst", "web-1", "tier=front")
        assert "annotated" in await c.run("annotate", "inst", "web-1", "note=hello")
        found = await c.object("inst", "web-1")
        assert found["metadata"]["labels"] == {"app": "web", "nano/owner": "admin", "tier": "front"}
        text = json.dumps(found).replace('"cpus": 5', '"cpus": 6')
        assert "replaced" in await c.run("replace", "-f", "-", text=text)
        assert "the object has been modified" in await c.fails("replace", "-f", "-", text=text)
        assert "deleted" in await c.run("delete", "inst", "-l", "tier=front", "--wait=false")


async def test_ways_to_print_edit_and_delete(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(tmp_path, version) as c:
        file = tmp_path / "two.yaml"
        file.write_text(INSTANCE + "---\n" + INSTANCE.replace("web-1", "web-2").replace("cpus: 2", "cpus: 1"))
        await c.run("apply", "-f", str(file))
        shown = await c.run("get", "inst", "-o", "custom-columns=N:.metadata.name,C:.spec.cpus", "--sort-by=.spec.cpus")
        assert [row[0] for row in lines(shown)] == ["N", "web-2", "web-1"]
        assert yaml.safe_load(await c.run("get", "inst", "web-1", "-o", "yaml"))["spec"]["cpus"] == 2
        assert "web-1" in await c.run("get", "-f", str(file))
        monkeypatch.setenv("EDITOR", "sed -i -e s/cpus:.2/cpus:\\ 7/")
        assert "edited" in await c.run("edit", "inst", "web-1")
        assert (await c.object("inst", "web-1"))["spec"]["cpus"] == 7
        assert "server dry run" in await c.run("delete", "--dry-run=server", "-f", str(file))
        assert "deleted" in await c.run("delete", "-f", str(file), "--wait=false")
        await c.run("create", "-f", "-", text=POOL.replace("lan", "other"))
        assert 'addresspool.nano "other" deleted' in await c.run("delete", "apool", "--all")
        assert await c.run("get", "apool") == ""


async def test_bad_input_is_explained(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        said = await c.fails("apply", "-f", "-", text=INSTANCE.replace("cpus: 2", "cpuz: 2"))
        assert "cpuz" in said
        said = await c.fails("apply", "--validate=false", "-f", "-", text=INSTANCE.replace("cpus: 2", "cpus: -2"))
        assert "spec.cpus" in said
        warned = await asyncio.to_thread(c.client.run, "create", "-f", "-", input=INSTANCE, check=False)
        assert "created" in warned
        assert "NotFound" in await c.fails("get", "inst", "nope")
        assert "already exists" in await c.fails("create", "-f", "-", text=INSTANCE)


async def test_waiting_and_watching(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run("create", "-f", "-", text=INSTANCE)
        ready = {"type": "Ready", "status": "True", "reason": "AsDesired"}

        async def soon(act: Callable[[], Any]) -> None:
            await asyncio.sleep(0.7)
            await act()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(soon(lambda: c.status("web-1", phase="Running", conditions=[ready])))
            said = await c.run("wait", "--for=condition=Ready", "inst/web-1", "--timeout=20s")
        assert "condition met" in said
        await c.run("create", "-f", "-", text=POOL.replace("lan", "other"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(soon(lambda: c.run("delete", "apool", "other")))
            said = await c.run("wait", "--for=delete", "addresspool/other", "--timeout=20s")
        assert "condition met" in said or "deleted" in said
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(soon(lambda: c.status("web-1", phase="Stopped", conditions=[ready])))
            seen = await c.run("get", "inst", "-w", "--request-timeout=3s")
        assert "Running" in seen
        assert "Stopped" in seen


async def test_explain(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        assert "powerState" in await c.run("explain", "instance.spec")
        assert "nics" in await c.run("explain", "instance", "--recursive")
        assert "subnet" in await c.run("explain", "addresspools.spec")
        fields = (await c.run("explain", "instance", "--recursive")).splitlines()
        assert {line.split()[1] for line in fields if "memory" in line.lower()} == {"<string>"}
        assert "An amount such as 4Gi" in await c.run("explain", "instance.spec.memory")


async def test_namespaces_and_rights(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        assert "created" in await c.run("create", "namespace", "team-b")
        await c.run("create", "-n", "team-b", "-f", "-", text=INSTANCE)
        assert "team-b" in await c.run("get", "inst", "-A")
        assert "still holds 1 objects" in await c.fails("delete", "namespace", "team-b")
        assert (await c.run("auth", "can-i", "create", "instances")).strip() == "yes"
        assert "instances.nano" in await c.run("auth", "can-i", "--list")
        if version != "1.20":
            assert "admin" in await c.run("auth", "whoami")
        await c.run("create", "namespace", "team-c")
        assert "deleted" in await c.run("delete", "namespace", "team-c")


async def test_long_lists_come_in_pages(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        for number in range(30):
            spec = {
                "metadata": {"name": f"p-{number:02}", "namespace": "default"},
                "spec": {"cpus": 1, "memory": "1Gi"},
            }
            await transact(c.store, [Create(Key("instances", "default", f"p-{number:02}"), spec)], "test")
        rows = lines(await c.run("get", "inst", "--chunk-size=7"))
        assert [row[0] for row in rows[1:]] == [f"p-{number:02}" for number in range(30)]
