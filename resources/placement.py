"""One instance bound to one host at one epoch: all that the host's agent needs, and all that it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.codec import load
from nanovirt.resources.devices import DiskFormat
from nanovirt.resources.fields import AbsolutePath, Ip, Mac, Name, NameOrNothing, ShortName, Subnet, Time, Uid
from nanovirt.resources.guest import AdminName, GuestReport, Hostname, SshKey, TimeZone
from nanovirt.resources.host import DeviceName
from nanovirt.resources.instance import AwaitingChange, Drift, PowerState, Restart, RestartPolicy
from nanovirt.resources.kind import NAMESPACED, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.qos import CpuQos, DiskQos, NetworkQos
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.security_group import Action, Direction, Ports, Protocol
from nanovirt.resources.store import Entry
from nanovirt.resources.system_template import Devices, DiskBus, NicModel

RULES_MAX = 8 * 64 + 2
"""Of one card: what 8 groups can hold, and what happens to all else in each direction."""
FINALIZER = "nano/released"
"""Kept until the agent reports `released` (nothing of it runs there), or a person confirms the host dead."""

State = Literal["", "Preparing", "Starting", "Running", "Stopping", "Stopped", "Suspended", "Failed", "Unknown"]


class Domain(Devices):
    """The libvirt domain; everything derived from the host is recorded at first start and never changes by itself."""

    uuid: Uid
    name: str


class PlacedImage(Model):
    """The image that a volume is an overlay of; its bytes come from the sub-resource `image` of the Placement."""

    image: str
    sha256: str


class PlacedVolume(Model):
    """A disk file to have; `size` None means as large as the image."""

    name: ShortName
    file: AbsolutePath
    size: Bytes
    source: PlacedImage | None = None
    purpose: Literal["Disk", "Seed", "Firmware", "Tpm"] = "Disk"
    format: Literal["qcow2", "raw"] = "qcow2"
    bus: DiskBus = "Virtio"
    rebuild: int = 0
    """The `rebuild` of the wish that the file was made for: a higher one asks for a new file."""
    volume: NameOrNothing = ""
    """The Volume that it is, when that is not named INSTANCE.DISK."""
    qos: DiskQos = DiskQos()
    file_system: DiskFormat | None = None
    """What the guest makes of it when it is empty."""
    adopted: bool = False
    """It was there before Nano: never made, and looked at wherever it lies."""


class Lease(Model):
    """What DHCP tells a card, or its seed."""

    subnet: Subnet
    gateway: Ip | None = None
    dns: tuple[Ip, ...] = ()
    domain: str = ""
    seconds: Annotated[int, Field(ge=4)] = 86400
    provider: Literal["DHCP", "CloudInit"] = "DHCP"
    """CloudInit: the seed says the address, and nobody answers the card by DHCP."""


class PlacedRule(Model):
    """What happens to a packet of that direction; the first rule that matches decides, and the last ones match all."""

    direction: Direction
    action: Action
    protocol: Protocol = "Any"
    ports: tuple[Ports, ...] = ()
    remotes: tuple[Subnet, ...] = ()


class PlacedNic(Model):
    """A network card; without `ip` its address comes from the physical network."""

    name: ShortName
    mac: Mac
    ip: Ip | None = None
    model: NicModel = "Virtio"
    address_pool: NameOrNothing = ""
    bridge: DeviceName
    vlan: Annotated[int, Field(ge=0, le=4094)] = 0
    mtu: int | None = None
    qos: NetworkQos = NetworkQos()
    lease: Lease | None = None
    rules: Annotated[tuple[PlacedRule, ...], Field(max_length=RULES_MAX)] = ()
    """Of its SecurityGroups, in their order; none: all that the card may send and receive at all passes."""


class PlacedMedium(Model):
    """A drive; `image` None is an empty one. The bytes come from the sub-resource `image` of the Placement."""

    name: ShortName
    image: PlacedImage | None = None


class PlacedSecret(Model):
    """A Secret that the guest is told of, by its name; `mark` changes with what it holds.

    Its value comes from the sub-resource `secrets` of the Placement and never stands here.
    """

    name: Name
    mark: str


class PlacedGuest(Model):
    """What the seed tells the guest."""

    hostname: Hostname | None = None
    time_zone: TimeZone | None = None
    admin: AdminName | None = None
    ssh_keys: tuple[SshKey, ...] = ()
    password: PlacedSecret | None = None
    user_data: PlacedSecret | None = None


class Operation(Model):
    """An order that is carried out once; `uid` makes a late duplicate a no-op.

    RemoveVolume: remove the file, once the machine does not have it any more, running or defined.
    ReleaseVolume: the same without removing it; ShrinkVolume: let it have `size` bytes, while the machine is off.
    ReleaseAddress: succeeds once no card of the machine has `mac`, or the one that has it took another address.
    An order stays until its success is told; what it names stands no longer among `volumes` and `nics` (of an active
    Placement; ShrinkVolume aside).
    """

    uid: str
    verb: Literal["RemoveVolume", "ReleaseVolume", "ShrinkVolume", "ReleaseAddress"]
    volume: str = ""
    """The file; in a Placement that is deleted the name of one of its volumes, too."""
    size: Bytes | None = None
    mac: Mac | None = None
    frees: NameOrNothing = ""
    """The Volume or the Address that is free afterwards."""


class PlacementSpec(Spec):
    """Written by `instances` only; host, epoch and instance never change."""

    instance: Name
    instance_uid: Uid
    host: Name
    epoch: Annotated[int, Field(ge=1)]
    role: Literal["Active", "Incoming", "Revoked"] = "Active"
    power_state: PowerState = "Running"
    restart_policy: RestartPolicy = "OnFailure"
    restart: Restart | None = None
    stop_grace_seconds: int = 60
    start_priority: int = 100
    drift: Literal["Report", "Revert"] = "Report"
    template: NameOrNothing = ""
    """The SystemTemplate that the devices are of."""
    template_chosen: bool = False
    """Whether the wish names it; otherwise it is the image's."""
    domain: Domain
    hostname: str
    cpu: int
    max_cpu: int | None = None
    """Processors that it may grow to while it runs; None: none more."""
    memory: Bytes
    max_memory: Bytes | None = None
    """Memory that it may grow to while it runs; None: none more."""
    qos: CpuQos = CpuQos()
    volumes: tuple[PlacedVolume, ...] = ()
    nics: tuple[PlacedNic, ...] = ()
    media: tuple[PlacedMedium, ...] = ()
    boot_order: tuple[ShortName, ...] = ()
    guest: PlacedGuest = PlacedGuest()
    operations: tuple[Operation, ...] = ()


