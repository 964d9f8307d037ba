"""The controllers of the pools' status: totals, allocation and health of compute, storage and address pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from nanovirt.controllers.actions import Action, Transact, set_status
from nanovirt.controllers.news import turned
from nanovirt.controllers.world import World
from nanovirt.resources.address_pool import AddressPool, AddressPoolStatus
from nanovirt.resources.compute_pool import ComputePool, ComputePoolStatus
from nanovirt.resources.conditions import Condition, condition, holds, settle
from nanovirt.resources.host import Amounts, Host
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.storage_pool import StoragePool, StoragePoolStatus

NAME = "pools"
READS = (
    "computepools",
    "storagepools",
    "addresspools",
    "hosts",
    "placements",
    "volumes",
    "addresses",
    "reports",
    "events",
)
WRITES = ("computepools/status", "storagepools/status", "addresspools/status", "events")


def plan(pool: ComputePool | StoragePool | AddressPool | None, world: World, now: datetime) -> Iterator[Action]:
    """The status of one pool; nothing when it says so already."""
    match pool:
        case None:
            return
        case ComputePool():
            status: ComputePoolStatus | StoragePoolStatus | AddressPoolStatus = compute(pool, world)
        case StoragePool():
            status = storage(pool, world)
        case _:
            status = addresses(pool, world)
    settled = status.model_copy(update={"conditions": settle(now, pool.status.conditions, status.conditions)})
    if settled != pool.status:
        told = turned(pool, NAME, pool.status.conditions, settled.conditions, world, now)
        yield Transact((set_status(pool, settled), *told))


def compute(pool: ComputePool, world: World) -> ComputePoolStatus:
    """Totals over the hosts of the pool."""
    hosts = [host for host in world.every(Host) if host.spec.compute_pool == pool.metadata.name]
    loads = [world.loads.of(host.metadata.name) for host in hosts]
    ready = sum(holds(host.status.conditions, "Ready") for host in hosts)
    held = Amounts(
        cpus=sum(load.cpus for load in loads),
        memory=Bytes(sum(load.memory for load in loads)),
        disk=Bytes(sum(load.disk for load in loads)),
    )
    return ComputePoolStatus(
        observed_generation=pool.metadata.generation,
        hosts=len(hosts),
        ready_hosts=ready,
        instances=sum(load.instances for load in loads),
        capacity=_sum(host.status.capacity for host in hosts),
        allocated=held,
        conditions=(_compute_ready(pool, len(hosts), ready),),
    )


def _compute_ready(pool: ComputePool, hosts: int, ready: int) -> Condition:
    generation = pool.metadata.generation
    if not pool.spec.enabled:
        return condition("Ready", "False", Reason.PoolDisabled, generation, pool=pool.metadata.name)
    if not ready:
        return condition("Ready", "False", Reason.NoReadyHosts, generation, hosts=hosts)
    return condition("Ready", "True", Reason.PoolReady, generation)


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    every = list(amounts)
    return Amounts(
        cpus=sum(one.cpus for one in every),
        memory=Bytes(sum(one.memory for one in every)),
        disk=Bytes(sum(one.disk for one in every)),
    )


def storage(pool: StoragePool, world: World) -> StoragePoolStatus:
    """Disk of the hosts that use the pool, what volumes may grow to, and whether the warning mark is passed."""
    name = pool.metadata.name
    users = {one.metadata.name for one in world.every(ComputePool) if one.spec.storage_pool == name}
    hosts = [host for host in world.every(Host) if host.spec.compute_pool in users]
    capacity, held = sum(host.status.capacity.disk for host in hosts), world.loads.pool_disk.get(name, 0)
    return StoragePoolStatus(
        observed_generation=pool.metadata.generation,
        capacity=Bytes(capacity),
        allocated=Bytes(held),
        volumes=world.loads.pool_volumes.get(name, 0),
        conditions=(_storage_ready(pool, hosts, world),),
    )


def _storage_ready(pool: StoragePool, hosts: list[Host], world: World) -> Condition:
    generation, mark = pool.metadata.generation, pool.spec.warn_free_percent
    heard = [world.reports.heard(host.metadata.name) for host in hosts]
    facts = [one for report in heard if report is not None for one in report.report.facts.storage if one.total]
    least = min((one.free * 100 // one.total for one in facts), default=100)
    if least < mark:
        return condition("Ready", "True", Reason.StorageNearlyFull, generation, free=least, mark=mark)
    return condition("Ready", "True", Reason.PoolReady, generation)


def addresses(pool: AddressPool, world: World) -> AddressPoolStatus:
    """How many addresses are held and free."""
    generation, total, used = pool.metadata.generation, pool.total(), world.leases.used(pool.metadata.name)
    free = max(0, total - used)
    if free:
        ready = condition("Ready", "True", Reason.AddressesFree, generation, free=free, total=total)
    else:
        ready = condition("Ready", "False", Reason.AddressesExhausted, generation, total=total)
    return AddressPoolStatus(observed_generation=generation, total=total, used=used, free=free, conditions=(ready,))
