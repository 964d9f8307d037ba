"""libvirt behind its door, with a real libvirtd: what it forgets, when it hangs, and when it is killed."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from nanovirt.agent import hypervisor
from nanovirt.agent.hypervisor import Hypervisor
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.platform import console_log
from nanovirt.resources.defaults import defaults
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacementSpec
from nanovirt.resources.system_template import Devices, SystemTemplate
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import volumes_of
from tests.testbed import Host

TEMPLATES = {one.metadata.name: one.spec for one in defaults() if isinstance(one, SystemTemplate)}
FOREIGN = """<domain type="qemu"><name>theirs</name><uuid>{uuid}</uuid><memory>32768</memory><vcpu>2</vcpu>
<os><type arch="x86_64" machine="pc">hvm</type></os></domain>"""
GOLDEN = Path(__file__).parents[1] / "golden" / "domain"
BRIDGE = {"name": "lan", "mac": "52:54:00:00:00:01", "bridge": "br0"}


def test_what_a_kernel_lacks_is_said_whatever_met_it_and_on_one_line() -> None:
    told = hypervisor.translated(libvirt.libvirtError("tc failed: Error: Specified qdisc kind is unknown.\n"))
    assert str(told).startswith("this host's kernel cannot limit a network card; it needs sch_sfq")
    assert str(hypervisor.translated(libvirt.libvirtError("no\nway\n"))) == "libvirt: no way"


def bare(number: int = 1, **changes: Any) -> PlacementSpec:
    """Without disks: it starts at once and its firmware runs for ever."""
    return spec(number, **({"volumes": (), "nics": (), "cpu": 1, "memory": "64Mi"} | changes))


@contextlib.contextmanager
def connected(host: Host) -> Iterator[Any]:
    """Somebody else's connection."""
    with contextlib.closing(libvirt.open(host.uri)) as connection:
        yield connection


async def seen(machine: LibvirtMachine, number: int = 1) -> SeenDomain:
    found = await machine.domain(uuid(number))
    assert found is not None
    return found


async def started(machine: LibvirtMachine, number: int = 1) -> SeenDomain:
    await machine.define(bare(number), "digest")
    await machine.start(uuid(number))
    return await seen(machine, number)


@pytest.fixture
async def killed(host: Host) -> AsyncIterator[Host]:
    """A host whose libvirtd a test may kill or stop."""
    yield host
    if not host.libvirtd.running:
        host.libvirtd.start()


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_error_carries_the_number_of_libvirt(machine: LibvirtMachine) -> None:
    with pytest.raises(HypervisorError) as caught:
        await machine.start(uuid(1))
    assert caught.value.code == libvirt.VIR_ERR_NO_DOMAIN
    assert isinstance(caught.value.__cause__, libvirt.libvirtError)


async def test_libvirt_prints_nothing_itself(machine: LibvirtMachine, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HypervisorError):
        await machine.start(uuid(1))
    assert capfd.readouterr() == ("", "")


