"""Files and folders as a running program sees them: what operations on them lead to, without a disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = 0
Picture = Mapping[str, bytes | None]
"""A folder's whole content by relative path; None stands for a folder."""


class Write(NamedTuple):
    """Bytes that a file got at an offset."""

    file: int
    at: int
    content: bytes


class Resize(NamedTuple):
    """A file was cut or grown with zeros; room claimed in advance is that too."""

    file: int
    size: int


class Name(NamedTuple):
    """A node got a name in a folder, in place of what had it before."""

    folder: int
    name: str
    node: int
    is_folder: bool = False


class Unname(NamedTuple):
    """A node lost a name."""

    folder: int
    name: str
    node: int


class Rename(NamedTuple):
    """Both at once: one name less, one more (or another node under it)."""

    old: Unname
    new: Name


class Sync(NamedTuple):
    """A file or folder was made durable as it was after the first `since` operations of the trace."""

    node: int
    since: int


class Said(NamedTuple):
    """The program said something, so that somebody may rely on it."""

    line: str


Op = Write | Resize | Name | Unname | Rename | Sync | Said


@dataclass
class Tree:
    """Nodes by number: folders are names, files are bytes. Node 0 is the root; numbers are never used twice."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytearray] = field(default_factory=dict)
    born: int = 1

    @classmethod
    def of(cls, directory: Path) -> Tree:
        """What is below a directory now."""
        tree = cls()
        for path in sorted(directory.rglob("*")):
            folder, name = tree.place(path.relative_to(directory).as_posix())
            assert folder is not None
            node = tree.birth()
            tree.do(Name(folder, name, node, path.is_dir()))
            if not path.is_dir():
                tree.files[node][:] = path.read_bytes()
        return tree

    def birth(self) -> int:
        """A new node's number."""
        self.born += 1
        return self.born - 1

    def place(self, path: str) -> tuple[int | None, str]:
        """The folder that a path lies in (None: it does not exist) and the last name of the path."""
        *above, name = PurePosixPath(path).parts
        folder: int | None = ROOT
        for part in above:
            folder = self.folders[folder].get(part) if folder is not None else None
            if folder not in self.folders:
                return None, name
        return folder, name

    def find(self, path: str) -> int | None:
        """The node of that path."""
        if path == ".":
            return ROOT
        folder, name = self.place(path)
        return None if folder is None else self.folders[folder].get(name)

    def do(self, op: Op) -> None:
        """Carry it out."""
        match op:
            case Write(file, at, content):
                held = self.files[file]
                held.extend(bytes(max(at + len(content) - len(held), 0)))
                held[at : at + len(content)] = content
            case Resize(file, size):
                held = self.files[file]
                held.extend(bytes(max(size - len(held), 0)))
                del held[size:]
            case Name(folder, name, node, is_folder):
                if node not in self.folders and node not in self.files:
                    (self.folders.__setitem__(node, {}) if is_folder else self.files.__setitem__(node, bytearray()))
                self.folders[folder][name] = node
                self.born = max(self.born, node + 1)
            case Unname(folder, name, node):
                if self.folders[folder].get(name) == node:
                    del self.folders[folder][name]
            case Rename(old, new):
                self.do(old)
                self.do(new)
            case Sync() | Said():
                pass

    def picture(self) -> Picture:
        """Everything that can be reached from the root."""
        return dict(self._reached(ROOT, ""))

    def _reached(self, folder: int, path: str) -> Iterator[tuple[str, bytes | None]]:
        for name, node in self.folders[folder].items():
            if node in self.folders:
                yield path + name, None
                yield from self._reached(node, f"{path}{name}/")
            else:
                yield path + name, bytes(self.files[node])


def picture_of(directory: Path) -> Picture:
    """The same of a real directory."""
    return Tree.of(directory).picture()
