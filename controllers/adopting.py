"""From a domain that was there before to what belongs to an instance: as it runs, with its disks where they are."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.controllers.composing import Composition, hostname_of, last_epoch
from nanovirt.controllers.disks import owned, volume_name
from nanovirt.controllers.drifting import with_policy
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.world import World
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.metadata import ADOPTED_HOST_LABEL, ADOPTED_LABEL
from nanovirt.resources.placement import Domain, PlacedNic, PlacedVolume, Placement, PlacementSpec, placement_name
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import DomainFacts, Unclaimed
from nanovirt.resources.volume import Volume, VolumeSpec, VolumeStatus


def adopted(instance: Instance) -> bool:
    """Whether it is to be made of a domain that was there before, and was not yet."""
    return ADOPTED_LABEL in instance.metadata.labels and not last_epoch(instance)


def adopt(instance: Instance, world: World) -> Composition:
    """The Placement of the domain as its host reports it. Raises Missing while the host does not."""
    labels = instance.metadata.labels
    name, uuid = labels.get(ADOPTED_HOST_LABEL, ""), labels[ADOPTED_LABEL]
    host, heard = world.read(Host, name), world.reports.heard(name)
    pool = world.read(ComputePool, instance.spec.compute_pool)
    if pool is None:
        raise Missing(Reason.PoolNotFound, pool=instance.spec.compute_pool)
    found = next((one for one in heard.report.unclaimed if one.uuid == uuid), None) if heard is not None else None
    if host is None or found is None or found.facts is None:
        raise Missing(Reason.DomainNotReported, host=name, uuid=uuid)
    placement = _placement(instance, host, found, found.facts, world)
    return Composition(name, placement, tuple(_volumes(instance, placement, pool)), ())


def _placement(instance: Instance, host: Host, found: Unclaimed, facts: DomainFacts, world: World) -> Placement:
    spec = instance.spec
    placed = PlacementSpec(
        instance=instance.metadata.name,
        instance_uid=instance.metadata.uid,
        host=host.metadata.name,
        epoch=1,
        power_state=spec.power_state,
        restart_policy=spec.restart_policy,
        restart=spec.restart,
        stop_grace_seconds=spec.stop_grace_seconds,
        start_priority=spec.start_priority,
        domain=Domain.model_validate(
            {
                "uuid": found.uuid,
                "name": found.name,
                "machine": facts.machine,
                "firmware": facts.firmware,
                "clock": facts.clock,
                "disk_bus": facts.disks[0].bus if facts.disks else "Virtio",
            }
        ),
        hostname=hostname_of(instance),
        cpu=spec.cpus,
        memory=spec.memory,
        volumes=tuple(
            PlacedVolume(name=one.name, file=one.file, size=one.size, format=one.format, bus=one.bus, adopted=True)
            for one in facts.disks
        ),
        nics=tuple(_nics(instance, host, facts)),
    )
    name = placement_name(instance.metadata.name, 1)
    return Placement(metadata=owned(instance, name), spec=with_policy(placed, instance, world))


def _nics(instance: Instance, host: Host, facts: DomainFacts) -> Iterator[PlacedNic]:
    """Its cards on the bridges where they are; each has its address from whom it had it."""
    named = {nic.mac: nic for nic in instance.spec.nics or ()}
    for at, one in enumerate(facts.nics):
        nic = named.get(one.mac)
        name = nic.name if nic is not None else f"nic{at}"
        network = nic.network if nic is not None and nic.network else ""
        bridge = one.bridge if host.withholds(network, one.vlan) else host.bridge(network) or one.bridge
        yield PlacedNic(name=name, mac=one.mac, model=one.model or "Virtio", bridge=bridge, vlan=one.vlan)


def _volumes(instance: Instance, placement: Placement, pool: ComputePool) -> Iterator[Volume]:
    """Retained unless its owner says otherwise: Nano did not make these files."""
    reclaim = {disk.name: disk.reclaim for disk in instance.spec.disks}
    for one in placement.spec.volumes:
        spec = VolumeSpec(
            storage_pool=pool.spec.storage_pool,
            host=placement.spec.host,
            size=one.size,
            file=one.file,
            reclaim=reclaim.get(one.name, "Retain"),
        )
        metadata = owned(instance, volume_name(instance.metadata.name, one.name))
        yield Volume(metadata=metadata, spec=spec, status=VolumeStatus(in_use_by=placement.metadata.name))
