"""What can be changed of a machine while it runs: one small order for each; the definition says the details."""

from __future__ import annotations

from dataclasses import dataclass

from nanovirt.resources.qos import DiskQos, NetworkQos


@dataclass(frozen=True, slots=True)
class SetCpus:
    """Plug in processors up to `count`; there is no taking them away."""

    count: int


@dataclass(frozen=True, slots=True)
class SetMemory:
    """Give the guest `amount` bytes: by the balloon below what it was started with, by virtio-mem above."""

    amount: int


@dataclass(frozen=True, slots=True)
class LimitCpu:
    """Share of the host's processors, and thousandths of one that it gets at most (0: without a limit)."""

    shares: int
    quota: int


@dataclass(frozen=True, slots=True)
class AttachDisk:
    """Plug in the disk with that serial, as the definition has it."""

    serial: str


@dataclass(frozen=True, slots=True)
class DetachDisk:
    """Take the disk with that serial out; done only once the guest has let it go."""

    serial: str


@dataclass(frozen=True, slots=True)
class ResizeDisk:
    """Let the disk with that serial grow to `size` bytes."""

    serial: str
    size: int


@dataclass(frozen=True, slots=True)
class LimitDisk:
    """What the disk with that serial may do in a second."""

    serial: str
    qos: DiskQos


@dataclass(frozen=True, slots=True)
class AttachCard:
    """Plug in the network card with that MAC, as the definition has it."""

    mac: str


@dataclass(frozen=True, slots=True)
class DetachCard:
    """Take the network card with that MAC out; done only once the guest has let it go."""

    mac: str


@dataclass(frozen=True, slots=True)
class MoveCard:
    """Put the cable of the network card with that MAC into another bridge."""

    mac: str
    bridge: str


@dataclass(frozen=True, slots=True)
class LimitCard:
    """What the network card with that MAC may carry in a second."""

    mac: str
    qos: NetworkQos


@dataclass(frozen=True, slots=True)
class AttachDrive:
    """Plug in the drive of that name, as the definition has it."""

    name: str


@dataclass(frozen=True, slots=True)
class DetachDrive:
    """Take the drive of that name out; done only once the guest has let it go."""

    name: str


@dataclass(frozen=True, slots=True)
class ChangeMedium:
    """Put another image into the drive of that name, or none (""), whether or not the guest holds its door shut.

    A drive that was plugged in while the machine ran may go with its medium.
    """

    name: str
    sha256: str


Change = (
    SetCpus | SetMemory | LimitCpu
    | AttachDisk | DetachDisk | ResizeDisk | LimitDisk
    | AttachCard | DetachCard | MoveCard | LimitCard
    | AttachDrive | DetachDrive | ChangeMedium
)  # fmt: skip
