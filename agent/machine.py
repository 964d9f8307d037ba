"""The door to one machine: what a hypervisor and its disks must do for the agent, libvirt's or a simulated one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Literal, NamedTuple, Protocol

from nanovirt.agent.changes import Change
from nanovirt.agent.drift import Form
from nanovirt.agent.hardware import Hardware
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacedVolume, PlacementSpec
from nanovirt.resources.report import DomainFacts, HostFacts

DomainState = Literal["Running", "Paused", "Stopping", "Off"]
Ending = Literal["", "Shutdown", "Crashed", "Destroyed", "Failed", "Unknown"]


@dataclass(frozen=True, slots=True)
class SeenDomain:
    """A domain as the hypervisor has it.

    `ended` says why it is Off ("" as long as it was never started, or is not Off; Unknown when the hypervisor has
    forgotten, as after a boot of the host); `detail` is the hypervisor's own word for that ending or for a pause.
    `run` differs for each start (QEMU's pid and start time) and is "" when Off; a guest's own reboot keeps it.
    """

    uuid: str
    name: str
    state: DomainState
    ended: Ending = ""
    detail: str = ""
    run: str = ""
    definition: str = ""
    """Digest of what it was defined from (kept in the domain's metadata); "" for a domain that is not ours."""
    live: str = ""
    """Digest of what the running machine was started from; "" when Off."""
    cpu: int = 0
    """Virtual processors that the running machine was started with; 0 when Off."""
    memory: int = 0
    """Bytes of memory that the running machine was started with; 0 when Off."""
    hardware: Hardware | None = None
    """What the running machine has now; None when Off, for a domain that is not ours, and in a list of all."""


@dataclass(frozen=True, slots=True)
class SeenVolume:
    """A volume's file: virtual size and bytes on disk."""

    file: str
    size: int
    used: int


class Counters(NamedTuple):
    """What was counted of a running machine since it was started; bytes and requests of all its disks and cards.

    `memory` is no counter: bytes that the guest uses now. In and out are as the guest sees them.
    """

    cpu_ns: int = 0
    memory: int = 0
    disk_read: int = 0
    disk_write: int = 0
    disk_reads: int = 0
    disk_writes: int = 0
    net_in: int = 0
    net_out: int = 0


class NoRoom(HypervisorError):
    """The file system of `path` has no room left for what was asked; what had been begun is removed again."""

    reason = "DiskFull"

    def __init__(self, path: str) -> None:
        super().__init__(f"no room left in {path}; free some, or give the pool another path")
        self.path = path


class GuestRefused(HypervisorError):
    """The guest's agent has answered, and will not."""


class Machine(Protocol):
    """Every call has a deadline and raises HypervisorError (code: libvirt's) when refused or not answered.

    All calls are idempotent where a crash could repeat them: defining what is defined, making a volume or adding an
    image that is there, starting what runs, stopping or removing what is gone succeed and change nothing. A call is not
    half done: a volume, an image or a definition is there completely or not at all, also after kill -9. Calls for
    different machines may run at the same time; for one machine there is never more than one.
    """

    async def facts(self, paths: Sequence[str] = ()) -> HostFacts:
        """Capacity, versions, bridges, accelerator, and of each storage path its room or why it cannot be used.

        A path that is missing is made if that is possible (one folder below what is there). Never raises:
        `hypervisor_error` says that libvirt is away.
        """
        ...

    async def domains(self) -> Mapping[str, SeenDomain]:
        """Every domain by its uuid, ours or not."""
        ...

    async def domain(self, uuid: str) -> SeenDomain | None:
        """One domain, or None if there is none of that uuid; cheaper than all of them."""
        ...

    async def counters(self) -> Mapping[str, Counters]:
        """Of every machine that runs, by its uuid, in one question; a busy one may be left out."""
        ...

    async def describe(self, uuid: str) -> DomainFacts | None:
        """What a domain is made of that is none of ours; None if there is none."""
        ...

    async def volume(self, file: str, *, adopted: bool = False) -> SeenVolume | None:
        """The volume behind a file, or None if there is no such file. A file that QEMU has locked is seen too.

        One that is `adopted` lies anywhere, may be raw, and may be removed from then on.
        """
        ...

    async def has_image(self, sha256: str) -> bool:
        """Whether the verified image is in the cache."""
        ...

    async def add_image(self, sha256: str, fetch: Callable[[Path], Awaitable[None]]) -> None:
        """Fetch into a temporary file, verify the hash, inspect, convert into an own qcow2, put it into the cache.

        Several machines may ask for one image at a time: it is fetched once. Raises what `fetch` raises,
        HypervisorError for wrong bytes, NoRoom.
        """
        ...

    async def make_volume(self, volume: PlacedVolume) -> None:
        """A new qcow2 file (an overlay when it has a source, whose image must be in the cache). Raises NoRoom too."""
        ...

    async def remove_volume(self, file: str) -> None:
        """Remove a volume's file; the images below it stay."""
        ...

    async def shrink_volume(self, file: str, size: int) -> None:
        """Let a volume that no machine uses have only `size` bytes: what lies beyond is lost."""
        ...

    async def grow_volume(self, file: str, size: int) -> None:
        """Let a volume that no machine uses have `size` bytes; one that has as many or more is left alone."""
        ...

    async def seed(self, uuid: str) -> str:
        """What the machine's seed says that it was made from; "" if there is none."""
        ...

    async def make_seed(self, uuid: str, digest: str, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Make the seed anew, for the next start; `files` may take its time and is called in a thread. NoRoom."""
        ...

    async def define(self, placement: PlacementSpec, digest: str) -> None:
        """Define the domain from the Placement, under its own uuid; a running machine keeps running as it is.

        Devices that were in the definition before, or are in the running machine, stay in their places.
        Its volumes need not be there yet. Autostart is off. `digest` is what `SeenDomain.definition` says afterwards,
        and `live` after the next start.
        """
        ...

    async def form(self, uuid: str) -> Form | None:
        """The definition as it would be started next; None if there is none, though the machine may run."""
        ...

    async def start(self, uuid: str) -> None:
        """Start a defined domain; it is Running (its guest still boots) when this returns."""
        ...

    async def suspend(self, uuid: str) -> None:
        """Let a running machine stand still, with its memory, until it is resumed; it is Paused when this returns."""
        ...

    async def change(self, uuid: str, change: Change) -> None:
        """Change the running machine, whose definition must be the wished one; what it has already is left alone.

        On return the change is seen in `SeenDomain.hardware`; a guest that does not do its part in time is an error,
        and may still do it later.
        """
        ...

    async def resume(self, uuid: str) -> None:
        """Let a paused machine go on."""
        ...

    async def shut_down(self, uuid: str) -> None:
        """Ask the guest to end (ACPI); returns at once, and may be asked again while the guest has not ended."""
        ...

    async def destroy(self, uuid: str) -> None:
        """End the machine now, as pulling the plug does; it is Off (`ended` Destroyed) when this returns."""
        ...

    async def undefine(self, uuid: str) -> None:
        """Forget the definition, with its NVRAM; the machine must be Off. Volumes stay."""
        ...

    async def screenshot(self, uuid: str) -> bytes:
        """What a running machine's screen shows, as PNG. Conflict when it is Off or has no screen."""
        ...

    async def screen(self, uuid: str) -> socket:
        """A new connection (RFB, not authenticated) to a running machine's display.

        Conflict when it is Off, has none, or one that others than this host can reach.
        """
        ...

    async def serial(self, uuid: str) -> socket:
        """A connection to a running machine's serial line, which hears one at a time. Conflict when there is none."""
        ...

    async def serial_log(self, uuid: str) -> bytes:
        """The end of what the guest has said on its serial line, a few MiB at most, also while it is Off."""
        ...

    def on_change(self, call: Callable[[str], None]) -> None:
        """Call `call(uuid)` in the event loop's thread whenever a domain changed by itself ("": anything may have).

        Events are hints: some may be lost, and `call("")` follows whenever that may have happened (libvirtd restarted).
        Asking again replaces the caller before; an agent that starts anew in the same process asks again.
        """
        ...
