"""A machine in memory only, behind the same door as libvirt's: for tests, and for trying Nano without it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from socket import socket

from nanovirt.agent import simulated_hardware
from nanovirt.agent.changes import Change, ResizeDisk
from nanovirt.agent.drift import Form
from nanovirt.agent.machine import Counters, Ending, NoRoom, SeenDomain, SeenVolume
from nanovirt.agent.segments import segments_of
from nanovirt.agent.simulated_domain import SimulatedDomain
from nanovirt.agent.simulated_line import echoing_line
from nanovirt.agent.simulated_network import SimulatedLeases, SimulatedSegments
from nanovirt.agent.simulated_traits import QUICK, Faults, Traits
from nanovirt.resources.errors import Conflict, HypervisorError
from nanovirt.resources.host import Amounts, Versions
from nanovirt.resources.placement import PlacedVolume, PlacementSpec
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import DomainFacts, HostFacts, StorageFact

CAPACITY = Amounts(cpus=32, memory=Bytes("128Gi"), disk=Bytes("2Ti"))
OVERLAY_BYTES = 196_624
"""What a fresh qcow2 overlay takes."""
BLACK_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
"""A PNG."""
RETRY_SECONDS = 4.0
"""How often a guest that nobody answers asks for its address again."""


class SimulatedMachine:
    """A Machine with 32 cpus, 128 GiB and 2 TiB that outlives its agents: a new one finds what the old one left.

    Deterministic under `seed` as long as the loop's clock is. `starts` counts real starts by uuid, which proves what
    was restarted and what was not.
    """

    def __init__(self, name: str, traits: Traits = QUICK, seed: int = 0) -> None:
        self.name = name
        self.traits = traits
        self.faults = Faults()
        self.leases = SimulatedLeases()
        self.segments = SimulatedSegments()
        self.starts: Counter[str] = Counter()
        self.files: dict[str, SeenVolume] = {}
        self.images: set[str] = set()
        self.seeds: dict[str, str] = {}
        self._domains: dict[str, SimulatedDomain] = {}
        self._foreign: dict[str, SeenDomain] = {}
        self.strangers: dict[str, DomainFacts] = {}
        """What foreign domains are made of."""
        self._fetching: dict[str, asyncio.Lock] = {}
        self._random = random.Random(f"{name}/{seed}")
        self._changed: Callable[[str], None] = lambda _uuid: None
        self._boots = 1

    # --- the door ---

    @property
    def boot_id(self) -> str:
        """Differs for each boot of the host."""
        return f"{self.name}-boot-{self._boots}"

    async def facts(self, paths: Sequence[str] = ()) -> HostFacts:
        """See Machine."""
        free = Bytes(0 if self.faults.full else CAPACITY.disk - sum(volume.used for volume in self.files.values()))
        return HostFacts(
            address="127.0.0.1",
            accelerator="simulated",
            capacity=CAPACITY,
            versions=Versions(agent="simulated", libvirt="simulated", qemu="simulated", kernel="simulated"),
            boot_id=self.boot_id,
            bridges=self.traits.bridges,
            storage=tuple(StorageFact(path=path, total=CAPACITY.disk, free=free) for path in paths),
            hypervisor_error="the simulated hypervisor is away" if self.faults.away else "",
        )

    async def domains(self) -> Mapping[str, SeenDomain]:
        """See Machine."""
        self._answers("domains")
        ours = {uuid: replace(domain.seen(), hardware=None) for uuid, domain in self._domains.items()}
        return ours | self._foreign

    async def domain(self, uuid: str) -> SeenDomain | None:
        """See Machine."""
        self._answers("domain")
        found = self._domains.get(uuid)
        return found.seen() if found else self._foreign.get(uuid)

    async def counters(self) -> Mapping[str, Counters]:
        """See Machine: each of its processors is busy for a tenth of the time, and a little is read and written."""
        self._answers("counters")
        now = asyncio.get_running_loop().time()
        return {uuid: one.counters(now) for uuid, one in self._domains.items() if one.running is not None}

    async def describe(self, uuid: str) -> DomainFacts | None:
        """See Machine."""
        self._answers("describe")
        return self.strangers.get(uuid)

    async def volume(self, file: str, *, adopted: bool = False) -> SeenVolume | None:
        """See Machine."""
        del adopted
        return self.files.get(file)

    def had(self, disks: Iterable[tuple[str, int]]) -> None:
        """Put back the disks (file, size) of an earlier life."""
        self.files.update((file, SeenVolume(file, size, OVERLAY_BYTES)) for file, size in disks)

    async def has_image(self, sha256: str) -> bool:
        """See Machine."""
        return sha256 in self.images

    async def add_image(self, sha256: str, fetch: Callable[[Path], Awaitable[None]]) -> None:
        """See Machine."""
        async with self._fetching.setdefault(sha256, asyncio.Lock()):
            if sha256 in self.images:
                return
            self._answers("add_image")
            await _pass(self.traits.image_seconds)
            if self.traits.verify:
                await _verify(sha256, fetch)
            self._room("/images")
            self.images.add(sha256)

    async def make_volume(self, volume: PlacedVolume) -> None:
        """See Machine."""
        if volume.file in self.files:
            return
        self._answers("make_volume")
        if volume.source is not None and volume.source.sha256 not in self.images:
            raise HypervisorError(f"the image of {volume.file} is not in the cache")
        self._room(volume.file)
        self.files[volume.file] = SeenVolume(volume.file, int(volume.size), OVERLAY_BYTES)

    async def shrink_volume(self, file: str, size: int) -> None:
        """See Machine."""
        self._answers("shrink_volume")
        if file not in self.files:
            raise HypervisorError(f"{file} is gone; it cannot get smaller")
        self.files[file] = replace(self.files[file], size=min(self.files[file].size, size))

    async def grow_volume(self, file: str, size: int) -> None:
        """See Machine."""
        self._answers("grow_volume")
        if file not in self.files:
            raise HypervisorError(f"{file} is gone; it cannot grow")
        self._grow(file, size)

    def _grow(self, file: str, size: int) -> None:
        seen = self.files[file]
        self.files[file] = replace(seen, size=max(seen.size, size))

    async def remove_volume(self, file: str) -> None:
        """See Machine."""
        self._answers("remove_volume")
        self.files.pop(file, None)

    async def seed(self, uuid: str) -> str:
        """See Machine."""
        return self.seeds.get(uuid, "")

    async def make_seed(self, uuid: str, digest: str, files: Callable[[], Mapping[str, bytes]]) -> None:
        """See Machine: nobody reads it, so its content is not made."""
        del files
        self._answers("make_seed")
        self.seeds[uuid] = digest

    async def define(self, placement: PlacementSpec, digest: str) -> None:
        """See Machine."""
        self._answers("define")
        uuid, name = placement.domain.uuid, placement.domain.name
        others = any(one.spec.domain.name == name and known != uuid for known, one in self._domains.items())
        if others or any(one.name == name and known != uuid for known, one in self._foreign.items()):
            raise HypervisorError(f"a domain named {name} is there already, with another uuid", code=9)
        await _pass(self.traits.define_seconds)
        found = self._domains.get(uuid)
        if found is None:
            self._domains[uuid] = SimulatedDomain(placement, digest)
        else:
            found.spec, found.digest, found.persistent = placement, digest, True
            found.edits.clear()

    async def form(self, uuid: str) -> Form | None:
        """See Machine."""
        self._answers("form")
        found = self._domains.get(uuid)
        if found is None and uuid in self._foreign:
            return Form("simulated", {"name": self._foreign[uuid].name})
        return Form("simulated", found.form()) if found is not None and found.persistent else None

    async def start(self, uuid: str) -> None:
        """See Machine."""
        found = self._defined(uuid, "start")
        if found.running is not None:
            return
        await _pass(self.traits.start_seconds)
        for volume in found.spec.volumes:
            if volume.file not in self.files:
                raise HypervisorError(f"cannot start {found.spec.domain.name}: there is no {volume.file}", code=38)
        for segment in segments_of(found.spec):
            if segment not in self.segments.made:
                raise HypervisorError(f"Cannot get interface MTU on '{segment.name}': No such device", code=38)
        self.starts[uuid] += 1
        found.running, found.live, found.run = found.spec, found.digest, f"{self.boot_id}/{self.starts[uuid]}"
        found.hardware = simulated_hardware.started(found.spec)
        found.ended, found.detail, found.paused = "", "", ""
        self._later(self._random.uniform(*self.traits.boot_seconds), self._boot, uuid, found.run)

    async def suspend(self, uuid: str) -> None:
        """See Machine."""
        found = self._defined(uuid, "suspend")
        if found.running is None:
            raise HypervisorError(f"{found.spec.domain.name} does not run", code=55)
        found.paused = found.paused or "by a user"

    async def change(self, uuid: str, change: Change) -> None:
        """See Machine."""
        found = self._defined(uuid, "change")
        if found.hardware is None:
            raise HypervisorError(f"{found.spec.domain.name} does not run; nothing of it is changed", code=55)
        try:
            found.hardware = simulated_hardware.changed(found.hardware, found.spec, change)
            if isinstance(change, ResizeDisk):
                self._grow(found.hardware.disks[change.serial].file, change.size)
        except KeyError as error:
            raise HypervisorError(f"{found.spec.domain.name} has no device {error}") from error

    async def resume(self, uuid: str) -> None:
        """See Machine."""
        self._defined(uuid, "resume").paused = ""

    async def shut_down(self, uuid: str) -> None:
        """See Machine."""
        self._answers("shut_down")
        found = self._domains.get(uuid)
        if found is not None and found.running is not None and not found.paused and uuid not in self.faults.deaf:
            self._later(self.traits.end_seconds, self._end, uuid, found.run)

    async def destroy(self, uuid: str) -> None:
        """See Machine."""
        self._answers("destroy")
        found = self._domains.get(uuid)
        if found is not None and found.running is not None:
            found.stop("Destroyed", "destroyed")

    async def undefine(self, uuid: str) -> None:
        """See Machine."""
        self._answers("undefine")
        found = self._domains.get(uuid)
        if found is not None and found.running is not None:
            raise HypervisorError(f"{found.spec.domain.name} runs; it is not undefined", code=55)
        self._domains.pop(uuid, None)
        self.seeds.pop(uuid, None)

    async def screenshot(self, uuid: str) -> bytes:
        """See Machine: one black pixel."""
        found = self._defined(uuid, "screenshot")
        if found.running is None:
            raise Conflict("instances", found.spec.instance, "it does not run, so there is nothing to be seen")
        return BLACK_PIXEL

    async def screen(self, uuid: str) -> socket:
        """See Machine: it greets as RFB servers do, and then sends back what it is sent."""
        return self._line(uuid, b"RFB 003.008\n")

    async def serial(self, uuid: str) -> socket:
        """See Machine: it sends back what it is sent."""
        return self._line(uuid, b"")

    def _line(self, uuid: str, greeting: bytes) -> socket:
        found = self._defined(uuid, "screen")
        if found.running is None:
            raise Conflict("instances", found.spec.instance, "it does not run")

        def runs() -> bool:
            now = self._domains.get(uuid)
            return now is not None and now.running is not None

        return echoing_line(greeting, runs)

    async def serial_log(self, uuid: str) -> bytes:
        """See Machine."""
        return f"{self._defined(uuid, 'serial_log').spec.hostname} login: ".encode()

    def on_change(self, call: Callable[[str], None]) -> None:
        """See Machine."""
        self._changed = call

    # --- what happens by itself ---

    def crash(self, uuid: str, ended: Ending = "Crashed", detail: str = "crashed") -> None:
        """A running machine ends by itself: `Shutdown` is the guest's own doing, `Destroyed` an administrator's."""
        found = self._domains.get(uuid)
        if found is not None and found.running is not None:
            found.stop(ended, detail)
            self._changed(uuid)

    def pause(self, uuid: str, detail: str) -> None:
        """A running machine is paused, by an I/O error or a person."""
        self._domains[uuid].paused = detail
        self._changed(uuid)

    def edit_behind(self, uuid: str, **changes: str) -> None:
        """Somebody edits a definition; `vcpu="4"` is a path and its text."""
        self._domains[uuid].edits |= changes
        self._changed(uuid)

    def undefine_running(self, uuid: str) -> None:
        """Somebody undefines a machine, which runs on."""
        self._domains[uuid].persistent = False
        self._changed(uuid)

    def undefine_behind(self, uuid: str) -> None:
        """Somebody destroys and undefines a machine."""
        self._domains.pop(uuid, None)
        self._changed(uuid)

    def add_foreign(self, domain: SeenDomain) -> None:
        """A domain that is none of ours."""
        self._foreign[domain.uuid] = domain

    def reboot(self) -> None:
        """The host boots anew: nothing runs, why is forgotten, definitions and disks are as they were."""
        self._boots += 1
        self.leases.forget_all()
        self.segments.made.clear()
        for found in self._domains.values():
            if found.running is not None:
                found.stop("Unknown", "unknown")
            elif found.ended:
                found.ended, found.detail = "Unknown", "unknown"

    def grow(self, file: str, used: int) -> None:
        """A guest writes."""
        self.files[file] = replace(self.files[file], used=used)

    def _boot(self, uuid: str, run: str) -> None:
        found = self._domains.get(uuid)
        if found is None or found.running is None or found.run != run:
            return
        xid = self._random.getrandbits(32)
        asking = [nic.mac for nic in found.running.nics if nic.lease and nic.mac not in self.leases.leased(uuid)]
        answered = [mac for mac in asking if self.leases.ask(uuid, mac, xid)]
        if answered:
            self._changed(uuid)
        if answered != asking:
            self._later(RETRY_SECONDS, self._boot, uuid, run)

    def _end(self, uuid: str, run: str) -> None:
        found = self._domains.get(uuid)
        if found is not None and found.running is not None and found.run == run:
            found.stop("Shutdown", "shutdown")
            self._changed(uuid)

    def _later(self, seconds: float, call: Callable[[str, str], None], uuid: str, run: str) -> None:
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, call, uuid, run)
        else:
            call(uuid, run)

    # --- refusals ---

    def _answers(self, call: str) -> None:
        if self.faults.away:
            raise HypervisorError("the simulated hypervisor is away", code=38)
        if self.faults.refuse[call] > 0:
            self.faults.refuse[call] -= 1
            raise HypervisorError(f"the simulated hypervisor refused {call}", code=1)

    def _room(self, path: str) -> None:
        if self.faults.full:
            raise NoRoom(str(Path(path).parent))

    def _defined(self, uuid: str, call: str) -> SimulatedDomain:
        self._answers(call)
        found = self._domains.get(uuid)
        if found is None:
            raise HypervisorError(f"no domain with uuid {uuid}", code=42)
        return found


async def _pass(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _verify(sha256: str, fetch: Callable[[Path], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        await fetch(path)
        if _hash(path) != sha256:
            raise HypervisorError(f"the image that came is not {sha256}: its hash differs")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
