"""From a wish to what belongs to it: the Placement, Volumes and Addresses of one instance, all chosen together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from nanovirt.controllers.actions import owner_of
from nanovirt.controllers.guests import guest_of, missing_secret
from nanovirt.controllers.scheduler import Ask, refuse, told
from nanovirt.controllers.world import World
from nanovirt.resources.address import Address, AddressSpec, address_name
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.fields import resolve
from nanovirt.resources.host import Host
from nanovirt.resources.image import Image
from nanovirt.resources.instance import DEFAULT_NIC, Disk, Instance, Nic
from nanovirt.resources.kind import Document
from nanovirt.resources.metadata import ObjectMeta, OwnerReference
from nanovirt.resources.placement import (
    Domain,
    Lease,
    PlacedGuest,
    PlacedImage,
    PlacedNic,
    PlacedVolume,
    Placement,
    PlacementSpec,
    placement_name,
)
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.system_template import Devices, SystemTemplate
from nanovirt.resources.volume import Volume, VolumeSource, VolumeSpec, VolumeStatus

OUI = "52:54:00"


class Missing(Exception):
    """Why the instance cannot be composed now."""

    def __init__(self, reason: Reason, **params: Any) -> None:
        super().__init__(reason.name)
        self.reason, self.params = reason, params


@dataclass(frozen=True, slots=True)
class Composition:
    """What is created together."""

    host: str
    placement: Placement
    volumes: tuple[Volume, ...]
    addresses: tuple[Address, ...]

    def parts(self) -> tuple[Document, ...]:
        """In the order of creation."""
        return (*self.addresses, *self.volumes, self.placement)


def compose(instance: Instance, world: World) -> Composition:
    """Choose a host, addresses and file names. Raises Missing with the reason when something is not there (yet)."""
    pool = world.read(ComputePool, instance.spec.compute_pool)
    if pool is None:
        raise Missing(Reason.PoolNotFound, pool=instance.spec.compute_pool)
    if not pool.spec.enabled or pool.deleting:
        raise Missing(Reason.PoolDisabled, pool=pool.metadata.name)
    storage = world.read(StoragePool, pool.spec.storage_pool)
    if storage is None:
        raise Missing(Reason.StoragePoolNotFound, pool=pool.spec.storage_pool)
    secret = missing_secret(instance, world)
    if secret is not None:
        raise Missing(Reason.SecretNotFound, secret=secret)
    disks = [(disk, _image(instance, disk, world)) for disk in instance.spec.disks]
    template = _template(instance, [image for _, image in disks if image], world)
    nics = [(nic, _address_pool(nic, world)) for nic in nics_of(instance, pool)]
    host = _choose(instance, pool, world, disks, nics, template)
    leases = tuple(_addresses(instance, nics, world))
    volumes = tuple(_volume(instance, disk, image, storage, host, template) for disk, image in disks)
    nics_placed = _nics(host, nics, leases, template)
    placement = _placement(instance, host, template, volumes, nics_placed, guest_of(instance, world))
    return Composition(
        host.metadata.name,
        placement,
        tuple(
            _volume_object(instance, placement, storage, disk, volume)
            for (disk, _), volume in zip(disks, volumes, strict=True)
        ),
        tuple(address for address in leases if isinstance(address, Address)),
    )


def nics_of(instance: Instance, pool: ComputePool) -> tuple[Nic, ...]:
    """The cards that are wished; without any word about them one card with an address of the pool."""
    if instance.spec.nics is not None:
        return instance.spec.nics
    if pool.spec.address_pool is None:
        return (Nic(name=DEFAULT_NIC, network="default"),)
    return (Nic(name=DEFAULT_NIC, address_pool=pool.spec.address_pool),)


def _image(instance: Instance, disk: Disk, world: World) -> Image | None:
    if disk.source is None or disk.source.image is None:
        return None
    space, name = resolve(disk.source.image, instance.metadata.namespace)
    image = world.read(Image, name, space)
    if image is None:
        raise Missing(Reason.ImageNotFound, image=disk.source.image)
    if image.status.phase != "Ready" or image.status.virtual_size is None:
        why = image.status.conditions[0].message if image.status.conditions else image.status.phase
        raise Missing(Reason.ImageNotReady, image=disk.source.image, why=why)
    if disk.size is not None and disk.size < image.status.virtual_size:
        has = str(image.status.virtual_size)
        raise Missing(
            Reason.DiskSmallerThanImage, disk=disk.name, asked=str(disk.size), image=disk.source.image, has=has
        )
    return image


def _template(instance: Instance, images: list[Image], world: World) -> SystemTemplate:
    name = instance.spec.system_template or (images[0].spec.system_template if images else "linux")
    template = world.read(SystemTemplate, name)
    if template is None:
        raise Missing(Reason.SystemTemplateNotFound, template=name)
    return template


def _address_pool(nic: Nic, world: World) -> AddressPool | None:
    if nic.address_pool is None:
        return None
    pool = world.read(AddressPool, nic.address_pool)
    if pool is None or pool.deleting:
        raise Missing(Reason.AddressPoolNotFound, pool=nic.address_pool)
    return pool


Disks = list[tuple[Disk, Image | None]]
Nics = list[tuple[Nic, AddressPool | None]]


def _choose(
    instance: Instance, pool: ComputePool, world: World, disks: Disks, nics: Nics, template: SystemTemplate
) -> Host:
    ask = Ask(
        cpus=instance.spec.cpus,
        memory=instance.spec.memory,
        disk=sum(_size(disk, image) for disk, image in disks),
        networks=frozenset(_network(nic, addresses) for nic, addresses in nics),
        architecture=template.spec.architecture,
        pinned=instance.spec.scheduling.host,
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


def _size(disk: Disk, image: Image | None) -> Bytes:
    if disk.size is not None:
        return disk.size
    assert image is not None
    assert image.status.virtual_size is not None
    return image.status.virtual_size


def _network(nic: Nic, pool: AddressPool | None) -> str:
    return pool.spec.network if pool is not None else nic.network or "default"


def _addresses(instance: Instance, nics: Nics, world: World) -> Iterator[Address | str]:
    """For each card its Address, or the MAC alone when the physical network gives the address."""
    chosen: dict[str, frozenset[IPv4Address]] = {}
    for nic, pool in nics:
        mac = _asked_mac(nic.mac, world) if nic.mac else free_mac(instance.metadata.uid, nic.name, world)
        if pool is None:
            yield mac
            continue
        name = pool.metadata.name
        besides = chosen.get(name, frozenset())
        ip = _asked_ip(nic.ip, pool, world) if nic.ip is not None else world.leases.free(pool, besides)
        if ip is None:
            raise Missing(Reason.AddressPoolFull, pool=name, total=pool.total())
        chosen[name] = besides | {ip}
        yield _address(instance, nic, name, ip, mac)


def _asked_ip(ip: IPv4Address, pool: AddressPool, world: World) -> IPv4Address:
    """An address asked for by name: the pool may have come, or changed, after the instance was accepted."""
    name = pool.metadata.name
    if not pool.holds(ip):
        raise Missing(Reason.NotInRanges, ip=str(ip), pool=name)
    if ip in pool.excluded():
        raise Missing(Reason.AddressReserved, ip=str(ip), pool=name)
    holder = world.leases.holder(name, ip)
    if holder is not None:
        raise Missing(Reason.AddressInUse, ip=str(ip), instance=holder)
    if host := world.leases.stranger(ip):
        raise Missing(Reason.AddressInUse, ip=str(ip), instance=f"an unclaimed domain of {host}")
    return ip


def _asked_mac(mac: str, world: World) -> str:
    holder = world.leases.mac_holder(mac)
    if holder is not None:
        raise Missing(Reason.MacInUse, mac=mac, instance=holder)
    return mac


def free_mac(uid: str, nic: str, world: World) -> str:
    """A MAC that follows from the instance and the card; the next one in the unlikely case that it is held."""
    for attempt in range(1000):
        digest = hashlib.blake2s(f"{uid} {nic} {attempt}".encode(), digest_size=3).digest()
        mac = ":".join([OUI, *(f"{byte:02x}" for byte in digest)])
        if world.leases.mac_holder(mac) is None:
            return mac
    raise Missing(Reason.AddressPoolFull, pool=OUI, total=2**24)


def _address(instance: Instance, nic: Nic, pool: str, ip: IPv4Address, mac: str) -> Address:
    metadata = instance.metadata
    return Address(
        metadata=ObjectMeta(name=address_name(pool, str(ip)), labels=owner_of(instance)),
        spec=AddressSpec(
            address_pool=pool,
            ip=ip,
            mac=mac,
            instance=f"{metadata.namespace}/{metadata.name}",
            instance_uid=metadata.uid,
            nic=nic.name,
        ),
    )


def _nics(host: Host, nics: Nics, leases: tuple[Address | str, ...], template: SystemTemplate) -> tuple[PlacedNic, ...]:
    placed = []
    for (nic, pool), lease in zip(nics, leases, strict=True):
        address = lease if isinstance(lease, Address) else None
        placed.append(
            PlacedNic(
                name=nic.name,
                mac=address.spec.mac if address else str(lease),
                ip=address.spec.ip if address else None,
                model=nic.model or template.spec.nic_model,
                bridge=host.bridge(_network(nic, pool)),
                mtu=nic.mtu,
                lease=_lease(pool) if pool else None,
            )
        )
    return tuple(placed)


def _lease(pool: AddressPool) -> Lease:
    spec = pool.spec
    return Lease(
        subnet=spec.subnet,
        gateway=spec.gateway,
        dns=spec.dns,
        domain=spec.domain,
        seconds=spec.lease_seconds,
        provider=spec.provider,
    )


def _volume(
    instance: Instance, disk: Disk, image: Image | None, storage: StoragePool, host: Host, template: SystemTemplate
) -> PlacedVolume:
    assert storage.spec.local is not None
    own = {one.storage_pool: one.path for one in host.spec.storage_paths}
    folder = own.get(storage.metadata.name, storage.spec.local.path).rstrip("/")
    source = None
    if image is not None and disk.source is not None and disk.source.image is not None:
        source = PlacedImage(image=disk.source.image, sha256=image.status.sha256)
    return PlacedVolume(
        name=disk.name,
        file=f"{folder}/{instance.metadata.uid}.{disk.name}.qcow2",
        size=_size(disk, image),
        source=source,
        bus=template.spec.disk_bus,
        file_system=disk.format,
    )


def _volume_object(
    instance: Instance, placement: Placement, storage: StoragePool, disk: Disk, placed: PlacedVolume
) -> Volume:
    source = VolumeSource(image=placed.source.image, sha256=placed.source.sha256) if placed.source else None
    return Volume(
        metadata=_owned(instance, volume_name(instance.metadata.name, disk.name)),
        spec=VolumeSpec(
            storage_pool=storage.metadata.name,
            host=placement.spec.host,
            size=placed.size,
            source=source,
            file=placed.file,
            reclaim=disk.reclaim,
        ),
        status=VolumeStatus(in_use_by=placement.metadata.name),
    )


def volume_name(instance: str, disk: str) -> str:
    """The name of the Volume of a disk; a disk's name has no dot, so two instances never meet in one name."""
    return f"{instance}.{disk}"


