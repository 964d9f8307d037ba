"""Totals and health of the three kinds of pools."""

from __future__ import annotations

from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.kind import Key
from nanovirt.resources.report import StorageFact
from nanovirt.resources.storage_pool import StoragePool
from tests.controllers.universe import Universe


def test_compute_pool_without_ready_hosts_says_so() -> None:
    universe = Universe()
    universe.settle()
    pool = universe.get(ComputePool, "default")
    assert [(c.status, c.reason) for c in pool.status.conditions] == [("False", "NoReadyHosts")]


def test_compute_pool_adds_up_its_hosts() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.host("node-2")
    universe.settle()
    status = universe.get(ComputePool, "default").status
    assert (status.hosts, status.ready_hosts, status.capacity.cpus, str(status.capacity.memory)) == (2, 2, 8, "16Gi")
    assert universe.writes() == []


def test_disabled_compute_pool_says_so() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.patch(Key("computepools", "", "default"), enabled=False)
    universe.settle()
    assert universe.get(ComputePool, "default").status.conditions[0].reason == "PoolDisabled"


def test_address_pool_counts_what_it_can_hand_out() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.patch(
        Key("addresspools", "", "lan"),
        ranges=[{"name": "a", "first": "10.87.0.0", "last": "10.87.0.5"}],
        reserved=["10.87.0.4"],
    )
    universe.settle()
    status = universe.get(AddressPool, "lan").status
    assert (status.total, status.used, status.free) == (3, 0, 3), "network address, gateway and reserved are left out"
    for name in ("a", "b", "c"):
        universe.instance(name)
    universe.settle()
    status = universe.get(AddressPool, "lan").status
    assert (status.used, status.free, status.conditions[0].reason) == (3, 0, "AddressesExhausted")


def test_storage_pool_below_its_warning_mark_says_so() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    status = universe.get(StoragePool, "local").status
    assert (status.volumes, str(status.allocated), str(status.capacity)) == (1, "10Gi", "100Gi")
    universe.hear("node-1", storage=(StorageFact.model_validate({"path": "/v", "total": 1000, "free": 100}),))
    universe.settle()
    assert universe.get(StoragePool, "local").status.conditions[0].reason == "StorageNearlyFull"
