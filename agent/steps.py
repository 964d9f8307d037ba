"""What an agent can do to one machine: the steps of a plan, and the one place that carries them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from nanovirt.agent.changes import Change
from nanovirt.agent.leases import Leases, Served
from nanovirt.agent.machine import Machine
from nanovirt.agent.memory import Memories, Memory
from nanovirt.agent.segments import Segment, Segments
from nanovirt.resources.placement import PlacedImage, PlacedVolume, PlacementSpec


@dataclass(frozen=True, slots=True)
class FetchImage:
    """Bring the image of a volume into the cache."""

    volume: str
    image: PlacedImage


@dataclass(frozen=True, slots=True)
class MakeVolume:
    """Make a disk file."""

    volume: PlacedVolume


@dataclass(frozen=True, slots=True)
class ShrinkVolume:
    """Let a disk file of a machine that is off have fewer bytes, because an operation of the Placement says so."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class GrowVolume:
    """Let a disk file that no machine uses have more bytes."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Define:
    """Give the hypervisor the definition; a running machine takes it at its next start."""

    spec: PlacementSpec
    digest: str


@dataclass(frozen=True, slots=True)
class MakeSegment:
    """Make the bridge of a VLAN."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Start:
    """Start the machine."""


@dataclass(frozen=True, slots=True)
class Suspend:
    """Let the machine stand still, with what its guest has in memory."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a paused machine go on."""


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Ask the guest to end."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """End the machine now."""


@dataclass(frozen=True, slots=True)
class Undefine:
    """Let the hypervisor forget the machine."""


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Remove a disk file, because an operation of the Placement says so."""

    file: str


@dataclass(frozen=True, slots=True)
class Remember:
    """Make the agent's own note durable before going on."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer a card's DHCP requests."""

    served: Served


@dataclass(frozen=True, slots=True)
class Withhold:
    """Be silent to a card."""

    mac: str


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Do nothing now; look again after so many seconds, whatever happens meanwhile."""

    after: float


OfMachine = (
    FetchImage | MakeVolume | GrowVolume | ShrinkVolume | Define
    | MakeSegment | Start | Suspend | Resume | ShutDown | Destroy | Undefine | RemoveVolume
)  # fmt: skip
Act = OfMachine | Change | Remember | Serve | Withhold
Step = Act | LookAgain
Fetch = Callable[[str, Path], Awaitable[None]]
"""Brings the bytes of the image of the volume so named into a file."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What steps are carried out with, for the machine with that uuid."""

    uuid: str
    machine: Machine
    leases: Leases
    memories: Memories
    fetch: Fetch
    seed: Callable[[], Awaitable[None]]
    """Sees to it that the seed is the one that the machine is to start with."""
    segments: Segments

    async def carry_out(self, step: Act) -> None:
        """Do one step. Raises what the machine, the server or the disk says: Unavailable, Rejected, Stale."""
        if isinstance(step, Change):
            await self.machine.change(self.uuid, step)
            return
        match step:
            case FetchImage(volume, image):
                await self.machine.add_image(image.sha256, lambda path: self.fetch(volume, path))
            case MakeVolume(made):
                await self.machine.make_volume(made)
            case ShrinkVolume(file, size):
                await self.machine.shrink_volume(file, size)
            case GrowVolume(file, size):
                await self.machine.grow_volume(file, size)
            case Define(spec, digest):
                await self.machine.define(spec, digest)
            case MakeSegment(segment):
                await self.segments.make(segment)
                self.leases.refresh()  # who serves it may have waited for it
            case Start():
                await self.seed()
                await self.machine.start(self.uuid)
            case Suspend():
                await self.machine.suspend(self.uuid)
            case Resume():
                await self.machine.resume(self.uuid)
            case ShutDown():
                await self.machine.shut_down(self.uuid)
            case Destroy():
                await self.machine.destroy(self.uuid)
            case Undefine():
                await self.machine.undefine(self.uuid)
            case RemoveVolume(file):
                await self.machine.remove_volume(file)
            case Remember(memory):
                await self.memories.keep(self.uuid, memory)
            case Serve(served):
                self.leases.serve(self.uuid, served)
            case Withhold(mac):
                self.leases.withhold(self.uuid, mac)
            case _:
                assert_never(step)
