"""From a wish to what belongs to it: the Placement, Volumes and Addresses of one instance, all chosen together."""

from __future__ import annotations

from dataclasses import dataclass

from nanovirt.controllers.cards import check_stray, new_addresses, nics_of, placed_card, pool_of
from nanovirt.controllers.devices import placed_medium, template_of
from nanovirt.controllers.disks import (
    Origin,
    file_of,
    named,
    new_volume,
    origin_of,
    owned,
    placed_disk,
    size_of,
    taken,
)
from nanovirt.controllers.guarding import check_groups, guarded
from nanovirt.controllers.guests import guest_of, missing_secret
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.limits import cpu_qos, disk_qos, most_cpus, most_memory, network_qos
from nanovirt.controllers.scheduler import Ask, refuse, told
from nanovirt.controllers.world import World
from nanovirt.resources.address import Address
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import Disk, Nic, network_of, vlan_of
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Document
from nanovirt.resources.placement import (
    Domain,
    PlacedGuest,
    PlacedMedium,
    PlacedNic,
    PlacedVolume,
    Placement,
    PlacementSpec,
    placement_name,
)
from nanovirt.resources.reasons import Reason
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.store import Op
from nanovirt.resources.system_template import Devices, SystemTemplate
from nanovirt.resources.volume import Volume

Disks = list[tuple[Disk, Origin]]
Nics = list[tuple[Nic, AddressPool | None]]


@dataclass(frozen=True, slots=True)
class Composition:
    """What is created together; `taken` makes Volumes that were there before the instance's."""

    host: str
    placement: Placement
    volumes: tuple[Volume, ...]
    addresses: tuple[Address, ...]
    taken: tuple[Op, ...] = ()

    def parts(self) -> tuple[Document, ...]:
        """In the order of creation."""
        return (*self.addresses, *self.volumes, self.placement)


def compose(instance: Instance, world: World) -> Composition:
    """Choose a host, addresses and file names. Raises Missing with the reason when something is not there (yet)."""
    spec = instance.spec
    pool = world.read(ComputePool, spec.compute_pool)
    if pool is None:
        raise Missing(Reason.PoolNotFound, pool=spec.compute_pool)
    if not pool.spec.enabled or pool.deleting:
        raise Missing(Reason.PoolDisabled, pool=pool.metadata.name)
    storage = world.read(StoragePool, pool.spec.storage_pool)
    if storage is None:
        raise Missing(Reason.StoragePoolNotFound, pool=pool.spec.storage_pool)
    secret = missing_secret(instance, world)
    if secret is not None:
        raise Missing(Reason.SecretNotFound, secret=secret)
    disks = [(disk, origin_of(instance, disk, world)) for disk in spec.disks]
    template = template_of(instance, world)
    media = tuple(placed_medium(instance, medium, world) for medium in spec.media)
    nics = [(nic, pool_of(nic, world)) for nic in nics_of(instance, pool)]
    space = instance.metadata.namespace
    for nic, addresses in nics:
        check_groups(nic, space, world)
        check_stray(nic, addresses, world)
    host = _choose(instance, pool, world, disks, nics, template)
    leases = tuple(new_addresses(instance, nics, world))
    volumes = tuple(
        named(
            instance,
            placed_disk(
                disk,
                origin,
                file_of(instance, disk, storage, host),
                template.spec.disk_bus,
                disk_qos(spec, disk, pool),
            ),
            world,
        )
        for disk, origin in disks
    )
    rates = network_qos(spec, pool)
    cards = tuple(
        guarded(placed_card(nic, addresses, lease, host, template.spec.nic_model, rates), nic, space, world)
        for (nic, addresses), lease in zip(nics, leases, strict=True)
    )
    placement = _placement(instance, host, pool, template, volumes, cards, media, guest_of(instance, world))
    each = list(zip(disks, volumes, strict=True))
    holder = placement.metadata.name
    return Composition(
        host.metadata.name,
        placement,
        tuple(
            new_volume(instance, disk, volume, storage, host.metadata.name, holder)
            for (disk, origin), volume in each
            if origin.volume is None
        ),
        tuple(one for one in leases if isinstance(one, Address)),
        tuple(
            op
            for (disk, origin), volume in each
            if origin.volume is not None
            for op in taken(instance, disk, volume, origin.volume, holder)
        ),
    )


