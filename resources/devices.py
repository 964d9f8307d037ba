"""The disks, cards and drives of an instance, and what none of them can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import AbsolutePath, Ip, Mac, Name, Reference, ShortName
from nanovirt.resources.kind import LATER
from nanovirt.resources.metadata import Model
from nanovirt.resources.qos import DiskQos, disk_rate_problems
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.system_template import NicModel

DEFAULT_NIC = "nic0"
DISK_MIN, DISK_MAX = 2**20, 64 * 2**40


class DiskSource(Model):
    """What a disk begins as; without a source it is empty."""

    image: Reference | None = None
    """An Image of type Disk: NAME of the namespace, or shared/NAME."""
    snapshot: Annotated[str | None, LATER] = None
    disk: Annotated[str | None, LATER] = None
    volume: Name | None = None
    """A Volume of the namespace that nobody has; the instance has to be placed where it is."""


class DiskFormat(Model):
    """The file system that the guest makes on an empty disk at its start, and where it mounts it."""

    file_system: Literal["Ext4", "Xfs"] = "Ext4"
    mount_path: AbsolutePath


class Disk(Model):
    """A disk; without `size` it is as large as its image."""

    name: ShortName
    size: Bytes | None = None
    source: DiskSource | None = None
    reclaim: Literal["Delete", "Retain"] = "Delete"
    rebuild: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    format: DiskFormat | None = None
    qos: DiskQos | None = None


class Nic(Model):
    """A network card: with an address of `addressPool`, or on `network` with an address from the physical network."""

    name: ShortName
    address_pool: Name | None = None
    """The AddressPool that gives its address."""
    network: ShortName | None = None
    """The network, one of spec.bridges of a Host, where something else gives its address."""
    vlan: Annotated[int, Field(ge=0, le=4094)] = 0
    """The VLAN of that network, seen by the guest as plain frames; 0: the pool\'s, or none."""
    ip: Ip | None = None
    """This address of the pool; without, a free one."""
    mac: Mac | None = None
    """This MAC; without, one of its own that stays."""
    mtu: Annotated[int, Field(ge=576, le=9216)] | None = None
    model: NicModel | None = None
    security_groups: Annotated[tuple[Reference, ...], Field(max_length=8)] = ()
    """What may come in and go out: SecurityGroups, whose rules are gone through one group after the other."""


def network_of(nic: Nic, pool: AddressPool | None) -> str:
    """The network that the card is plugged into."""
    return pool.spec.network if pool is not None else nic.network or "default"


def vlan_of(nic: Nic, pool: AddressPool | None) -> int:
    """The VLAN of that network that the card is in; 0: none."""
    return nic.vlan or (pool.spec.vlan if pool is not None else 0)


class Medium(Model):
    """A drive with an image of type Media in it; without an image it is empty."""

    name: ShortName
    image: Reference | None = None
    """An Image of type Media: NAME of the namespace, or shared/NAME."""


def nic_problems(field: str, nic: Nic) -> Iterator[Cause]:
    """An address of no pool, and a card that is plugged in nowhere or twice."""
    if nic.ip is not None and nic.address_pool is None:
        yield Cause.of(f"{field}.ip", Reason.NeedsAddressPool)
    yield from twice(f"{field}.securityGroups", nic.security_groups, key="")
    if (nic.address_pool is None) == (nic.network is None):
        yield Cause.of(field, Reason.OneMemberRequired, members="addressPool, network")


def disk_problems(field: str, disk: Disk) -> Iterator[Cause]:
    """A size that no disk has, and a source or a format that contradicts itself."""
    source = disk.source
    image, volume = (source.image, source.volume) if source is not None else (None, None)
    if source is not None and (image is None) == (volume is None) and not (source.snapshot or source.disk):
        yield Cause.of(f"{field}.source", Reason.OneMemberRequired, members="image, volume")
    elif disk.size is None and source is None:
        say = "an empty disk needs a size, for example 20Gi"
        yield Cause(f"{field}.size", Reason.FieldValueRequired.name, say, {})
    if disk.size is not None and not DISK_MIN <= disk.size <= DISK_MAX:
        yield Cause.of(f"{field}.size", f"{disk.size}: from 1Mi to 64Ti")
    if disk.format is not None and source is not None:
        yield Cause.of(f"{field}.format", "only an empty disk is formatted; leave out the format, or the source")
    if disk.qos is not None:
        yield from disk_rate_problems(f"{field}.qos", disk.qos)
