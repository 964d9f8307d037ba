"""What every Machine keeps: one suite for the simulated one and for libvirt's.

To add one, write an async context manager that takes the `request` of pytest (for other fixtures) and yields a `Bench`,
and put it into `BENCHES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from nanovirt.agent.changes import LimitDisk, SetCpus
from nanovirt.agent.hardware import Hardware
from nanovirt.agent.live import Differences, differences
from nanovirt.agent.machine import Machine, SeenDomain
from nanovirt.agent.simulated_traits import Traits
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.resources.errors import Conflict, HypervisorError
from nanovirt.resources.placement import PlacementSpec
from nanovirt.resources.qos import DiskQos
from tests.agent.placements import spec
from tests.agent.real_machine import real_machine, volumes_of
from tests.testbed import Host

DIGEST, OTHER = "d" * 32, "e" * 32
MIB = 2**20


@dataclass(slots=True)
class Bench:
    """A machine to try, and how to do to it what does not go through its door.

    `image`: bytes of an image that the machine takes; `folder`: where its volumes may be; `bridge`: a bridge it has.
    """

    machine: Machine
    folder: str
    bridge: str
    image: bytes
    crash: Callable[[str], Awaitable[None]]
    """Let the running machine crash."""
    shut_down_inside: Callable[[str], Awaitable[None]] | None = None
    """Let the guest end itself; None where no guest is there."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.image).hexdigest()

    def spec(self, number: int = 1, **changes: Any) -> PlacementSpec:
        """A small machine on this bench."""
        source = {"image": "tiny", "sha256": self.sha256}
        file = f"{self.folder}/web-{number}-system.qcow2"
        nic = spec(number).nics[0].model_copy(update={"bridge": self.bridge})
        base: dict[str, Any] = {
            "volumes": [{"name": "system", "file": file, "size": "64Mi", "source": source}],
            "nics": [nic],
            "cpu": 1,
            "memory": "64Mi",
        }
        return spec(number, **(base | changes))

    async def fetch(self, path: Path) -> None:
        """What the server sends."""
        await asyncio.to_thread(path.write_bytes, self.image)

    async def made(self, number: int = 1, **changes: Any) -> PlacementSpec:
        """A machine with its disk, defined and off."""
        wanted = self.spec(number, **changes)
        await self.machine.add_image(self.sha256, self.fetch)
        for volume in wanted.volumes:
            await self.machine.make_volume(volume)
        await self.machine.define(wanted, DIGEST)
        return wanted

    async def started(self, number: int = 1) -> str:
        """A running machine's uuid."""
        wanted = await self.made(number)
        await self.machine.start(wanted.domain.uuid)
        return wanted.domain.uuid

    async def seen(self, uuid: str) -> SeenDomain:
        found = await self.machine.domain(uuid)
        assert found is not None
        return found


@asynccontextmanager
async def simulated(_request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    machine = SimulatedMachine("node-1", Traits(verify=True))

    async def crash(uuid: str) -> None:
        machine.crash(uuid)

    async def shut_down_inside(uuid: str) -> None:
        machine.crash(uuid, "Shutdown", "shutdown")

    yield Bench(machine, "/var/lib/nano/volumes", "nano0", b"an image", crash, shut_down_inside)


@asynccontextmanager
async def real(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """libvirt's, with the firmware as its only guest."""
    host: Host = request.getfixturevalue("host")
    async with real_machine(host) as machine:

        async def crash(uuid: str) -> None:
            seen = await machine.domain(uuid)
            assert seen is not None
            os.kill(int(seen.run.partition(".")[0]), signal.SIGKILL)

        async def shut_down_inside(uuid: str) -> None:
            await asyncio.to_thread(_power_off_port, host.uri, uuid)

        yield Bench(machine, str(volumes_of(machine)), host.bridge, bytes(2**20), crash, shut_down_inside)


def _power_off_port(uri: str, uuid: str) -> None:
    """Write to the port by which a guest switches itself off, until the firmware has made it ready and it does."""
    human = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    with contextlib.closing(libvirt.open(uri)) as connection:
        domain = connection.lookupByUUIDString(uuid)
        with contextlib.suppress(libvirt.libvirtError):  # it is off
            while domain.isActive():
                libvirt_qemu.qemuMonitorCommand(domain, "o /w 0x604 0x2000", human)


BENCHES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Bench]]] = {
    "simulated": simulated,
    "libvirt": real,
}


