"""The seed in a real guest: name, password, address and a formatted disk, and what a second start leaves alone."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent import seed
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.platform import console_log
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.placement import PlacementSpec
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import volumes_of

ROOT = Path(__file__).parents[2]
LEASE = {"subnet": "10.77.0.0/16", "gateway": "10.77.0.1", "provider": "CloudInit"}


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The mini guest and its hash."""
    file = tmp_path_factory.mktemp("guest") / "mini.qcow2"
    subprocess.run([ROOT / "scripts/mini-guest", "--output", file], check=True)
    return subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0], file


def placed(machine: LibvirtMachine, sha256: str) -> PlacementSpec:
    """With a system disk, a blank disk to be made and mounted, and an address that only the seed says."""
    disks: list[dict[str, Any]] = [
        {"name": "system", "size": "1Gi", "source": {"image": "mini", "sha256": sha256}},
        {"name": "data", "size": "64Mi", "fileSystem": {"fileSystem": "Ext4", "mountPath": "/srv/data"}},
    ]
    files = [{**disk, "file": f"{volumes_of(machine)}/{disk['name']}.qcow2"} for disk in disks]
    nic = {"name": "lan", "mac": "52:54:00:00:00:01", "bridge": "br0", "ip": "10.77.2.9", "lease": LEASE}
    admin = {"admin": "root", "password": {"name": "login", "mark": "one"}, "timeZone": "Asia/Shanghai"}
    domain = {"uuid": uuid(1), "name": "default.seeded", "firmware": "BIOS"}
    return spec(
        cpu=1, memory="256Mi", volumes=files, nics=[nic], guest=admin, domain=domain, hostname="seeded-1"
    )  # fmt: skip


async def prepared(machine: LibvirtMachine, guest: tuple[str, Path]) -> PlacementSpec:
    """Made and defined, with its seed."""
    sha256, image = guest

    async def fetch(path: Path) -> None:
        shutil.copyfile(image, path)

    wanted = placed(machine, sha256)
    await machine.add_image(sha256, fetch)
    for volume in wanted.volumes:
        await machine.make_volume(volume)
    await machine.define(wanted, "digest")
    await tell(machine, wanted, "correct-horse-battery")
    return wanted


async def tell(machine: LibvirtMachine, wanted: PlacementSpec, password: str) -> None:
    secrets = GuestSecrets.model_validate({"password": password})
    await machine.make_seed(wanted.domain.uuid, seed.digest(wanted), lambda: seed.files(wanted, secrets))


async def booted(machine: LibvirtMachine, wanted: PlacementSpec, times: int = 1) -> str:
    """What the guest has said, once it is up for the so-manieth time."""
    log = console_log(machine.consoles, wanted.domain.uuid)
    async with asyncio.timeout(120):
        while log.read_text(errors="replace").count("nano-guest: ready") < times:
            await asyncio.sleep(0.1)
    return log.read_text(errors="replace").replace("\r", "")


async def until_off(machine: LibvirtMachine, wanted: PlacementSpec) -> None:
    async with asyncio.timeout(120):
        while (found := await machine.domain(wanted.domain.uuid)) is None or found.state != "Off":
            await machine.shut_down(wanted.domain.uuid)
            await asyncio.sleep(1)


@pytest.mark.timeout(300)
async def test_guest_has_name_password_address_and_disk_and_keeps_the_disk(
    machine: LibvirtMachine, guest: tuple[str, Path]
) -> None:
    wanted = await prepared(machine, guest)
    assert await machine.seed(wanted.domain.uuid) == seed.digest(wanted)
    await machine.start(wanted.domain.uuid)
    said = await booted(machine, wanted)
    assert "nano: disk data formatted" in said
    assert "nano: disk data mounted on /srv/data" in said
    assert "eth0 static 10.77.2.9/16" in said
    assert "eth0 static via 10.77.0.1" in said
    assert re.search(r"seed read from /dev/sr0", said)
    await until_off(machine, wanted)

    await machine.start(wanted.domain.uuid)
    again = (await booted(machine, wanted, 2))[len(said) :]
    assert "formatted" not in again, "what stands on a disk is never touched"
    assert "nano: disk data mounted on /srv/data" in again
