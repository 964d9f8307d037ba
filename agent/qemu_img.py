"""The only place that runs qemu-img: argument lists, formats always given, limits and a deadline for each run."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from nanovirt.agent.commands import ended
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError

CREATE_SECONDS = 30.0
HEAD_SECONDS = 10
MEMORY = 2 << 30
"""Address space of a conversion: it reads what a stranger made. Its threads have stacks of 8 MiB, 64 at most."""
FULL = "No space left on device"
Argv = tuple[str, ...]


def create_argv(file: Path, size: int, backing: Path | None = None) -> Argv:
    """A new qcow2 file of `size` bytes, an overlay of the qcow2 file `backing` if one is given."""
    below = ("-F", "qcow2", "-b", _operand(backing)) if backing is not None else ()
    return ("qemu-img", "create", "-q", "-f", "qcow2", *below, "--", _operand(file), str(size))


def resize_argv(file: Path, size: int) -> Argv:
    """Let the qcow2 file have `size` bytes, more than it has."""
    return ("qemu-img", "resize", "-q", "-f", "qcow2", "--", _operand(file), str(size))


def head_argv(file: Path, target: Path, size: int) -> Argv:
    """The first `size` bytes of the qcow2 file as a guest sees them, into the file `target`."""
    asked = (f"bs={size}", "count=1", f"if={_operand(file)}", f"of={_operand(target)}")
    return (*_limits(HEAD_SECONDS), "qemu-img", "dd", "-f", "qcow2", "-O", "raw", *asked)


def convert_argv(source: Path, form: str, target: Path, seconds: int) -> Argv:
    """A fresh qcow2 file from `source`, taken for nothing but `form`; at most `seconds` of processor time."""
    limits = _limits(seconds)
    return (*limits, "qemu-img", "convert", "-q", "-f", form, "-O", "qcow2", "--", _operand(source), _operand(target))


def _limits(seconds: int) -> Argv:
    return ("prlimit", f"--cpu={seconds}", f"--as={MEMORY}", "--core=0")


def _operand(path: Path) -> str:
    """QEMU takes `json:` and `nbd:` at the beginning of a name for more than a name; an absolute path has neither."""
    if not path.is_absolute():
        raise HypervisorError(f"{path} is not an absolute path")
    return str(path)


async def create(file: Path, size: int, backing: Path | None = None) -> None:
    """Make the file. NoRoom or HypervisorError when it cannot be made; the caller removes what is left of it."""
    argv = create_argv(file, size, backing)
    await asyncio.to_thread(_reserve, file)
    await _run(argv, file, CREATE_SECONDS)


async def shrink(file: Path, size: int) -> None:
    """Cut it off at `size` bytes. HypervisorError, also when a machine uses the file."""
    quiet, rest = resize_argv(file, size)[:3], resize_argv(file, size)[3:]
    await _run((*quiet, "--shrink", *rest), file, CREATE_SECONDS)


async def head(file: Path, size: int) -> bytes:
    """Its first `size` bytes as a guest sees them. NoRoom, or HypervisorError, also when a machine uses the file."""
    target = file.with_name(f"{file.name}.head")
    target.unlink(missing_ok=True)
    argv = head_argv(file, target, size)
    try:
        await asyncio.to_thread(_reserve, target)
        await _run(argv, target, CREATE_SECONDS)
        return await asyncio.to_thread(_beginning, target, size)
    finally:
        target.unlink(missing_ok=True)


def _beginning(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(size)


async def grow(file: Path, size: int) -> None:
    """Grow it. NoRoom, or HypervisorError, also when a machine uses the file."""
    await _run(resize_argv(file, size), file, CREATE_SECONDS)


async def convert(source: Path, form: str, target: Path, seconds: int) -> None:
    """Convert, reading at most `seconds` of processor time. NoRoom, or HypervisorError with what qemu-img said."""
    argv = convert_argv(source, form, target, seconds)
    await asyncio.to_thread(_reserve, target)
    await _run(argv, target, 4.0 * seconds + 60.0)


def _reserve(file: Path) -> None:
    """Make the file that qemu-img fills, for its owner only, whatever the umask; nothing must have its name."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoom(str(file.parent)) from error
        raise HypervisorError(f"{file} cannot be made: {error.strerror}") from error


async def _run(argv: Argv, target: Path, seconds: float) -> None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"}
    status, _, complaint = await ended(argv, "qemu-utils", seconds, environment=environment)
    if status:
        said = complaint[-500:]
        if FULL in said:
            raise NoRoom(str(target.parent))
        raise HypervisorError(f"qemu-img failed on {target} ({status}): {said or 'it was ended'}")
