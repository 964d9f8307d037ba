"""A program that lets a file log run on ext4 on a disk that takes no more, which is told once, by a sync.

`python -m tests.faults.lying_disk SEED DISK`, as root in a mount namespace of its own (`command`). The image that is
mounted lies on a tmpfs that is nearly full, so writes succeed and a later sync fails, once; then there is room again,
and the kernel has forgotten. The last line says what the log did, and what was found after a new mount.

There are two such disks. One lies only after the failure (`FORGETS`): everything that it has confirmed before is there,
so the log must have all of it. The other one confirms what it has not written (`CONFIRMS`): a request to the loop
driver of Linux that is half on pages that are there and half on pages that there is no room for counts as carried out
when its first half was (seen on 6.18: a write of 8 KiB of which 4 KiB find room returns 8192, a sync after it succeeds,
and the second half reads as zeros). No log can see that when it happens. But at its first failure the log notes how far
the disk has confirmed, so the next start has everything, or refuses to begin and says what is missing. To have the
first kind, requests are kept to one page: that is written whole or fails.
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
FORGETS, CONFIRMS = "forgets", "confirms"
PAGE = 4096
BLOCK = {FORGETS: PAGE, CONFIRMS: 1024}
"""Bytes; of small blocks more requests begin in one page and end in another."""
BATCHES = 400
REFUSED = "not recovered: StoreCorrupt("


def command(seed: int, disk: str) -> list[str]:
    """What runs this program so that its mounts end with it."""
    own = ["unshare", "--mount", "--propagation", "private"]
    return own + python("-m", "tests.faults.lying_disk", seed, disk)


def main(seed: int, disk: str) -> int:
    """Fill, fail, recover."""
    logging.disable(logging.WARNING)  # that a tail was torn is no news here
    with tempfile.TemporaryDirectory(dir=RAM, prefix="nano-lying-disk-") as work:
        outer, inner = Path(work) / "outer", Path(work) / "inner"
        for folder in (outer, inner):
            folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", outer)
        try:
            make("ext4", outer / "image", DISK, *OPTIONS, "-b", str(BLOCK[disk]))
            with (outer / "image").open("rb+") as image:
                begin = image.read(METADATA)
                image.seek(0)
                image.write(begin)
            mount(outer / "image", inner)
            if disk == FORGETS:
                page_by_page(inner)
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
    print(f"seed {seed}, a disk that {disk}: {found}")  # noqa: T201 - a program's output
    good = not wrong or (disk == CONFIRMS and wrong.startswith(REFUSED))
    return 0 if good and not late and "failed" in words else 1


def page_by_page(folder: Path) -> None:
    """Keep each request to the disk that is mounted there to one page."""
    found = subprocess.run(["findmnt", "-n", "-o", "SOURCE", folder], capture_output=True, text=True, check=True)
    queue = Path("/sys/block") / Path(found.stdout.strip()).name / "queue"
    (queue / "max_sectors_kb").write_text(str(PAGE >> 10))


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
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
