"""A program that lets a file log run on ext4 on a disk that takes no more, which is told once, by a sync.

`python -m tests.faults.lying_disk SEED`, as root in a mount namespace of its own (`command`). The image that is mounted
lies on a tmpfs that is nearly full, so writes succeed and a later sync fails, once; then there is room again and the
kernel has forgotten. The last line says what the log did, and what was found after a new mount.

That the disk then lacks the last records, whose syncs it had confirmed in the moments before, happens and is printed:
it is the disk's lie, which no log can see. What is asked of the log is to believe nothing afterwards, and to open again
without inventing anything.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.loop_cuts import make, mount, run, unmount
from tests.faults.power_cuts import RAM
from tests.faults.promises import Promise, verdict
from tests.faults.strace import environment, finish, python

DISK = 64 << 20
LEFT = 1 << 19
"""Bytes of both the image and the disk that it lies on, and what is left of that."""
METADATA = 6 << 20
"""Bytes at the beginning of the image that are there in earnest, so that only data meets the end of the disk.

A journal that cannot be written would end the file system, which is honest.
"""
OPTIONS = ("-N", "1024", "-J", "size=4", "-E", "packed_meta_blocks=1,lazy_itable_init=0,lazy_journal_init=0")
BATCHES = 400


def command(seed: int) -> list[str]:
    """What runs this program so that its mounts end with it."""
    own = ["unshare", "--mount", "--propagation", "private"]
    return own + python("-m", "tests.faults.lying_disk", seed)


def main(seed: int) -> int:
    """Fill, fail, recover."""
    logging.disable(logging.WARNING)  # that a tail was torn is no news here
    with tempfile.TemporaryDirectory(dir=RAM, prefix="nano-lying-disk-") as work:
        outer, inner = Path(work) / "outer", Path(work) / "inner"
        for folder in (outer, inner):
            folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", outer)
        try:
            make("ext4", outer / "image", DISK, *OPTIONS)
            with (outer / "image").open("rb+") as image:
                begin = image.read(METADATA)
                image.seek(0)
                image.write(begin)
            mount(outer / "image", inner)
            try:
                said = filled(outer, inner, seed)
            finally:
                unmount(inner)
            mount(outer / "image", inner)
            try:
                wrong = verdict(Promise(seed).hear(said), inner / "store", goes_on=True)
            finally:
                unmount(inner)
        finally:
            unmount(outer)
    words = [line.split()[0] for line in said]
    late = "acked" in words[words.index("failed") :] if "failed" in words else False
    found = f"{dict(Counter(words))}, acknowledged after a failure: {late}, {wrong or 'whole'}"
    print(f"seed {seed}: {found}")  # noqa: T201 - a program's output
    invented = wrong and not wrong.startswith("lost")
    return 1 if late or invented or "failed" not in words else 0


def filled(outer: Path, inner: Path, seed: int) -> list[str]:
    """What the writer said; the disk takes no more at first, and enough again after the first failure."""
    run("sync", "-f", inner)
    with (outer / "filler").open("wb") as filler:
        free = int(subprocess.run(["stat", "-f", "-c", "%a", outer], capture_output=True, check=True).stdout) * 4096
        for _ in range(0, free - LEFT, 1 << 16):
            filler.write(bytes(1 << 16))
    child = subprocess.Popen(
        python("-m", "tests.faults.log_writer", inner / "store", BATCHES, seed, 0),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )
    assert child.stdout
    try:
        said = []
        for line in child.stdout:
            said.append(line.strip())
            if line.startswith("failed"):
                (outer / "filler").unlink(missing_ok=True)
    finally:
        finish(child, 60)
    return said


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
