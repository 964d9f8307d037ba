"""Programs run so that a chosen system call of theirs kills them or fails, for tests of what survives that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KILL = "signal=KILL"


@dataclass(frozen=True)
class Fault:
    """`what` (`KILL`, `error=EIO`, `delay_enter=MICROSECONDS` ...) befalls the call number `when` of `syscall`.

    Each thread counts its own calls. `when` is strace's: `3`, `3+` (from the third on), `2+3` (every third from the
    second). A killed call has not been carried out, neither has a failed one.
    """

    syscall: str
    what: str
    when: int | str = 1

    def __str__(self) -> str:
        return f"{self.syscall}:{self.what}:when={self.when}"


@dataclass(frozen=True)
class Ending:
    """How a program ended; `killed` is true when the fault's KILL (or any other) took it, `calls` is the trace."""

    code: int
    said: list[str]
    complained: str
    calls: list[str]

    @property
    def killed(self) -> bool:
        return self.code in {-signal.SIGKILL, 128 + signal.SIGKILL}

    @property
    def hit(self) -> bool:
        """Whether the fault happened at all."""
        return self.killed or any("(INJECTED)" in call for call in self.calls)

    @property
    def moments(self) -> range:
        """Every `when` that would have hit this run: up to the calls of the thread that made most of them."""
        threads = Counter(call.split()[0] for call in self.calls if "(" in call)
        return range(1, max(threads.values(), default=0) + 1)


def python(*arguments: object) -> list[str]:
    """Command line of a Python program under this interpreter."""
    return [sys.executable, "-B", *map(str, arguments)]


NEVER = "65535"
"""A `when` that no program reaches (strace counts no further): for a run that only counts calls."""


def each(moments: Iterable[int], attempt: Callable[[int], Ending]) -> dict[int, Ending]:
    """`attempt` at every moment, a few at a time, since most of a run is waiting for the disk."""
    moments = list(moments)
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(moments, pool.map(attempt, moments), strict=True))


def run(
    command: Sequence[str], trace: Path, *faults: Fault, timeout: float = 30, env: Mapping[str, str] | None = None
) -> Ending:
    """Run `command` to its end under strace with these faults; `trace` is where the calls named by them are listed.

    The program sees `tests` and `nanovirt` on its path. It and its children end with this call, whatever happens.
    """
    calls = ",".join(sorted({fault.syscall for fault in faults}) or ["none"])
    inject = [word for fault in faults for word in ("-e", f"inject={fault}")]
    # No --seccomp-bpf, much as it would help: with it strace 6.1 traces the call and silently does not send the signal.
    strace = ["strace", "-f", "-qq", "-y", "-o", str(trace), "-e", f"trace={calls}", *inject, "--"]
    child = subprocess.Popen(
        [*strace, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(env),
    )
    code, said, complained = finish(child, timeout)
    assert trace.exists(), complained
    return Ending(code, said.splitlines(), complained, trace.read_text().splitlines())


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What lets a program see `tests` and `nanovirt` on its path."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.src'}", **(more or {})}


def finish(child: subprocess.Popen[str], timeout: float) -> tuple[int, str, str]:
    """Wait for a program that leads a session of its own; it and its children end with this call, whatever happens."""
    try:
        said, complained = child.communicate(timeout=timeout)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return child.returncode, said, complained
