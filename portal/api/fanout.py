"""Handing committed changes to watchers: grouped, encoded once, written to transports in slices between other work."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from nanovirt.portal.api import events
from nanovirt.portal.api.requests import Shape
from nanovirt.portal.authorization import visible
from nanovirt.portal.identity import Subject
from nanovirt.resources.errors import Expired
from nanovirt.resources.kind import Facts, Key
from nanovirt.resources.selectors import Selection, as_text, matcher, row_term
from nanovirt.resources.store import Change, Commit, Entry, Store

BUFFER_MAX = 4 * 1024 * 1024
"""Bytes that may wait for one watcher; a slower one is ended and has to list again."""
CLOSE_SECONDS = 10
SLICE, SLICE_BUSY = 30, 8
"""Watchers served in one turn of the loop, and at least when somebody waits for a write; a send costs about 10 us."""
SECONDS_PER_WATCHER = 50e-6
"""Then one more for so much time since the last slice, so that a crowd of writers starves no watcher."""
YIELD_SECONDS = 20e-6
"""So long the interpreter is left to the log's thread, for which somebody waits: a loop that never rests starves it."""
PATIENCE_SECONDS, PAUSE_SECONDS = 0.02, 0.001
"""A crowd is told so much later while somebody waits for a write; what is written meanwhile goes with it."""
TICK_SECONDS = 10.0
BOOKMARK_TICKS, AGENT_BOOKMARK_TICKS = 3, 1
STANDING = frozenset(["users", "groups", "roles", "credentials"])
"""Kinds whose changes may take from a watcher what it was recognized as."""


class Interest(NamedTuple):
    """What a watcher wants to see; equal interests share a group."""

    plural: str
    namespace: str
    chosen: Selection
    shape: Shape
    sight: str
    """The visibility class of whoever watches."""
    bookmarks: int
    """Ticks between bookmarks; 0: none."""


class Watcher:
    """One open watch of `subject`: `since` is the revision up to which it has seen everything."""

    __slots__ = ("done", "since", "subject", "transport")

    def __init__(self, transport: asyncio.Transport, since: int, done: asyncio.Future[None], subject: Subject) -> None:
        self.transport, self.since, self.done, self.subject = transport, since, done, subject

    def send(self, frames: list[tuple[int, bytes]], whole: bytes) -> None:
        """Write `whole`, a chunk of all lines, or those of `frames` that are new; end it when it does not keep up."""
        transport = self.transport
        if self.done.done():
            return
        if transport.is_closing():
            self.end()
        elif transport.get_write_buffer_size() > BUFFER_MAX:
            self._give_up(frames[0][0])
        elif self.since < frames[0][0]:
            transport.write(whole)
        else:
            fresh = b"".join(line for rev, line in frames if rev > self.since)
            if fresh:
                transport.write(events.chunk(fresh))

    def end(self) -> None:
        """Let the request end."""
        if not self.done.done():
            self.done.set_result(None)

    def expire(self, rev: int) -> None:
        """Say 410 and end: what it may see is another from `rev` on, so it has to list again."""
        if not self.transport.is_closing():
            self.transport.write(events.chunk(events.error(Expired(self.since, rev))))
        self.end()

    def _give_up(self, rev: int) -> None:
        """Say 410 behind what waits already, and do not wait for ever until it is taken."""
        self.transport.write(events.chunk(events.error(Expired(self.since, rev))) + events.LAST_CHUNK)
        self.transport.close()
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)
        self.end()


class Group:
    """All watchers of one interest, and what they have not been sent yet."""

    def __init__(self, facts: Facts, interest: Interest, subject: Subject) -> None:
        self.facts, self.interest = facts, interest
        self.watchers: dict[Watcher, None] = {}
        self.outbox: list[tuple[int, bytes]] = []
        self.gate = row_term(interest.chosen, facts)
        self._accepts = matcher(interest.chosen, facts)
        self.subject = subject
        self._limited = interest.sight != "all"

    def wants(self, key: Key, entry: Entry | None) -> bool:
        """Whether that state of an object is for these watchers."""
        if entry is None or (self.interest.namespace and key.namespace != self.interest.namespace):
            return False
        if self._accepts is not None and not self._accepts(key, entry):
            return False
        return not self._limited or visible(self.subject, key, entry, "watch")

    def verdict(self, change: Change) -> str:
        """ADDED, MODIFIED or DELETED as these watchers see it; "" when it is not for them."""
        had, has = self.wants(change.key, change.before), self.wants(change.key, change.after)
        if had:
            return "MODIFIED" if has else "DELETED"
        return "ADDED" if has else ""


