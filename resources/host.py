"""A Linux server whose agent runs machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import AbsolutePath, Ip, Name, ShortName, Text, Title, shaped
from nanovirt.resources.kind import CLUSTER, LATER, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.vlans import SPANS_MAX, VlanSpan, among, problems

ACCOUNTED = "Accounted"
"""The condition that says whether a host has told a restored store what it holds."""
DeviceName = Annotated[
    str,
    shaped(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$", "a network device such as br0: at most 15 letters, digits and ._-"),
]


class HostBridge(Model):
    """A bridge of the host and the network that it leads to."""

    network: ShortName
    device: DeviceName
    vlans: Annotated[tuple[VlanSpan, ...], Field(max_length=SPANS_MAX)] | None = None
    """The VLANs of that network that cards may be in here: "10", "20-29", "0" for none; without the field all."""

    def carries(self, vlan: int) -> bool:
        """Whether a card may be in that VLAN here; 0: in none. The one rule for scheduler, admission and changes."""
        return self.vlans is None or among(self.vlans, vlan)


class StoragePath(Model):
    """Where this host keeps the volumes of a Local pool, when it differs from the pool's own path."""

    storage_pool: Name
    path: AbsolutePath


class HostSpec(Spec):
    """What an administrator decides about a host."""

    display_name: Title = ""
    description: Text = ""
    compute_pool: Name = "default"
    enabled: bool = True
    maintenance: Annotated[bool, LATER] = False
    bridges: tuple[HostBridge, ...] = ()
    storage_paths: tuple[StoragePath, ...] = ()


class Amounts(Model):
    """Room of a host or a pool: processors, bytes of memory, bytes of disk."""

    cpus: int = 0
    memory: Bytes = Bytes(0)
    disk: Bytes = Bytes(0)


class Versions(Model):
    """What runs there."""

    agent: str = ""
    libvirt: str = ""
    qemu: str = ""
    kernel: str = ""


class HostStatus(Status):
    """What the reports of the host's agent say, as far as it changes only with an event."""

    observed_generation: int = 0
    address: str = ""
    architecture: str = ""
    accelerator: Literal["", "kvm", "tcg", "simulated"] = ""
    capacity: Amounts = Amounts()
    allocated: Amounts = Amounts()
    instances: int = 0
    versions: Versions = Versions()
    boot_id: str = ""
    unclaimed: tuple[str, ...] = ()
    """Names of domains that no Placement asks for, the first hundred: they are left alone."""
    unclaimed_addresses: tuple[Ip, ...] = ()
    """Addresses that such domains were given, as far as the agent remembers: nobody else gets them."""
    conditions: tuple[Condition, ...] = ()


class HostRow(NamedTuple):
    """What the scheduler filters by."""

    compute_pool: str
    enabled: bool


class Host(
    Resource[HostSpec, HostStatus],
    plural="hosts",
    scope=CLUSTER,
    row=HostRow,
    columns=(
        Column("Pool", ".spec.computePool"),
        Column("Enabled", ".spec.enabled", "boolean"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Instances", ".status.instances", "integer"),
        Column("Cpus", ".status.capacity.cpus", "integer"),
        Column("Memory", ".status.capacity.memory"),
        Column("Address", ".status.address", "string", 1),
        Column("Accelerator", ".status.accelerator", "string", 1),
        Column("Libvirt", ".status.versions.libvirt", "string", 1),
    ),
    selectable=("spec.computePool", "spec.enabled"),
    refers=(Refers("spec.computePool", "computepools"),),
):
    """Cluster-scoped; belongs to one ComputePool."""

    spec: HostSpec = Field(default_factory=HostSpec)
    status: HostStatus = Field(default_factory=HostStatus)

    def problems(self) -> Iterator[Cause]:
        """Two bridges to one network, two paths of one storage pool, VLANs that are none."""
        yield from twice("spec.bridges", [one.network for one in self.spec.bridges], "network")
        for index, one in enumerate(self.spec.bridges):
            yield from problems(f"spec.bridges[{index}].vlans", one.vlans)
        yield from twice("spec.storagePaths", [one.storage_pool for one in self.spec.storage_paths], "storagePool")

    def bridge(self, network: str) -> str:
        """The bridge that leads to `network`, or ""."""
        return next((one.device for one in self.spec.bridges if one.network == network), "")

    def withholds(self, network: str, vlan: int, device: str = "") -> bool:
        """Whether the bridge to `network` does not carry that VLAN (0: frames without a tag).

        `device`: where an adopted machine has a card of a network that the host does not name.
        """
        ways = [one for one in self.spec.bridges if one.network == network]
        ways = ways or [one for one in self.spec.bridges if one.device == device]
        return bool(ways) and not any(one.carries(vlan) for one in ways)
