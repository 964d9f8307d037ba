"""The contract of the store: objects under keys, transactions that make one revision, and the stream of commits.

Few verbs (get, list, stage, subscribe, history); create, update, delete and the like are free functions over them.
A transaction is *staged* synchronously against the pending state (committed plus all that is queued), so two claims of
one name can never both pass; it is *durable* once the log says so, and only then visible to readers and watchers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol

from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Rejected, Stale
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.log import Log


class Half(Enum):
    """Which half of an object a write changes; each half has one writer."""

    MAIN = "main"
    STATUS = "status"


class Entry(NamedTuple):
    """One stored object: its exact bytes, the revision that wrote them, and what indexes need undecoded."""

    raw: bytes
    rev: int
    uid: str
    row: Any
    """The fields that its kind declares."""
    labels: Mapping[str, str]
    deleting: bool
    generation: int
    owners: tuple[str, ...]
    """The uids that its ownerReferences name."""


class Change(NamedTuple):
    """What one revision did to one object; `before` None: created, `after` None: gone."""

    key: Key
    before: Entry | None
    after: Entry | None


class Commit(NamedTuple):
    """One revision: all of its changes belong together and are seen together."""

    rev: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Store a new object. AlreadyExists if the key is taken (also by an object that is being deleted)."""

    key: Key
    doc: JSON


@dataclass(frozen=True, slots=True)
class Update:
    """Replace one half of an object. Conflict if `expect` is given and is not its revision."""

    key: Key
    doc: JSON
    half: Half = Half.MAIN
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object, or mark it for deletion while it has finalizers. Conflict on another revision or uid."""

    key: Key
    expect: int | None = None
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Expect:
    """Demand that an object is at that revision (None: absent) without writing it.

    `unseen`: whoever asks must not learn that it is there, so it is told as if it were not; see `told`.
    """

    key: Key
    rev: int | None
    unseen: bool = False


Op = Create | Update | Delete | Expect


class Once(NamedTuple):
    """The key under which a client sends a request again, and the hash by which it is known to be the same one."""

    key: str
    digest: str


class Known(NamedTuple):
    """A request that was staged once: the hash of what it asked, the revision that it led to, and when."""

    digest: str
    rev: int
    at: datetime


def told(op: Op, entry: Entry | None) -> Entry | None:
    """Of what an operation led to, what may be told to the one who asked for it."""
    return None if isinstance(op, Expect) and op.unseen else entry


class Result(NamedTuple):
    """What became of one operation, told again: the bytes of the object (None: gone, or never there) and its uid."""

    key: Key
    raw: bytes | None
    uid: str


class Outcome(NamedTuple):
    """What a transaction led to: its revision, and per operation the entry afterwards (None: gone)."""

    rev: int
    entries: tuple[Entry | None, ...]


class Draft(NamedTuple):
    """What a transaction would lead to at revision `rev`; it can be staged as it is as long as that comes next."""

    ops: Sequence[Op]
    outcome: Outcome
    changes: Mapping[Key, Change]
    now: datetime


class Ticket(NamedTuple):
    """A staged transaction: `outcome` is what it will be, `durable` waits until it is (StoreFailed, LogFull).

    Ask it before anything else is awaited: once a full log has undone a revision, its number goes to another one.
    """

    outcome: Outcome
    durable: Callable[[], Awaitable[None]]


Sink = Callable[[Commit], None]


class Store(Protocol):
    """What every log makes possible through the one engine."""

    @property
    def committed(self) -> int:
        """The newest durable revision."""

    @property
    def log(self) -> Log:
        """Where the past stands."""

    def get(self, key: Key) -> Entry:
        """The durable object. Raises NotFound."""

    def peek(self, key: Key) -> Entry | None:
        """The object as the pending state has it: for admission and for planners, never for readers."""

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]:
        """All objects of a kind as the pending state has them: what an admitted subscription goes on from."""

    def list(self, plural: str, namespace: str = "") -> Sequence[tuple[Key, Entry]]:
        """All durable objects of a kind, in key order; `namespace` "" means everywhere."""

    def draft(self, ops: Sequence[Op]) -> Draft:
        """Check all `ops` against the pending state and say what they would lead to; raises as `stage`."""

    def stage(
        self,
        ops: Sequence[Op] | Draft,
        by: str,
        request: str = "",
        *,
        dry: bool = False,
        patient: bool = False,
        once: Once | None = None,
    ) -> Ticket:
        """Check all `ops` against the pending state and queue them as one revision, or raise and change nothing.

        A draft whose turn it still is has been checked; one that others have overtaken is drafted anew.
        Raises NotFound, AlreadyExists, Conflict, TooLarge, StoreFailed; see `settled`. A write that changes nothing
        makes no event; if none changes anything there is no new revision. With `dry` nothing is queued; with `patient`
        the log may wait a moment (2 ms), to make it durable together with what others write. With `once` the request is
        remembered in the same record, also when it changes nothing; asking `remembered` first is up to the caller.
        """

    async def settled(self) -> None:
        """Wait until all that is staged now is durable (StoreFailed, LogFull).

        What was refused on account of the pending state is told only then: else a client knows of a write that readers
        do not see yet, and that a crash may undo.
        """

    def remembered(self, by: str, key: str) -> Known | None:
        """What `by` has staged once under that key; durable when its `rev` is. None: never seen, or too long ago."""

    async def recall(self, rev: int) -> Sequence[Result]:
        """The result of each operation of the durable revision `rev`, which was staged with `once`. Raises Expired."""

    def subscribe(self, sink: Sink, *, admitted: bool = False) -> Callable[[], None]:
        """Call `sink` with every later commit, in order; returns what ends it. With `admitted`, already when staged."""

    def history(self, after: int) -> Sequence[Commit]:
        """The kept commits with a revision above `after`. Raises Expired when some of them are gone."""


async def transact(store: Store, ops: Sequence[Op], by: str, request: str = "") -> Outcome:
    """Stage and wait until durable, or until what it is refused for is."""
    try:
        ticket = store.stage(ops, by, request)
    except (Rejected, Stale):
        await store.settled()
        raise
    await ticket.durable()
    return ticket.outcome


async def create(store: Store, thing: Document, by: str) -> Entry:
    """Store a new object; gives it as stored."""
    return _there(await transact(store, [Create(thing.key, thing.to_json())], by))


async def update(
    store: Store, thing: Document, by: str, half: Half = Half.MAIN, expect: int | None = None
) -> Entry | None:
    """Replace one half; None if that removed the object (its last finalizer went)."""
    return (await transact(store, [Update(thing.key, thing.to_json(), half, expect)], by)).entries[0]


async def delete(store: Store, key: Key, by: str, expect: int | None = None) -> Entry | None:
    """Delete; gives the object while finalizers keep it."""
    return (await transact(store, [Delete(key, expect)], by)).entries[0]


def _there(outcome: Outcome) -> Entry:
    entry = outcome.entries[0]
    assert entry is not None
    return entry
