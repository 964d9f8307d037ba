"""The one loop that runs every controller: change -> key into queue -> read -> plan -> transact, one worker per key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from nanovirt.controllers.actions import Action, LookAgain, Transact, confess
from nanovirt.controllers.queue import Queue
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import AlreadyExists, Conflict, LogFull, NotFound, StoreFailed
from nanovirt.resources.hold import HOLD, held
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.store import Change, Commit, Create, Delete, Expect, Half, Op, Store, Ticket, Update

log = logging.getLogger(__name__)

Wake = tuple[Key, float]
WORKERS = 64


@dataclass(frozen=True)
class Controller:
    """A planner with what it declares: kinds under whose keys it works, what it writes, and what wakes it."""

    name: str
    plan: Callable[[Document | None, datetime], Iterator[Action]]
    kinds: frozenset[str]
    """Plurals of the objects that it looks at whenever they change."""
    writes: frozenset[str]
    wakes: Mapping[str, Callable[[Change], Iterable[Wake]]]
    """By plural of what changed: the keys to look at, each after so many seconds."""
    also: frozenset[str] = frozenset()
    """Plurals of objects that it looks at once, when it starts."""
    observes: bool = False
    """It only tells what is, so it goes on while a restored store is held."""

    @property
    def begins(self) -> frozenset[str]:
        """Everything that is looked at when it starts."""
        return self.kinds | self.also


class Undeclared(Exception):
    """A controller tried to write what it does not declare: a bug."""


def check_writes(controller: Controller, ops: Iterable[Op]) -> None:
    """Raise Undeclared unless every write is among the controller's WRITES."""
    for op in ops:
        if not isinstance(op, Expect) and not _declared(controller.writes, op):
            raise Undeclared(f"{controller.name} may not {type(op).__name__.lower()} {op.key}")


def _declared(writes: frozenset[str], op: Create | Update | Delete) -> bool:
    plural = op.key.plural
    if isinstance(op, Delete) and "deletes" in writes:
        return True
    if isinstance(op, Update) and op.half is Half.STATUS:
        return f"{plural}/status" in writes or plural in writes
    return not writes.isdisjoint((plural, f"{plural}/{type(op).__name__.lower()}")) or (
        isinstance(op, Update) and not writes.isdisjoint((f"{plural}/finalizers", "finalizers"))
    )


def _now() -> float:
    """The monotonic clock of the loop, by which its timers ring, too."""
    return asyncio.get_running_loop().time()


class Runtime:
    """Runs one controller. It sees writes as soon as they are staged: its own writes follow them in the log."""

    def __init__(self, controller: Controller, store: Store) -> None:
        self._controller, self._store = controller, store
        self._kinds, self._wakes = controller.kinds, controller.wakes
        self._queue: Queue[Key] = Queue()
        self._workers: asyncio.TaskGroup | None = None
        self._beginning: asyncio.Handle | None = None
        """What will begin the work that is due, in this turn of the loop or when its time comes."""
        self._begins_at = 0.0
        self._acting_on: Key | None = None
        self.planned = 0
        """How many plans were made: a settled world adds none."""

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Look at a key."""
        now = _now()
        self._queue.add(key, now, delay)
        self._begin_at(now + delay, now)

    def _woken(self, key: Key, delay: float = 0.0) -> None:
        """A plan says all that follows from what it saw, so its own writes do not wake it again."""
        if key != self._acting_on:
            self.add(key, delay)

    def _admitted(self, commit: Commit) -> None:
        for change in commit.changes:
            plural = change.key.plural
            if change.key == HOLD and change.after is None:
                now = _now()
                self._begin_at(now, now)
            if plural in self._kinds:
                self._woken(change.key)
            waker = self._wakes.get(plural)
            if waker is not None:
                for key, delay in waker(change):
                    self._woken(key, delay)

    @property
    def idle(self) -> bool:
        """Whether nothing is due or being worked on."""
        due = self._queue.next_wake()
        return not self._queue.busy and (due is None or due > _now())

    async def run(self) -> None:
        """Look at every object once, then at what changes, for ever."""
        stop = self._store.subscribe(self._admitted, admitted=True)
        try:
            for plural in self._controller.begins:
                for key, _ in self._store.peek_all(plural):
                    self.add(key)
            async with asyncio.TaskGroup() as workers:
                self._workers = workers
                try:
                    self._begin()
                    await asyncio.Event().wait()
                finally:
                    self._workers = None
        finally:
            stop()
            if self._beginning is not None:
                self._beginning.cancel()

    def _begin_at(self, due: float, now: float) -> None:
        """Begin what is due then, unless that happens before."""
        if self._workers is None or (self._beginning is not None and self._begins_at <= due):
            return
        if self._beginning is not None:
            self._beginning.cancel()
        loop, self._begins_at = asyncio.get_running_loop(), due
        self._beginning = loop.call_later(due - now, self._begin) if due > now else loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Give what is due to workers, as many as there may be, and come back when more is."""
        self._beginning = None
        if self._workers is None or (held(self._store) and not self._controller.observes):
            return
        now = _now()
        for key in self._queue.ready(now, WORKERS - self._queue.busy):
            self._workers.create_task(self._work(key))
        due = self._queue.next_wake() if self._queue.busy < WORKERS else None
        if due is not None:
            self._begin_at(due, now)

    async def _work(self, key: Key) -> None:
        try:
            after = await self._reconcile(key)
        except (Conflict, NotFound, AlreadyExists) as stale:
            pause = self._queue.failed(key, _now())
            log.debug(
                "state moved on",
                extra={"controller": self._controller.name, "key": str(key), "why": str(stale), "pause": pause},
            )
        except LogFull as full:  # no bug, and nothing can be told on the object now
            pause = self._queue.failed(key, _now())
            log.warning(
                "nothing can be written; will retry",
                extra={"controller": self._controller.name, "key": str(key), "why": str(full), "pause": pause},
            )
        except StoreFailed:
            raise
        except Exception as bug:
            pause = self._queue.failed(key, _now())
            self._confess(key, bug)
            log.exception(
                "reconcile failed", extra={"controller": self._controller.name, "key": str(key), "pause": pause}
            )
        else:
            self._queue.done(key)
            if after is not None:
                self._queue.add(key, _now(), after)
        due, now = self._queue.next_wake(), _now()
        if due is not None:
            self._begin_at(due, now)

    def _confess(self, key: Key, bug: Exception) -> None:
        """A bug shows on the object, where its owner looks, and not only in the log."""
        entry = self._store.peek(key)
        if entry is None or f"{key.plural}/status" not in self._controller.writes:
            return
        told = confess(key, entry, bug, datetime.now(UTC))
        if told is not None:
            self._staged(key, [told])

    def _staged(self, key: Key, ops: Sequence[Op]) -> Ticket:
        self._acting_on = key
        try:
            return self._store.stage(ops, self._controller.name, patient=True)
        finally:
            self._acting_on = None

    async def _reconcile(self, key: Key) -> float | None:
        """Plan and act once; the seconds after which to look again, if the plan says so."""
        entry = self._store.peek(key)
        thing = trusted(KINDS[key.plural], entry.raw) if entry is not None else None
        again: float | None = None
        self.planned += 1
        for action in self._controller.plan(thing, datetime.now(UTC)):
            match action:
                case Transact(ops):
                    check_writes(self._controller, ops)
                    ticket = self._staged(key, ops)
                    await ticket.durable()
                    log.info(
                        "committed",
                        extra={"controller": self._controller.name, "key": str(key), "rev": ticket.outcome.rev},
                    )
                case LookAgain(after):
                    again = after
                case _:
                    assert_never(action)
        return again
