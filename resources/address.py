"""An IPv4 address leased from a pool to one network card of one instance."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from nanovirt.resources.fields import Ip, Mac, Name, OwnerPath, ShortName, Uid
from nanovirt.resources.kind import CLUSTER, Column, Nothing, Resource, Spec


class AddressSpec(Spec):
    """What was decided: `ip` of `address_pool` belongs to the card `mac` of `instance`."""

    address_pool: Name
    ip: Ip
    mac: Mac
    instance: OwnerPath
    instance_uid: Uid
    nic: ShortName


class AddressRow(NamedTuple):
    """What the allocator needs."""

    address_pool: str
    ip: str
    mac: str
    instance: str
    instance_uid: str
    nic: str


class Address(
    Resource[AddressSpec, Nothing],
    plural="addresses",
    short="addr",
    scope=CLUSTER,
    row=AddressRow,
    columns=(
        Column("Pool", ".spec.addressPool"),
        Column("Ip", ".spec.ip"),
        Column("Mac", ".spec.mac"),
        Column("Instance", ".spec.instance"),
        Column("Nic", ".spec.nic"),
    ),
    selectable=("spec.addressPool", "spec.ip", "spec.mac", "spec.instance"),
    system="instance",
):
    """Named `POOL.IP`, so that the store itself makes a double allocation impossible."""

    spec: AddressSpec
    status: Nothing = Field(default_factory=Nothing)


def address_name(pool: str, ip: str) -> str:
    """The name of the Address object of `ip` in `pool`."""
    return f"{pool}.{ip}"