@pytest.fixture(params=list(BENCHES))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with BENCHES[request.param](request) as made:
        yield made


async def test_facts_name_the_bridge_and_the_room(bench: Bench) -> None:
    facts = await bench.machine.facts([bench.folder])
    assert facts.accelerator
    assert facts.boot_id
    assert facts.capacity.cpus > 0
    assert facts.capacity.memory > 0
    assert bench.bridge in facts.bridges
    assert facts.hypervisor_error == ""
    assert [(one.path, one.error) for one in facts.storage] == [(bench.folder, "")]
    assert 0 < facts.storage[0].free <= facts.storage[0].total


async def test_unknown_machine_is_none(bench: Bench) -> None:
    assert await bench.machine.domain(bench.spec(7).domain.uuid) is None


async def test_image_is_fetched_once_for_all_who_ask(bench: Bench) -> None:
    fetched: list[Path] = []

    async def fetch(path: Path) -> None:
        fetched.append(path)
        await bench.fetch(path)

    assert not await bench.machine.has_image(bench.sha256)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(bench.machine.add_image(bench.sha256, fetch))
    assert await bench.machine.has_image(bench.sha256)
    assert len(fetched) == 1


async def test_image_with_other_bytes_is_refused(bench: Bench) -> None:
    wrong = "0" * 64
    with pytest.raises(HypervisorError):
        await bench.machine.add_image(wrong, bench.fetch)
    assert not await bench.machine.has_image(wrong)


async def test_image_that_cannot_be_fetched_raises_what_the_fetching_raised(bench: Bench) -> None:
    async def fetch(path: Path) -> None:
        raise ConnectionResetError(str(path))

    with pytest.raises(ConnectionResetError):
        await bench.machine.add_image(bench.sha256, fetch)
    assert not await bench.machine.has_image(bench.sha256)


async def test_volume_has_its_size_and_making_it_again_changes_nothing(bench: Bench) -> None:
    volume = (await bench.made()).volumes[0]
    first = await bench.machine.volume(volume.file)
    assert first is not None
    assert (first.file, first.size) == (volume.file, 64 * MIB)
    assert first.used < 64 * MIB
    await bench.machine.make_volume(volume)
    assert await bench.machine.volume(volume.file) == first


async def test_empty_volume_needs_no_image(bench: Bench) -> None:
    volume = bench.spec().volumes[0].model_copy(update={"source": None})
    await bench.machine.make_volume(volume)
    assert await bench.machine.volume(volume.file) is not None


async def test_volume_without_its_image_is_refused_and_leaves_nothing(bench: Bench) -> None:
    volume = bench.spec().volumes[0]
    with pytest.raises(HypervisorError):
        await bench.machine.make_volume(volume)
    assert await bench.machine.volume(volume.file) is None


async def test_removed_volume_is_gone_and_removing_it_again_is_fine(bench: Bench) -> None:
    volume = (await bench.made()).volumes[0]
    for _ in range(2):
        await bench.machine.remove_volume(volume.file)
        assert await bench.machine.volume(volume.file) is None
    assert await bench.machine.has_image(bench.sha256)


async def test_defined_machine_is_off_and_was_never_ended(bench: Bench) -> None:
    wanted = await bench.made()
    seen = await bench.seen(wanted.domain.uuid)
    assert (seen.uuid, seen.name, seen.state) == (wanted.domain.uuid, wanted.domain.name, "Off")
    assert (seen.ended, seen.run, seen.definition, seen.live) == ("", "", DIGEST, "")
    assert (await bench.machine.domains())[seen.uuid] == seen


async def test_defining_again_takes_the_new_definition(bench: Bench) -> None:
    wanted = await bench.made()
    await bench.machine.define(wanted, OTHER)
    assert (await bench.seen(wanted.domain.uuid)).definition == OTHER