class SeenNic(Model):
    """Whether a card took its lease."""

    name: str
    mac: str
    ip: str
    leased: bool = False


class VolumeUse(Model):
    """Bytes that a volume's file takes on the host."""

    name: str
    used: Bytes


class OperationResult(Model):
    """How an order ended."""

    uid: str
    state: Literal["Running", "Succeeded", "Failed"]
    detail: str = ""


class PlacementStatus(Status):
    """All that an agent writes durably; `reason` is a word of reasons.py, `appliedGeneration` is what is in force."""

    state: State = ""
    reason: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    epoch: int = 0
    applied_generation: int = 0
    observed_generation: int = 0
    """The generation that `awaiting` is told of: all of it that a running machine takes is in force."""
    awaiting: tuple[AwaitingChange, ...] = ()
    """What the running machine cannot take, by the paths of the Instance."""
    drift: tuple[Drift, ...] = ()
    """How the definition differs from what it should be: the first of `driftCount` differences."""
    drift_count: int = 0
    restarted_at: Time | None = None
    started: int = 0
    """How often the agent has started it: a guest's restart shows here."""
    nics: tuple[SeenNic, ...] = ()
    volumes: tuple[VolumeUse, ...] = ()
    guest: GuestReport | None = None
    operations: tuple[OperationResult, ...] = ()
    released: bool = False


class PlacementRow(NamedTuple):
    """What agents select by and the scheduler counts."""

    host: str
    instance: str
    instance_uid: str
    epoch: int
    role: str
    cpu: int
    memory: str
    status_state: str


class Placement(
    Resource[PlacementSpec, PlacementStatus],
    plural="placements",
    short="plc",
    scope=NAMESPACED,
    row=PlacementRow,
    columns=(
        Column("Instance", ".spec.instance"),
        Column("Host", ".spec.host"),
        Column("Epoch", ".spec.epoch", "integer"),
        Column("Role", ".spec.role"),
        Column("State", ".status.state"),
        Column("Reason", ".status.reason", "string", 1),
    ),
    selectable=("spec.host", "spec.instance", "spec.role", "status.state"),
    refers=(Refers("spec.host", "hosts"),),
    immutable=("spec.host", "spec.epoch", "spec.instance", "spec.instanceUid"),
    finalizer=FINALIZER,
    system="instance",
):
    """Named `INSTANCE-EPOCH`; lives as long as the instance is bound to that host, whatever its power."""

    spec: PlacementSpec
    status: PlacementStatus = Field(default_factory=PlacementStatus)


def placement_name(instance: str, epoch: int) -> str:
    """The name of the Placement of an instance at an epoch."""
    return f"{instance}-{epoch}"


def domain_uuid(entry: Entry) -> str:
    """The uuid of the domain of a stored Placement: the uid of its instance, or the one that it was adopted with."""
    uid: str = entry.row.instance_uid
    if f'"uuid":"{uid}"'.encode() in entry.raw:
        return uid
    found: str = load(entry.raw)["spec"]["domain"]["uuid"]
    return found
