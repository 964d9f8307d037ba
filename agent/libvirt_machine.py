"""The real machine behind the door: libvirt, qcow2 files and the kernel of this host put together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Literal

from nanovirt.agent import facts as host
from nanovirt.agent import iso, serial_log
from nanovirt.agent.changes import Change
from nanovirt.agent.continuity import Kept, kept
from nanovirt.agent.disks import Disks
from nanovirt.agent.domain import render
from nanovirt.agent.drift import Form, flattened
from nanovirt.agent.hypervisor import Hypervisor
from nanovirt.agent.image_cache import ImageCache, make_folder
from nanovirt.agent.machine import Counters, SeenDomain, SeenVolume
from nanovirt.agent.platform import Platform, console_line, console_log, seed_file
from nanovirt.agent.strangers import described
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.host import Amounts, Versions
from nanovirt.resources.placement import PlacedVolume, PlacementSpec
from nanovirt.resources.report import DomainFacts, HostFacts, StorageFact

Accelerator = Literal["kvm", "tcg"]
VARIABLES = ("/var/lib/libvirt/qemu/nvram/{uuid}_VARS.fd", "/var/lib/libvirt/qemu/nvram/{uuid}_SECURE_VARS.fd")
FACTS_SECONDS = 2.0
"""What libvirt, and then the storage, may take from the report, which renews the host's lease."""


