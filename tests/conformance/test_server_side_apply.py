"""Real kubectl applies on the server: conflicts, taking over, dry runs, diffs, and the way over from its own apply."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conformance.kubectl_world import INSTANCE, POOL, Cluster, cluster
from tests.kubectl import VERSIONS

SERVER_SIDE = ("apply", "--server-side", "-f", "-")
MIGRATES = frozenset(VERSIONS) - {"1.20"}
"""The versions of kubectl that take over in managedFields what they applied by themselves."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("version", VERSIONS)]


async def managers(c: Cluster, *args: str) -> dict[tuple[str, str], dict[str, object]]:
    """What each manager owns of an object: name and operation, fieldsV1."""
    shown = () if c.client.binary.name.endswith("1.20") else ("--show-managed-fields",)
    found = await c.object(*args, *shown)
    return {(one["manager"], one["operation"]): one["fieldsV1"] for one in found["metadata"]["managedFields"]}


async def test_server_side_apply_creates_changes_and_removes(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        said = await c.run(*SERVER_SIDE, text=POOL + "---\n" + INSTANCE)
        assert "addresspool.nano/lan serverside-applied" in said
        assert "instance.nano/web-1 serverside-applied" in said
        owned = await managers(c, "inst", "web-1")
        assert set(owned) == {("kubectl", "Apply")}
        before = (await c.object("inst", "web-1"))["metadata"]["resourceVersion"]
        await c.run(*SERVER_SIDE, text=INSTANCE)
        assert (await c.object("inst", "web-1"))["metadata"]["resourceVersion"] == before
        await c.run(*SERVER_SIDE, text=INSTANCE.replace("  cpus: 2\n", "").replace(", labels: {app: web}", ""))
        found = await c.object("inst", "web-1")
        assert (found["spec"]["cpus"], found["metadata"]["labels"]) == (1, {"nano/owner": "admin"})


async def test_conflict_is_explained_and_can_be_forced(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run(*SERVER_SIDE, "--field-manager=ann", text=INSTANCE)
        theirs = INSTANCE.replace("cpus: 2", "cpus: 4")
        said = await c.fails(*SERVER_SIDE, "--field-manager=bob", text=theirs)
        assert 'conflict with "ann": .spec.cpus' in said
        assert "--force-conflicts" in said, "kubectl's own advice, which it gives by the reason of the cause"
        await c.run(*SERVER_SIDE, "--field-manager=bob", "--force-conflicts", text=theirs)
        assert (await c.object("inst", "web-1"))["spec"]["cpus"] == 4
        assert 'conflict with "bob": .spec.cpus' in await c.fails(*SERVER_SIDE, "--field-manager=ann", text=INSTANCE)


async def test_what_is_edited_by_hand_conflicts_with_the_next_apply(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run(*SERVER_SIDE, text=INSTANCE)
        monkeypatch.setenv("EDITOR", "sed -i -e s/cpus:.2/cpus:\\ 5/")
        assert "edited" in await c.run("edit", "inst", "web-1")
        await c.run("patch", "inst", "web-1", "--type=merge", "-p", '{"spec":{"cpus":6}}')
        text = (await c.run("get", "inst", "web-1", "-o", "yaml")).replace("memory: 2Gi", "memory: 3Gi")
        assert "replaced" in await c.run("replace", "-f", "-", text=text)
        await c.run("label", "inst", "web-1", "tier=front")
        assert any(operation == "Update" for _, operation in await managers(c, "inst", "web-1"))
        said = await c.fails(*SERVER_SIDE, text=INSTANCE)
        assert 'with "kubectl' in said
        assert ".spec.cpus" in said
        assert ".spec.memory" in said
        await c.run(*SERVER_SIDE, "--force-conflicts", text=INSTANCE)
        found = await c.object("inst", "web-1")
        assert (found["spec"]["cpus"], found["spec"]["memory"]) == (2, "2Gi")
        assert found["metadata"]["labels"]["tier"] == "front"


async def test_diff_and_dry_run_change_nothing(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run(*SERVER_SIDE, "--dry-run=server", text=INSTANCE)
        assert "NotFound" in await c.fails("get", "inst", "web-1")
        await c.run(*SERVER_SIDE, text=INSTANCE)
        changed = INSTANCE.replace("cpus: 2", "cpus: 3")

        async def diff(*args: str, text: str) -> str:
            return await asyncio.to_thread(
                c.client.run, "diff", "--server-side", "-f", "-", *args, input=text, check=False
            )

        assert await diff(text=INSTANCE) == ""
        said = await diff(text=changed)
        assert ("-  cpus: 2" in said, "+  cpus: 3" in said) == (True, True)
        assert "conflict" in await diff("--field-manager=bob", text=changed)
        assert "+  cpus: 3" in await diff("--field-manager=bob", "--force-conflicts", text=changed)
        assert "serverside-applied (server dry run)" in await c.run(*SERVER_SIDE, "--dry-run=server", text=changed)
        found = await c.object("inst", "web-1")
        assert (found["spec"]["cpus"], found["metadata"]["generation"]) == (2, 1)


async def test_kubectl_goes_over_from_its_own_apply_to_the_servers(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run("apply", "-f", "-", text=INSTANCE)
        await c.run("label", "inst", "web-1", "tier=front")
        without = INSTANCE.replace("cpus: 2", "cpus: 3").replace("  memory: 2Gi\n", "")
        await c.run(*SERVER_SIDE, text=without)
        found = await c.object("inst", "web-1")
        assert found["spec"]["cpus"] == 3
        assert found["metadata"]["labels"]["tier"] == "front"
        if version in MIGRATES:
            assert found["spec"]["memory"] == "1Gi", "what it had applied by itself and leaves out goes"
            assert ("kubectl-client-side-apply", "Update") not in await managers(c, "inst", "web-1")


async def test_lists_merge_by_name_and_bad_input_is_explained(tmp_path: Path, version: str) -> None:
    async with cluster(tmp_path, version) as c:
        await c.run(*SERVER_SIDE, "--field-manager=ann", text=POOL)
        high = POOL.replace(
            "name: low, first: 10.20.0.50, last: 10.20.0.99", "name: high, first: 10.20.0.150, last: 10.20.0.160"
        )
        await c.run(*SERVER_SIDE, "--field-manager=bob", text=high)
        ranges = (await c.object("apool", "lan"))["spec"]["ranges"]
        assert [one["name"] for one in ranges] == ["low", "high"]
        assert "cpuz" in await c.fails(*SERVER_SIDE, text=INSTANCE.replace("cpus: 2", "cpuz: 2"))
        said = await c.fails(*SERVER_SIDE, "--validate=false", text=INSTANCE.replace("cpus: 2", "cpus: -2"))
        assert "spec.cpus" in said
