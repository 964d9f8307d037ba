"""A virtual machine as a person wishes it to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.devices import DEFAULT_NIC, Disk, Medium, Nic, disk_problems, nic_problems
from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Name, NameOrNothing, ShortName, Text, Time, Title
from nanovirt.resources.guest import Guest, GuestReport
from nanovirt.resources.kind import LATER, NAMESPACED, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.qos import Qos, disk_rate_problems, network_rate_problems
from nanovirt.resources.quantities import Bytes

MIB = 2**20
FINALIZER = "nano/instance"
MEMORY_MIN, MEMORY_MAX = 64 * MIB, 64 * 2**40

PowerState = Literal["Running", "Stopped", "Suspended"]
RestartPolicy = Literal["OnFailure", "Always", "Never"]
Phase = Literal[
    "Pending", "Provisioning", "Starting", "Running", "Stopping", "Stopped", "Suspended", "Migrating", "Failed",
    "Unknown", "Deleting",
]  # fmt: skip


class Restart(Model):
    """An order to start anew, once for each value of `at`; written by /restart and /reset, or by hand.

    With `powerState: Stopped`, one of mode Hard cuts the power once, instead of asking the guest.
    """

    at: Time
    mode: Literal["Graceful", "Hard"] = "Graceful"


class Scheduling(Model):
    """Where it may run; `host` "" leaves the choice to the scheduler."""

    host: NameOrNothing = ""
    """On that Host and nowhere else."""
    affinity: Annotated[dict[str, str], LATER] = Field(default_factory=dict)
    anti_affinity: Annotated[dict[str, str], LATER] = Field(default_factory=dict)


ANYWHERE = Scheduling()


class InstanceSpec(Spec):
    """The wish. The smallest one: `disks: [{name: system, source: {image: shared/debian-12}}]`."""

    display_name: Title = ""
    description: Text = ""
    compute_pool: Name = "default"
    """The ComputePool whose hosts may run it."""
    system_template: Name | None = None
    """The SystemTemplate that says which devices it has; without, that of its first image."""
    cpus: Annotated[int, Field(ge=1, le=512)] = 1
    max_cpus: Annotated[int | None, Field(ge=1, le=512)] = None
    memory: Bytes = Bytes("1Gi")
    max_memory: Bytes | None = None
    power_state: PowerState = "Running"
    restart_policy: RestartPolicy = "OnFailure"
    restart: Restart | None = None
    stop_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    start_priority: Annotated[int, Field(ge=0, le=1000)] = 100
    deletion_protection: bool = False
    disks: Annotated[tuple[Disk, ...], Field(max_length=16)] = ()
    nics: Annotated[tuple[Nic, ...], Field(max_length=8)] | None = None
    media: Annotated[tuple[Medium, ...], Field(max_length=4)] = ()
    boot_order: Annotated[tuple[ShortName, ...], Field(max_length=28)] = ()
    """Where the firmware looks for a system, first to last: names of disks, media and nics."""
    qos: Qos | None = None
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


class Hardware(Model):
    """What the machine has that decides when a change takes effect: its buses, its ceilings, its disks' sizes."""

    template: str = ""
    machine: str = ""
    disk_bus: str = ""
    drive_bus: str = ""
    nic_model: str = ""
    max_cpus: int | None = None
    max_memory: Bytes | None = None
    disks: dict[str, Bytes] = Field(default_factory=dict)