async def test_name_that_another_machine_has_is_refused(bench: Bench) -> None:
    first = await bench.made()
    second = bench.spec(2)
    taken = second.model_copy(update={"domain": second.domain.model_copy(update={"name": first.domain.name})})
    with pytest.raises(HypervisorError):
        await bench.machine.define(taken, DIGEST)


async def test_start_of_what_is_not_defined_is_refused(bench: Bench) -> None:
    with pytest.raises(HypervisorError):
        await bench.machine.start(bench.spec().domain.uuid)


async def test_start_without_the_disk_is_refused(bench: Bench) -> None:
    wanted = await bench.made()
    await bench.machine.remove_volume(wanted.volumes[0].file)
    with pytest.raises(HypervisorError):
        await bench.machine.start(wanted.domain.uuid)
    assert (await bench.seen(wanted.domain.uuid)).state == "Off"


async def test_started_machine_runs_and_starting_it_again_changes_nothing(bench: Bench) -> None:
    uuid = await bench.started()
    first = await bench.seen(uuid)
    assert (first.state, first.ended, first.live, first.cpu, first.memory) == ("Running", "", DIGEST, 1, 64 * MIB)
    assert first.run
    await bench.machine.start(uuid)
    assert await bench.seen(uuid) == first


async def test_definition_of_a_running_machine_waits_for_its_next_start(bench: Bench) -> None:
    uuid = await bench.started()
    first = await bench.seen(uuid)
    await bench.machine.define(bench.spec(memory="80Mi"), OTHER)
    seen = await bench.seen(uuid)
    assert (seen.run, seen.live, seen.definition, seen.memory) == (first.run, DIGEST, OTHER, 64 * MIB)
    await bench.machine.destroy(uuid)
    await bench.machine.start(uuid)
    seen = await bench.seen(uuid)
    assert (seen.live, seen.memory) == (OTHER, 80 * MIB)


async def test_form_is_that_of_the_definition_and_the_same_each_time(bench: Bench) -> None:
    wanted = await bench.made()
    first = await bench.machine.form(wanted.domain.uuid)
    assert first is not None
    assert first.fields["name"] == wanted.domain.name
    await bench.machine.start(wanted.domain.uuid)
    assert await bench.machine.form(wanted.domain.uuid) == first
    await bench.machine.define(wanted, DIGEST)
    assert await bench.machine.form(wanted.domain.uuid) == first
    await bench.machine.define(bench.spec(memory="80Mi"), OTHER)
    assert await bench.machine.form(wanted.domain.uuid) != first
    assert await bench.machine.form(bench.spec(9).domain.uuid) is None


async def test_each_start_is_another_run(bench: Bench) -> None:
    uuid = await bench.started()
    first = await bench.seen(uuid)
    await bench.machine.destroy(uuid)
    await bench.machine.start(uuid)
    assert (await bench.seen(uuid)).run not in ("", first.run)


async def test_destroyed_machine_is_off_at_once_and_destroying_it_again_is_fine(bench: Bench) -> None:
    uuid = await bench.started()
    for _ in range(2):
        await bench.machine.destroy(uuid)
        seen = await bench.seen(uuid)
        assert (seen.state, seen.ended, seen.run, seen.cpu) == ("Off", "Destroyed", "", 0)


async def test_what_is_not_there_can_be_ended_and_forgotten(bench: Bench) -> None:
    uuid = bench.spec().domain.uuid
    await bench.machine.destroy(uuid)
    await bench.machine.shut_down(uuid)
    await bench.machine.undefine(uuid)


async def test_shutting_down_what_is_off_is_fine(bench: Bench) -> None:
    wanted = await bench.made()
    await bench.machine.shut_down(wanted.domain.uuid)
    assert (await bench.seen(wanted.domain.uuid)).state == "Off"


async def test_undefined_machine_is_gone_and_its_volumes_stay(bench: Bench) -> None:
    wanted = await bench.made()
    await bench.machine.undefine(wanted.domain.uuid)
    assert await bench.machine.domain(wanted.domain.uuid) is None
    assert await bench.machine.volume(wanted.volumes[0].file) is not None


