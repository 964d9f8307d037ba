"""QEMU as a user of its own, as distributions run it: what it may read, and that nobody else may."""

import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import real_machine, volumes_of
from tests.testbed import Bed, Host

OURS = {"user": '"root"', "group": '"root"', "dynamic_ownership": "0", "remember_owner": "0"}
CONTENT = bytes(2**20)
SHA = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"


@pytest.fixture
def plain_host() -> Iterator[Host]:
    """With the distribution's own settings of QEMU's user, and a /dev/kvm that it may ask, as udev would leave it."""
    with Bed(hosts=1) as bed:
        host = bed.hosts[0]
        settings = host.own("/etc/libvirt/qemu.conf")
        lines = settings.read_text().splitlines()
        settings.write_text("\n".join(line for line in lines if line.partition(" ")[0] not in OURS) + "\n")
        for folder in (bed.dir, host.dir, host.dir / "own"):
            folder.chmod(0o711)
        if Path("/dev/kvm").exists():
            device = host.dir / "kvm"
            os.mknod(device, stat.S_IFCHR, Path("/dev/kvm").stat().st_rdev)
            device.chmod(0o666)
            host.run(["mount", "--bind", device, "/dev/kvm"])
        host.libvirtd.restart()
        yield host


async def made(machine: LibvirtMachine) -> None:
    async def fetch(path: Path) -> None:
        path.write_bytes(CONTENT)

    file = f"{volumes_of(machine)}/system.qcow2"
    disk = {"name": "system", "file": file, "size": "64Mi", "source": {"image": "tiny", "sha256": SHA}}
    wanted = spec(volumes=[disk], nics=[], cpu=1, memory="64Mi")
    await machine.hypervisor.qemu()
    await machine.add_image(SHA, fetch)
    await machine.make_volume(wanted.volumes[0])
    await machine.define(wanted, "digest")


def readable_by_nobody(folder: Path) -> set[str]:
    """The names of the files that somebody who is nobody here can read, knowing where they are."""
    nobody = pwd.getpwnam("nobody").pw_uid
    files = [str(file) for file in folder.rglob("*") if file.is_file()]
    argv = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", "find", *files, "-readable"]
    return {Path(line).name for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()}


@pytest.mark.timeout(120)
async def test_qemu_runs_as_its_own_user_and_nobody_else_reads_a_disk(plain_host: Host) -> None:
    old = os.umask(0o022)  # what counts must not hang on it
    try:
        async with real_machine(plain_host) as machine:
            folder = machine.consoles.parent
            (folder / "open").touch()
            volumes_of(machine).chmod(0o711)
            await made(machine)
            await machine.start(uuid(1))
            seen = await machine.domain(uuid(1))
            assert seen is not None
            assert seen.state == "Running"
            assert Path(f"/proc/{seen.run.partition('.')[0]}").stat().st_uid != 0
            assert readable_by_nobody(folder) == {"open"}, "that one shows that the others were asked about"
            await machine.destroy(uuid(1))
            assert readable_by_nobody(folder) == {"open"}
    finally:
        os.umask(old)
