"""Finding and removing what belongs to a bed: its processes, by the mounts they see, its cgroups and its folder."""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "nano-bed-"
GONE = ".ended-"
LOCK = "lock"
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE = 30.0  # seconds for the kernel to end what was killed


def home() -> Path:
    """Where the folders of beds lie. Short, because a UNIX socket's path has 107 characters."""
    return Path(tempfile.gettempdir())


def members(place: str) -> list[int]:
    """The processes in whose mount namespace something of `place` (`nano-bed-X` or `nano-bed-X/h1`) is mounted.

    Every node of a bed mounts parts of its own folder, so this finds daemons that have left their parent, and never
    a process of somebody else, unlike a namespace's number, which the kernel gives out again.
    """
    own = Path("/proc/self/ns/mnt").readlink()
    verdicts = {own: False}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            namespace = (entry / "ns/mnt").readlink()
            if namespace not in verdicts:
                verdicts[namespace] = f"/{place}/" in (entry / "mountinfo").read_text()
        except OSError:  # ended meanwhile
            continue
        if verdicts[namespace]:
            found.append(int(entry.name))
    return found


def end_members(place: str) -> None:
    """Kills every process of `place` and returns when none is left. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while pids := members(place):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {place} do not end: {pids}")
        time.sleep(0.02)


def cgroups(bed: str) -> list[Path]:
    """The bed's cgroup directories, children first."""
    tops = [top for top in (CGROUPS / bed, *CGROUPS.glob(f"*/{bed}")) if top.is_dir()]
    return [Path(root) for top in tops for root, _, _ in os.walk(top, topdown=False)]


def remove_cgroups(bed: str) -> None:
    """Removes them; the kernel needs a moment after the last process. Raises OSError."""
    deadline = time.monotonic() + PATIENCE
    while paths := cgroups(bed):
        try:
            for path in paths:
                path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def sweep(folder: Path) -> None:
    """Ends the bed in `folder`, whoever made it. Doing it twice, or to half a bed, is no error."""
    end_members(folder.name)
    remove_cgroups(folder.name)
    gone = folder.with_name(f"{GONE}{folder.name}")  # away at once, so that nobody sees half a bed
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def folders() -> Iterator[Path]:
    yield from sorted(path for path in home().glob(f"{PREFIX}*") if path.is_dir())


def make_folder() -> tuple[Path, int]:
    """A new bed's folder, and the descriptor that marks it as in use until it is closed."""
    draft = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=home()))
    (draft / LOCK).touch()
    descriptor = claim(draft)
    folder = draft.rename(draft.with_name(draft.name[1:]))  # seen by others from now on, and locked already
    return folder, descriptor


def claim(folder: Path) -> int:
    """Locks the folder until the returned descriptor is closed. Raises BlockingIOError, or FileNotFoundError."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def in_use(folder: Path) -> bool:
    """Whether somebody holds the bed's lock."""
    try:
        os.close(claim(folder))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def sweep_stale() -> None:
    """Removes the beds of test runs that were killed together with their undertaker."""
    for folder in folders():
        if not in_use(folder):
            sweep(folder)
    for folder in home().glob(f"{GONE}{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def leftovers() -> list[str]:
    """What is left of beds that have ended: processes, cgroups, mounts and folders, one line each. Better empty."""
    names = {folder.name for folder in folders()}
    names |= {path.name for path in (*CGROUPS.glob(f"{PREFIX}*"), *CGROUPS.glob(f"*/{PREFIX}*")) if path.is_dir()}
    names |= {word.split("/")[0] for word in Path("/proc/self/mountinfo").read_text().split("/") if PREFIX in word}
    found = []
    for name in sorted(name for name in names if not in_use(home() / name)):
        found += [f"{name}: process {pid}" for pid in members(name)]
        found += [f"{name}: cgroup {path}" for path in cgroups(name)]
        found.append(f"{name}: folder or mount")
    return found
