"""The recording of what programs do to files: it is the whole truth, or it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.recording import Trace, record
from tests.faults.strace import python
from tests.faults.tree import Name, Rename, Said, Sync, Write

EVERYTHING = """
import os, pathlib, shutil, subprocess, sys, threading
folder = pathlib.Path(sys.argv[1])
def say(word): os.writev(1, [word.encode(), b"\\n"])
(folder / "one").write_bytes(b"a" * 1000)
say("made")
fd = os.open(folder / "one", os.O_RDWR | os.O_APPEND)
os.write(fd, b"\\0tail\\xff")
os.lseek(fd, 10, os.SEEK_SET)
two = os.dup(fd)
os.ftruncate(two, 900)
os.fdatasync(two)
os.posix_fallocate(fd, 0, 2000)
os.pwrite(fd, b"p", 1500)
(folder / "deep").mkdir()
(folder / "one").rename(folder / "deep" / "uno")
os.write(fd, b"under its new name")
say("moved")
shutil.copyfile(folder / "deep" / "uno", folder / "copy")
def write(n):
    with open(folder / f"thread-{n}", "wb", buffering=0) as file:
        for line in range(50):
            file.write(b"%d\\n" % line)
            os.fsync(file.fileno())
threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
child = "import sys; f = open(sys.argv[1], 'ab', buffering=0); f.write(b'child'); f.truncate(3)"
subprocess.run([sys.executable, "-c", child, folder / "thread-0"], check=True)
if os.fork() == 0:
    os.write(fd, b"forked")
    os._exit(0)
os.wait()
os.write(fd, b"parent goes on")
here = os.open(folder, os.O_RDONLY)
os.rename("copy", "thread-1", src_dir_fd=here, dst_dir_fd=here)
os.unlink("thread-2", dir_fd=here)
os.fsync(here)
"""
MAPPING = """
import mmap, sys
with open(sys.argv[1] + "/m", "wb+") as file:
    file.truncate(4096)
    mmap.mmap(file.fileno(), 4096)[0:1] = b"x"
"""
LINK = "import os, sys; open(sys.argv[1] + '/a', 'w').close(); os.link(sys.argv[1] + '/a', sys.argv[1] + '/b')"


def recorded(tmp_path: Path, program: str) -> Trace:
    folder = tmp_path / "recorded"
    folder.mkdir(exist_ok=True)
    return record(python("-c", program, folder), folder, tmp_path / "strace")


def test_whatever_a_program_does_is_followed(tmp_path: Path) -> None:
    trace = recorded(tmp_path, EVERYTHING)  # which compares with what is there in the end
    assert [op.line for op in trace.ops if isinstance(op, Said)] == ["made", "moved"]
    assert sum(isinstance(op, Sync) for op in trace.ops) == 4 * 50 + 2
    assert sum(isinstance(op, Rename) for op in trace.ops) == 2
    made, moved = (trace.ops.index(Said(word)) for word in ("made", "moved"))
    assert Name(0, "one", 1) in trace.ops[:made]
    assert Write(1, 2001, b"under its new name") in trace.ops[made:moved]


def test_recording_goes_on_from_what_is_there(tmp_path: Path) -> None:
    recorded(tmp_path, EVERYTHING)
    trace = recorded(tmp_path, "import sys; open(sys.argv[1] + '/deep/uno', 'ab').write(b'more')")
    (write,) = trace.ops
    assert isinstance(write, Write)
    assert trace.start.files[write.file][-14:] == b"parent goes on"


@pytest.mark.parametrize(("program", "why"), [(MAPPING, "shared mapping"), (LINK, "link of")])
def test_what_cannot_be_followed_fails_the_recording(tmp_path: Path, program: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        recorded(tmp_path, program)


def test_program_that_fails_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 3"):
        recorded(tmp_path, "raise SystemExit(3)")
