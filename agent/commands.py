"""Programs of the host that run to their end, each within a deadline: how nft, ip and qemu-img are called."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nanovirt.resources.errors import HypervisorError


class Ended(NamedTuple):
    """Exit status, and what it said on its standard output and error; bytes that are no text are replaced."""

    status: int
    output: str
    complaint: str


async def ended(
    argv: Sequence[str], package: str, seconds: float, *, feed: str = "", environment: Mapping[str, str] | None = None
) -> Ended:
    """Run it with `feed` on its standard input. One that hangs, or that nobody waits for any more, is killed.

    HypervisorError: it cannot be run (`package` has it), or did not end within so many seconds.
    """
    stdin = PIPE if feed else DEVNULL
    try:
        running = await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=PIPE, stderr=PIPE, env=environment)
    except OSError as error:
        raise HypervisorError(f"{argv[0]} cannot be run: {error.strerror}; install the package {package}") from error
    try:
        async with asyncio.timeout(seconds):
            output, complaint = await running.communicate(feed.encode() if feed else None)
    except TimeoutError as error:
        raise HypervisorError(f"{' '.join(argv)[:200]} did not end within {seconds:g} s") from error
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return Ended(running.returncode or 0, output.decode(errors="replace"), complaint.decode(errors="replace").strip())
