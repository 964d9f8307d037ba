"""How programs of the host are called: real ones, that answer, refuse, hang, or are not there."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from nanovirt.agent.commands import Ended, ended
from nanovirt.resources.errors import HypervisorError


async def test_status_output_and_complaint_are_given_as_they_are() -> None:
    assert await ended(("sh", "-c", "cat; echo no >&2; exit 3"), "dash", 10, feed="yes\n") == Ended(3, "yes\n", "no")
    assert (await ended(("printf", "\\377"), "coreutils", 10)).output == "\ufffd"


async def test_program_reads_nothing_and_sees_its_environment_alone() -> None:
    found = await ended(("sh", "-c", "cat; echo $HOME$ONE"), "dash", 10, environment={"PATH": os.defpath, "ONE": "1"})
    assert found.output == "1\n"


async def test_program_that_is_not_there_is_named_with_its_package() -> None:
    with pytest.raises(HypervisorError, match=r"^nanno cannot be run: No such file .*; install the package tools$"):
        await ended(("nanno",), "tools", 10)


def gone(file: Path) -> bool:
    """Whether the process that wrote its number there has ended within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not Path(f"/proc/{file.read_text().strip()}").exists():
            return True
        time.sleep(0.05)
    return False


async def test_program_that_hangs_is_killed_and_named(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(HypervisorError, match=r"^sh -c .* did not end within 3 s$"):
        await ended(("sh", "-c", f"echo $$ >{file}; exec sleep 600"), "dash", 3)
    assert gone(file)


async def test_program_that_nobody_waits_for_any_more_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ended(("sh", "-c", f"echo $$ >{file}; exec sleep 600"), "dash", 600))
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
    assert gone(file)
