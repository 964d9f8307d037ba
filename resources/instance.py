"""A virtual machine as a person wishes it to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import (
    AbsolutePath,
    Ip,
    Mac,
    Name,
    NameOrNothing,
    Reference,
    ShortName,
    Text,
    Time,
    Title,
)
from nanovirt.resources.guest import Guest, GuestReport
from nanovirt.resources.kind import LATER, NAMESPACED, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.qos import DiskQos, Qos
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.system_template import NicModel

MIB = 2**20
FINALIZER = "nano/instance"
DEFAULT_NIC = "nic0"
PLACED = {
    "disks": "spec.disks",
    "nics": "spec.nics",
    "system_template": "spec.systemTemplate",
    "scheduling": "spec.scheduling",
}
"""What cannot be changed yet once the instance has a host."""

PowerState = Literal["Running", "Stopped", "Suspended"]
RestartPolicy = Literal["OnFailure", "Always", "Never"]
Phase = Literal[
    "Pending", "Provisioning", "Starting", "Running", "Stopping", "Stopped", "Suspended", "Migrating", "Failed",
    "Unknown", "Deleting",
]  # fmt: skip


class Restart(Model):
    """An order to start anew, once for each value of `at`; written by /restart and /reset, or by hand."""

    at: Time
    mode: Literal["Graceful", "Hard"] = "Graceful"


class DiskSource(Model):
    """What a disk begins as; without a source it is empty."""

    image: Reference | None = None
    snapshot: Annotated[str | None, LATER] = None
    disk: Annotated[str | None, LATER] = None
    volume: Annotated[str | None, LATER] = None


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
    rebuild: Annotated[int, Field(ge=0), LATER] = 0
    format: DiskFormat | None = None
    qos: Annotated[DiskQos | None, LATER] = None


class Nic(Model):
    """A network card: with an address of `addressPool`, or on `network` with an address from the physical network."""

    name: ShortName
    address_pool: Name | None = None
    network: ShortName | None = None
    vlan: Annotated[int, Field(ge=0, le=4094), LATER] = 0
    ip: Ip | None = None
    mac: Mac | None = None
    mtu: Annotated[int, Field(ge=576, le=9216)] | None = None
    model: NicModel | None = None
    security_groups: Annotated[tuple[Reference, ...], Field(max_length=8), LATER] = ()


class Medium(Model):
    """A drive with an image of type Media in it; without an image it is empty."""

    name: ShortName
    image: Reference | None = None


class Scheduling(Model):
    """Where it may run; `host` "" leaves the choice to the scheduler."""

    host: NameOrNothing = ""
    affinity: Annotated[dict[str, str], LATER] = Field(default_factory=dict)
    anti_affinity: Annotated[dict[str, str], LATER] = Field(default_factory=dict)


ANYWHERE = Scheduling()


class InstanceSpec(Spec):
    """The wish. The smallest one: `disks: [{name: system, source: {image: shared/debian-12}}]`."""

    display_name: Title = ""
    description: Text = ""
    compute_pool: Name = "default"
    system_template: Name | None = None
    cpus: Annotated[int, Field(ge=1, le=512)] = 1
    max_cpus: Annotated[int | None, Field(ge=1, le=512), LATER] = None
    memory: Bytes = Bytes("1Gi")
    max_memory: Annotated[Bytes | None, LATER] = None
    power_state: PowerState = "Running"
    restart_policy: RestartPolicy = "OnFailure"
    restart: Restart | None = None
    stop_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    start_priority: Annotated[int, Field(ge=0, le=1000)] = 100
    deletion_protection: bool = False
    disks: Annotated[tuple[Disk, ...], Field(max_length=16)] = ()
    nics: Annotated[tuple[Nic, ...], Field(max_length=8)] | None = None
    media: Annotated[tuple[Medium, ...], Field(max_length=4), LATER] = ()
    boot_order: Annotated[tuple[ShortName, ...], Field(max_length=28), LATER] = ()
    qos: Annotated[Qos | None, LATER] = None
    guest: Guest = Guest()
    scheduling: Scheduling = Field(default_factory=lambda: ANYWHERE)
    drift: Literal["Report", "Revert"] | None = None
    """What to do about a definition that was changed on the host; None: what its ComputePool says."""


class InstanceAddress(Model):
    """Where a card can be reached."""

    nic: str
    ip: str
    mac: str
    source: Literal["Pool", "Guest"] = "Pool"


class AwaitingChange(Model):
    """A change that the running machine has not taken yet."""

    path: str
    current: Any = None
    desired: Any = None
    operation: Literal["NextStart", "Restart", "Refused"] = "Restart"


class Drift(Model):
    """A difference between a machine's definition on its host and what Nano would have there; None: absent."""

    path: str
    current: str | None = None
    desired: str | None = None


