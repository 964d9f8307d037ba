"""A disk that loses power: which contents it may be found with, after the first n operations of a recording.

**Files.** What a file held when the last fsync or fdatasync that has returned began is there. Of everything done to it
since, each sector of 512 bytes has any of the contents that it had in turn (dropped, reordered and torn writes; sectors
that were claimed or grown over and not yet written are zeros), and its size is any of the sizes it had in turn,
independently of the sectors. A write that was under way is one of these, so cuts lie between operations only.

**Names.** A folder's names are durable after an fsync of the folder, and by no other means: syncing a file does not
save its name. What was done to names since then is kept by one of two rules:

- `JOURNAL`: name operations of the whole disk arrive in their order, so a prefix of them is there; an fsync of a folder
  brings everything up to its last operation. A rename is one operation. ext4 and xfs give fewer states than this: they
  tie file sizes to that order too, and an fsync of a new file brings its name.
- `SUBSET`: any subset is there, each operation whole: a name without the rename that it was to vanish in, a rename
  without the creation before it, a later removal without an earlier one. A rename into another folder is two
  operations, one in each. Operations of one folder and one name keep their order. This is all that POSIX promises.

Every state of `JOURNAL` with a given set of files is also one of `SUBSET`; it is its own rule because it is what random
choice in the larger set would seldom find.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from math import prod

from tests.faults.recording import copy_of
from tests.faults.tree import Name, Op, Picture, Rename, Resize, Said, Sync, Tree, Unname, Write

SECTOR = 512
Choice = tuple[int, ...]


class Rule(Enum):
    """In which order names reach the disk."""

    JOURNAL = "journal"
    SUBSET = "subset"


@dataclass
class _File:
    """The durable content, and what was done since, with the number of the operation."""

    durable: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, Write | Resize]] = field(default_factory=list)


class SimulatedDisk:
    """Takes the operations of a trace one by one; `cut()` is what a power failure after the last one may leave."""

    def __init__(self, start: Tree, rule: Rule) -> None:
        self._rule = rule
        self._names = copy_of(Tree(start.folders, {}))
        self._moves: list[tuple[int, Name | Unname | Rename]] = []
        self._files = {node: _File(bytearray(content)) for node, content in start.files.items()}
        self._done = 0

    def do(self, op: Op) -> None:
        """The next operation."""
        match op:
            case Write(file) | Resize(file):
                self._files[file].since.append((self._done, op))
            case Name(_, _, node, is_folder):
                if is_folder:
                    self._names.folders.setdefault(node, {})
                else:
                    self._files.setdefault(node, _File())
                self._moves.append((self._done, op))
            case Rename(old, new) if self._rule is Rule.SUBSET and old.folder != new.folder:
                self._moves += [(self._done, new), (self._done, old)]
            case Unname() | Rename():
                self._moves.append((self._done, op))
            case Sync(node, since) if node in self._files:
                self._settle_file(self._files[node], since)
            case Sync(node, since):
                self._settle_names(node, since)
            case Said():
                pass
        self._done += 1

    def _settle_file(self, file: _File, since: int) -> None:
        for _, op in (one for one in file.since if one[0] < since):
            _apply(file.durable, op)
        file.since = [one for one in file.since if one[0] >= since]

    def _settle_names(self, folder: int, since: int) -> None:
        ours = [index for index, (at, op) in enumerate(self._moves) if at < since and folder in _folders(op)]
        if self._rule is Rule.JOURNAL:
            ours = list(range(ours[-1] + 1)) if ours else []
        for index in ours:
            self._names.do(self._moves[index][1])
        settled = set(ours)
        self._moves = [one for index, one in enumerate(self._moves) if index not in settled]

    def cut(self) -> Cut:
        """The states that the disk may be in now."""
        moves = [op for _, op in self._moves]
        touched = {node: _unsettled(file) for node, file in self._files.items() if file.since}
        settled = {node: bytes(file.durable) for node, file in self._files.items() if not file.since}
        return Cut(self._rule, self._names, moves, touched, settled)


def _folders(op: Name | Unname | Rename) -> set[int]:
    return {op.old.folder, op.new.folder} if isinstance(op, Rename) else {op.folder}


def _apply(content: bytearray, op: Write | Resize) -> None:
    file = Tree(files={op.file: content})
    file.do(op)


@dataclass(frozen=True)
class _Unsettled:
    """A file of which not all is durable: the sizes that it had in turn, and the contents of each touched sector."""

    base: bytes
    sizes: Sequence[int]
    sectors: Sequence[tuple[int, Sequence[bytes]]]


def _unsettled(file: _File) -> _Unsettled:
    content = bytearray(file.durable)
    sizes = [len(content)]
    sectors: dict[int, list[bytes]] = {}
    for _, op in file.since:
        if isinstance(op, Write):
            begin, end = op.at, op.at + len(op.content)
        else:
            begin, end = op.size, max(len(content), op.size)
        before = bytes(content)
        _apply(content, op)
        for sector in range(begin // SECTOR, -(-end // SECTOR)):
            part = slice(sector * SECTOR, sector * SECTOR + SECTOR)
            held = sectors.setdefault(sector, [before[part].ljust(SECTOR, b"\0")])
            now = bytes(content[part]).ljust(SECTOR, b"\0")
            if now not in held:
                held.append(now)
        if len(content) not in sizes:
            sizes.append(len(content))
    full = bytes(file.durable).ljust(-(-max(sizes) // SECTOR) * SECTOR, b"\0")
    return _Unsettled(full, sizes, [(sector, held) for sector, held in sectors.items() if len(held) > 1])


class Cut:
    """The states after one power failure: one for each choice of a number below each of `dials`."""

    def __init__(
        self,
        rule: Rule,
        names: Tree,
        moves: Sequence[Name | Unname | Rename],
        touched: dict[int, _Unsettled],
        settled: dict[int, bytes],
    ) -> None:
        self._rule = rule
        self._names = copy_of(names)
        self._moves = moves
        self._touched = touched
        self._settled = settled
        self.dials: list[int] = [len(moves) + 1] if rule is Rule.JOURNAL else [2] * len(moves)
        for file in touched.values():
            self.dials += [len(file.sizes), *(len(held) for _, held in file.sectors)]
        self.count = prod(self.dials)

    def choices(self, most: int, chance: random.Random) -> Iterator[Choice]:
        """All of them when there are at most `most`; otherwise `most`: the extremes, then seeded random ones."""
        if self.count <= most:
            yield from product(*(range(size) for size in self.dials))
            return
        old, new = tuple(0 for _ in self.dials), tuple(size - 1 for size in self.dials)
        extremes = [_with(old, at, new[at]) for at in range(len(new))] + [_with(new, at, 0) for at in range(len(new))]
        chance.shuffle(extremes)
        extremes = [old, new, *extremes]
        yield from extremes[: most // 2]
        for _ in range(most - min(len(extremes), most // 2)):
            likely = chance.choice([0.2, 0.5, 0.8])
            yield tuple(size - 1 if chance.random() < likely else chance.randrange(size) for size in self.dials)

    def state(self, choice: Choice) -> Picture:
        """What is found on the disk then."""
        dial = iter(choice)
        tree = copy_of(Tree(self._names.folders, {}))
        journal = self._rule is Rule.JOURNAL
        for op in self._moves[: next(dial)] if journal else [op for op in self._moves if next(dial)]:
            tree.do(op)
        contents = dict(self._settled)
        for node, file in self._touched.items():
            size = file.sizes[next(dial)]
            content = bytearray(file.base)
            for sector, held in file.sectors:
                content[sector * SECTOR : sector * SECTOR + SECTOR] = held[next(dial)]
            contents[node] = bytes(content[:size])
        tree.files = contents  # type: ignore[assignment]  # bytes serve as well where nothing is changed any more
        return tree.picture()


def _with(choice: Choice, at: int, value: int) -> Choice:
    return (*choice[:at], value, *choice[at + 1 :])
