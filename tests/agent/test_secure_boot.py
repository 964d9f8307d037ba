"""A guest that is signed, under firmware with Secure Boot, with a TPM: all that Windows 11 asks of a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.test_guest_agent import run
from tests.agent.test_hypervisor import booting, made, says
from tests.testbed import Host


@pytest.fixture
def signed_guest(tmp_path: Path) -> tuple[str, Path]:
    """One that firmware with Secure Boot starts."""
    return made(tmp_path / "signed.qcow2", "--signed")


@pytest.mark.timeout(300)
async def test_signed_guest_boots_under_secure_boot_and_measures_itself_into_its_tpm(
    machine: LibvirtMachine, host: Host, signed_guest: tuple[str, Path]
) -> None:
    """Microsoft's key, shim, GRUB and Debian's kernel: one chain, and a TPM that lives and dies with the definition."""
    wanted = await booting(machine, signed_guest, "windows-11")
    await says(machine, wanted, "nano-guest: ready")
    tpm = "cd /sys/class/tpm/tpm0; echo version $(cat tpm_version_major); echo pcr7 $(cat pcr-sha256/7); dmesg"
    said = await run(machine, wanted.domain.uuid, "/bin/sh", "-c", tpm)
    assert "Kernel is locked down from EFI Secure Boot" in said
    assert "version 2\n" in said
    state = re.search(r"^pcr7 ([0-9A-F]{64})$", said, re.MULTILINE)
    assert state is not None
    assert int(state[1], 16)  # firmware measured its keys
    kept = host.own(f"/var/lib/libvirt/swtpm/{wanted.domain.uuid}")
    await machine.destroy(wanted.domain.uuid)
    assert kept.is_dir()
    await machine.define(wanted, "again")
    assert kept.is_dir()
    await machine.undefine(wanted.domain.uuid)
    assert not kept.exists()
