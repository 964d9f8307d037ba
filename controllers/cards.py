"""The network cards of an instance: which there are, their MACs, and the Addresses that they get."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address

from nanovirt.controllers.actions import owner_of
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.world import World
from nanovirt.resources.address import Address, AddressSpec, address_name
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import DEFAULT_NIC, Nic, network_of, vlan_of
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.placement import Lease, PlacedNic
from nanovirt.resources.qos import NetworkQos
from nanovirt.resources.reasons import Reason
from nanovirt.resources.system_template import NicModel
from nanovirt.resources.vlans import spoken

OUI = "52:54:00"


def nics_of(instance: Instance, pool: ComputePool) -> tuple[Nic, ...]:
    """The cards that are wished; without any word about them one card with an address of the pool."""
    if instance.spec.nics is not None:
        return instance.spec.nics
    return (only_nic(pool.spec.address_pool),)


@lru_cache(maxsize=1024)
def only_nic(pool: str | None) -> Nic:
    """The card of a machine of which nothing is said about cards."""
    return Nic(name=DEFAULT_NIC, address_pool=pool, network=None if pool else "default")


def pool_of(nic: Nic, world: World) -> AddressPool | None:
    """The pool that the card has its address from; None for one with an address from outside. Raises Missing."""
    if nic.address_pool is None:
        return None
    pool = world.read(AddressPool, nic.address_pool)
    if pool is None or pool.deleting:
        raise Missing(Reason.AddressPoolNotFound, pool=nic.address_pool)
    return pool


def check_stray(nic: Nic, pool: AddressPool | None, world: World) -> None:
    """A card does not leave its pool's VLAN while other pools have the same addresses there. Raises Missing."""
    if pool is None or nic.vlan in (0, pool.spec.vlan):
        return
    own = pool.spec
    for other in world.every(AddressPool):
        theirs, name = other.spec, other.metadata.name
        if name != pool.metadata.name and theirs.network == own.network and theirs.subnet.overlaps(own.subnet):
            raise Missing(Reason.VlanOfPoolOnly, pool=pool.metadata.name, other=name, vlan=spoken(own.vlan))


def new_addresses(
    instance: Instance, nics: list[tuple[Nic, AddressPool | None]], world: World
) -> Iterator[Address | str]:
    """For each card its Address, or the MAC alone when the physical network gives the address. Raises Missing."""
    chosen: dict[str, frozenset[IPv4Address]] = {}
    for nic, pool in nics:
        mac = asked_mac(nic.mac, world) if nic.mac else free_mac(instance.metadata.uid, nic.name, world)
        if pool is None:
            yield mac
            continue
        name = pool.metadata.name
        besides = chosen.get(name, frozenset())
        ip = chosen_ip(nic, pool, world, besides)
        chosen[name] = besides | {ip}
        yield address(instance, nic, name, ip, mac)


def chosen_ip(nic: Nic, pool: AddressPool, world: World, besides: frozenset[IPv4Address]) -> IPv4Address:
    """The address that the card asks for, or a free one. Raises Missing."""
    ip = _asked_ip(nic.ip, pool, world) if nic.ip is not None else world.leases.free(pool, besides)
    if ip is None:
        raise Missing(Reason.AddressPoolFull, pool=pool.metadata.name, total=pool.total())
    return ip


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


def asked_mac(mac: str, world: World) -> str:
    """A MAC asked for by name. Raises Missing."""
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


def address(instance: Instance, nic: Nic, pool: str, ip: IPv4Address, mac: str) -> Address:
    """The Address of a card."""
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


def placed_card(
    nic: Nic, pool: AddressPool | None, lease: Address | str, host: Host, model: NicModel, qos: NetworkQos
) -> PlacedNic:
    """The card as the host is to have it; `lease`: its Address, or the MAC alone."""
    held = lease if isinstance(lease, Address) else None
    return PlacedNic(
        name=nic.name,
        mac=held.spec.mac if held else str(lease),
        ip=held.spec.ip if held else None,
        model=nic.model or model,
        address_pool=pool.metadata.name if pool else "",
        bridge=host.bridge(network_of(nic, pool)),
        vlan=vlan_of(nic, pool),
        mtu=nic.mtu,
        qos=qos,
        lease=lease_of(pool) if pool else None,
    )


def as_leased(lease: Lease | None, pool: AddressPool | None) -> bool:
    """Whether the lease is as the pool has it now."""
    if lease is None or pool is None:
        return lease is None and pool is None
    one, other = lease, pool.spec
    return (one.subnet, one.gateway, one.dns, one.domain, one.seconds, one.provider) == (
        other.subnet,
        other.gateway,
        other.dns,
        other.domain,
        other.lease_seconds,
        other.provider,
    )


def lease_of(pool: AddressPool) -> Lease:
    """What DHCP tells a card of the pool."""
    spec = pool.spec
    return Lease(
        subnet=spec.subnet,
        gateway=spec.gateway,
        dns=spec.dns,
        domain=spec.domain,
        seconds=spec.lease_seconds,
        provider=spec.provider,
    )