class Hub:
    """Follows the store and serves every open watch; needs the running loop, and no task of its own."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        busy: Callable[[], bool],
        standing: Callable[[Subject], bool],
    ) -> None:
        """`busy`: whether somebody waits for a write, so that slices should be small; `standing`: see Api."""
        self._clock, self._busy, self.standing = clock, busy, standing
        self._groups: dict[Interest, Group] = {}
        self._open: defaultdict[str, dict[Group, None]] = defaultdict(dict)
        self._gated: defaultdict[tuple[str, int], defaultdict[str, dict[Group, None]]]
        self._gated = defaultdict(lambda: defaultdict(dict))
        self._dirty: dict[Group, None] = {}
        self._sweep: Iterator[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._rested = self._patient_since = 0.0
        self.told = store.committed
        self._unsubscribe = store.subscribe(self.hear)

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return sum(len(group.watchers) for group in self._groups.values())

    def close(self) -> None:
        """End every watch, normally."""
        self._unsubscribe()
        if self._ticker is not None:
            self._ticker.cancel()
        for group in self._groups.values():
            for watcher in group.watchers:
                watcher.end()

    # --- who watches ---

    def group(self, facts: Facts, interest: Interest, subject: Subject) -> Group:
        """The group of that interest, or a new one, which counts only once somebody has joined it."""
        return self._groups.get(interest) or Group(facts, interest, subject)

    def join(self, group: Group, watcher: Watcher) -> None:
        """Send `watcher` every change after its `since` from now on."""
        group = self._groups.setdefault(group.interest, group)
        group.watchers[watcher] = None
        self._place(group)[group] = None
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def leave(self, interest: Interest, watcher: Watcher) -> None:
        """Send it nothing more."""
        group = self._groups.get(interest)
        if group is None:
            return
        group.watchers.pop(watcher, None)
        if not group.watchers:
            del self._groups[interest]
            self._place(group).pop(group, None)
            self._dirty.pop(group, None)

    def _place(self, group: Group) -> dict[Group, None]:
        plural = group.interest.plural
        if group.gate is None:
            return self._open[plural]
        index, value = group.gate
        return self._gated[plural, index][value]

    # --- what happened ---

    def hear(self, commit: Commit) -> None:
        """Encode a commit for each group that it concerns; the store calls this after the writer was answered."""
        self.told = commit.rev
        if any(change.key.plural in STANDING for change in commit.changes):
            self._question(commit.rev)
        for change in commit.changes:
            if change.key.plural == "hosts" and change.after is None:
                self._revoke(change.key.name)
            encoded: dict[tuple[str, Shape], bytes] = {}
            for group in self._concerned(change):
                word = group.verdict(change)
                if word:
                    self._put(group, commit.rev, self._encoded(group, change, word, commit.rev, encoded))
        self._wake()

    def _question(self, rev: int) -> None:
        """End every watch of whom the change leaves nothing, less, or something else to see."""
        for group in self._groups.values():
            for watcher in group.watchers:
                if not self.standing(watcher.subject):
                    watcher.expire(rev)

    def _revoke(self, host: str) -> None:
        """A Host that is deleted takes the rights of its agent away, also from watches that are open."""
        for group in self._groups.values():
            if group.subject.host == host:
                for watcher in group.watchers:
                    watcher.end()

    def _concerned(self, change: Change) -> Iterator[Group]:
        plural = change.key.plural
        yield from self._open[plural]
        for (kind, index), by_value in self._gated.items():
            if kind == plural:
                values = {as_text(entry.row[index]) for entry in change[1:] if entry is not None}
                for value in values & by_value.keys():
                    yield from by_value[value]

    def _encoded(
        self, group: Group, change: Change, word: str, rev: int, encoded: dict[tuple[str, Shape], bytes]
    ) -> bytes:
        shape = group.interest.shape
        line = encoded.get((word, shape))
        if line is None:
            line = encoded[word, shape] = event_line(group.facts, change, word, rev, shape, self._clock())
        return line

    def _put(self, group: Group, rev: int, line: bytes) -> None:
        group.outbox.append((rev, line))
        self._dirty[group] = None

    # --- telling ---

    def _wake(self) -> None:
        if self._dirty and self._sweep is None:
            self._sweep = self._deliveries()
            self._patient_since = time.monotonic()
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """One slice: what comes up meanwhile (writers, readers) has its turn before the next."""
        assert self._sweep is not None
        now = time.monotonic()
        count = SLICE
        if self._busy():
            if now - self._patient_since < PATIENCE_SECONDS and self._crowded():
                asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._serve)
                return
            count = min(SLICE, max(SLICE_BUSY, int((now - self._rested) / SECONDS_PER_WATCHER)))
            time.sleep(YIELD_SECONDS)
        self._rested = now
        if sum(1 for _ in islice(self._sweep, count)) == count:
            asyncio.get_running_loop().call_soon(self._serve)
            return
        self._sweep = None
        self._wake()

    def _crowded(self) -> bool:
        """Whether it would take several turns to tell all that wait to be told."""
        return sum(len(group.watchers) for group in self._dirty) > SLICE

    def _deliveries(self) -> Iterator[None]:
        while self._dirty:
            group = next(iter(self._dirty))
            del self._dirty[group]
            frames, group.outbox = group.outbox, []
            whole = events.chunk(b"".join(line for _, line in frames))
            for watcher in tuple(group.watchers):
                watcher.send(frames, whole)
                yield

    def _tick(self) -> None:
        self._ticks += 1
        self._ticker = None
        if not self._groups:
            return
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        for group in self._groups.values():
            every = group.interest.bookmarks
            if every and self._ticks % every == 0:
                self._put(group, self.told, events.bookmark(group.facts, self.told, group.interest.shape))
        self._wake()


def event_line(facts: Facts, change: Change, word: str, rev: int, shape: Shape, now: datetime) -> bytes:
    """The line that tells of a change."""
    if word == "DELETED":
        assert change.before is not None
        entry = events.gone(change.before, rev)
    else:
        assert change.after is not None
        entry = change.after
    return events.line(word, events.shown(facts, entry, shape, now))