def _placement(
    instance: Instance,
    host: Host,
    template: SystemTemplate,
    volumes: tuple[PlacedVolume, ...],
    nics: tuple[PlacedNic, ...],
    guest: PlacedGuest,
) -> Placement:
    metadata, spec = instance.metadata, instance.spec
    epoch = last_epoch(instance) + 1
    devices = {name: getattr(template.spec, name) for name in Devices.model_fields}
    return Placement(
        metadata=_owned(instance, placement_name(metadata.name, epoch)),
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
            domain=Domain(uuid=metadata.uid, name=f"{metadata.namespace}.{metadata.name}", **devices),
            hostname=hostname_of(instance),
            cpu=spec.cpus,
            memory=spec.memory,
            volumes=volumes,
            nics=nics,
            guest=guest,
        ),
    )


def reissued(placement: Placement, instance: Instance, world: World) -> Placement:
    """The same once more, above the epoch that its host has obeyed; disks, cards and addresses stay as they are."""
    epoch = placement.status.epoch + 1
    spec = followed(placement.spec, instance, world).model_copy(update={"epoch": epoch})
    return Placement(metadata=_owned(instance, placement_name(instance.metadata.name, epoch)), spec=spec)


def followed(placement: PlacementSpec, instance: Instance, world: World) -> PlacementSpec:
    """The Placement with all that may change while it lives, as the instance and its address pools now wish it."""
    spec = instance.spec
    return placement.model_copy(
        update={
            "power_state": spec.power_state,
            "restart_policy": spec.restart_policy,
            "restart": spec.restart,
            "stop_grace_seconds": spec.stop_grace_seconds,
            "start_priority": spec.start_priority,
            "hostname": hostname_of(instance),
            "cpu": spec.cpus,
            "memory": spec.memory,
            "nics": tuple(_leased(nic, placement.instance_uid, world) for nic in placement.nics),
            "guest": placement.guest if missing_secret(instance, world) else guest_of(instance, world),
        }
    )


def _leased(nic: PlacedNic, uid: str, world: World) -> PlacedNic:
    """The card with the lease as its pool has it now; the address itself never changes."""
    name = world.leases.pool_of(uid, nic.name)
    pool = world.read(AddressPool, name) if name else None
    lease = _lease(pool) if pool is not None else nic.lease
    return nic if lease == nic.lease else nic.model_copy(update={"lease": lease})


def hostname_of(instance: Instance) -> str:
    """What the guest is called: the wish, or the object's name as one label."""
    return instance.spec.guest.hostname or instance.metadata.name.replace(".", "-")[:63].rstrip("-")


def last_epoch(instance: Instance) -> int:
    """The epoch of the Placement that the instance had last; 0 before the first."""
    return int(instance.status.placement.rpartition("-")[2] or 0)


def _owned(instance: Instance, name: str) -> ObjectMeta:
    owner = OwnerReference(
        api_version=instance.facts.group_version,
        kind=instance.facts.kind,
        name=instance.metadata.name,
        uid=instance.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return ObjectMeta(
        name=name, namespace=instance.metadata.namespace, labels=owner_of(instance), owner_references=(owner,)
    )
