"""What the store asks of the log under it, and the log that forgets: a sequence of records, one per revision."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from nanovirt.resources.errors import StoreFailed, TooLarge

RECORD_LIMIT = 8 << 20
"""Bytes that the body of one record may have."""


class Record(NamedTuple):
    """One revision: `rev` grows by 1 without gaps, `body` is one JSON object on one line."""

    rev: int
    body: bytes


class Sum(Protocol):
    """What all records up to `rev` add up to; `at`: when the last of them was made (RFC 3339)."""

    @property
    def rev(self) -> int: ...

    @property
    def at(self) -> str: ...

    def lines(self) -> Iterator[bytes]:
        """One JSON object for each object, as the records' writes have it, then for each remembered request (`key`)."""
        ...


class Log(Protocol):
    """An append-only sequence of records with one reader at start and one writer afterwards."""

    def sums(self) -> Iterator[Sum]:
        """What a start may begin from instead of the first record, newest first; from any of them `read` can go on."""
        ...

    def read(self, after: int = 0) -> Iterator[Record]:
        """Every durable record with `rev` > `after`, in order. What a crash left is sorted out before, on opening.

        Expired: records behind `after` are not kept any more.
        """
        ...

    async def append(self, records: Sequence[Record]) -> None:
        """Make all of `records` durable, in order, as one group commit; return only then.

        StoreFailed: an I/O error, now or earlier, or the log is closed; whether these records are on disk is unknown
        until the next start, and every later append fails too. LogFull: no room, nothing was written, the log works on.
        TooLarge: a body is over RECORD_LIMIT, nothing was written. ValueError: the records do not continue `head()`.
        The caller is one task; it does not append again before the last append has ended.
        """
        ...

    def make_room(self) -> bool:
        """After LogFull: give up what was kept back for deletions; False when there is nothing (any more)."""
        ...

    def head(self) -> int:
        """The revision of the last durable record; 0 when there is none."""
        ...

    async def tend(self) -> None:
        """Sum up what has been appended, now and then, and give up what is over the bounds; until cancelled."""
        ...

    def close(self) -> None:
        """Let go of whatever the log holds; closing twice is fine."""
        ...


def check_size(body: bytes) -> None:
    """Refuse a body that no log would take (TooLarge); the store asks this before it queues a transaction."""
    if len(body) > RECORD_LIMIT:
        raise TooLarge(
            f"the transaction makes a record of {len(body)} bytes, more than the {RECORD_LIMIT} allowed; "
            "send it in several smaller ones",
            size=len(body),
            limit=RECORD_LIMIT,
        )


def check_order(head: int, records: Sequence[Record]) -> None:
    """Refuse what is no continuation of `head` (ValueError: a bug in the caller) or is too large (TooLarge)."""
    for rev, record in enumerate(records, head + 1):
        if record.rev != rev:
            raise ValueError(f"revision {record.rev} where {rev} has to follow")
        if record.body[:1] != b"{" or record.body[-1:] != b"}" or b"\n" in record.body:
            raise ValueError(f"the body of revision {rev} is not one JSON object on one line")
        check_size(record.body)


class MemoryLog:
    """A log that lasts as long as the process; it begins with `records`, as if it had found them on disk."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)
        self._closed = False
        check_order(0, self._records)

    def sums(self) -> Iterator[Sum]:
        return iter(())

    def read(self, after: int = 0) -> Iterator[Record]:
        yield from self._records[after:]

    async def append(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)  # other tasks run during a commit, as they do while a disk syncs
        if self._closed:
            raise StoreFailed("the log is closed")
        check_order(self.head(), records)
        self._records.extend(records)

    def make_room(self) -> bool:
        return False

    def head(self) -> int:
        return len(self._records)

    async def tend(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        self._closed = True
