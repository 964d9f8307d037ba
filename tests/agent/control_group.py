"""What the kernel's control group of a machine says."""

from __future__ import annotations

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def value(run: str, controller: str, file: str) -> int:
    """A number in the group of the machine as a whole; `run` is SeenDomain's."""
    pid = run.partition(".")[0]
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    place = next(path for _, names, path in (line.split(":", 2) for line in lines) if controller in names.split(","))
    return int((CGROUPS / controller / Path(place).parent.relative_to("/") / file).read_text(encoding="ascii"))
