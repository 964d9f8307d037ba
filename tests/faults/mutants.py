"""Mutants of the store: one fault each, planted into a copy of the source, and the test that has to catch it.

`python -m tests.faults.mutants [NAME...]` prints the table. A new part of the store comes with rows of its own: what
would go wrong unseen if its line were not there? The text to replace has to stand in the file exactly once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.programs import CORES
from tests.faults.strace import ROOT, finish

UNWANTED = shutil.ignore_patterns("node_modules", "*.pyc.*")
"""Eight thousand files of a portal that no catcher opens, and those that another process is writing."""
COPIED = ("agent", "controllers", "portal", "resources", "tests", ".src", "pyproject.toml")
SEED = "1"
PATIENCE = 240
TRIES = 4
"""A catcher that watches threads misses one mutant in a few runs: they do not take the same turns twice."""

POWER_CUTS = ("-m", "tests.faults.power_cuts", "--seed", SEED, "--of-a-cut", "12", "--states", "2000")
HISTORY_CUTS = ("-m", "tests.faults.power_cuts", "--seed", SEED, "--of-a-cut", "24", "--story", "6")
"""A story that keeps hardly any history, so that much depends on each snapshot."""
ROT = ("-m", "tests.faults.rot", "--seed", SEED, "--every", "101")


def pytest(*words: str) -> tuple[str, ...]:
    """The command of a test; `words`: a path below tests/ and, if wanted, what selects within it."""
    path, *selection = words
    return ("-m", "pytest", "-q", "-x", f"tests/{path}", *selection)


CONTRACT = pytest("resources/test_store.py", "-k", "taken_once")
BROKEN_LOG = pytest("resources/test_store.py", "-k", "full or fail")
TAKEN_BACK = pytest("faults/test_log_under_faults.py", "-k", "confirmed_before_a_failure")
NEVER_AGAIN = pytest("faults/test_log_under_faults.py", "-k", "never_tried_again")
UNSYNCED = pytest("faults/test_log_under_faults.py", "-k", "may_have_left_unsynced")
"""Power cuts find it, too, but only in every second run of so many states."""
SHORT_WRITES = pytest("faults/test_log_at_every_call.py", "-k", "all-again-SHORT")
OUT_OF_ORDER = pytest("resources/test_recovery.py", "-k", "does_not_follow")
RESTORED = pytest("resources/test_backup.py", "-k", "reuse_of_a_revision")
REPAIRED = pytest("resources/test_recovery.py", "-k", "gives_up_what_was_named")
COMPACTION = pytest("resources/test_compaction.py", "-k", "snapshot_upon_snapshot or same_after")


@dataclass(frozen=True)
class Mutant:
    """What is wrong in it, how it comes about, and the command that has to fail then."""

    name: str
    file: str
    old: str
    new: str
    catcher: Sequence[str]


SEGMENTS, RECOVERY, LOG, ENGINE = (f"resources/{name}.py" for name in ("segments", "recovery", "file_log", "engine"))
DIRECTORY, COMPACT, SNAPSHOTS = (f"resources/{name}.py" for name in ("store_directory", "compaction", "snapshots"))

MUTANTS = (
    # --- durability ---
    Mutant("skip the sync of a batch", SEGMENTS, "        os.fdatasync(self._fd)\n", "", POWER_CUTS),
    Mutant(
        "acknowledge before the sync",
        SEGMENTS,
        "        write_all(self._fd, content)\n        os.fdatasync(self._fd)\n",
        "        os.fdatasync(self._fd)\n        write_all(self._fd, content)\n",
        POWER_CUTS,
    ),
    Mutant(
        "acknowledge before the write",
        ENGINE,
        "            batch = self._take()\n",
        "            batch = self._take()\n            self._release(self._staged, None)\n",
        BROKEN_LOG,
    ),
    Mutant(
        "skip the sync of a new segment",
        SEGMENTS,
        "            write_all(fd, line)\n            os.fsync(fd)\n",
        "            write_all(fd, line)\n",
        POWER_CUTS,
    ),
    Mutant("lose the sync of a new segment's folder", SEGMENTS, "        sync_directory(wal)\n", "", POWER_CUTS),
    Mutant(
        "lose the sync of every folder",
        SEGMENTS,
        "    try:\n        os.fsync(fd)\n    finally:",
        "    try:\n        pass\n    finally:",
        POWER_CUTS,
    ),
    Mutant(
        "skip the sync of the small files",
        DIRECTORY,
        "        write_all(fd, content)\n        os.fsync(fd)\n",
        "        write_all(fd, content)\n",
        POWER_CUTS,
    ),
    Mutant(
        "trust what the writer before left unsynced",
        RECOVERY,
        "        os.fsync(fd)\n        os.posix_fadvise",
        "        os.posix_fadvise",
        UNSYNCED,
    ),
    Mutant("lose the sync of the folder above", DIRECTORY, "    sync_directory(directory.parent)\n", "", POWER_CUTS),
    Mutant(
        "lose the sync of a snapshot's name",
        SNAPSHOTS,
        "    unborn.rename(path)\n    sync_directory(path.parent)\n",
        "    unborn.rename(path)\n",
        HISTORY_CUTS,
    ),
    Mutant("skip the sync of snapshots and history", "resources/trickle.py", "    os.fsync(fd)\n", "", POWER_CUTS),
    Mutant(
        "remove a segment before its copy has a durable name",
        COMPACT,
        "    unborn.rename(kept)\n    sync_directory(history)\n",
        "    unborn.rename(kept)\n",
        HISTORY_CUTS,
    ),
    Mutant(
        "give up a part of the history with one sync",
        COMPACT,
        '        path.unlink()\n        sync_directory(directory / "history")',
        "        path.unlink()\n        #",
        HISTORY_CUTS,
    ),
    Mutant(
        "take a batch that arrived out of order for damage",
        SEGMENTS,
        "frame.synced > rev",
        "frame.rev > rev",
        POWER_CUTS,
    ),
    # --- failures ---
    Mutant(
        "write on after a failure",
        LOG,
        "            self._failure = error\n            self._refuse_after_failure()",
        "            raise StoreFailed(str(error)) from error",
        NEVER_AGAIN,
    ),
    Mutant(
        "forget at a failure how far the disk has confirmed",
        LOG,
        "            self._note_synced()  # a disk that takes back",
        "            #",
        TAKEN_BACK,
    ),
    Mutant(
        "believe that every write is whole",
        SEGMENTS,
        "        rest = rest[os.write(fd, rest) :]",
        "        rest = rest[os.write(fd, rest) * 0 + len(rest) :]",
        SHORT_WRITES,
    ),
    # --- rot ---
    Mutant("drop the check of prev_crc", SEGMENTS, "frame.prev == after.crc and ", "", ROT),
    Mutant("drop the check of the revision", SEGMENTS, " and frame.rev == after.rev + 1", "", OUT_OF_ORDER),
    Mutant("drop the checksum", SEGMENTS, ' if b"%08x" % crc == start[0] else None', "", ROT),
    Mutant(
        "truncate on damage in the middle",
        RECOVERY,
        "    damage = _damage_behind(path, content, last) if torn else None\n",
        "    damage = None\n",
        ROT,
    ),
    Mutant("truncate what was known to be synced", RECOVERY, "    if synced > found.rev:", "    if False:", ROT),
    Mutant(
        "believe a snapshot without its checksum", SNAPSHOTS, "        if not _whole(file):", "        if False:", ROT
    ),
    # --- what is stored ---
    Mutant(
        "admit against committed instead of pending",
        ENGINE,
        "        held = self._pending.get(key)\n",
        "        held = None\n",
        CONTRACT,
    ),
    Mutant(
        "sum up the last write of each object but one",
        COMPACT,
        "last[_name(write)] == (frame.rev, place)",
        "last[_name(write)] != (frame.rev, place)",
        COMPACTION,
    ),
    # --- revisions ---
    Mutant(
        "reuse a revision after a restore",
        "resources/restoring.py",
        "contents.revision + RAISED",
        "contents.revision",
        RESTORED,
    ),
    Mutant("reuse a revision after a repair", RECOVERY, "found.rev + RAISED", "found.rev", REPAIRED),
)


@dataclass(frozen=True)
class Ending:
    """What became of a command on a copy of the source."""

    code: int
    said: str
    seconds: float

    @property
    def why(self) -> str:
        """The line that says what was wrong."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("E  ", "FAILED"))]
        return " ".join((telling or lines or ["?"])[0 if telling else -1].split())