async def test_undefining_a_running_machine_is_refused(bench: Bench) -> None:
    uuid = await bench.started()
    with pytest.raises(HypervisorError):
        await bench.machine.undefine(uuid)
    assert (await bench.seen(uuid)).state == "Running"


async def test_resuming_what_runs_changes_nothing(bench: Bench) -> None:
    uuid = await bench.started()
    first = await bench.seen(uuid)
    await bench.machine.resume(uuid)
    assert await bench.seen(uuid) == first


async def test_suspended_machine_is_paused_in_the_same_run_until_it_is_resumed(bench: Bench) -> None:
    uuid = await bench.started()
    first = await bench.seen(uuid)
    for _ in range(2):
        await bench.machine.suspend(uuid)
        seen = await bench.seen(uuid)
        assert (seen.state, seen.run, seen.detail) == ("Paused", first.run, "by a user")
    await bench.machine.resume(uuid)
    assert await bench.seen(uuid) == first


async def test_suspending_what_is_off_is_refused(bench: Bench) -> None:
    wanted = await bench.made()
    with pytest.raises(HypervisorError):
        await bench.machine.suspend(wanted.domain.uuid)


async def test_screen_of_a_running_machine_is_shown_as_png(bench: Bench) -> None:
    uuid = await bench.started()
    assert (await bench.machine.screenshot(uuid)).startswith(b"\x89PNG\r\n\x1a\n")
    await bench.machine.destroy(uuid)
    with pytest.raises(Conflict, match="does not run"):
        await bench.machine.screenshot(uuid)


async def test_crash_is_told_and_seen_as_one(bench: Bench) -> None:
    changed: list[str] = []
    bench.machine.on_change(changed.append)
    uuid = await bench.started()
    await bench.crash(uuid)
    async with asyncio.timeout(40):
        while (await bench.seen(uuid)).state != "Off" or not {uuid, ""} & set(changed):
            await asyncio.sleep(0.01)
    assert (await bench.seen(uuid)).ended in ("Crashed", "Failed")


async def test_end_from_inside_is_seen_as_one(bench: Bench) -> None:
    if bench.shut_down_inside is None:
        return
    uuid = await bench.started()
    await bench.shut_down_inside(uuid)
    async with asyncio.timeout(40):
        while (await bench.seen(uuid)).state != "Off":
            await asyncio.sleep(0.01)
    assert (await bench.seen(uuid)).ended == "Shutdown"


# --- changes of the running machine -----------------------------------------------------------------------------------


def disk(bench: Bench, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "file": f"{bench.folder}/web-1-{name}.qcow2", "size": "64Mi", **more}


def room(bench: Bench, **changes: Any) -> PlacementSpec:
    """A machine that may grow, with a disk and a drive that are plugged without asking the guest."""
    media = [{"name": "cd0", "image": {"image": "tiny", "sha256": bench.sha256}}]
    base: dict[str, Any] = {"cpu": 1, "max_cpu": 2, "max_memory": "128Mi", "media": media}
    return bench.spec(**(base | {"volumes": [disk(bench, "system"), disk(bench, "data", bus="Scsi")]} | changes))


async def running(bench: Bench, wanted: PlacementSpec) -> Hardware:
    """It runs, brought to where the plan leads without a word of the guest."""
    uuid = wanted.domain.uuid
    await bench.machine.add_image(bench.sha256, bench.fetch)
    for volume in wanted.volumes:
        await bench.machine.make_volume(volume)
    await bench.machine.define(wanted, DIGEST)
    await bench.machine.start(uuid)
    return await hardware(bench, uuid)


async def hardware(bench: Bench, uuid: str) -> Hardware:
    found = (await bench.seen(uuid)).hardware
    assert found is not None
    return found