class InstanceStatus(Status):
    """What is known; only facts that change with an event."""

    observed_generation: int = 0
    phase: Phase = "Pending"
    host: str = ""
    placement: str = ""
    addresses: tuple[InstanceAddress, ...] = ()
    guest: GuestReport | None = None
    restart_awaiting_changes: tuple[AwaitingChange, ...] = ()
    drift: tuple[Drift, ...] = ()
    """The first differences, while condition Drifted is True."""
    conditions: tuple[Condition, ...] = ()


NOTHING_KNOWN = InstanceStatus()


class InstanceRow(NamedTuple):
    """What pools count, and what wakes it."""

    compute_pool: str
    power_state: str
    status_phase: str
    status_host: str


class Instance(
    Resource[InstanceSpec, InstanceStatus],
    plural="instances",
    short="inst vm",
    scope=NAMESPACED,
    row=InstanceRow,
    columns=(
        Column("Phase", ".status.phase"),
        Column("Host", ".status.host"),
        Column("Ip", ".status.addresses[*].ip"),
        Column("Cpus", ".spec.cpus", "integer"),
        Column("Memory", ".spec.memory"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "string", 1),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", 1),
        Column("Mac", ".status.addresses[*].mac", "string", 1),
    ),
    selectable=("spec.computePool", "spec.powerState", "status.phase", "status.host"),
    refers=(
        Refers("spec.computePool", "computepools"),
        Refers("spec.systemTemplate", "systemtemplates"),
        Refers("spec.disks[].source.image", "images"),
        Refers("spec.nics[].addressPool", "addresspools"),
        Refers("spec.scheduling.host", "hosts"),
        Refers("spec.guest.admin.passwordSecret", "secrets"),
        Refers("spec.guest.userDataSecret", "secrets"),
    ),
    immutable=("spec.computePool",),
    finalizer=FINALIZER,
    categories=("nano", "all"),
):
    """Owns its Placement, Volumes and Addresses."""

    spec: InstanceSpec = Field(default_factory=InstanceSpec)
    status: InstanceStatus = Field(default_factory=lambda: NOTHING_KNOWN)

    def problems(self) -> Iterator[Cause]:
        """See `spec_problems`."""
        yield from spec_problems(self.spec)

    def changes_refused(self, before: Instance) -> Iterator[Cause]:
        """A placed machine keeps its devices and its place until changing them is built."""
        if not before.status.placement:
            return
        for field, alias in PLACED.items():
            if getattr(self.spec, field) != getattr(before.spec, field):
                params = {"what": f"changing {alias} of an instance that has a host"}
                yield Cause(alias, Reason.NotYetSupported.name, Reason.NotYetSupported.say(**params), params)


def spec_problems(spec: InstanceSpec, at: str = "spec") -> Iterator[Cause]:
    """Names that stand twice, an address without a pool, memory that no machine boots with; `at`: where it stands."""
    for field, named in (("disks", spec.disks), ("nics", spec.nics), ("media", spec.media)):
        if named and len(named) > 1:
            yield from twice(f"{at}.{field}", [one.name for one in named])
    if spec.memory < 64 * MIB:
        say = f"{spec.memory} is too little; at least 64Mi (and mind the unit)"
        yield Cause(f"{at}.memory", "FieldValueInvalid", say, {})
    for index, nic in enumerate(spec.nics or ()):
        yield from _nic_problems(f"{at}.nics[{index}]", nic)
    for index, disk in enumerate(spec.disks):
        yield from _disk_problems(f"{at}.disks[{index}]", disk)


def _nic_problems(field: str, nic: Nic) -> Iterator[Cause]:
    if nic.ip is not None and nic.address_pool is None:
        yield Cause(f"{field}.ip", Reason.NeedsAddressPool.name, Reason.NeedsAddressPool.say(), {})
    if (nic.address_pool is None) == (nic.network is None):
        members = "addressPool, network"
        say = Reason.OneMemberRequired.say(members=members)
        yield Cause(field, Reason.OneMemberRequired.name, say, {"members": members})


def _disk_problems(field: str, disk: Disk) -> Iterator[Cause]:
    empty = disk.source is None or disk.source.image is None
    if disk.size is None and empty:
        say = "an empty disk needs a size, for example 20Gi"
        yield Cause(f"{field}.size", Reason.FieldValueRequired.name, say, {})
    if disk.size is not None and not MIB <= disk.size <= 64 * 2**40:
        yield Cause(f"{field}.size", "FieldValueInvalid", f"{disk.size}: from 1Mi to 64Ti", {})