def run(catcher: Sequence[str], mutant: Mutant | None = None) -> Ending:
    """Run a command on a copy of the source with that mutant, or none, in it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nano-mutant-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=UNWANTED)
            else:
                shutil.copy(ROOT / name, copy / name)
        if mutant:
            plant(mutant, copy / mutant.file)
        child = subprocess.Popen(
            [sys.executable, *catcher],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": f"{copy}:{copy / '.src'}"},
        )
        code, said, _ = finish(child, PATIENCE)
    return Ending(code, said, time.monotonic() - began)


def plant(mutant: Mutant, file: Path) -> None:
    """Change the text (AssertionError: it is not there exactly once)."""
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: its text stands {text.count(mutant.old)} times in {file.name}"
    file.write_text(text.replace(mutant.old, mutant.new))


def table(mutants: Iterable[Mutant]) -> Iterator[tuple[str, bool]]:
    """A row for each catcher on the sound source and for each mutant; whether it is right."""
    mutants = list(mutants)
    catchers = list(dict.fromkeys(tuple(mutant.catcher) for mutant in mutants))
    with ThreadPoolExecutor(CORES) as pool:
        sound = pool.map(run, catchers)
        sick = pool.map(tried, mutants)
        for catcher, ending in zip(catchers, sound, strict=True):
            wrong = f"FAILS: {ending.why}" if ending.code else "passes"
            yield f"sound source | {title(catcher)} | {wrong} | {ending.seconds:.0f} s", not ending.code
        for mutant, ending in zip(mutants, sick, strict=True):
            caught = f"caught: {ending.why[:160]}" if ending.code == 1 else f"NOT CAUGHT ({ending.code})"
            yield f"{mutant.name} | {title(mutant.catcher)} | {caught} | {ending.seconds:.0f} s", ending.code == 1


def tried(mutant: Mutant) -> Ending:
    """How the catcher ended, the last time of several if it caught nothing."""
    for _ in range(TRIES - 1):
        if (ending := run(mutant.catcher, mutant)).code:
            return ending
    return run(mutant.catcher, mutant)


def title(catcher: Sequence[str]) -> str:
    """What to call a command in the table."""
    return " ".join(word for word in catcher[1:] if word not in {"-q", "-x", "-p", "no:cacheprovider", "pytest"})


def main() -> int:
    """Print the table, of the named mutants or all."""
    names = sys.argv[1:]
    assert set(names) <= {mutant.name for mutant in MUTANTS}, f"the names are {[mutant.name for mutant in MUTANTS]}"
    right = True
    for row, good in table(mutant for mutant in MUTANTS if not names or mutant.name in names):
        print(row, flush=True)  # noqa: T201 - a program's output
        right &= good
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
