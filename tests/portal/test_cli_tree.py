"""`nanoctl tree` and `nanoctl events` against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.cli.connection import Connection
from nanovirt.portal.cli.tree import BELOW
from nanovirt.resources.errors import Expired
from nanovirt.resources.fields import rfc3339
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "local"})
        made.creates("storagepools", "local", spec={"type": "Local"}, status={"capacity": "6Ti"})
        made.creates("addresspools", "lan", spec={"subnet": "10.20.0.0/24"})
        made.library()
        made.creates("hosts", "node-1", spec={"computePool": "default"})
        made.creates("instancesets", "web", "default", spec={"replicas": 0})
        for name in ("web-1", "web-2"):
            made.says("run", name, "--image", "shared/mini")
        made.says("run", "web-1", "--image", "shared/mini", "-n", "shared")
        made.running("web-1")
        uid = made.object("instances", "web-1", "default")["metadata"]["uid"]
        spec = {"addressPool": "lan", "ip": "10.20.0.50", "mac": "52:54:00:00:00:01", "nic": "nic0"}
        made.creates("addresses", "lan.10.20.0.50", spec={**spec, "instance": "default/web-1", "instanceUid": uid})
        told(made, "web-1", "Scheduled", ago=60)
        told(made, "web-2", "NoHostFits", "Warning", ago=5, count=3)
        yield made


def told(cluster: Cluster, about: str, reason: str, kind: str = "Normal", ago: float = 0, count: int = 1) -> None:
    """An Event as the controllers make them."""
    at = rfc3339(datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=ago))
    involved = {"kind": "Instance", "name": about, "namespace": "default"}
    cluster.creates(
        "events", f"{about}.{reason.lower()}", "default", involvedObject=involved, reason=reason,
        message=f"About {about}.", type=kind, firstTimestamp=at, lastTimestamp=at, count=count,
    )  # fmt: skip


def cells(said: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines()]


def test_tree_begins_with_the_pools_and_ends_with_addresses(running: Cluster) -> None:
    lines = running.says("tree").splitlines()
    assert [line.strip("─│├└ ").split()[0] for line in lines[1:]] == [
        "computepool/default", "host/node-1", "instance/web-1", "address/lan.10.20.0.50", "instance/web-2",
        "instance/web-1",
    ]  # fmt: skip
    assert lines[2].startswith("├─ host/node-1")
    assert lines[4].startswith("│     └─ address/lan.10.20.0.50")


def test_instance_without_a_host_hangs_below_its_pool(running: Cluster) -> None:
    assert "├─ instance/web-2" in running.says("tree", "computepool/default")
    below_host = running.says("tree", "host/node-1")
    assert "web-1" in below_host
    assert "web-2" not in below_host


def test_branches_of_a_namesake_in_another_namespace_are_left_out(running: Cluster) -> None:
    assert len(running.says("tree", "instance/web-1").splitlines()) == 3
    assert len(running.says("tree", "instance/web-1", "-n", "shared").splitlines()) == 2
    assert "instance/web-1 (shared)" in running.says("tree")


@pytest.mark.parametrize("kind", sorted(BELOW))
def test_every_kind_that_has_branches_has_a_tree(running: Cluster, kind: str) -> None:
    found = {"ComputePool": "default", "Host": "node-1", "Instance": "web-1", "Namespace": "default"}
    found["InstanceSet"] = "web"
    name = found.get(kind, "local" if kind == "StoragePool" else "lan")
    assert f"{kind.lower()}/{name}" in running.says("tree", f"{kind.lower()}/{name}")


def test_tree_of_nothing_is_refused(running: Cluster) -> None:
    assert "there is nothing to show" in running.nanoctl("tree", "images").output
    assert 'instances.nano "nobody" not found' in running.nanoctl("tree", "instance/nobody").output


def test_events_are_told_oldest_first_with_their_count(running: Cluster) -> None:
    rows = cells(running.says("events"))
    assert rows[0] == ["AGO", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert rows[1][1:4] == ["Normal", "Scheduled", "instance/web-1"]
    assert rows[2][1:5] == ["Warning", "NoHostFits", "(x3)", "instance/web-2"]


def test_events_of_one_object_or_one_type_are_picked(running: Cluster) -> None:
    assert [row[3] for row in cells(running.says("events", "instance/web-1"))[1:]] == ["instance/web-1"]
    assert [row[2] for row in cells(running.says("events", "--type", "warning"))[1:]] == ["NoHostFits"]
    (one,) = json.loads(running.says("events", "instance/web-2", "-o", "json"))["items"]
    assert one["count"] == 3


def test_no_events_are_said_on_standard_error(running: Cluster) -> None:
    result = running.nanoctl("events", "-n", "shared")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing has happened within the last hour." in result.stderr


def test_events_of_a_whole_kind_are_misused(running: Cluster) -> None:
    result = running.nanoctl("events", "instances")
    assert result.exit_code == 2
    assert "nanoctl events KIND/NAME" in result.output


def test_followed_events_come_as_they_happen(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanovirt.portal.cli import events  # noqa: PLC0415 - what is replaced below

    seen: list[str] = []

    def show(said: Any) -> None:
        seen.extend(said)
        if any("Crashed" in line for line in seen):
            raise KeyboardInterrupt

    monkeypatch.setattr(events, "lines", show)
    running.later(0.5, lambda: told(running, "web-1", "Crashed", "Warning"))
    running.nanoctl("events", "-w")
    assert "instance/web-1" in seen[-1]
    assert len({line.index("instance/") for line in seen[1:]}) == 1, "columns stay where they are"


def test_events_that_a_gap_hid_are_told_after_it(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanovirt.portal.cli import events  # noqa: PLC0415 - what is replaced below

    printed: list[str] = []
    watches = iter([Expired(1, 2), KeyboardInterrupt()])

    def gap(*_arguments: Any, **_options: Any) -> Iterator[Any]:
        ending = next(watches)
        if isinstance(ending, Expired):
            told(running, "web-2", "Hidden")
        raise ending

    monkeypatch.setattr(events, "lines", printed.extend)
    monkeypatch.setattr(Connection, "watch", gap)
    running.nanoctl("events", "-w")
    assert [line.split()[2] for line in printed].count("Hidden") == 1
    assert [line.split()[2] for line in printed].count("Scheduled") == 1


TEAM = """
{apiVersion: nano/v1, kind: User, metadata: {name: alice}}
---
{apiVersion: nano/v1, kind: Role, metadata: {name: runner}, spec: {rules: [
  {kinds: [instances], verbs: [get, list, create]}, {kinds: [computepools], verbs: [get, list]}]}}
---
{apiVersion: nano/v1, kind: Group, metadata: {name: team}, spec: {
  members: [alice], roles: [runner], namespaces: [default, shared]}}
"""


def test_who_may_not_see_hosts_has_instances_below_their_pool(running: Cluster, tmp_path: Path) -> None:
    running.says("apply", "-f", "-", stdin=TEAM)
    alice = tmp_path / "alice.kubeconfig"
    alice.write_text(running.says("kubeconfig", "--user", "alice", "--expires", "1d"))
    spec = {"computePool": "default", "disks": [{"name": "system", "size": "1Gi"}]}
    mine = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "mine"}, "spec": spec}
    running.says("apply", "-f", "-", "--kubeconfig", str(alice), stdin=json.dumps(mine))
    running.running("mine")
    rows = [line.split()[:3] for line in running.says("tree", "--kubeconfig", str(alice)).splitlines()[1:]]
    assert ["├─", "instance/mine", "Running"] in rows