class LibvirtMachine:
    """A Machine of libvirt at `uri`; the image cache and the guests' serial logs are kept in `folder`.

    QEMU, which may run as another user, passes through `folder` (mode 0711); the folders above must let it pass too.

    `accelerator` "auto" takes KVM only where it really works. Volumes are accepted in the storage paths `storage` and
    those that `facts` was ever asked about. `address` is reported as it is; `network` shows the kernel's bridges.
    """

    def __init__(
        self,
        folder: Path,
        uri: str = "qemu:///system",
        accelerator: Literal["auto", "kvm", "tcg"] = "auto",
        storage: Sequence[str] = (),
        address: str = "",
        network: Path = Path("/sys/class/net"),
    ) -> None:
        self.hypervisor = Hypervisor(uri)
        self.guests = Hypervisor(uri)
        """A connection of its own, so that guests that do not answer keep nothing else waiting."""
        self.images = ImageCache(folder / "images")
        self.disks = Disks(self.images, storage)
        self.consoles = folder / "consoles"
        self.seeds = folder / "seeds"
        self._address = address
        self._network = network
        self._accelerator: Accelerator | None = None if accelerator == "auto" else accelerator
        self._qemu = ""
        self._forms: dict[str, tuple[str, Form]] = {}
        """Of each machine the definition that was looked at last, and its form."""

    # --- what there is ---

    async def facts(self, paths: Sequence[str] = ()) -> HostFacts:
        """See Machine."""
        self.disks.admit(paths)
        libvirt, trouble = await self._libvirt()
        storage, capacity = await self._room(paths)
        return HostFacts(
            address=self._address,
            accelerator=self._accelerator or "",
            capacity=capacity,
            versions=Versions(agent=host.agent_version(), libvirt=libvirt, qemu=self._qemu, kernel=os.uname().release),
            boot_id=host.boot_id(),
            bridges=host.bridges(self._network),
            storage=storage,
            hypervisor_error=trouble,
        )

    async def _libvirt(self) -> tuple[str, str]:
        """Its version, and what is wrong with it. QEMU's version and the accelerator may be known only next time."""
        version = ""
        try:
            async with asyncio.timeout(FACTS_SECONDS):
                version = await self.hypervisor.version()
                await self.accelerator()
                self._qemu = (await self.hypervisor.qemu()).version
        except TimeoutError:
            return version, "" if version else f"libvirt did not answer within {FACTS_SECONDS:g} s; is libvirtd stuck?"
        except HypervisorError as error:
            return version, str(error)
        return version, ""

    async def _room(self, paths: Sequence[str]) -> tuple[tuple[StorageFact, ...], Amounts]:
        try:
            async with asyncio.timeout(FACTS_SECONDS):
                storage = await asyncio.to_thread(host.storage, paths)
                return storage, await asyncio.to_thread(host.capacity, storage)
        except OSError as error:  # TimeoutError is one
            why = error.strerror or f"one of the storage paths did not answer within {FACTS_SECONDS:g} s"
            return tuple(StorageFact(path=path, error=why) for path in paths), host.capacity(())

    async def accelerator(self) -> Accelerator:
        """What machines run with. HypervisorError when libvirt has to be asked and does not answer."""
        if self._accelerator is None:
            usable = await asyncio.to_thread(host.kvm_usable) and (await self.hypervisor.qemu()).kvm
            self._accelerator = "kvm" if usable else "tcg"
        return self._accelerator

    async def domains(self) -> Mapping[str, SeenDomain]:
        """See Machine."""
        return await self.hypervisor.domains()

    async def domain(self, uuid: str) -> SeenDomain | None:
        """See Machine."""
        return await self.hypervisor.domain(uuid)

    async def counters(self) -> Mapping[str, Counters]:
        """See Machine."""
        return await self.hypervisor.counters()

    async def describe(self, uuid: str) -> DomainFacts | None:
        """See Machine."""
        found = await self.hypervisor.described(uuid)
        if found is None:
            return None
        return self._in_vlans(described(found.xml, found.sizes, persistent=found.persistent))

    def _in_vlans(self, facts: DomainFacts) -> DomainFacts:
        """A card in a bridge of Nano's own is in a VLAN of the host's."""
        if not any(host.segment(nic.bridge, self._network) for nic in facts.nics):
            return facts
        found = [(nic, host.segment(nic.bridge, self._network)) for nic in facts.nics]
        nics = tuple(nic.model_copy(update=segment._asdict()) if segment else nic for nic, segment in found)
        return facts.model_copy(update={"nics": nics})

    async def volume(self, file: str, *, adopted: bool = False) -> SeenVolume | None:
        """See Machine."""
        return await self.disks.volume(file, adopted=adopted)

    async def has_image(self, sha256: str) -> bool:
        """See Machine."""
        return await asyncio.to_thread(self.images.has, sha256)

    # --- disks ---

    async def add_image(self, sha256: str, fetch: Callable[[Path], Awaitable[None]]) -> None:
        """See Machine."""
        await self.images.add(sha256, fetch)

    async def make_volume(self, volume: PlacedVolume) -> None:
        """See Machine."""
        await self.disks.make(volume)

    async def remove_volume(self, file: str) -> None:
        """See Machine."""
        await self.disks.remove(file)

    async def shrink_volume(self, file: str, size: int) -> None:
        """See Machine."""
        await self.disks.shrink(file, size)

    async def grow_volume(self, file: str, size: int) -> None:
        """See Machine."""
        await self.disks.grow(file, size)

    # --- the seed ---

    async def seed(self, uuid: str) -> str:
        """See Machine."""
        return await asyncio.to_thread(iso.read_mark, seed_file(self.seeds, uuid))

    async def make_seed(self, uuid: str, digest: str, files: Callable[[], Mapping[str, bytes]]) -> None:
        """See Machine."""
        await asyncio.to_thread(self._make_seed, seed_file(self.seeds, uuid), digest, files)

    def _make_seed(self, file: Path, digest: str, files: Callable[[], Mapping[str, bytes]]) -> None:
        self._prepare()
        iso.write(file, digest, files())

    # --- the domain ---

    async def define(self, placement: PlacementSpec, digest: str) -> None:
        """See Machine."""
        accelerator = await self.accelerator()
        direct = await asyncio.to_thread(self._prepare)
        platform = Platform(accelerator, self.images.folder, self.consoles, direct=direct, seeds=self.seeds)
        before, mark, running = await self.hypervisor.definition(placement.domain.uuid)
        taken = kept(before, started=mark.started, running=running) if before else Kept()
        await self.hypervisor.define(render(placement, digest, platform, taken))

    def _prepare(self) -> frozenset[Path]:
        try:
            make_folder(self.consoles.parent)
            make_folder(self.consoles)
            make_folder(self.seeds)
        except OSError as error:
            raise HypervisorError(f"{self.consoles.parent} cannot be made: {error.strerror}") from error
        return self.disks.direct()

    async def form(self, uuid: str) -> Form | None:
        """See Machine."""
        xml = await self.hypervisor.inactive(uuid)
        if xml is None:
            self._forms.pop(uuid, None)
            return None
        version = f"{await self.hypervisor.version()}/{(await self.hypervisor.qemu()).version}"
        held = self._forms.get(uuid)
        if held is None or held[0] != xml or held[1].version != version:
            held = self._forms[uuid] = (xml, Form(version, flattened(xml)))
        return held[1]

    async def start(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.start(uuid)

    async def suspend(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.suspend(uuid)

    async def change(self, uuid: str, change: Change) -> None:
        """See Machine."""
        await self.hypervisor.change(uuid, change)

    async def resume(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.resume(uuid)

    async def shut_down(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.shut_down(uuid)

    async def destroy(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.destroy(uuid)

    async def undefine(self, uuid: str) -> None:
        """See Machine."""
        await self.hypervisor.undefine(uuid)
        _forget_variables(uuid)
        serial_log.remove(console_log(self.consoles, uuid))
        console_line(self.consoles, uuid).unlink(missing_ok=True)
        seed_file(self.seeds, uuid).unlink(missing_ok=True)

    async def screenshot(self, uuid: str) -> bytes:
        """See Machine."""
        return await self.hypervisor.screenshot(uuid)

    async def screen(self, uuid: str) -> socket:
        """See Machine."""
        return await self.hypervisor.screen(uuid)

    async def serial(self, uuid: str) -> socket:
        """See Machine."""
        return await serial_log.connect(console_line(self.consoles, uuid))

    async def serial_log(self, uuid: str) -> bytes:
        """See Machine."""
        return await asyncio.to_thread(serial_log.read, console_log(self.consoles, uuid))

    def on_change(self, call: Callable[[str], None]) -> None:
        """See Machine."""
        self.hypervisor.heard = call

    async def set_password(self, uuid: str, user: str, password: str) -> None:
        """See Channel of agent/guests.py."""
        await self.guests.set_password(uuid, user, password)

    async def freeze(self, uuid: str) -> int:
        """See Channel of agent/guests.py."""
        return await self.guests.freeze(uuid)

    async def thaw(self, uuid: str) -> int:
        """See Channel of agent/guests.py."""
        return await self.guests.thaw(uuid)

    async def ask_guest(self, uuid: str, commands: Sequence[str], seconds: int) -> Mapping[str, str | None]:
        """See Channel of agent/guests.py."""
        return await self.guests.ask_guest(uuid, commands, seconds)

    async def close(self) -> None:
        """End the connection; machines run on."""
        await self.hypervisor.close()
        await self.guests.close()


def _forget_variables(uuid: str) -> None:
    """Also those of a firmware that it has no more, of which libvirt knows nothing."""
    for file in VARIABLES:
        Path(file.format(uuid=uuid)).unlink(missing_ok=True)
