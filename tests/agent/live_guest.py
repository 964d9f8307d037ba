"""A mini guest on real libvirt that is brought to one Placement after the other, and asked from inside what it sees."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from nanovirt.agent.changes import Change
from nanovirt.agent.hardware import Hardware
from nanovirt.agent.leases import reservations
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.machine import SeenDomain, SeenVolume
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed
from nanovirt.agent.plan import Decision, decide
from nanovirt.agent.steps import (
    Define,
    FetchImage,
    GrowVolume,
    LookAgain,
    MakeVolume,
    Remember,
    Serve,
    Start,
    Step,
    Withhold,
)
from nanovirt.agent.wish import Wish
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.instance import AwaitingChange
from nanovirt.resources.placement import PlacementSpec
from tests.agent.placements import placement, spec, uuid
from tests.testbed import Host

UUID = uuid(1)
ROUNDS = 12
ANSWER_SECONDS = 120.0


class Killed(Exception):
    """The agent was, in the middle of its steps."""


@dataclass
class LiveGuest:
    """The guest of a module's tests; `spec` is what it was brought to last."""

    host: Host
    folder: Path
    image: Path
    sha256: str
    spec: PlacementSpec = field(default_factory=spec)
    memory: Memory = field(default_factory=Memory)
    generation: int = 1
    first_boot: str = ""
    steps: int | None = None
    """So many steps the agent does before it is killed."""

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    def file(self, name: str) -> str:
        return f"{self.volumes}/{name}.qcow2"

    def disk(self, name: str, size: str = "64Mi", **more: Any) -> dict[str, Any]:
        return {"name": name, "file": self.file(name), "size": size, **more}

    def system(self, **more: Any) -> dict[str, Any]:
        source = {"image": "mini", "sha256": self.sha256}
        return self.disk("system", "1Gi", **({"source": source} | more))

    def card(self, number: int = 0, **more: Any) -> dict[str, Any]:
        return {"name": f"nic{number}", "mac": f"52:54:00:00:aa:{number:02x}", "bridge": self.host.bridge, **more}

    @contextlib.asynccontextmanager
    async def machine(self) -> Any:
        """Its door, for one event loop."""
        network = Path(f"/proc/{self.host.pid}/root/sys/class/net")
        made = LibvirtMachine(self.folder, self.host.uri, storage=[str(self.volumes)], network=network)
        try:
            yield made
        finally:
            await made.close()

    async def bring(self, machine: LibvirtMachine, **changes: Any) -> tuple[AwaitingChange, ...]:
        """Change the wish and do what the plan says until it says nothing more; gives what awaits the next start."""
        self.spec = PlacementSpec.model_validate({**dict(self.spec), **changes})
        decision, _ = await self.settle(machine)
        return decision.awaiting

    async def settle(self, machine: LibvirtMachine) -> tuple[Decision, list[str]]:
        """What is decided in the end, and the steps that led there."""
        self.generation += 1
        made = placement(generation=self.generation, **dict(self.spec))
        wish = Wish.of(made)
        done: list[str] = []
        for _ in range(ROUNDS):
            decision = decide(wish, await self._observe(machine, wish), self.memory, time.time())
            if decision.settled:
                return decision, done
            for step in decision.steps:
                if self.steps is not None and len(done) >= self.steps:
                    raise Killed
                await self._do(machine, step)
                done.append(type(step).__name__)
        raise AssertionError(f"it does not settle: {done}")

    async def _observe(self, machine: LibvirtMachine, wish: Wish) -> Observed:
        found = [await machine.volume(one.file) for one in wish.placement.spec.volumes]
        volumes: dict[str, SeenVolume] = {one.file: one for one in found if one is not None}
        images = frozenset({self.sha256} if await machine.has_image(self.sha256) else ())
        bridges = frozenset({self.host.bridge, "br1"})
        domain = await machine.domain(UUID)
        served = reservations(wish.placement.spec)
        return Observed(
            domain=domain, volumes=volumes, images=images, bridges=bridges, served=served, boot_id="b1"
        )  # fmt: skip

    async def _do(self, machine: LibvirtMachine, step: Step) -> None:
        match step:
            case Remember(memory):
                self.memory = memory
            case FetchImage(_, image):
                await machine.add_image(image.sha256, self._fetch)
            case MakeVolume(volume):
                await machine.make_volume(volume)
            case GrowVolume(file, size):
                await machine.grow_volume(file, size)
            case Define(wanted, digest):
                await machine.define(wanted, digest)
            case Start():
                await machine.start(UUID)
            case LookAgain() | Serve() | Withhold():
                pass
            case _:
                assert isinstance(step, Change), step
                await machine.change(UUID, step)

    async def _fetch(self, path: Path) -> None:
        shutil.copyfile(self.image, path)

    async def seen(self, machine: LibvirtMachine) -> SeenDomain:
        found = await machine.domain(UUID)
        assert found is not None
        return found

    async def hardware(self, machine: LibvirtMachine) -> Hardware:
        found = (await self.seen(machine)).hardware
        assert found is not None
        return found

    # --- inside ---

    @contextlib.contextmanager
    def domain(self) -> Iterator[Any]:
        with contextlib.closing(libvirt.open(self.host.uri)) as connection:
            yield connection.lookupByUUIDString(UUID)

    def inside(self, command: str, seconds: float = ANSWER_SECONDS) -> str:
        """What a shell command in the guest prints."""
        with self.domain() as domain:
            return shell(domain, command, seconds)

    def boot_id(self) -> str:
        return self.inside("cat /proc/sys/kernel/random/boot_id").strip()

    def until_ready(self) -> None:
        """Return once the agent inside answers."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                return self._ready()
            assert time.monotonic() < end, "the guest's agent does not answer"
            time.sleep(0.2)

    def _ready(self) -> None:
        with self.domain() as domain:
            _agent(domain, "guest-ping")
        while "nano-guest: ready" not in (self.folder / "consoles" / f"{UUID}.log").read_text(errors="replace"):
            time.sleep(0.1)


def shell(domain: Any, command: str, seconds: float = ANSWER_SECONDS) -> str:
    """What a shell command in the guest of a libvirt domain prints; AssertionError when it does not end."""
    started = _agent(domain, "guest-exec", path="/bin/sh", arg=["-c", command], **{"capture-output": True})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = _agent(domain, "guest-exec-status", pid=started["pid"])
        if got["exited"]:
            return base64.b64decode(got.get("out-data", "")).decode(errors="replace")
        time.sleep(0.05)
    raise AssertionError(f"{command} did not end within {seconds} s")


def _agent(domain: Any, command: str, **arguments: Any) -> Any:
    asked = {"execute": command, "arguments": arguments}
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, json.dumps(asked), 10, 0))["return"]


@contextlib.contextmanager
def live_guest(host: Host, folder: Path, **changes: Any) -> Iterator[LiveGuest]:
    """A running guest with one disk and one card, ready to answer, as `changes` say; nothing is left of it."""
    folder.chmod(0o711)
    (folder / "volumes").mkdir()
    image = folder / "mini.qcow2"
    subprocess.run([Path(__file__).parents[2] / "scripts/mini-guest", "--output", image], check=True)
    guest = LiveGuest(host, folder, image, hashlib.sha256(image.read_bytes()).hexdigest())

    async def begin() -> None:
        async with guest.machine() as machine:
            base: dict[str, Any] = {
                "cpu": 1, "memory": "256Mi", "volumes": [guest.system()], "nics": [guest.card()],
                "domain": {"uuid": UUID, "name": "default.web-1", "firmware": "BIOS"},
            }  # fmt: skip
            await guest.bring(machine, **(base | changes))

    async def end() -> None:
        async with guest.machine() as machine:
            with contextlib.suppress(HypervisorError):
                await machine.destroy(UUID)
                await machine.undefine(UUID)

    try:
        asyncio.run(begin())
        guest.until_ready()
        yield guest
    finally:
        asyncio.run(end())
