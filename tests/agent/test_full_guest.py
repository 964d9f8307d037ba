"""The seed read by Debian's own cloud-init: name, password, disk, a root that grows, and a changed password."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from passlib.hash import sha512_crypt

from nanovirt.agent import seed
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.platform import console_log
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.placement import PlacementSpec
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import volumes_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
LEASE = {"subnet": "10.77.0.0/16", "gateway": "10.77.0.1", "dns": ["10.77.0.1"], "provider": "CloudInit"}
PROOF = """#cloud-boothook
#!/bin/sh
cat >/etc/systemd/system/proof.service <<'END'
[Unit]
After=cloud-final.service multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo; echo "proof: name $(hostname)"; echo "proof: zone $(cat /etc/timezone)"; \
echo "proof: shadow $(getent shadow ops | cut -d: -f2)"; echo "proof: disk $(findmnt -no FSTYPE /srv/data)"; \
echo "proof: root $(df -BM --output=size / | tail -1)"; echo "proof: address $(ip -br address show eth0)"; \
echo "proof: keys $(cat /home/ops/.ssh/authorized_keys)"; echo "proof: cloud $(cloud-init status)"; echo "proof: done"'
[Install]
WantedBy=cloud-init.target
END
systemctl daemon-reload
systemctl enable proof.service
systemctl start --no-block proof.service
"""


def placed(machine: LibvirtMachine, sha256: str, secrets: str) -> PlacementSpec:
    disks = [
        {"name": "system", "size": "3Gi", "source": {"image": "full", "sha256": sha256}},
        {"name": "data", "size": "400Mi", "fileSystem": {"fileSystem": "Xfs", "mountPath": "/srv/data"}},
    ]
    files = [{**disk, "file": f"{volumes_of(machine)}/{disk['name']}.qcow2"} for disk in disks]
    nic = {"name": "lan", "mac": "52:54:00:00:00:01", "bridge": "br0", "ip": "10.77.2.9", "lease": LEASE}
    guest = {
        "admin": "ops",
        "password": {"name": "login", "mark": secrets},
        "timeZone": "Asia/Shanghai",
        "sshKeys": ["ssh-ed25519 AAAAC3Nz alice"],
    }
    domain = {"uuid": uuid(1), "name": "default.full", "firmware": "BIOS"}
    return spec(cpu=1, memory="768Mi", volumes=files, nics=[nic], guest=guest, domain=domain, hostname="full-1")


async def told(machine: LibvirtMachine, wanted: PlacementSpec, password: str) -> None:
    secrets = GuestSecrets.model_validate({"password": password, "userData": PROOF})
    await machine.make_seed(wanted.domain.uuid, seed.digest(wanted), lambda: seed.files(wanted, secrets))


async def until(what: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.5)


def proofs(said: str) -> dict[str, str]:
    """What the guest proved last, by its first word."""
    return dict(re.findall(r"proof: (\w+) ?([^\n]*)", said))


@pytest.fixture
def full(tmp_path: Path) -> tuple[str, Path]:
    """The full guest and its hash."""
    image = tmp_path / "full.qcow2"
    subprocess.run([ROOT / "scripts/full-guest", "--output", image], check=True)
    return subprocess.run(["sha256sum", image], capture_output=True, text=True, check=True).stdout.split()[0], image


async def test_debian_takes_all_of_the_seed_and_a_changed_password_at_its_next_start(
    machine: LibvirtMachine, full: tuple[str, Path]
) -> None:
    sha256, image = full

    async def fetch(path: Path) -> None:
        shutil.copyfile(image, path)

    wanted = placed(machine, sha256, "one")
    await machine.add_image(sha256, fetch)
    for volume in wanted.volumes:
        await machine.make_volume(volume)
    await machine.define(wanted, "digest")
    await told(machine, wanted, "correct-horse-battery")
    await machine.start(wanted.domain.uuid)
    log = console_log(machine.consoles, wanted.domain.uuid)

    def said() -> str:
        return log.read_text(errors="replace").replace("\r", "")

    await until(lambda: said().count("proof: done") == 1, 1000)
    first = proofs(said())
    assert first["name"] == "full-1"
    assert first["zone"] == "Asia/Shanghai"
    assert first["disk"] == "xfs"
    assert int(first["root"].strip().removesuffix("M")) > 2000, "the root file system has grown into the disk"
    assert "10.77.2.9/16" in first["address"]
    assert first["keys"] == "ssh-ed25519 AAAAC3Nz alice"
    assert sha512_crypt.verify("correct-horse-battery", first["shadow"])

    async with asyncio.timeout(200):
        while (found := await machine.domain(wanted.domain.uuid)) is None or found.state != "Off":
            await machine.shut_down(wanted.domain.uuid)
            await asyncio.sleep(5)
    changed = placed(machine, sha256, "two")
    moved = changed.nics[0].model_copy(update={"ip": IPv4Address("10.77.2.10")})
    guest = changed.guest.model_copy(update={"time_zone": "Europe/Berlin", "ssh_keys": ("ssh-ed25519 BBBBC3Nz bob",)})
    await told(machine, changed.model_copy(update={"guest": guest, "nics": (moved,)}), "another-horse-battery")
    await machine.start(wanted.domain.uuid)
    await until(lambda: said().count("proof: done") == 2, 1000)
    second = proofs(said())
    assert sha512_crypt.verify("another-horse-battery", second["shadow"])
    assert second["disk"] == "xfs"
    assert "10.77.2.10/16" in second["address"]
    assert "10.77.2.9/16" not in second["address"]
    assert second["zone"] == "Europe/Berlin"
    assert second["keys"] == "ssh-ed25519 BBBBC3Nz bob"
    assert said().count("disk data formatted") <= 1
