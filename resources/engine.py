"""The one store engine, over any log: pending state, group commit, committed objects, the ring of recent commits."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import itemgetter

from nanovirt.resources import idempotency, ring, stamping, upgrades
from nanovirt.resources.codec import JSON, dump, dump_text, load
from nanovirt.resources.errors import AlreadyExists, Conflict, LogFull, NotFound, StoreFailed
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.idempotency import Ledger
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.log import Log, Record, Sum, check_size
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import (
    Change,
    Commit,
    Create,
    Delete,
    Draft,
    Entry,
    Expect,
    Half,
    Known,
    Once,
    Op,
    Outcome,
    Result,
    Sink,
    Ticket,
    Update,
)

log = logging.getLogger(__name__)

BATCH_RECORDS, BATCH_BYTES = 256, 1024 * 1024
NEAR = 10_000
"""To read on by so many revisions costs less than to begin anew, which reads a whole segment of the log."""
PATIENCE_SECONDS = 0.002
"""How long what is staged with patience waits for company, so that they share one sync of the log."""


class Engine:
    """A Store. `run()` is the committer and must live as long as the engine is written to."""

    def __init__(self, log_: Log, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._log = log_
        self._clock = clock
        self._objects: dict[str, dict[tuple[str, str], Entry]] = {plural: {} for plural in KINDS}
        self._sorted: dict[str, list[tuple[str, str]]] = {}
        self._pending: dict[Key, tuple[int, Entry | None]] = {}
        self._queue: deque[tuple[Record, Commit]] = deque()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._sinks: list[Sink] = []
        self._admitted: list[Sink] = []
        self._ring = ring.Ring()
        self._ledger = Ledger()
        self._failure: StoreFailed | None = None
        self._last_at = ""
        self.committed = 0
        self._replay()
        self._staged = self.committed

    # --- start ---

    def _replay(self) -> None:
        if begin := self._beginning():
            self._take_over(begin)
        for record in self._log.read(self.committed):
            if record.rev != self.committed + 1:
                self._begin_anew(record.rev - 1)
            body = load(record.body)
            self._last_at = body["at"]
            if "key" in body:
                once = Once(body["key"]["name"], body["key"]["digest"])
                self._ledger.add(body["by"], once, record.rev, body["at"])
            self._apply(Commit(record.rev, tuple(self._replayed(record.rev, body["writes"]))))
        if self.committed != self._log.head():
            self._begin_anew(self._log.head())

    def _begin_anew(self, rev: int) -> None:
        """A restore has raised the revision: what a watch saw since may be of another past, so it has to list again."""
        self.committed, self._ring = rev, ring.Ring()
        self._ring.oldest = rev

    def _beginning(self) -> Sum | None:
        """The newest sum that leaves enough records behind it for the ring, else the one before."""
        sums = self._log.sums()
        newest = next(sums, None)
        if newest is None or self._log.head() - newest.rev >= ring.RING_CHANGES:
            return newest
        return next(sums, newest) if self._clock() - _time(newest.at) < timedelta(seconds=ring.RING_SECONDS) else newest

    def _take_over(self, begin: Sum) -> None:
        for line in begin.lines():
            said = load(line)
            if "key" in said:
                self._ledger.add_said(said["key"])
                continue
            key = _key_of(said)
            doc = upgrades.upgraded(key.plural, said.get("schema", 1), said["object"])
            self._objects[key.plural][key[1:]] = entry_of(key.plural, doc, int(doc["metadata"]["resourceVersion"]))
        self.committed = self._ring.oldest = begin.rev
        self._last_at = begin.at

    def _replayed(self, rev: int, writes: Iterable[JSON]) -> Iterable[Change]:
        for write in writes:
            key = _key_of(write)
            before, after = self._objects[key.plural].get(key[1:]), None
            if write["verb"] == "put":
                doc = upgrades.upgraded(key.plural, write.get("schema", 1), write["object"])
                after = entry_of(key.plural, doc, rev)
            yield Change(key, before, after)

    # --- reading ---

    @property
    def log(self) -> Log:
        """See Store."""
        return self._log

    def get(self, key: Key) -> Entry:
        """See Store."""
        entry = self._objects[key.plural].get(key[1:])
        if entry is None:
            raise NotFound(key.plural, key.name)
        return entry

    def peek(self, key: Key) -> Entry | None:
        """See Store."""
        held = self._pending.get(key)
        return held[1] if held is not None else self._objects[key.plural].get(key[1:])

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]:
        """See Store."""
        found: dict[Key, Entry | None] = {Key(plural, *key): entry for key, entry in self._objects[plural].items()}
        found.update((key, entry) for key, (_, entry) in self._pending.items() if key.plural == plural)
        return [(key, entry) for key, entry in sorted(found.items(), key=itemgetter(0)) if entry is not None]

    def list(self, plural: str, namespace: str = "") -> Sequence[tuple[Key, Entry]]:
        """See Store."""
        objects = self._objects[plural]
        keys = self._sorted.get(plural)
        if keys is None:
            keys = self._sorted[plural] = sorted(objects)
        return [(Key(plural, *key), objects[key]) for key in keys if not namespace or key[0] == namespace]

    def history(self, after: int) -> Sequence[Commit]:
        """See Store."""
        return self._ring.after(after)

    def remembered(self, by: str, key: str) -> Known | None:
        """See Store."""
        return self._ledger.find(by, key, self._clock())

    async def recall(self, rev: int) -> Sequence[Result]:
        """See Store. It is read from the log, which is seldom asked for and may take a moment."""
        return await asyncio.to_thread(self._recalled, rev)

    def _recalled(self, rev: int) -> Sequence[Result]:
        record = load(next(self._log.read(rev - 1)).body)
        found = dict(self._looked_up(idempotency.kept_elsewhere(record)))
        return idempotency.results_of(record, lambda key, rev: found[key, rev])

    def _looked_up(self, wanted: Iterable[tuple[Key, int]]) -> Iterator[tuple[tuple[Key, int], bytes]]:
        """Objects as they stood at older revisions, each record read once and as many as can be in one go."""
        records: Iterator[Record] = iter(())
        at, there = -NEAR, dict[Key, JSON]()
        for key, rev in sorted(wanted, key=itemgetter(1)):
            entry = self._objects[key.plural].get(key[1:])
            if entry and entry.rev == rev:
                yield (key, rev), entry.raw
                continue
            if rev - at > NEAR:
                records = self._log.read(rev - 1)
            if rev > at:
                body = next(record.body for record in records if record.rev == rev)
                at, there = rev, idempotency.objects_in(load(body))
            yield (key, rev), dump(there[key])

    def subscribe(self, sink: Sink, *, admitted: bool = False) -> Callable[[], None]:
        """See Store."""
        sinks = self._admitted if admitted else self._sinks
        sinks.append(sink)
        return lambda: sinks.remove(sink)

    # --- writing ---

    def draft(self, ops: Sequence[Op]) -> Draft:
        """See Store."""
        if self._failure is not None:
            raise self._failure
        rev, now = self._staged + 1, self._clock()
        held: dict[Key, Entry | None] = {}
        changes: dict[Key, Change] = {}
        results: deque[Entry | None] = deque()
        for op in ops:
            before = held[op.key] if op.key in held else self.peek(op.key)
            after = _carry_out(op, before, rev, now)
            if after is not before:
                first = changes[op.key].before if op.key in changes else before
                changes[op.key] = Change(op.key, first, after)
                held[op.key] = after
            results.append(after)
        return Draft(ops, Outcome(rev, tuple(results)), changes, now)

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
        """See Store; with `patient` only in a running loop."""
        drafted = self._drafted(ops)
        (rev, entries), changes = drafted.outcome, drafted.changes
        if dry or not (changes or once):
            newest = max((self._pending[op.key][0] for op in drafted.ops if op.key in self._pending), default=0)
            return Ticket(Outcome(max(self.committed, newest), entries), lambda: self._until(newest))
        receipt = idempotency.receipt(once, drafted.ops, entries, changes, rev) if once else None
        self._queue_up(Commit(rev, tuple(changes.values())), by, request, drafted.now, receipt)
        if once:
            self._ledger.add(by, once, rev, self._last_at)
        self._hurry(patient=patient)
        return Ticket(drafted.outcome, lambda: self._until(rev))

    def _drafted(self, ops: Sequence[Op] | Draft) -> Draft:
        if not isinstance(ops, Draft):
            return self.draft(ops)
        fresh = ops.outcome.rev == self._staged + 1 and self._failure is None
        return ops if fresh else self.draft(ops.ops)

    def _queue_up(self, commit: Commit, by: str, request: str, now: datetime, receipt: JSON | None) -> None:
        at = max(self._last_at, rfc3339(now.replace(microsecond=now.microsecond // 1000 * 1000 + 1)))
        record = Record(commit.rev, _body(commit, at, by, request, receipt))
        check_size(record.body)
        self._last_at, self._staged = at, commit.rev
        for change in commit.changes:
            self._pending[change.key] = (commit.rev, change.after)
        self._queue.append((record, commit))
        for sink in self._admitted:
            sink(commit)

    def _hurry(self, *, patient: bool) -> None:
        """Wake the committer, at once or in a moment."""
        if not patient:
            self._wake.set()
        elif self._alarm is None and not self._wake.is_set():
            self._alarm = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._wake.set)

    def _calm(self) -> None:
        """Nothing waits for the committer any more."""
        self._wake.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def settled(self) -> None:
        """See Store."""
        await self._until(self._staged)

    async def _until(self, rev: int) -> None:
        if rev <= self.committed:
            return
        if self._failure is not None:
            raise self._failure
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((rev, waiter))
        await waiter

    async def run(self) -> None:
        """Commit what is queued, batch by batch. Raises StoreFailed when the log fails: then the process must end."""
        while True:
            await self._wake.wait()
            batch = self._take()
            try:
                await self._append(batch)
            except LogFull as full:
                self._unstage(batch, full)
                continue
            except StoreFailed as failure:
                self._failure = failure
                self._release(self._staged, failure)
                raise
            self._commit([commit for _, commit in batch])

    async def _append(self, batch: Sequence[tuple[Record, Commit]]) -> None:
        """Append; what only deletes may use up the room that the log has kept back for it."""
        records = [record for record, _ in batch]
        try:
            await self._log.append(records)
        except LogFull:
            if not all(_deletes(commit) for _, commit in batch) or not self._log.make_room():
                raise
            log.warning("log is full; its reserve is used for deletions", extra={"records": len(records)})
            await self._log.append(records)

    def _take(self) -> deque[tuple[Record, Commit]]:
        batch: deque[tuple[Record, Commit]] = deque()
        size = 0
        while self._queue and len(batch) < BATCH_RECORDS and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1][0].body)
        if not self._queue:
            self._calm()
        return batch

    def _commit(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._apply(commit)
            for change in commit.changes:
                if self._pending[change.key][0] == commit.rev:
                    del self._pending[change.key]
        self._release(self.committed, None)
        # The writers above are woken first; watchers hear of it in the next turn of the loop.
        asyncio.get_running_loop().call_soon(self._tell, commits)

    def _tell(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            for sink in tuple(self._sinks):
                sink(commit)

    def _apply(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            objects = self._objects[key.plural]
            if after is None:
                objects.pop(key[1:], None)
            else:
                objects[key[1:]] = after
            if before is None or after is None:
                self._sorted.pop(key.plural, None)
        self.committed = commit.rev
        self._ring.add(commit, time.monotonic())

    def _release(self, upto: int, failure: Exception | None) -> None:
        for _ in range(len(self._waiters)):
            rev, waiter = self._waiters.popleft()
            if rev > upto:
                self._waiters.append((rev, waiter))
            elif not waiter.done():
                waiter.set_result(None) if failure is None else waiter.set_exception(failure)

    def _unstage(self, batch: Sequence[tuple[Record, Commit]], full: LogFull) -> None:
        """Nothing of the queue was written: the pending state goes back to the committed one, before anybody hears."""
        dropped = [*batch, *self._queue]
        log.error("log is full", extra={"dropped": len(dropped)})
        self._release(self._staged, full)
        self._queue.clear()
        self._calm()
        self._pending.clear()
        self._staged = self.committed
        self._ledger.forget_after(self.committed)
        for _, commit in reversed(dropped):
            undone = Commit(
                commit.rev, tuple(Change(key, after, before) for key, before, after in commit.changes[::-1])
            )
            for sink in self._admitted:
                sink(undone)


def _key_of(write: JSON) -> Key:
    if write["kind"] not in KINDS:
        raise upgrades.unknown(write["kind"])
    return Key(sys.intern(write["kind"]), sys.intern(write["namespace"]), write["name"])


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _deletes(commit: Commit) -> bool:
    """Whether a revision only carries deletions on."""
    return all(after is None or after.deleting for _, _, after in commit.changes)


def new_uid() -> str:
    """A UUID of version 4; it names, it does not protect, so it needs no call of the kernel."""
    digits = f"{_RANDOM.getrandbits(128) & _FREE | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_RANDOM = random.Random()  # seeded by the kernel
_FREE, _VERSION_4 = ~(0xF << 76 | 0x3 << 62), 0x4 << 76 | 0x2 << 62
"""The bits of a UUID that are random, and those that say so (RFC 9562, 5.4)."""


def _carry_out(op: Op, before: Entry | None, rev: int, now: datetime) -> Entry | None:
    """What `op` makes of `before`; the same entry if nothing changes."""
    facts = KINDS[op.key.plural].facts
    match op:
        case Create(key, doc):
            if before is not None:
                raise AlreadyExists(key.plural, key.name)
            return entry_of(key.plural, stamping.created(facts, doc, new_uid(), _second(now)), rev)
        case Expect(key, expected):
            if (before.rev if before else None) != expected:
                raise Conflict(key.plural, key.name)
            return before
        case Update(key, doc, half, expected):
            held = _held(before, key, expected)
            old = load(held.raw)
            new = stamping.main_replaced(facts, old, doc) if half is Half.MAIN else stamping.status_replaced(old, doc)
            if stamping.same(old, new):
                return held
            gone = held.deleting and not new["metadata"].get("finalizers")
            return None if gone else entry_of(key.plural, new, rev)
        case Delete(key, expected, uid):
            held = _held(before, key, expected)
            if uid and uid != held.uid:
                raise Conflict(key.plural, key.name, "it is another object by now (uid differs)")
            old = load(held.raw)
            if not old["metadata"].get("finalizers"):
                return None
            return held if held.deleting else entry_of(key.plural, stamping.marked_deleted(old, _second(now)), rev)


def _held(before: Entry | None, key: Key, expected: int | None) -> Entry:
    if before is None:
        raise NotFound(key.plural, key.name)
    if expected is not None and before.rev != expected:
        raise Conflict(key.plural, key.name)
    return before


@lru_cache(maxsize=4)
def _second(now: datetime) -> str:
    """A set of writes asks for the same moment again and again."""
    return rfc3339(now.replace(microsecond=0))


def _body(commit: Commit, at: str, by: str, request: str, receipt: JSON | None) -> bytes:
    said: JSON = {"rev": commit.rev, "at": at, "by": by, "request": request}
    head = dump(said if receipt is None else said | {"key": receipt})
    parts = [head[:-1], b',"writes":[']
    for (plural, namespace, name), _, after in commit.changes:
        parts += (_named("put" if after else "delete", plural, namespace), dump_text(name))
        parts += (_object_of(plural), after.raw, b"},") if after else (b"},",)
    parts[-1] = b"}]}" if commit.changes else b',"writes":[]}'
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _named(verb: str, plural: str, namespace: str) -> bytes:
    """How a write begins; the same few come again and again."""
    return dump({"verb": verb, "kind": plural, "namespace": namespace})[:-1] + b',"name":'


@cache
def _object_of(plural: str) -> bytes:
    """How a write goes on: what schema the object has, unless it is the first, and the object."""
    schema = upgrades.schema_of(plural)
    return b',"object":' if schema == 1 else b',"schema":%d,"object":' % schema
