"""What a program and its children do to the files below a directory, in order and with all bytes, seen by strace.

Whatever cannot be followed (a shared mapping, links, calls that are not known here) fails the recording rather than
being left out, and `record` compares what the trace leads to with what the directory holds.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults.strace import environment, finish
from tests.faults.tree import Name, Op, Rename, Resize, Said, Sync, Tree, Unname, Write, picture_of

FOLLOWED = (
    "open openat creat write writev pwrite64 pwritev pwritev2 ftruncate truncate fallocate fsync fdatasync syncfs sync "
    "sync_file_range rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat link linkat symlink symlinkat lseek "
    "close dup dup2 dup3 fcntl clone clone3 fork vfork sendfile copy_file_range splice mmap io_uring_setup io_submit"
).replace(" ", ",?")
DIED = {-signal.SIGKILL, 128 + signal.SIGKILL}
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_BORN = re.compile(r"\d+ +(?:<\.\.\. )?(?:clone3?|v?fork)\b.*")


@dataclass(frozen=True)
class Trace:
    """Everything from `start` on, of which all is durable."""

    start: Tree
    ops: tuple[Op, ...]

    @property
    def end(self) -> Tree:
        """What it leads to."""
        tree = copy_of(self.start)
        for op in self.ops:
            tree.do(op)
        return tree


@dataclass
class _Open:
    """An open file description: what dup and fork share."""

    node: int
    at: int
    appends: bool


class _Call(NamedTuple):
    thread: str
    name: str
    arguments: list[str]
    result: int
    begun: int
    """How many operations had been done when it began."""


def record(
    command: Sequence[str],
    directory: Path,
    raw: Path,
    *,
    after: Trace | None = None,
    fault: str = "",
    timeout: float = 60,
) -> Trace:
    """Run a program to its end and give what it did below `directory`; `raw` keeps what strace wrote.

    With `after` it goes on from that trace, by another program on the same running system, and is given with it.
    `fault` is one for strace, such as `fdatasync:signal=KILL:when=3`. AssertionError: the program failed otherwise than
    by that, or the recording is not the whole truth.
    """
    before = after or Trace(Tree.of(directory), ())
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", str(1 << 26), "-o", str(raw), "-e", "signal=none"]
    strace += ["-e", f"inject={fault}"] if fault else []
    strace += ["-e", f"trace=?{FOLLOWED}", "--", *command]
    child = subprocess.Popen(
        strace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )
    code, said, complained = finish(child, timeout)
    assert code == 0 or (fault and code in DIED), f"{command} ended with {code}: {said}{complained}"
    trace, actual = parse(raw, directory, before), picture_of(directory)
    if code and trace.end.picture() != actual:
        trace = parse(raw, directory, before, died_within=True)
    assert [op.line for op in trace.ops[len(before.ops) :] if isinstance(op, Said)] == said.splitlines()
    held = trace.end.picture()
    assert held.keys() == actual.keys(), (held.keys(), actual.keys())
    assert not [path for path in held if held[path] != actual[path]]
    return trace


def copy_of(tree: Tree) -> Tree:
    """One that can be changed apart from it."""
    folders = {node: dict(names) for node, names in tree.folders.items()}
    return Tree(folders, {node: bytearray(content) for node, content in tree.files.items()}, tree.born)


def parse(raw: Path, directory: Path, before: Trace, *, died_within: bool = False) -> Trace:
    """The trace in a file that strace wrote; `died_within`: calls that did not return have been carried out."""
    follower = _Follower(os.fsencode(directory.resolve()), before.end, list(before.ops))
    lines = raw.read_text().splitlines()
    follower.note_births(line for line in lines if _BORN.match(line))
    for line in lines:
        follower.read(line)
    if died_within:
        follower.end_begun()
    return Trace(before.start, tuple(follower.ops))


@dataclass
class _Follower:
    directory: bytes
    tree: Tree
    ops: list[Op] = field(default_factory=list)
    tables: dict[str, dict[int, _Open]] = field(default_factory=dict)
    parents: dict[str, tuple[str, bool]] = field(default_factory=dict)
    begun: dict[str, tuple[str, int]] = field(default_factory=dict)

    def note_births(self, lines: Iterable[str]) -> None:
        """Who made which thread or process, since a child may be heard of before the call that made it returns."""
        waiting: dict[str, str] = {}
        for part in lines:
            thread = part.split()[0]
            line = waiting.pop(thread, "") + part
            if "<unfinished" in line and "resumed>" not in line:
                waiting[thread] = line
            elif made := re.search(r"= (\d+)", line.rpartition(")")[2]):
                self.parents[made[1]] = (thread, "CLONE_FILES" in line)

    def read(self, line: str) -> None:
        """One line of strace."""
        if found := _BEGUN.fullmatch(line):
            thread, name, begin = found.groups()
            self.begun[thread] = (f"{name}({begin}", len(self.ops))
            if name == "writev":
                self._say(_arguments(begin))
            return
        begun = len(self.ops)
        again = False
        if found := _ENDED.fullmatch(line):
            thread, _, rest = found.groups()
            (begin, begun), again = self.begun.pop(thread), True
            line = f"{thread} {begin}{rest}"
        if not (found := _WHOLE.fullmatch(line)):
            assert re.search(r"\+\+\+ |--- |<detached \.\.\.>|restart_syscall", line), line[:300]
            return
        thread, name, arguments, result, _ = found.groups()
        done = int(result) if result.lstrip("-").isdecimal() else -1
        if name == "writev" and not again:
            self._say(_arguments(arguments))
        if done >= 0:
            self._carry_out(_Call(thread, name, _arguments(arguments), done, begun))

    def end_begun(self) -> None:
        """Carry out what changes files and was under way when the program died."""
        for thread, (line, begun) in self.begun.items():
            name, _, words = line.partition("(")
            arguments = _arguments(words)
            if name in {"write", "pwrite64", "rename", "unlink", "mkdir", "ftruncate"}:
                self._carry_out(_Call(thread, name, arguments, int(arguments[2]) if "write" in name else 0, begun))

    # --- calls ---

    def _carry_out(self, call: _Call) -> None:
        carry: dict[str, Callable[[_Call], None]] = {
            "openat": self._open,
            "write": self._write,
            "pwrite64": self._write,
            "ftruncate": self._resize,
            "fallocate": self._resize,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "lseek": self._seek,
            "close": self._close,
            "dup": self._duplicate,
            "dup2": self._duplicate,
            "dup3": self._duplicate,
            "fcntl": self._duplicate,
            "rename": self._rename,
            "renameat": self._rename,
            "renameat2": self._rename,
            "unlink": self._unlink,
            "unlinkat": self._unlink,
            "rmdir": self._unlink,
            "mkdir": self._make_folder,
            "mkdirat": self._make_folder,
            "sendfile": self._copy,
            "copy_file_range": self._copy,
            "mmap": self._map,
        }
        if call.name in carry:
            carry[call.name](call)
        elif call.name not in {"clone", "clone3", "fork", "vfork"}:
            ours = [word for word in call.arguments if (fd := _FD.fullmatch(word)) and self._inside(_bytes(fd[2]))]
            ours += [word for word in call.arguments if _TEXT.fullmatch(word) and self._inside(_text(word))]
            assert not ours, f"{call.name} of {ours} cannot be followed"

    def _open(self, call: _Call) -> None:
        flags, path = call.arguments[2].split("|"), self._path(call.arguments[0], call.arguments[1])
        self._table(call.thread).pop(call.result, None)
        if path is None or "O_PATH" in flags:
            return
        node = self.tree.find(path)
        if node is None:
            assert "O_CREAT" in flags, (path, flags)
            folder, name = self.tree.place(path)
            assert folder is not None
            node = self.tree.birth()
            self._do(Name(folder, name, node))
        elif "O_TRUNC" in flags and self.tree.files[node]:
            self._do(Resize(node, 0))
        self._table(call.thread)[call.result] = _Open(node, 0, "O_APPEND" in flags)

    def _write(self, call: _Call) -> None:
        if not (opened := self._opened(call, 0)):
            return
        content = _text(call.arguments[1])[: call.result]
        assert len(content) == call.result, "strace cut the bytes short"
        placed = call.name == "pwrite64"
        at = int(call.arguments[3]) if placed else opened.at
        if opened.appends:
            at = len(self.tree.files[opened.node])  # pwrite(2), BUGS: with O_APPEND it appends, too
        if not placed:
            opened.at = at + call.result
        self._do(Write(opened.node, at, content))

    def _resize(self, call: _Call) -> None:
        if not (opened := self._opened(call, 0)):
            return
        size = int(call.arguments[1])
        if call.name == "fallocate":
            assert call.arguments[1] == "0", "only plain allocation can be followed"
            size = max(len(self.tree.files[opened.node]), int(call.arguments[2]) + int(call.arguments[3]))
        if size != len(self.tree.files[opened.node]):
            self._do(Resize(opened.node, size))

    def _sync(self, call: _Call) -> None:
        if opened := self._opened(call, 0):
            self._do(Sync(opened.node, call.begun))

    def _seek(self, call: _Call) -> None:
        if opened := self._opened(call, 0):
            opened.at = call.result

    def _close(self, call: _Call) -> None:
        self._table(call.thread).pop(_fd(call.arguments[0]), None)

    def _duplicate(self, call: _Call) -> None:
        if call.name == "fcntl" and not call.arguments[1].startswith("F_DUPFD"):
            return
        table = self._table(call.thread)
        table.pop(call.result, None)
        if opened := self._opened(call, 0):
            table[call.result] = opened

    def _rename(self, call: _Call) -> None:
        words = call.arguments
        pairs = [("AT_FDCWD", words[0]), ("AT_FDCWD", words[1])] if call.name == "rename" else [words[:2], words[2:4]]
        old, new = (self._path(*pair) for pair in pairs)
        assert (old is None) == (new is None), f"{old} and {new}: into or out of what is recorded"
        if old is None or new is None or old == new:
            return
        node = self.tree.find(old)
        (folder, name), (to_folder, to_name) = self.tree.place(old), self.tree.place(new)
        assert node is not None
        assert folder is not None
        assert to_folder is not None
        self._do(Rename(Unname(folder, name, node), Name(to_folder, to_name, node, node in self.tree.folders)))

    def _unlink(self, call: _Call) -> None:
        words = call.arguments
        path = self._path(*(words[:2] if call.name == "unlinkat" else ("AT_FDCWD", words[0])))
        if path is None:
            return
        (folder, name), node = self.tree.place(path), self.tree.find(path)
        assert folder is not None
        assert node is not None
        self._do(Unname(folder, name, node))

    def _make_folder(self, call: _Call) -> None:
        words = call.arguments
        path = self._path(*(words[:2] if call.name == "mkdirat" else ("AT_FDCWD", words[0])))
        if path is None:
            return
        folder, name = self.tree.place(path)
        assert folder is not None
        self._do(Name(folder, name, self.tree.birth(), is_folder=True))

    def _copy(self, call: _Call) -> None:
        """From file to file within the kernel."""
        if call.name == "sendfile":
            (target, source), offsets = (0, 1), ("NULL", call.arguments[2])
        else:
            (target, source), offsets = (2, 0), (call.arguments[3], call.arguments[1])
        to, origin = self._opened(call, target), self._opened(call, source)
        if to is None:
            return
        assert origin is not None, "copied from outside of what is recorded"
        given = [re.search(r"\d+", words) for words in offsets]
        put, take = (int(found[0]) if found else opened.at for found, opened in zip(given, (to, origin), strict=True))
        content = bytes(self.tree.files[origin.node][take : take + call.result])
        assert len(content) == call.result
        self._do(Write(to.node, put, content))
        to.at = to.at if given[0] else put + call.result
        origin.at = origin.at if given[1] else take + call.result

    def _map(self, call: _Call) -> None:
        words = call.arguments
        shared = "MAP_SHARED" in words[3] and "PROT_WRITE" in words[2]
        assert not (shared and self._opened(call, 4)), "a shared mapping cannot be followed"

    # --- helpers ---

    def _do(self, op: Op) -> None:
        self.tree.do(op)
        self.ops.append(op)

    def _say(self, arguments: list[str]) -> None:
        if arguments[0].startswith("1<"):
            content = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(" ".join(arguments)))
            self.ops.extend(Said(line.decode()) for line in content.splitlines())

    def _table(self, thread: str) -> dict[int, _Open]:
        if thread not in self.tables:
            parent, shares = self.parents.get(thread, ("", False))
            table = self._table(parent) if parent else {}
            self.tables[thread] = table if shares else dict(table)
        return self.tables[thread]

    def _opened(self, call: _Call, nth: int) -> _Open | None:
        """What the descriptor in an argument stands for, if that is a file below the directory."""
        found = _FD.match(call.arguments[nth])
        if not found or not self._inside(_bytes(found[2])):
            return None
        return self._table(call.thread)[int(found[1])]

    def _path(self, folder: str, word: str) -> str | None:
        """The path relative to the directory; None when it lies elsewhere."""
        path = _text(word)
        if not path.startswith(b"/"):
            if not (found := _FD.fullmatch(folder)):
                return None  # relative to where the program runs, which is not below the directory
            path = _bytes(found[2]) + b"/" + path
        path = os.path.normpath(path)
        return os.fsdecode(os.path.relpath(path, self.directory)) if self._inside(path) else None

    def _inside(self, path: bytes) -> bool:
        return path == self.directory or path.startswith(self.directory + b"/")


def _arguments(text: str) -> list[str]:
    return text.split(", ")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(word: str) -> bytes:
    found = _TEXT.fullmatch(word)
    assert found, word[:200]
    return _bytes(found[1])


def _fd(word: str) -> int:
    return int(word.partition("<")[0])
