"""The drill of docs/operations.md with a real guest: it does not notice that the server's disk is gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanovirt.resources.backup import save, take
from nanovirt.resources.client import Client
from nanovirt.resources.keys import keys_of, put_keys
from nanovirt.resources.kind import Key
from nanovirt.resources.restoring import restore
from tests.e2e.cluster import Cluster, instance, instance_key, placement_of, real_cluster, run
from tests.e2e.looking import address, is_ready, look, runs, until, until_answers
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)
HOST = Key("hosts", "", "h1")


async def unclaimed(client: Client) -> list[str]:
    """The addresses of domains that the restored store does not know."""
    return list((await client.get(HOST))["status"].get("unclaimedAddresses", ()))


@pytest.fixture
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """One host."""
    with real_cluster(mini_guest, hosts=1) as cluster:
        yield cluster
    assert leftovers() == []


async def test_real_guest_does_not_notice_that_the_server_s_disk_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    agent = cluster.agents["h1"]
    async with cluster.client() as client:
        await client.create(instance("one"))
        doc = await until(client, instance_key("one"), runs)
        before, process = await until_answers(address(doc)), agent.runs("default.one")
        contents = save(take(cluster.data / "data"), tmp_path / "backup.tar")
        keys = keys_of(cluster.data)
        late = await run(client, "late")
    steps = agent.steps("default.one")
    cluster.server.kill()
    shutil.rmtree(cluster.data)
    restore(
        tmp_path / "backup.tar",
        cluster.data / "data",
        datetime.now(UTC),
        first=lambda: put_keys(keys, cluster.data),
    )
    await cluster.restart_server()
    async with cluster.client() as client:
        await until(client, HOST, is_ready)
        await look("unclaimed", lambda: unclaimed(client), lambda found: found == [address(late)])
        after = await until(client, instance_key("one"), runs)
        assert int((await client.list("instances"))[1]) > contents.revision + 1_000_000
        assert after["metadata"]["uid"] == doc["metadata"]["uid"]
        assert (await until_answers(address(doc))).boot_id == before.boot_id
        assert (await placement_of(client, "one"))["status"]["started"] == 1
        assert agent.runs("default.one") == process
        assert agent.runs("default.late") > 0
        assert set(agent.steps("default.one")[len(steps) :]) <= {"Serve", "Remember"}
        new = await run(client, "new")
        assert address(new) not in (address(late), address(doc))
