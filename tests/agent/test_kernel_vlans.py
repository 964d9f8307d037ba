"""Segments on a kernel that has VLAN devices, Debian's own in a small machine: the kernel of tests may have none."""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "vlan_kernel"
MODULES = ("llc", "stp", "mrp", "garp", "bridge", "veth", "8021q")
LIBRARY = Path(sys.base_prefix) / "lib" / f"python3.{sys.version_info.minor}"
UNNEEDED = ("test", "__pycache__", "idlelib", "lib2to3", "ensurepip", "dist-packages", "site-packages", "tkinter")
# What the two modules take from others, without pydantic, whose compiled part has no place in a small machine.
STUBS = {
    "agent/taps.py": 'LEASED, PHYSICAL = "nvl", "nvx"',
    "resources/errors.py": "class HypervisorError(Exception): ...",
    "resources/placement.py": "PlacedNic = PlacementSpec = object",
}


def mini_guest() -> ModuleType:
    """The builder of the mini guest: it knows Debian's kernel, and how an initramfs is written."""
    loader = SourceFileLoader("mini_guest", str(ROOT / "scripts/mini-guest"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


MINI = mini_guest()


def files(tree: Path) -> Iterator[tuple[str, Path | bytes]]:
    """What the machine holds: a shell, Python and ip of this machine, Debian's modules, and the agent's door."""
    yield "init", PROGRAM / "init"
    yield "bin/busybox", next(tree.rglob("bin/busybox"))
    ip, python = (Path(str(shutil.which(name))).resolve() for name in ("ip", "/usr/bin/python3"))
    yield "sbin/ip", ip
    yield "usr/bin/python3", python
    for one in sorted(LIBRARY.rglob("*")):
        if one.is_file() and not {*one.relative_to(LIBRARY).parts[:-1]} & {*UNNEEDED} and "config-" not in str(one):
            yield f"usr/lib/{LIBRARY.name}/{one.relative_to(LIBRARY)}", one
    needed = subprocess.run(
        ["ldd", ip, python, *LIBRARY.glob("lib-dynload/*.so")], capture_output=True, text=True, check=True
    ).stdout
    for one in sorted({Path(found) for found in re.findall(r"(/\S+\.so\S*) \(", needed)}):
        yield (f"lib64/{one.name}" if one.name.startswith("ld-") else f"lib/x86_64-linux-gnu/{one.name}"), one
    for name in MODULES:
        yield f"modules/{name}.ko", next(tree.rglob(f"{name}.ko"))
    for name in ("program.py", "ping.py"):
        yield f"try/{name}", PROGRAM / name
    for name in ("segments", "iproute"):
        yield f"try/nanovirt/agent/{name}.py", ROOT / f"agent/{name}.py"
    yield from ((f"try/nanovirt/{name}", text.encode() + b"\n") for name, text in STUBS.items())


def members(tree: Path) -> Iterator[Any]:
    """The same as entries of an archive, folders first."""
    held = dict(files(tree))
    folders = {str(parent) for name in held for parent in Path(name).parents if parent.name}
    for name in sorted({*folders, "proc", "sys", "dev", "run", "tmp"}):
        yield MINI.Member(name, stat.S_IFDIR | 0o755)
    yield MINI.Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name, content in held.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        yield MINI.Member(name, stat.S_IFREG | 0o755, MINI.unsigned(data) if name.endswith(".ko") else data)


def test_segments_work_on_a_kernel_with_vlan_devices(tmp_path: Path) -> None:
    packages = MINI.packages_now(MINI.CACHE)
    MINI.fetch(packages, MINI.CACHE / "packages")
    tree = tmp_path / "tree"
    for package in packages:
        if package.name.startswith(("linux-image", "busybox")):
            MINI.run("dpkg-deb", "-x", MINI.CACHE / "packages" / package.file, tree)
    (tmp_path / "initrd").write_bytes(gzip.compress(MINI.cpio(members(tree)), 1))
    kernel = next(tree.rglob("boot/vmlinuz-*"))
    machine = ["-machine", "q35", "-m", "768", "-smp", "2", "-nic", "none", "-display", "none", "-no-reboot"]
    boot = ["-kernel", str(kernel), "-initrd", str(tmp_path / "initrd")]
    words = ["-append", "console=ttyS0 quiet mitigations=off nokaslr panic=-1", "-serial", "stdio", "-monitor", "none"]
    done = subprocess.run(
        ["qemu-system-x86_64", *machine, *boot, *words], capture_output=True, text=True, timeout=500, check=False
    )
    said = done.stdout.splitlines()
    assert "END" in said, done.stdout + done.stderr
    assert [line[:3] for line in said[: said.index("END")]] == ["ok "] * 13, done.stdout
