"""What an agent tells the server every two seconds, and what the server answers: never stored durably."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.fields import AbsolutePath, ShortName
from nanovirt.resources.host import Amounts, Versions
from nanovirt.resources.kind import Status
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.system_template import DiskBus
from nanovirt.resources.usage import UsageReport

REPORT_SECONDS = 2.0
LEASE_SECONDS = 10.0
MARGIN_SECONDS = 5.0
CLOCK_DRIFT = 0.01
DOOMED_MAX = 100
"""Files that a host is asked to remove at a time."""
DETAIL_MAX = 1000


def lost_after() -> float:
    """Seconds without a renewal after which a host counts as lost: L(1+2d)+M of failover.md 2.4."""
    return LEASE_SECONDS * (1 + 2 * CLOCK_DRIFT) + MARGIN_SECONDS


class StorageFact(Status):
    """One storage path: bytes, or why it cannot be used."""

    path: str
    total: Bytes = Bytes(0)
    free: Bytes = Bytes(0)
    error: str = ""


class HeldNic(Status):
    """A card as its machine was last told to have it; `ip` "" when it has its address from the physical network."""

    mac: str
    ip: str = ""


class StrangeDisk(Status):
    """A disk of a domain that nobody claims: the name under which the domain has it, its file and virtual size."""

    name: ShortName
    file: AbsolutePath
    format: Literal["qcow2", "raw"]
    size: Bytes
    bus: DiskBus


class StrangeNic(Status):
    """A card of such a domain; `bridge` "" when it is on none, `model` "" when no instance can have it.

    One in a bridge that Nano made for a VLAN is in that VLAN of the host's own bridge.
    """

    mac: str
    bridge: str = ""
    vlan: Annotated[int, Field(ge=0, le=4094)] = 0
    model: Literal["", "Virtio", "E1000", "Rtl8139"] = ""


class DomainFacts(Status):
    """What such a domain is made of; `beyond`: what of it an instance cannot say, `problems`: why it cannot be one."""

    cpus: int = 0
    memory: Bytes = Bytes(0)
    machine: Literal["q35", "i440fx"] = "q35"
    firmware: Literal["UEFI", "BIOS"] = "BIOS"
    clock: Literal["Utc", "LocalTime"] = "Utc"
    disks: Annotated[tuple[StrangeDisk, ...], Field(max_length=16)] = ()
    nics: Annotated[tuple[StrangeNic, ...], Field(max_length=8)] = ()
    beyond: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    problems: Annotated[tuple[str, ...], Field(max_length=20)] = ()


class Unclaimed(Status):
    """A domain without a Placement: reported and left alone. `nics`: as far as the agent remembers them."""

    uuid: str
    name: str
    state: str = ""
    nics: tuple[HeldNic, ...] = ()
    facts: DomainFacts | None = None
    """Of the first few on a host."""


class Holding(Unclaimed):
    """A machine of which a host has something, claimed or not; `state` "" when it has no domain.

    `epoch` is the highest that its agent has obeyed, from the host's own disk; 0 for a machine that is not ours.
    """

    epoch: int = 0


class Gateway(Status):
    """Where viewers of third parties find the screens of a host's machines; its certificate says that address."""

    address: str = ""
    port: int = 0


class HostFacts(Status):
    """What changes seldom: the machine itself, its versions, bridges and storage."""

    address: str = ""
    port: int = 0
    """TCP port on which the agent listens to the server; 0: on none."""
    gateway: Gateway | None = None
    architecture: str = "x86_64"
    accelerator: Literal["", "kvm", "tcg", "simulated"] = ""
    capacity: Amounts = Amounts()
    versions: Versions = Versions()
    boot_id: str = ""
    bridges: tuple[str, ...] = ()
    storage: tuple[StorageFact, ...] = ()
    hypervisor_error: str = ""


class Removal(Status):
    """A file that the host was asked to remove: `detail` says why it is still there, "" that it is gone."""

    file: AbsolutePath
    detail: Annotated[str, Field(max_length=DETAIL_MAX)] = ""


class HostReport(Status):
    """Lease renewal and facts in one. `holdings` only when the server has asked for them, then complete."""

    sequence: int = 0
    facts: HostFacts = HostFacts()
    unclaimed: Annotated[tuple[Unclaimed, ...], Field(max_length=10_000)] = ()
    usage: UsageReport = UsageReport()
    holdings: Annotated[tuple[Holding, ...], Field(max_length=10_000)] | None = None
    removals: Annotated[tuple[Removal, ...], Field(max_length=DOOMED_MAX)] = ()
    """Of the files that the last answer named."""


class HeldPlacement(Status):
    """One line of the reply: what the server says that this host holds."""

    namespace: str
    name: str
    epoch: int
    role: str


class ReportReply(Status):
    """The lease runs from the *send* time of the report; `storagePaths` are those that the host should have.

    `hold` says that the store was restored and wants to hear what the host holds; it names that restore. With
    `holdings` the next report is to say that once. `doomed`: files of Volumes that people have deleted, some of them.
    """

    lease_seconds: float = LEASE_SECONDS
    placements: tuple[HeldPlacement, ...] = ()
    storage_paths: tuple[str, ...] = ()
    hold: str = ""
    holdings: bool = False
    doomed: tuple[AbsolutePath, ...] = ()


class ImageProgress(Status):
    """How far the bytes of an image have come, from the upload endpoint or the image folder."""

    phase: Literal["Waiting", "Uploading", "Inspecting", "Ready", "Failed"]
    received: int = 0
    total: int = 0
    size: int = 0
    virtual_size: int = 0
    sha256: str = ""
    format: str = ""
    detail: str = ""
