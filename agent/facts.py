"""What this host is: processors, memory, bridges, storage, versions, as the kernel tells it; no libvirt."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nanovirt.agent.segments import Segment, read_alias
from nanovirt.resources.host import Amounts
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import StorageFact

MIB = 2**20

FLAGS = {"vmx", "svm"}
STORAGE_MODE = 0o711


def cpu_virtualizes(cpuinfo: str) -> bool:
    """Whether the processor's flags say so. A /dev/kvm may open, and make machines that hang, where they do not."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return not FLAGS.isdisjoint(line.split())


def kvm_usable(cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> bool:
    """Whether the processor and the device both say that KVM works here."""
    return device.is_char_device() and cpu_virtualizes(cpuinfo.read_text(encoding="ascii", errors="replace"))


def memory_total(meminfo: str) -> int:
    """Bytes of memory of the machine, from /proc/meminfo."""
    return next(int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemTotal:"))


def bridges(network: Path = Path("/sys/class/net")) -> tuple[str, ...]:
    """The names of the host's bridges, in order; those of VLANs that the agent made are not the host's."""
    found = (one.parent.name for one in network.glob("*/bridge"))
    return tuple(sorted(name for name in found if segment(name, network) is None))


def segment(bridge: str, network: Path = Path("/sys/class/net")) -> Segment | None:
    """What a bridge was made for by the agent; None for one of the host's own, and for one that is not there."""
    if "/" in bridge:
        return None
    try:
        return read_alias((network / bridge / "ifalias").read_text().strip())
    except OSError:  # it has just gone, or has no alias
        return None


def boot_id() -> str:
    """Differs for each boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def agent_version() -> str:
    """Version of this program; "" when it runs without being installed."""
    try:
        return version("nanovirt")
    except PackageNotFoundError:
        return ""


def capacity(storage: Iterable[StorageFact]) -> Amounts:
    """What the host has. Paths on one file system count once."""
    disks = {Path(one.path).stat().st_dev: one.total for one in storage if not one.error}
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    memory = memory_total(meminfo) // MIB * MIB
    return Amounts(cpus=os.cpu_count() or 1, memory=Bytes(memory), disk=Bytes(sum(disks.values())))


def storage(paths: Sequence[str]) -> tuple[StorageFact, ...]:
    """Room in each path, or why it cannot be used."""
    return tuple(_storage(path) for path in paths)


def _storage(path: str) -> StorageFact:
    """Missing parents are not made: where a disk is to be mounted, volumes would land on the system's own."""
    folder = Path(path)
    try:
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(STORAGE_MODE)
        room = os.statvfs(folder)
    except FileNotFoundError:
        return StorageFact(path=path, error=f"there is no {folder.parent}; make it, or mount its disk")
    except OSError as error:
        return StorageFact(path=path, error=error.strerror or type(error).__name__)
    if room.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
        return StorageFact(path=path, error="cannot be written")
    return StorageFact(path=path, total=Bytes(room.f_blocks * room.f_frsize), free=Bytes(room.f_bavail * room.f_frsize))