async def test_hardware_of_a_machine_that_has_just_started_is_the_wished_one(bench: Bench) -> None:
    wanted = room(bench, qos={"priority": "Low", "limit": "500m"})
    seen = await running(bench, wanted)
    assert differences(wanted, seen, {}) == Differences()
    assert (seen.cpus, seen.max_cpus, seen.memory, seen.max_memory) == (1, 2, 64 * MIB, 128 * MIB)
    assert (seen.shares, seen.quota, seen.scsi) == (512, 500, True)
    assert seen.ports >= 16 + 8, "room for all that an instance may have"
    assert (await bench.machine.domains())[wanted.domain.uuid].hardware is None


async def test_changes_are_seen_and_making_them_again_changes_nothing(bench: Bench) -> None:
    before = room(bench)
    uuid = before.domain.uuid
    await running(bench, before)
    run = (await bench.seen(uuid)).run
    more = {"name": "second", "mac": "52:54:00:00:00:77", "bridge": bench.bridge}
    limits = {"readBytesPerSecond": "1Mi", "writeIops": 100}
    after = room(
        bench, cpu=2, qos={"priority": "High", "limit": "1500m"}, media=[{"name": "cd0"}],
        nics=[*before.nics, more],
        volumes=[disk(bench, "system", qos=limits, size="80Mi"), disk(bench, "new", bus="Scsi"), disk(bench, "newer")],
    )  # fmt: skip
    for volume in after.volumes:
        await bench.machine.make_volume(volume)
    await bench.machine.define(after, OTHER)
    sizes = {before.volumes[0].file: 64 * MIB}
    found = differences(after, await hardware(bench, uuid), sizes)
    assert found.awaiting == ()
    for one in found.changes:
        for _ in range(2):
            await bench.machine.change(uuid, one.change)
    seen = await hardware(bench, uuid)
    grown = await bench.machine.volume(before.volumes[0].file)
    assert grown is not None
    assert grown.size == 80 * MIB
    assert differences(after, seen, {}) == Differences()
    assert (seen.cpus, seen.shares, seen.quota) == (2, 2048, 1500)
    assert set(seen.disks) == {"system", "new", "newer"}
    assert (await bench.seen(uuid)).run == run
    assert (await bench.seen(uuid)).live == DIGEST


async def test_what_was_changed_is_so_at_the_next_start_too(bench: Bench) -> None:
    before = room(bench)
    uuid = before.domain.uuid
    await running(bench, before)
    after = room(bench, cpu=2, volumes=[*before.volumes, disk(bench, "newer")])
    await bench.machine.make_volume(after.volumes[-1])
    await bench.machine.define(after, OTHER)
    for one in differences(after, await hardware(bench, uuid), {}).changes:
        await bench.machine.change(uuid, one.change)
    await bench.machine.destroy(uuid)
    assert (await bench.seen(uuid)).hardware is None
    await bench.machine.start(uuid)
    assert differences(after, await hardware(bench, uuid), {}) == Differences()


async def test_change_of_what_is_off_or_not_there_is_refused(bench: Bench) -> None:
    wanted = await bench.made()
    for uuid in (wanted.domain.uuid, bench.spec(7).domain.uuid):
        with pytest.raises(HypervisorError):
            await bench.machine.change(uuid, SetCpus(2))
    await bench.machine.start(wanted.domain.uuid)
    with pytest.raises(HypervisorError):
        await bench.machine.change(wanted.domain.uuid, LimitDisk("none", DiskQos()))


async def test_volume_grows_and_never_shrinks_by_growing(bench: Bench) -> None:
    volume = (await bench.made()).volumes[0]
    for size in (80 * MIB, 64 * MIB, 80 * MIB):
        await bench.machine.grow_volume(volume.file, size)
        seen = await bench.machine.volume(volume.file)
        assert seen is not None
        assert seen.size == 80 * MIB
    with pytest.raises(HypervisorError):
        await bench.machine.grow_volume(f"{bench.folder}/none.qcow2", 80 * MIB)


async def test_machines_are_told_apart(bench: Bench) -> None:
    first, second = await bench.started(1), await bench.started(2)
    await bench.machine.destroy(first)
    assert (await bench.seen(first)).state == "Off"
    assert (await bench.seen(second)).state == "Running"
    assert set(await bench.machine.domains()) == {first, second}