def _choose(
    instance: Instance, pool: ComputePool, world: World, disks: Disks, nics: Nics, template: SystemTemplate
) -> Host:
    ask = Ask(
        cpus=instance.spec.cpus,
        memory=instance.spec.memory,
        disk=sum(size_of(disk, origin) for disk, origin in disks if origin.volume is None),
        networks=frozenset(network_of(nic, addresses) for nic, addresses in nics),
        architecture=template.spec.architecture,
        pinned=_where_volumes_are(disks, instance.spec.scheduling.host),
        cards=frozenset((network_of(nic, addresses), vlan_of(nic, addresses)) for nic, addresses in nics),
    )
    name = pool.metadata.name
    placed = world.ranking(pool).place(ask)
    host = world.read(Host, placed.name) if placed is not None else None
    if host is not None:
        return host
    slots = world.slots(name)
    if not slots:
        raise Missing(Reason.PoolHasNoHosts, pool=name)
    raise Missing(Reason.NoHostFits, pool=name, hosts=told(refuse(ask, pool.spec, one) for one in slots))


def _where_volumes_are(disks: Disks, pinned: str) -> str:
    """The one host that has the Volumes that were there before, or the one that is asked for."""
    there = [origin.volume for _, origin in disks if origin.volume is not None]
    hosts = {volume.spec.host for volume in there if volume.spec.host is not None}
    if len(hosts) > 1:
        raise Missing(Reason.VolumesApart, volumes=", ".join(volume.metadata.name for volume in there))
    host = next(iter(hosts), "")
    if host and pinned not in ("", host):
        raise Missing(Reason.VolumeElsewhere, volume=there[0].metadata.name, has=host, host=pinned)
    return host or pinned


def _placement(
    instance: Instance,
    host: Host,
    pool: ComputePool,
    template: SystemTemplate,
    volumes: tuple[PlacedVolume, ...],
    nics: tuple[PlacedNic, ...],
    media: tuple[PlacedMedium, ...],
    guest: PlacedGuest,
) -> Placement:
    metadata, spec = instance.metadata, instance.spec
    epoch = last_epoch(instance) + 1
    devices = {name: getattr(template.spec, name) for name in Devices.model_fields}
    return Placement(
        metadata=owned(instance, placement_name(metadata.name, epoch)),
        spec=PlacementSpec(
            instance=metadata.name,
            instance_uid=metadata.uid,
            host=host.metadata.name,
            epoch=epoch,
            power_state=spec.power_state,
            restart_policy=spec.restart_policy,
            restart=spec.restart,
            stop_grace_seconds=spec.stop_grace_seconds,
            start_priority=spec.start_priority,
            template=template.metadata.name,
            template_chosen=spec.system_template is not None,
            domain=Domain(uuid=metadata.uid, name=f"{metadata.namespace}.{metadata.name}", **devices),
            hostname=hostname_of(instance),
            cpu=spec.cpus,
            max_cpu=most_cpus(spec, spec.cpus, host),
            memory=spec.memory,
            max_memory=most_memory(spec, spec.memory, host),
            qos=cpu_qos(spec, pool),
            volumes=volumes,
            nics=nics,
            media=media,
            boot_order=spec.boot_order,
            guest=guest,
        ),
    )


def hostname_of(instance: Instance) -> str:
    """What the guest is called: the wish, or the object's name as one label."""
    return instance.spec.guest.hostname or instance.metadata.name.replace(".", "-")[:63].rstrip("-")


def last_epoch(instance: Instance) -> int:
    """The epoch of the Placement that the instance had last; 0 before the first."""
    return int(instance.status.placement.rpartition("-")[2] or 0)