async def test_bug_in_a_call_is_not_taken_for_silence(machine: LibvirtMachine) -> None:
    with pytest.raises(ZeroDivisionError):
        await machine.hypervisor.call(lambda _connection: 1 // 0)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.xml")), ids=lambda file: file.stem)
async def test_golden_definition_is_one_to_libvirt(machine: LibvirtMachine, host: Host, file: Path) -> None:
    with connected(host) as connection:
        connection.defineXMLFlags(file.read_text(), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


async def test_autostart_is_taken_away(machine: LibvirtMachine, host: Host) -> None:
    await machine.define(bare(), "digest")
    with connected(host) as connection:
        domain = connection.lookupByUUIDString(uuid(1))
        domain.setAutostart(1)
        await machine.define(bare(), "other")
        assert not domain.autostart()


async def test_name_that_was_changed_behind_is_taken_back(machine: LibvirtMachine, host: Host) -> None:
    await machine.define(bare(), "digest")
    with connected(host) as connection:
        domain = connection.lookupByUUIDString(uuid(1))
        name = domain.name()
        domain.rename("theirs", 0)
        await machine.define(bare(), "other")
        assert connection.lookupByUUIDString(uuid(1)).name() == name


async def test_new_definition_keeps_the_machine_type_of_the_old_one(machine: LibvirtMachine, host: Host) -> None:
    await machine.define(bare(), "digest")
    with connected(host) as connection:
        domain = connection.lookupByUUIDString(uuid(1))
        assert 'machine="pc-q35-' in domain.XMLDesc(0).replace("'", '"')
        connection.defineXML(domain.XMLDesc(0).replace("pc-q35-7.2", "pc-q35-6.2"))
        await machine.define(bare(memory="80Mi"), "other")
        assert "pc-q35-6.2" in connection.lookupByUUIDString(uuid(1)).XMLDesc(0)


async def test_foreign_domain_is_seen_as_one(machine: LibvirtMachine, host: Host) -> None:
    with connected(host) as connection:
        domain = connection.defineXML(FOREIGN.format(uuid=uuid(9)))
        off = (await machine.domains())[uuid(9)]
        domain.create()
        on = (await machine.domains())[uuid(9)]
    assert (off.name, off.state, off.definition, off.ended) == ("theirs", "Off", "", "")
    assert (on.state, on.definition, on.live, on.cpu, on.memory) == ("Running", "", "", 2, 32 * 2**20)


async def test_pause_by_somebody_else_is_seen_and_ended(machine: LibvirtMachine, host: Host) -> None:
    before = await started(machine)
    with connected(host) as connection:
        connection.lookupByUUIDString(uuid(1)).suspend()
    paused = await seen(machine)
    assert (paused.state, paused.detail, paused.run) == ("Paused", "by a user", before.run)
    await machine.resume(uuid(1))
    assert await seen(machine) == before


async def test_variables_of_the_firmware_go_with_the_definition(machine: LibvirtMachine, host: Host) -> None:
    await started(machine)
    file = host.own(f"/var/lib/libvirt/qemu/nvram/{uuid(1)}_VARS.fd")
    log = console_log(machine.consoles, uuid(1))
    assert file.exists()
    assert log.exists()
    await machine.destroy(uuid(1))
    await machine.undefine(uuid(1))
    assert not file.exists()
    assert not log.exists()


async def test_firmware_with_keys_has_variables_of_its_own_which_go_too(machine: LibvirtMachine, host: Host) -> None:
    await started(machine)
    plain = host.own(f"/var/lib/libvirt/qemu/nvram/{uuid(1)}_VARS.fd")
    await machine.destroy(uuid(1))
    secure = bare().domain.model_copy(update={"secure_boot": True})
    await machine.define(bare(domain=secure), "secure")
    await machine.start(uuid(1))
    found = (await seen(machine)).hardware
    assert found is not None
    assert (found.devices["secureBoot"], found.devices["firmware"]) == (True, "UEFI")
    file = plain.with_name(f"{uuid(1)}_SECURE_VARS.fd")
    assert file.stat().st_size == Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").stat().st_size
    await machine.destroy(uuid(1))
    await machine.undefine(uuid(1))
    assert not file.exists()


async def test_tpm_runs_or_the_host_says_what_is_missing(machine: LibvirtMachine) -> None:
    with_tpm = bare().domain.model_copy(update={"tpm": True})
    if shutil.which("swtpm") is None:
        with pytest.raises(HypervisorError, match="install the packages swtpm"):
            await machine.define(bare(domain=with_tpm), "tpm")
        return
    await machine.define(bare(domain=with_tpm), "tpm")
    await machine.start(uuid(1))
    found = (await seen(machine)).hardware
    assert found is not None
    assert found.devices["tpm"]


async def test_no_screen_listens_on_the_network(machine: LibvirtMachine, host: Host) -> None:
    run = (await started(machine)).run
    listening = host.run(["ss", "-tulpnH"]).stdout
    assert "libvirtd" in listening, "this test would see it"
    assert f"pid={run.partition('.')[0]}," not in listening


async def test_change_by_somebody_else_is_told(machine: LibvirtMachine, host: Host) -> None:
    changed: list[str] = []
    machine.on_change(changed.append)
    await machine.define(bare(), "digest")
    changed.clear()
    with connected(host) as connection:
        connection.lookupByUUIDString(uuid(1)).create()
    async with asyncio.timeout(40):
        while uuid(1) not in changed:
            await asyncio.sleep(0.01)


# --- libvirtd dies, and comes back ------------------------------------------------------------------------------------


async def test_machine_outlives_libvirtd_as_the_same_run(machine: LibvirtMachine, killed: Host) -> None:
    before = await started(machine)
    killed.libvirtd.kill()
    with pytest.raises(HypervisorError):
        await machine.domains()
    assert (await machine.facts()).hypervisor_error
    killed.libvirtd.start()
    async with asyncio.timeout(40):
        while (await machine.facts()).hypervisor_error:
            await asyncio.sleep(0.05)
    assert await seen(machine) == before


async def test_return_of_libvirtd_is_told_because_events_were_lost(machine: LibvirtMachine, killed: Host) -> None:
    changed: list[str] = []
    machine.on_change(changed.append)
    await machine.facts()
    changed.clear()
    killed.libvirtd.kill()
    async with asyncio.timeout(40):
        while not changed or not (await machine.facts()).hypervisor_error:
            await asyncio.sleep(0.05)
    assert set(changed) == {""}, "so is its end"
    changed.clear()
    killed.libvirtd.start()
    async with asyncio.timeout(40):
        while "" not in changed:
            await machine.facts()
            await asyncio.sleep(0.05)


async def test_libvirtd_that_forgot_an_end_says_unknown_but_not_of_what_never_ran(
    machine: LibvirtMachine, killed: Host
) -> None:
    await started(machine)
    await machine.destroy(uuid(1))
    await machine.define(bare(), "other")
    await machine.define(bare(2), "digest")
    killed.libvirtd.restart()
    assert [(await eventually(machine, number)).ended for number in (1, 2)] == ["Unknown", ""]


async def test_crash_behind_the_back_of_a_dead_libvirtd_is_no_clean_end(machine: LibvirtMachine, killed: Host) -> None:
    run = (await started(machine)).run
    killed.libvirtd.kill()
    os.kill(int(run.partition(".")[0]), signal.SIGKILL)
    killed.libvirtd.start()
    found = await eventually(machine)
    assert found.state == "Off"
    assert found.ended == "Crashed"


async def eventually(machine: LibvirtMachine, number: int = 1) -> SeenDomain:
    """The domain, as soon as libvirt answers again."""
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(HypervisorError):
                return await seen(machine, number)
            await asyncio.sleep(0.05)


async def test_closed_connection_leaves_no_descriptor_behind(host: Host) -> None:
    """An agent opens it again whenever libvirtd was away."""

    def held() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async def open_and_close() -> int:
        door = Hypervisor(host.uri)
        await door.domains()
        await door.close()
        return held()

    before = max([await open_and_close() for _ in range(2)])
    for _ in range(8):
        await open_and_close()
    async with asyncio.timeout(40):
        while held() > before:  # libvirt's own thread lets go a moment later
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_connection_that_died_leaves_no_descriptor_behind(host: Host, killed: Host) -> None:
    door = Hypervisor(host.uri)

    async def died() -> int:
        killed.libvirtd.stop()
        with pytest.raises(HypervisorError):
            await door.domains()
        killed.libvirtd.start()
        async with asyncio.timeout(40):
            while True:  # the door does not knock all the time
                with contextlib.suppress(HypervisorError):
                    await door.domains()
                    break
                await asyncio.sleep(0.1)
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    try:
        before = max([await died() for _ in range(2)])
        after = [await died() for _ in range(4)]
    finally:
        await door.close()
    assert min(after) <= before


# --- libvirtd hangs ---------------------------------------------------------------------------------------------------


async def test_hung_libvirtd_costs_its_deadline_and_no_more(machine: LibvirtMachine, killed: Host) -> None:
    before = await started(machine)
    pid = killed.libvirtd.pid
    begun = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HypervisorError, match="did not answer"):
            await machine.hypervisor.call(lambda connection: connection.listAllDomains(), seconds=0.3)
        facts = await machine.facts([str(volumes_of(machine))])
        assert "stuck" in facts.hypervisor_error
        assert facts.storage[0].error == ""
        assert time.monotonic() - begun < 4
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await eventually(machine) == before


async def test_calls_wait_for_one_opening_together(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor, "OPEN_SECONDS", 0.5)
    door = Hypervisor(host.uri)
    pid = host.libvirtd.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        for _ in range(5):
            with pytest.raises(HypervisorError, match="stuck"):
                await door.domains()
        assert time.monotonic() - begun < 2, "each for itself would be 2.5"
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(HypervisorError):
                await door.domains()
                break
            await asyncio.sleep(0.05)
    await door.close()


async def test_absent_libvirtd_is_not_asked_all_the_time(tmp_path: Path) -> None:
    door = Hypervisor(f"qemu+unix:///system?socket={tmp_path}/none")
    for _ in range(3):
        with pytest.raises(HypervisorError, match="cannot be reached"):
            await door.domains()
    assert door._pause == 2 * hypervisor.RETRY_SECONDS[0], "one attempt was made, the others wait for the next"


def test_process_ends_although_a_call_hangs(host: Host) -> None:
    code = (
        "import asyncio, time\n"
        "from nanovirt.agent.hypervisor import Hypervisor\n"
        f"door = Hypervisor({host.uri!r})\n"
        "try: asyncio.run(door.call(lambda _connection: time.sleep(1000), seconds=0.2))\n"
        "except Exception as error: print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert "did not answer" in ended.stdout


# --- a real guest -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The mini guest and its hash."""
    return made(tmp_path_factory.mktemp("guest") / "mini.qcow2")


def made(file: Path, *options: str) -> tuple[str, Path]:
    subprocess.run([Path(__file__).parents[2] / "scripts/mini-guest", *options, "--output", file], check=True)
    return subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0], file


def placed(template: str, machine: LibvirtMachine, sha256: str) -> PlacementSpec:
    devices = {name: getattr(TEMPLATES[template], name) for name in Devices.model_fields}
    system = {"name": "system", "size": "1Gi", "source": {"image": "mini", "sha256": sha256}}
    disks = [
        {**disk, "file": f"{volumes_of(machine)}/{disk['name']}.qcow2", "bus": devices["disk_bus"]}
        for disk in (system, {"name": "data", "size": "1Gi"})
    ]
    domain = {"uuid": uuid(1), "name": f"default.{template}", **devices}
    return spec(cpu=1, memory="256Mi", volumes=disks, nics=[{**BRIDGE, "model": devices["nic_model"]}], domain=domain)


OTHERS = [name for name, one in TEMPLATES.items() if name != "linux" and not one.secure_boot]


async def booting(machine: LibvirtMachine, guest: tuple[str, Path], template: str) -> PlacementSpec:
    """A machine of that template that begins to boot the mini guest."""
    sha256, image = guest

    async def fetch(path: Path) -> None:
        shutil.copyfile(image, path)

    wanted = placed(template, machine, sha256)
    await machine.add_image(sha256, fetch)
    for volume in wanted.volumes:
        await machine.make_volume(volume)
    await machine.define(wanted, "digest")
    await machine.start(wanted.domain.uuid)
    return wanted


async def says(machine: LibvirtMachine, wanted: PlacementSpec, words: str) -> None:
    """Wait until its serial line says so."""
    log = console_log(machine.consoles, wanted.domain.uuid)
    async with asyncio.timeout(180):
        while words not in log.read_text(errors="replace"):
            await asyncio.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("template", ["linux", *(pytest.param(one, marks=pytest.mark.long) for one in OTHERS)])
async def test_guest_boots_from_its_overlay_and_hears_the_power_button(
    machine: LibvirtMachine, guest: tuple[str, Path], template: str
) -> None:
    wanted = await booting(machine, guest, template)
    await says(machine, wanted, "nano-guest: ready")
    locked = await machine.volume(wanted.volumes[0].file)
    assert locked is not None
    assert locked.size == 2**30
    async with asyncio.timeout(120):
        while (await seen(machine)).state != "Off":  # the guest may not listen yet
            await machine.shut_down(wanted.domain.uuid)
            await asyncio.sleep(1)
    assert (await seen(machine)).ended == "Shutdown"


@pytest.mark.timeout(240)
async def test_secure_boot_refuses_a_guest_that_nobody_signed(machine: LibvirtMachine, guest: tuple[str, Path]) -> None:
    wanted = await booting(machine, guest, "windows-11")
    await says(machine, wanted, "Access Denied")
    assert (await seen(machine)).state == "Running"
    await machine.destroy(wanted.domain.uuid)
