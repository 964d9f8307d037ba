"""The drill of docs/operations.md: the server's disk is gone, a backup is restored elsewhere, no guest notices."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Expired, NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.segments import RAISED
from tests.e2e.server_process import PATIENT, ServerProcess
from tests.e2e.simulated_agent import SimulatedAgent, starts, with_agents
from tests.e2e.waiting import condition, instance, instance_key, phase, until, until_all, until_gone_named, until_ready

pytestmark = pytest.mark.timeout(300)

KEPT = [f"web-{number}" for number in range(6)]


async def nanoctl(server: ServerProcess, *words: str | Path) -> str:
    return await asyncio.to_thread(server.nanoctl, *words)


async def differences(server: ServerProcess) -> list[JSON]:
    """What `nanoctl verify` would list."""
    async with server.client() as client:
        return list((await client._json("GET", "/verify"))["differences"])


async def runs(agents: dict[str, SimulatedAgent]) -> dict[str, tuple[str, str, str]]:
    """Host, state and run of each domain by its name: a run differs for each start."""
    return {
        domain.name: (host, domain.state, domain.run)
        for host, one in agents.items()
        for domain in (await one.machine.domains()).values()
    }


def address(doc: JSON) -> str:
    return str(doc["status"]["addresses"][0]["ip"])


@asynccontextmanager
async def load(client: Client) -> AsyncIterator[list[int]]:
    """Writes without a pause within the block; the revisions that they had."""
    revisions: list[int] = []
    over = asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            doc = {"metadata": {"annotations": {"load": str(len(revisions))}}}
            made = await client.patch(Key("namespaces", "", "default"), doc)
            revisions.append(int(made["metadata"]["resourceVersion"]))

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        try:
            yield revisions
        finally:
            over.set()
            await writing


async def restored(server: ServerProcess, backup: Path, keys: Path, images: Path) -> ServerProcess:
    """A new server, on another folder but at the same address, that has not begun."""
    new = ServerProcess(server.folder.with_name("elsewhere"))
    new.api_port, new.portal_port = server.api_port, server.portal_port
    await nanoctl(server, "restore", backup, "--keys", keys, "--data", new.folder)
    shutil.copytree(images, new.folder / "images")
    return new


async def test_server_s_disk_is_gone_and_no_guest_notices(tmp_path: Path) -> None:
    backup, keys, images = tmp_path / "backup.tar", tmp_path / "keys.tar", tmp_path / "images"
    async with with_agents(tmp_path, "h1", "h2") as (server, agents, client):
        for name in KEPT:
            await client.create(instance(name))
        await client.create(instance("doomed", scheduling={"host": "h1"}))
        docs = await until_all(client, [*KEPT, "doomed"], "Running")
        async with load(client) as during:
            await nanoctl(server, "backup", backup)
            await nanoctl(server, "backup", "--keys", keys, "--data", server.folder)
            async with asyncio.timeout(PATIENT):
                while len(during) <= 20:
                    await asyncio.sleep(0.05)
        await client.create(instance("late"))
        late = await until(client, instance_key("late"), "Running")
        await client.delete(instance_key("doomed"))
        await until_gone_named(client, "doomed")
        _, seen = await client.list("instances")
        before, begun = await runs(agents), starts(agents)
        shutil.copytree(server.folder / "images", images)
        server.kill()
        await agents["h2"].end()
        shutil.rmtree(server.folder)
        new = await restored(server, backup, keys, images)
        try:
            await new.restart()
            await held(new, seen)
            assert await runs(agents) == before
            agents["h2"].begin()
            await released(new, late, docs)
        except BaseException:
            print(new.said())  # noqa: T201 - pytest shows it with the failure
            raise
        finally:
            new.kill()
        after, again = await runs(agents), starts(agents)
        untouched = {name: run for name, run in before.items() if name != "default.web-0"}
        assert {name: after[name] for name in untouched} == untouched
        news = {uuid for uuid in again if again[uuid] != begun[uuid]}
        assert len(news) == 1, "only the machine that was wished meanwhile was started"


async def held(server: ServerProcess, seen: str) -> None:
    """One host is missing: wishes are taken, and nothing comes of them; agents are told nothing."""
    async with server.client() as client:
        revision = int((await client.list("instances"))[1])
        assert revision > int(seen) + RAISED // 2
        with pytest.raises(Expired):
            await anext(client.watch("instances", resource_version=seen))
        await until_ready(client, Key("hosts", "", "h1"))
        await client.create(instance("wished"))
        await client.delete(instance_key("web-0"))
        deadline = time.monotonic() + PATIENT
        while "h1 True" not in " ".join((await nanoctl(server, "restore", "--status")).split()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        assert phase(await client.get(instance_key("wished"))) == "Pending"
        placements, _ = await client.list("placements")
        assert len(placements) == len(KEPT) + 1
        assert not [one for one in placements if one["metadata"].get("deletionTimestamp")]
        assert "h2 False" in " ".join((await nanoctl(server, "restore", "--status")).split())
        assert "restored from a backup" in await nanoctl(server, "why", "host/h2")
        told = {(one["host"], one["what"], one["machine"]) for one in await differences(server)}
        assert told >= {("h1", "Missing", "default/doomed"), ("h2", "Silent", "")}
    credentials = server.folder.with_name("data-h1.json")
    async with Client.from_credentials_file(credentials) as agent:
        with pytest.raises(NanoError, match="restored from a backup"):
            await agent.list("placements", field_selector="spec.host=h1")


async def released(server: ServerProcess, late: JSON, docs: dict[str, JSON]) -> None:
    """The other host comes, and work goes on: what the store knows is followed, what it does not is left alone."""
    async with server.client() as client:
        await until_gone_named(client, "web-0")
        wished = await until(client, instance_key("wished"), "Running")
        assert address(wished) != address(late)
        found = await until_all(client, KEPT[1:], "Running")
        assert {name: address(doc) for name, doc in found.items()} == {name: address(docs[name]) for name in KEPT[1:]}
        assert all(doc["metadata"]["uid"] == docs[name]["metadata"]["uid"] for name, doc in found.items())
        told = {(one["what"], one["machine"]): one for one in await differences(server)}
        assert address(late) in told["Unclaimed", "default.late"]["detail"]
        doomed = await until(client, instance_key("doomed"), "Failed")
        assert "is gone" in condition(doomed)["message"]
        host = await client.get(Key("hosts", "", late["status"]["host"]))
        assert host["status"]["unclaimedAddresses"] == [address(late)]
        taken = {"nics": [{"name": "nic0", "addressPool": "lan", "ip": address(late)}]}
        await client.create(instance("thief", **taken))
        deadline = time.monotonic() + PATIENT
        while "unclaimed domain" not in json.dumps(await client.get(instance_key("thief"))):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert "nothing is held" in await nanoctl(server, "restore", "--status")
