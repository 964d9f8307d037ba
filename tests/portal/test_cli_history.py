"""`nanoctl get --at`, `timeline`, `log`, `diff` and `rollback`, against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanovirt.portal.cli.moments import Moment
from tests.portal.cli_world import Cluster, cluster

MANIFEST = """
apiVersion: nano/v1
kind: Instance
metadata: {{name: {name}, namespace: {space}}}
spec: {{cpus: {cpus}, disks: [{{name: root, size: 1Gi}}]}}
"""
POOLS = """
apiVersion: nano/v1
kind: StoragePool
metadata: {name: local}
spec: {type: Local, local: {path: /var/lib/nano/volumes}}
---
apiVersion: nano/v1
kind: ComputePool
metadata: {name: default}
spec: {storagePool: local}
"""


@pytest.fixture
def c(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as running:
        running.says("apply", "-f", "-", stdin=POOLS)
        running.library()
        yield running


def put(c: Cluster, name: str = "web-1", cpus: int = 1, space: str = "default") -> str:
    """Apply an instance; the revision after that."""
    c.says("apply", "-f", "-", stdin=MANIFEST.format(name=name, cpus=cpus, space=space))
    return str(c.store.committed)


def cpus(c: Cluster, name: str = "web-1") -> int:
    return int(c.object("instances", name, "default")["spec"]["cpus"])


def test_get_and_describe_show_what_was(c: Cluster) -> None:
    first = put(c, cpus=2)
    put(c, "web-2")
    put(c, cpus=3)
    c.removes("instances", "web-2", "default")
    assert "web-2" not in c.says("get", "instances")
    assert "web-2" not in c.says("get", "instances", "--at", first)
    then = str(c.store.committed - 1)
    assert "web-2" in c.says("get", "instances", "--at", then)
    cells = c.says("get", "instance/web-1", "--at", first, "--no-headers").split()
    assert cells[:5] == ["web-1", "Pending", "-", "-", "2"]
    whole = json.loads(c.says("get", "instance/web-1", "--at", first, "-o", "json"))
    assert (whole["spec"]["cpus"], whole["metadata"]["resourceVersion"]) == (2, first)
    listed = json.loads(c.says("get", "instances", "--at", then, "-o", "json"))
    assert [one["metadata"]["name"] for one in listed["items"]] == ["web-1", "web-2"]
    assert "cpus: 2" in c.says("describe", "instance/web-1", "--at", first)
    assert "cpus: 3" in c.says("describe", "instances", "--at", "2100-01-01")
    missing = c.nanoctl("get", "instance/web-2", "--at", first)
    assert (missing.exit_code, 'instances.nano "web-2" not found' in missing.stderr) == (1, True)
    refused = c.nanoctl("get", "instances", "--at", first, "-w")
    assert (refused.exit_code, "leave --at out" in refused.stderr) == (2, True)
    early = c.nanoctl("get", "instances", "--at", "99999")
    assert (early.exit_code, "revision 99999 is not there yet" in early.stderr) == (1, True)


def test_timeline_tells_of_what_is_gone(c: Cluster) -> None:
    put(c)
    put(c, cpus=4)
    c.running("web-1")
    c.removes("instances", "web-1", "default")
    told = c.says("timeline", "instance/web-1").splitlines()
    assert [line.split()[4] for line in told[1:]] == ["Created", "Changed", "Phase", "Deleted"]
    assert "spec.cpus 1 -> 4" in told[2]
    assert " admin " in told[2]
    newest = json.loads(c.says("timeline", "instance/web-1", "--limit", "1", "-o", "json"))
    assert [one["type"] for one in newest["items"]] == ["Deleted"]
    more = c.nanoctl("timeline", "instance/web-1", "--limit", "2")
    assert "There is more before that" in more.stderr
    assert c.nanoctl("timeline", "instances").exit_code == 2
    assert c.nanoctl("timeline", "instance/never").exit_code == 1


def test_log_says_who_wrote_what(c: Cluster) -> None:
    put(c)
    told = c.says("log", "--limit", "2").splitlines()
    assert len(told) == 3
    assert told[1].split()[0] == str(c.store.committed)
    assert told[1].split()[3:] == ["admin", "instances/default/web-1"]
    c.removes("instances", "web-1", "default")
    assert "-instances/default/web-1" in c.says("log", "--limit", "1")


def test_diff_shows_fields(c: Cluster) -> None:
    first = put(c)
    put(c, cpus=2)
    put(c, "web-1", space="shared")
    rows = [line.split() for line in c.says("diff", first, "now").splitlines()[1:]]
    assert ["instance/web-1", "spec.cpus", "1", "2"] in rows
    assert ["instance/web-1", "-n", "shared", "(created)", "-", "-"] in rows
    assert len(rows) == 2
    one = json.loads(c.says("diff", first, "now", "instance/web-1", "-o", "json"))
    assert [item["change"] for item in one["items"]] == ["Changed"]
    nothing = c.nanoctl("diff", first, first)
    assert (nothing.exit_code, nothing.stdout, "Nothing differs" in nothing.stderr) == (0, "", True)
    assert c.nanoctl("diff", first, "now", "instances,images").exit_code == 2


def test_rollback_shows_its_plan_and_carries_it_out(c: Cluster) -> None:
    first = put(c)
    put(c, cpus=2)
    put(c, "web-2")
    c.running("web-1")
    before = c.store.committed
    planned = c.says("rollback", first, "all", "--dry-run")
    assert ["instance/web-1", "spec.cpus", "2", "1", "NextStart"] in [line.split() for line in planned.splitlines()]
    assert "instance/web-1 restored (dry run)" in planned
    assert "1 made since, and left (--delete-new deletes them): instance/web-2" in planned
    assert c.store.committed == before
    done = c.says("rollback", first, "instance/web-1")
    assert f"this is revision {before + 1}" in done
    assert cpus(c) == 1
    again = c.says("rollback", first, "instances")
    assert f"nothing to change: it is as it was at revision {first}" in again
    assert c.store.committed == before + 1
    c.says("rollback", first, "all", "-A", "--delete-new")
    assert c.object("instances", "web-2", "default")["metadata"]["deletionTimestamp"]


def test_rollback_that_loses_data_says_how_that_is_accepted(c: Cluster) -> None:
    c.says("run", "lossy", "--image", "shared/mini")
    c.status("instances", "lossy", "default", phase="Running", placement="lossy-1", hardware={"diskBus": "Virtio"})
    first = str(c.store.committed)
    c.says("disk", "add", "lossy", "data", "--size", "1Gi")
    refused = c.nanoctl("rollback", first, "instance/lossy")
    said = "spec.disks[data]: Data of disk data would be lost; if that is meant, add --accept-data-loss data@removed"
    assert (refused.exit_code, said in refused.stderr, "annotation" in refused.stderr) == (1, True, False)
    planned = c.says("rollback", first, "instance/lossy", "--accept-data-loss", "data@removed", "--dry-run")
    assert "spec.disks[data]" in planned
    assert "as it was" in c.says("rollback", first, "instance/lossy", "--accept-data-loss", "data@removed")
    assert [one["name"] for one in c.object("instances", "lossy", "default")["spec"]["disks"]] == ["system"]


def test_rollback_makes_anew_what_was_deleted(c: Cluster) -> None:
    first = put(c, cpus=7)
    c.removes("instances", "web-1", "default")
    assert "instance/web-1 created" in c.says("rollback", first, "all")
    assert cpus(c) == 7


def test_rollback_within_a_bound_of_disruption(c: Cluster) -> None:
    first = put(c)
    put(c, cpus=2)
    c.running("web-1")
    c.status("instances", "web-1", "default", phase="Running", placement="web-1-1")
    refused = c.nanoctl("rollback", first, "all", "--max-disruption", "Live")
    assert (refused.exit_code, cpus(c)) == (1, 2)
    assert "its effect is Restart, worse than Live" in refused.stderr


def test_rollback_asks_what_is_meant(c: Cluster) -> None:
    first = put(c)
    for words in ((), ("all", "instances"), ("instance/web-1", "-A"), ("placements",)):
        assert c.nanoctl("rollback", first, *words).exit_code != 0, words


@pytest.mark.parametrize(
    ("written", "read"),
    [("4711", "4711"), ("", ""), ("2026-11-22T06:00:00Z", "2026-11-22T06:00:00.000000Z"),
     ("2026-11-22T08:00+02:00", "2026-11-22T06:00:00.000000Z")],
)  # fmt: skip
def test_moments_are_read_as_people_write_them(written: str, read: str) -> None:
    assert Moment().convert(written, None, None) == read


def test_age_is_a_moment() -> None:
    found = datetime.fromisoformat(Moment().convert("2h", None, None))
    assert abs(datetime.now(UTC) - timedelta(hours=2) - found) < timedelta(seconds=5)


@pytest.mark.parametrize("written", ["yesterday", "2y", "-1", "2026-13-01", "999999999d"])
def test_what_is_no_moment_is_said_to_be_none(c: Cluster, written: str) -> None:
    refused = c.nanoctl("get", "instances", f"--at={written}")
    assert refused.exit_code == 2
    assert "no age such as 2h" in refused.stderr