class InstanceStatus(Status):
    """What is known; only facts that change with an event."""

    observed_generation: int = 0
    phase: Phase = "Pending"
    host: str = ""
    placement: str = ""
    addresses: tuple[InstanceAddress, ...] = ()
    guest: GuestReport | None = None
    hardware: Hardware | None = None
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
        Column("Awaiting", ".status.restartAwaitingChanges[*].path", "string", 1),
    ),
    selectable=("spec.computePool", "spec.powerState", "status.phase", "status.host"),
    refers=(
        Refers("spec.computePool", "computepools"),
        Refers("spec.systemTemplate", "systemtemplates"),
        Refers("spec.disks[].source.image", "images"),
        Refers("spec.disks[].source.volume", "volumes"),
        Refers("spec.media[].image", "images"),
        Refers("spec.nics[].addressPool", "addresspools"),
        Refers("spec.nics[].securityGroups[]", "securitygroups"),
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
        return spec_problems(self.spec)


def spec_problems(spec: InstanceSpec, at: str = "spec") -> Iterator[Cause]:
    """What no machine can be: names that stand twice, bounds, what contradicts itself; `at`: where the spec stands."""
    disks, nics, memory = spec.disks, spec.nics or (), spec.memory
    if len(disks) > 1:
        yield from twice(f"{at}.disks", [one.name for one in disks])
    if len(nics) > 1:
        yield from twice(f"{at}.nics", [one.name for one in nics])
    if not MEMORY_MIN <= memory <= MEMORY_MAX:
        yield Cause.of(f"{at}.memory", f"{memory}: from 64Mi to 64Ti (and mind the unit)")
    if spec.max_cpus is not None and spec.max_cpus < spec.cpus:
        yield Cause.of(f"{at}.maxCpus", f"{spec.max_cpus} is less than cpus, {spec.cpus}")
    if spec.max_memory is not None and not spec.memory <= spec.max_memory <= MEMORY_MAX:
        yield Cause.of(f"{at}.maxMemory", f"{spec.max_memory}: from memory, {spec.memory}, to 64Ti")
    for index, nic in enumerate(nics):
        yield from nic_problems(f"{at}.nics[{index}]", nic)
    for index, disk in enumerate(disks):
        yield from disk_problems(f"{at}.disks[{index}]", disk)
    if len(disks) > 1 or len(nics) > 1:
        yield from _claimed_twice(spec, at)
    if spec.media or spec.boot_order:
        yield from _boot_problems(spec, at)
    if spec.qos is not None:
        yield from disk_rate_problems(f"{at}.qos.disk", spec.qos.disk)
        yield from network_rate_problems(f"{at}.qos.network", spec.qos.network)


def _claimed_twice(spec: InstanceSpec, at: str) -> Iterator[Cause]:
    """What only one disk or card can have."""
    if len(spec.disks) > 1:
        mounts = [disk.format.mount_path if disk.format else "" for disk in spec.disks]
        yield from twice(f"{at}.disks", mounts, "format.mountPath")
        volumes = [(disk.source.volume or "") if disk.source else "" for disk in spec.disks]
        yield from twice(f"{at}.disks", volumes, "source.volume")
    if spec.nics is not None and len(spec.nics) > 1:
        yield from twice(f"{at}.nics", [nic.mac or "" for nic in spec.nics], "mac")
        ips = [f"{nic.ip} of {nic.address_pool}" if nic.ip else "" for nic in spec.nics]
        yield from twice(f"{at}.nics", ips, "ip")


def _boot_problems(spec: InstanceSpec, at: str) -> Iterator[Cause]:
    """Disks, media and, for the boot order, cards are told apart by their names."""
    yield from twice(f"{at}.media", [medium.name for medium in spec.media])
    disks = {disk.name for disk in spec.disks}
    for index, medium in enumerate(spec.media):
        if medium.name in disks:
            yield Cause.of(f"{at}.media[{index}].name", f"a disk is called {medium.name} already; choose another name")
    yield from twice(f"{at}.bootOrder", spec.boot_order, "")
    nics = {nic.name for nic in spec.nics} if spec.nics is not None else {DEFAULT_NIC}
    known = disks | {medium.name for medium in spec.media} | nics
    for index, name in enumerate(spec.boot_order):
        if name not in known:
            say = f"there is no disk, medium or nic {name}; there are {', '.join(sorted(known))}"
            yield Cause.of(f"{at}.bootOrder[{index}]", say)
        elif name in nics and name in disks:
            yield Cause.of(f"{at}.bootOrder[{index}]", f"{name} is a disk and a nic; give one of them another name")
