"""What is written down of a history: what clients asked and were told, and what watchers heard, in order of time.

An entry's time is its place. A call without an end has an outcome that nobody knows: the server died, or said so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Op


class Get(NamedTuple):
    """One object."""

    key: Key


class Listing(NamedTuple):
    """All objects of a kind, in one namespace or ("") everywhere."""

    plural: str
    namespace: str = ""


class Write(NamedTuple):
    """A transaction; `once` is its Idempotency-Key, a `dry` one must leave nothing."""

    ops: tuple[Op, ...]
    once: str = ""
    dry: bool = False


Asked = Get | Listing | Write


class Found(NamedTuple):
    """What a read showed: the objects' bytes, at revision `rev`."""

    rev: int
    objects: tuple[tuple[Key, bytes], ...]


class Done(NamedTuple):
    """A write was acknowledged: its revision, and per operation the object afterwards (None: gone)."""

    rev: int
    results: tuple[bytes | None, ...]


class Refused(NamedTuple):
    """The store said no: Conflict, AlreadyExists or NotFound."""

    error: str


class Undone(NamedTuple):
    """The store could not, and says that it did nothing (LogFull)."""


Reply = Found | Done | Refused | Undone


class Begin(NamedTuple):
    """A client asks; `call` is a number of its own, which the log's record bears as its request."""

    call: int
    client: str
    asked: Asked


class End(NamedTuple):
    """It is answered."""

    call: int
    reply: Reply


class Interest(NamedTuple):
    """What a watcher asks for: a kind ("": all), a namespace ("": all), one label, one field of the spec."""

    plural: str = ""
    namespace: str = ""
    label: tuple[str, str] | None = None
    field: tuple[str, str] | None = None


class Open(NamedTuple):
    """A watch begins: after a revision, or (None) with all that is there, which ends with the line FIRST.

    `raw`: these are the store's own commits, with the state before, each told at once.
    """

    stream: int
    interest: Interest
    after: int | None
    raw: bool = False


class Line(NamedTuple):
    """One event: ADDED, MODIFIED, DELETED, or BOOKMARK and FIRST, which only bear a revision."""

    word: str
    rev: int
    key: Key = Key("", "", "")
    content: bytes = b""
    before: bytes = b""


class Told(NamedTuple):
    """Lines that came together."""

    stream: int
    lines: tuple[Line, ...]


class Expire(NamedTuple):
    """A watch ends with 410: it `asked` for a revision, and is told that history begins after `oldest`."""

    stream: int
    asked: int
    oldest: int


class Quiet(NamedTuple):
    """A watch has been given the time to hear of all up to revision `head`."""

    stream: int
    head: int


Entry = Begin | End | Open | Told | Expire | Quiet


class Journal:
    """The entries of one history; frozen while the process that it tells of is dead."""

    def __init__(self, keep: Callable[[Entry], object] | None = None) -> None:
        """`keep`: also told of every entry, as it is written."""
        self.entries: list[Entry] = []
        self.frozen = False
        self._keep = keep
        self._streams = self._calls = 0

    def write(self, entry: Entry) -> None:
        """Write down what has just happened."""
        if not self.frozen:
            self.entries.append(entry)
            if self._keep is not None:
                self._keep(entry)

    def begin(self, client: str, asked: Asked) -> int:
        """A new call."""
        self._calls += 1
        self.write(Begin(self._calls, client, asked))
        return self._calls

    def open(self, interest: Interest, after: int | None, *, raw: bool = False) -> int:
        """A new stream."""
        self._streams += 1
        self.write(Open(self._streams, interest, after, raw))
        return self._streams

    def go_on(self, entries: list[Entry]) -> None:
        """Take over what an earlier process wrote."""
        self.entries = entries
        self._calls = max((entry.call for entry in entries if isinstance(entry, Begin)), default=0)
        self._streams = max((entry.stream for entry in entries if isinstance(entry, Open)), default=0)
