"""IPv4 addresses of one network that instances may get."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Ip, ShortName, Subnet, Text, Title, shaped
from nanovirt.resources.kind import CLUSTER, Column, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.reasons import Reason

DomainName = Annotated[
    str,
    shaped(
        r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*)?$",
        "a domain name such as lab.example",
    ),
    Field(max_length=253),
]


class AddressRange(Model):
    """All addresses from `first` to `last`, both included."""

    name: ShortName
    first: Ip
    last: Ip

    def __contains__(self, ip: object) -> bool:
        """Whether that address is one of them."""
        return isinstance(ip, IPv4Address) and self.first <= ip <= self.last

    @property
    def size(self) -> int:
        """How many addresses they are."""
        return int(self.last) - int(self.first) + 1


class AddressPoolSpec(Spec):
    """What an administrator decides about a pool of addresses."""

    display_name: Title = ""
    description: Text = ""
    network: ShortName = "default"
    vlan: Annotated[int, Field(ge=0, le=4094)] = 0
    """The VLAN of that network that its cards are in, unless they say another one; 0: none."""
    subnet: Subnet
    gateway: Ip | None = None
    dns: Annotated[tuple[Ip, ...], Field(max_length=8)] = ()
    domain: DomainName = ""
    ranges: Annotated[tuple[AddressRange, ...], Field(min_length=1, max_length=64)]
    reserved: Annotated[tuple[Ip, ...], Field(max_length=4096)] = ()
    provider: Literal["DHCP", "CloudInit"] = "DHCP"
    lease_seconds: Annotated[int, Field(ge=4, le=31_536_000)] = 86400


class AddressPoolStatus(Status):
    """How full the pool is."""

    observed_generation: int = 0
    total: int = 0
    used: int = 0
    free: int = 0
    conditions: tuple[Condition, ...] = ()


class AddressPoolRow(NamedTuple):
    """Pools of one VLAN of a network must not overlap."""

    network: str
    subnet: str
    vlan: int


class AddressPool(
    Resource[AddressPoolSpec, AddressPoolStatus],
    plural="addresspools",
    short="apool",
    scope=CLUSTER,
    row=AddressPoolRow,
    columns=(
        Column("Network", ".spec.network"),
        Column("Subnet", ".spec.subnet"),
        Column("Used", ".status.used", "integer"),
        Column("Total", ".status.total", "integer"),
        Column("Gateway", ".spec.gateway", "string", 1),
        Column("Provider", ".spec.provider", "string", 1),
    ),
    immutable=("spec.subnet", "spec.network"),
):
    """Ranges lie inside the subnet and share nothing."""

    spec: AddressPoolSpec
    status: AddressPoolStatus = Field(default_factory=AddressPoolStatus)

    def problems(self) -> Iterator[Cause]:
        """Ranges that are reversed, outside, overlapping or of one name; a gateway outside the subnet."""
        spec = self.spec
        yield from twice("spec.ranges", [one.name for one in spec.ranges])
        if spec.subnet.prefixlen > 30 or spec.subnet.prefixlen < 8:
            yield Cause.of("spec.subnet", f"{spec.subnet}: a prefix from /8 to /30 is needed")
        if spec.gateway is not None and spec.gateway not in spec.subnet:
            yield Cause.of("spec.gateway", Reason.NotInSubnet, ip=str(spec.gateway), subnet=str(spec.subnet))
        for index, one in enumerate(spec.ranges):
            yield from self._range_problems(f"spec.ranges[{index}]", one)
        ordered = sorted(spec.ranges, key=lambda one: one.first)
        for one, other in itertools.pairwise(ordered):
            if other.first <= one.last:
                yield Cause.of("spec.ranges", Reason.RangesOverlap, one=one.name, other=other.name)

    def _range_problems(self, field: str, one: AddressRange) -> Iterator[Cause]:
        for end, ip in (("first", one.first), ("last", one.last)):
            if ip not in self.spec.subnet:
                yield Cause.of(f"{field}.{end}", Reason.NotInSubnet, ip=str(ip), subnet=str(self.spec.subnet))
        if one.last < one.first:
            yield Cause.of(field, Reason.RangeReversed, first=str(one.first), last=str(one.last))

    def excluded(self) -> frozenset[IPv4Address]:
        """Addresses that no instance gets: reserved ones, the gateway, network and broadcast address."""
        spec = self.spec
        ends = {spec.subnet.network_address, spec.subnet.broadcast_address}
        return frozenset(ends | set(spec.reserved) | ({spec.gateway} if spec.gateway else set()))

    def holds(self, ip: IPv4Address) -> bool:
        """Whether some range has that address."""
        return any(ip in one for one in self.spec.ranges)

    def total(self) -> int:
        """How many addresses the pool can hand out."""
        return sum(one.size for one in self.spec.ranges) - sum(1 for ip in self.excluded() if self.holds(ip))
