"""`nanoctl why` beyond an object's own conditions: image, pools, host, and who keeps it from going."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.cli.surroundings import held_by, of_host
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete, Update
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Cluster]:
    """One instance, nothing around it."""
    with cluster(tmp_path) as made:
        made.creates("computepools", "default", spec={"storagePool": "local", "strategy": "Pack"})
        made.says("run", "web-1", "--image", "shared/mini", "--wait-for-image")
        yield made


def condition(kind: str, status: str, reason: str, message: str = "so it is", **params: Any) -> JSON:
    return {"type": kind, "status": status, "reason": reason, "message": message, "params": params}


def waits(running: Cluster, reason: str, **params: Any) -> None:
    told = [condition(kind, "False", reason, **params) for kind in ("Ready", "Scheduled")]
    running.status("instances", "web-1", "default", phase="Pending", conditions=told)


def placed(running: Cluster, *, host: str = "node-1", deleting: bool = False) -> None:
    spec = {"instance": "web-1", "host": host, "epoch": 1, "volumes": [], "nics": []}
    running.creates("placements", "web-1-1", "default", spec=spec)
    state = {"state": "Stopping" if deleting else "Running"}
    if deleting:
        state["operations"] = [{"uid": "u.system.remove", "state": "Running", "detail": "the disk is busy"}]  # type: ignore[assignment]
    running.status("placements", "web-1-1", "default", **state)
    conditions = [condition("Ready", "True", "AsDesired")]
    running.status(
        "instances", "web-1", "default", phase="Running", host=host, placement="web-1-1", conditions=conditions
    )


def test_instance_that_waits_for_an_image_says_how_far_that_is(running: Cluster) -> None:
    running.creates("images", "mini", "shared", spec={"source": {"upload": {}}})
    uploading = condition("Ready", "False", "Uploading", "30% of 100 bytes have arrived.")
    running.status("images", "mini", "shared", phase="Uploading", conditions=[uploading])
    waits(running, "ImageNotReady", image="shared/mini")
    said = running.says("why", "instance/web-1")
    assert "Image shared/mini is Uploading: 30% of 100 bytes have arrived." in said
    assert "nanoctl why image/mini -n shared" in said
    assert "image/mini is Uploading." in running.says("why", "image/mini", "-n", "shared")


def test_instance_that_waits_for_an_address_says_how_full_the_pool_is(running: Cluster) -> None:
    running.creates("addresspools", "lan", spec={})
    full = condition("Ready", "False", "AddressesExhausted", "All 3 addresses are in use.", total=3)
    running.status("addresspools", "lan", used=3, total=3, free=0, conditions=[full])
    waits(running, "AddressPoolFull", pool="lan", total=3)
    said = running.says("why", "instance/web-1")
    assert "AddressPool lan: 3 of 3 addresses are held" in said
    told = running.says("why", "addresspool/lan")
    assert told.startswith("addresspool/lan is not ready.")
    assert "nanoctl get addresses" in told
    assert "What to do:" in told


def test_instance_that_fits_nowhere_says_what_the_pool_has(running: Cluster) -> None:
    running.status("computepools", "default", hosts=2, readyHosts=1, capacity={"cpus": 8}, allocated={"cpus": 7})
    waits(running, "NoHostFits", pool="default", hosts="node-1: not ready")
    said = running.says("why", "instance/web-1")
    assert "ComputePool default: 1 of 2 hosts are ready; asked for so far: 7 of 8 cpus" in said


def test_placed_instance_says_where_it_is_and_why_there(running: Cluster) -> None:
    running.creates("hosts", "node-1", spec={})
    placed(running)
    said = running.says("why", "instance/web-1")
    assert "Placed on node-1 of pool default: the fullest that fitted at the time (epoch 1)." in said
    assert "The agent there reports: Running." in said


def test_silent_host_is_named_with_what_that_means(running: Cluster) -> None:
    running.creates("hosts", "node-1", spec={"computePool": "default"})
    silent = condition("Ready", "Unknown", "LeaseExpired", "The host has not reported for 13 s.")
    running.status("hosts", "node-1", instances=4, conditions=[silent])
    placed(running)
    assert "Host node-1: The host has not reported for 13 s." in running.says("why", "instance/web-1")
    said = running.says("why", "host/node-1")
    assert said.startswith("host/node-1 is out of sight.")
    assert "Its 4 instances are Unknown meanwhile" in said
    assert "Host node-1: The host has not reported" in running.says("why", "computepool/default")


def test_deletion_that_hangs_says_who_holds_it_and_at_what(running: Cluster) -> None:
    running.creates("hosts", "node-1", spec={})
    placed(running, deleting=True)
    running.says("delete", "instance/web-1", "--no-wait")
    key, doc = Key("placements", "default", "web-1-1"), running.object("placements", "web-1-1", "default")
    running.does(Update(key, doc | {"metadata": doc["metadata"] | {"finalizers": ["nano/released"]}}), Delete(key))
    said = running.says("why", "instance/web-1")
    assert "nano/instance is kept until host node-1 reports that the machine is off" in said
    assert "Order system.remove is Running: the disk is busy" in said
    assert "nano/released is kept until host node-1" in running.says("why", "placement/web-1-1")


@pytest.mark.parametrize(
    ("finalizer", "said"),
    [
        ("nano/instance", "by Nano itself"),
        ("foregroundDeletion", "nanoctl tree instance/web"),
        ("orphan", "has forgotten it"),
        ("example.com/backup", "somebody else"),
    ],
)
def test_every_finalizer_has_somebody_who_lets_go_of_it(finalizer: str, said: str) -> None:
    metadata = {"name": "web", "deletionTimestamp": "2026-11-22T06:00:00Z", "finalizers": [finalizer]}
    (line,) = held_by({"kind": "Instance", "metadata": metadata}, None)
    assert finalizer in line
    assert said in line
    assert list(held_by({"kind": "Instance", "metadata": {**metadata, "deletionTimestamp": None}}, None)) == []


def test_host_says_what_it_has_and_whether_it_takes_more() -> None:
    host = {"metadata": {"name": "n"}, "spec": {"enabled": False}, "status": {"instances": 2}}
    assert [line.split()[1] for line in of_host(host)] == ["is", "has"]


def test_who_may_not_see_what_is_around_is_told_the_rest(running: Cluster) -> None:
    placed(running)
    rules = [{"kinds": ["instances", "placements", "computepools"], "verbs": ["get", "list"]}]
    running.creates("users", "bob")
    running.creates("roles", "narrow", spec={"rules": rules})
    seen = {
        "members": ["bob"],
        "roles": ["narrow"],
        "namespaces": ["default"],
        "visibility": {"instances": "Group", "placements": "Group"},
    }
    running.creates("groups", "few", spec=seen)
    (running.data / "bob").write_text(running.says("kubeconfig", "--user", "bob"))
    his = ("--kubeconfig", str(running.data / "bob"))
    said = running.says("why", "instance/web-1", *his)
    assert ("instance/web-1 is Running" in said, "does not exist" in said) == (True, False)
    assert "computepool/default" in running.says("why", "computepool/default", *his)
    assert "instance/web-1" in running.says("tree", "instance/web-1", *his)
    assert "computepool/default" in running.says("tree", *his)


def test_security_group_says_what_it_does_and_whom_it_guards(running: Cluster) -> None:
    rules = [
        {"name": "http", "direction": "Inbound", "protocol": "TCP", "ports": ["80"]},
        {"name": "ping", "direction": "Inbound", "protocol": "ICMP"},
    ]
    running.creates("securitygroups", "web", "default", spec={"inbound": "Drop", "outbound": "Accept", "rules": rules})
    said = running.says("why", "securitygroup/web")
    assert "Of what comes in, the first of 2 rules that matches decides (http, ping); else it is dropped." in said
    assert "Of what goes out, it is accepted." in said
    assert "No card names it, so it guards nothing: securityGroups: [web] among spec.nics of an Instance." in said
    assert "no conditions" not in said
    nics = [{"name": "lan", "addressPool": "lan", "securityGroups": ["web"]}]
    running.creates("instances", "shop", "default", spec={"nics": nics, "disks": []})
    assert "It guards default/shop (lan)." in running.says("why", "securitygroup/web")
