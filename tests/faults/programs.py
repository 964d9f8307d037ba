"""Programs that look for faults, run side by side; what each said last is what it has found."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from tests.faults.strace import ROOT, environment

CORES = 2
"""How many of them to run at a time."""


def run_together(commands: Sequence[Sequence[str]], timeout: float) -> list[str]:
    """Run all of them at once to their ends; their last lines (AssertionError: one has found something)."""
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment(),
            cwd=ROOT,
        )
        for command in commands
    ]
    try:
        said = [child.communicate(timeout=timeout)[0] for child in running]
    finally:
        for child in running:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
    failed = [text for child, text in zip(running, said, strict=True) if child.returncode]
    assert not failed, "\n".join(failed)
    return [text.splitlines()[-1] for text in said]
