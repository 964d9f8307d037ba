"""Watch requests: the first state or the missed changes under flow control, then the hub; 410 when history is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11

from nanovirt.portal.api import events
from nanovirt.portal.api.fanout import AGENT_BOOKMARK_TICKS, BOOKMARK_TICKS, Group, Hub, Interest, Watcher, event_line
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.reading import selected
from nanovirt.portal.api.replies import JSON_TYPE, SAFE
from nanovirt.portal.api.requests import number, shape, truth
from nanovirt.portal.authorization import authorize, visibility_class
from nanovirt.portal.identity import Subject
from nanovirt.resources.errors import Expired, Malformed
from nanovirt.resources.kind import Key
from nanovirt.resources.selectors import Selection, Term
from nanovirt.resources.store import Store

WATCH_SECONDS = 3600
FUTURE_SECONDS = 3.0
FUTURE_POLL_SECONDS = 0.05
PIECE = 256 * 1024
HEADERS = {**SAFE, "Content-Type": JSON_TYPE}


class Asked(NamedTuple):
    """A watch as the query asks for it."""

    revision: int | None
    initial: bool
    initial_end: bool
    seconds: int


class Sink(Protocol):
    """Where the events of one watch go: first lines under flow control, then whatever the hub hands to its watcher."""

    async def begin(self) -> None:
        """The watch is granted."""
        ...

    async def write(self, piece: bytes) -> None:
        """Whole lines, as events.py writes them."""
        ...

    def watcher(self, since: int, subject: Subject) -> Watcher | None:
        """Who takes what comes after revision `since`; None when nobody is there any more."""
        ...


class Watches:
    """Opens watches on behalf of subjects."""

    def __init__(self, store: Store, hub: Hub, clock: Callable[[], datetime]) -> None:
        self._store, self._hub, self._clock = store, hub, clock

    async def watch(self, subject: Subject, target: Target, request: web.BaseRequest) -> web.StreamResponse:
        """Stream events until the client goes, its time is over, or it is too slow."""
        if request.version < HttpVersion11:
            authorize(subject, "watch", target.key.plural, "", target.key)
            raise Malformed("a watch needs HTTP/1.1")
        body = Body(request)
        await self.tell(subject, target, request, body)
        return body.response

    async def tell(self, subject: Subject, target: Target, request: web.BaseRequest, sink: Sink) -> None:
        """Tell `sink` what `request` asks for, until it is over; raises what refuses it before anything is told."""
        authorize(subject, "watch", target.key.plural, "", target.key)
        asked, interest = _asked(request), _interest(subject, target, request)
        group = self._hub.group(target.facts, interest, subject)
        if asked.revision is not None and not await self._reached(asked.revision):
            await sink.begin()
            await sink.write(events.error(Expired(asked.revision, self._store.committed)))
            return
        await sink.begin()
        try:
            self._check_resumable(subject, asked)
            self._check_standing(subject)
            since = await self._catch_up(sink, group, asked, subject)
        except Expired as gone:
            await sink.write(events.error(gone))
            return
        watcher = sink.watcher(since, subject)
        if watcher is not None:
            await self._follow(group, watcher, self._seconds(subject, asked))

    async def _reached(self, revision: int) -> bool:
        """Whether the store is at that revision, or comes there within a few seconds."""
        deadline = time.monotonic() + FUTURE_SECONDS
        while revision > self._store.committed:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(FUTURE_POLL_SECONDS)
        return True

    def _check_resumable(self, subject: Subject, asked: Asked) -> None:
        """What became visible with new rights is told to nobody who has not listed since. Raises Expired."""
        since = subject.rights.since if subject.rights is not None else 0
        if not asked.initial and (asked.revision or 0) < since:
            raise Expired(asked.revision or 0, since)

    def _check_standing(self, subject: Subject) -> None:
        """Whether the subject is still what it was when the request came. Raises Expired."""
        if not self._hub.standing(subject):
            raise Expired(0, self._store.committed)

    async def _catch_up(self, sink: Sink, group: Group, asked: Asked, subject: Subject) -> int:
        """Send what is there or was missed; gives, without having slept since, the revision that all of it reaches."""
        revision = self._store.committed if asked.initial else asked.revision or 0
        if asked.initial:
            for piece in self._state(group):
                await sink.write(piece)
                self._check_standing(subject)
        while (newest := self._store.committed) > revision:
            for piece in _pieces(self._missed(group, revision, newest)):
                await sink.write(piece)
                self._check_standing(subject)
            revision = newest
        if asked.initial_end:
            end = events.bookmark(group.facts, revision, group.interest.shape, initial_end=True)
            await sink.write(end)
            self._check_standing(subject)
            if self._store.committed > revision:
                rest = Asked(revision, initial=False, initial_end=False, seconds=0)
                return await self._catch_up(sink, group, rest, subject)
        return revision

    def _state(self, group: Group) -> Iterator[bytes]:
        """ADDED for all that is there now."""
        interest, now = group.interest, self._clock()
        listed = self._store.list(interest.plural, interest.namespace)
        found = [entry for key, entry in listed if group.wants(key, entry)]
        return _pieces(events.line("ADDED", events.shown(group.facts, entry, interest.shape, now)) for entry in found)

    def _missed(self, group: Group, after: int, upto: int) -> Iterator[bytes]:
        """The lines of all commits above `after`. Raises Expired."""
        now, plural = self._clock(), group.interest.plural
        lines = []
        for commit in self._store.history(after):
            for change in commit.changes if commit.rev <= upto else ():
                word = group.verdict(change) if change.key.plural == plural else ""
                if word:
                    lines.append(event_line(group.facts, change, word, commit.rev, group.interest.shape, now))
        return iter(lines)

    def _seconds(self, subject: Subject, asked: Asked) -> float:
        """How long the watch may go on: no longer than the token is good."""
        left = (subject.until - self._clock()).total_seconds() if subject.until is not None else asked.seconds
        return min(asked.seconds, max(left, 0))

    async def _follow(self, group: Group, watcher: Watcher, seconds: float) -> None:
        self._hub.join(group, watcher)
        try:
            async with asyncio.timeout(seconds):
                await watcher.done
        except TimeoutError:
            pass
        finally:
            self._hub.leave(group.interest, watcher)


class Body:
    """Events as the chunked body of a response."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=HEADERS)
        self.response.enable_chunked_encoding()

    async def begin(self) -> None:
        """Send the head."""
        await self.response.prepare(self._request)

    async def write(self, piece: bytes) -> None:
        """Send lines."""
        await self.response.write(piece)

    def watcher(self, since: int, subject: Subject) -> Watcher | None:
        """Who is sent the rest past the response; None when the client has gone."""
        transport = self._request.transport
        if transport is None:
            return None
        return Watcher(transport, since, asyncio.get_running_loop().create_future(), subject)


def _pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines joined to pieces of a size that is worth a write."""
    held: list[bytes] = []
    size = 0
    for one in lines:
        held.append(one)
        size += len(one)
        if size > PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _asked(request: web.BaseRequest) -> Asked:
    revision = number(request, "resourceVersion")
    seconds = number(request, "timeoutSeconds") or WATCH_SECONDS
    initial_end = truth(request.query.get("sendInitialEvents"))
    initial = initial_end or not revision
    return Asked(revision, initial, initial_end, min(seconds, 24 * 3600))


def _interest(subject: Subject, target: Target, request: web.BaseRequest) -> Interest:
    chosen = selected(subject, target.facts, request)
    if target.key.name:
        chosen = Selection(chosen.labels, (*chosen.fields, Term("metadata.name", wanted=True, value=target.key.name)))
    every = AGENT_BOOKMARK_TICKS if subject.host else BOOKMARK_TICKS
    bookmarks = every if truth(request.query.get("allowWatchBookmarks")) else 0
    key: Key = target.key
    sight = visibility_class(subject, "watch", key.plural, key.namespace)
    return Interest(key.plural, key.namespace, chosen, shape(request), sight, bookmarks)
