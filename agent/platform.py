"""What of this host enters every definition of a domain: how it computes, and where the files of machines lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanovirt.resources.placement import Domain


@dataclass(frozen=True, slots=True)
class Platform:
    """What of this host enters every definition.

    `images` holds the backing files, `consoles` what guests say on their serial lines, `nvram` the UEFI variables;
    `direct` are the folders whose file system takes O_DIRECT.
    """

    accelerator: Literal["kvm", "tcg"]
    images: Path
    consoles: Path
    code: str = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    variables: str = "/usr/share/OVMF/OVMF_VARS_4M.fd"
    secure_code: str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
    secure_variables: str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
    nvram: Path = Path("/var/lib/libvirt/qemu/nvram")
    direct: frozenset[Path] = frozenset()
    seeds: Path = Path("/var/lib/nano/agent/seeds")


def variables(platform: Platform, domain: Domain) -> Path:
    """Where the firmware keeps its variables; a firmware with Microsoft's keys begins with others."""
    return platform.nvram / f"{domain.uuid}_{'SECURE_' if domain.secure_boot else ''}VARS.fd"


def seed_file(folder: Path, uuid: str) -> Path:
    """The machine's seed."""
    return folder / f"{uuid}.iso"


def console_log(folder: Path, uuid: str) -> Path:
    """What the guest said on its serial line."""
    return folder / f"{uuid}.log"


def console_line(folder: Path, uuid: str) -> Path:
    """The socket of the guest's serial line: one hears it at a time, the others wait."""
    return folder / f"{uuid}.sock"
