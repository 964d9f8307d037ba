"""What real kubectl is told in places that kubectl_table.py, which has all that it can do, does not look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.kubectl_world import INSTANCE, POOL, cluster
from tests.kubectl import VERSIONS

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("version", VERSIONS)]


async def test_replacing_what_has_changed_meanwhile_is_refused(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run("create", "-f", "-", text=INSTANCE)
        text = json.dumps(await c.object("inst", "web-1")).replace('"cpus": 2', '"cpus": 6')
        assert "replaced" in await c.run("replace", "-f", "-", text=text)
        assert "the object has been modified" in await c.fails("replace", "-f", "-", text=text)


async def test_what_is_in_use_stays_and_its_users_are_named(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run("create", "-f", "-", text=POOL + "---\n" + INSTANCE)
        said = await c.fails("delete", "addresspool", "lan")
        assert "lan is still used by instances/default/web-1." in said
        await c.run("delete", "instance", "web-1", "--wait=false")
        assert (await c.object("inst", "web-1"))["metadata"]["deletionTimestamp"]
        assert "is still used by" in await c.fails("delete", "addresspool", "lan"), "until nothing of it is left"


async def test_amounts_are_explained_as_texts(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        fields = (await c.run("explain", "instance", "--recursive")).splitlines()
        assert {line.split()[1] for line in fields if "memory" in line.lower()} == {"<string>"}
        assert "An amount such as 4Gi" in await c.run("explain", "instance.spec.memory")
