"""The server in the same process: for simulated hosts, which need neither HTTP nor credentials."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from nanovirt.agent.server import Changed, Gone, Listed, News
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import Conflict, LogFull, NotFound
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.hold import HOLD, held
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.report import HostReport, ReportReply
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Change, Commit, Half, Store, Update


class LocalServers:
    """One subscription of the store for all hosts of this process: a commit is looked at once, by rows alone.

    `reply` gives what the server answers to a report of the host so named; `clock` is the one `reports` began with.
    """

    def __init__(
        self,
        store: Store,
        reports: Reports,
        clock: Callable[[], float] = time.monotonic,
        reply: Callable[[str], ReportReply] = lambda _host: ReportReply(),
    ) -> None:
        self._store = store
        self._reports = reports
        self._clock = clock
        self._reply = reply
        self._feeds: dict[str, Feed] = {}
        self._released = asyncio.Event()
        if not held(store):
            self._released.set()
        self._end = store.subscribe(self._take)

    def of(self, host: str) -> LocalServer:
        """The server as that host sees it."""
        return LocalServer(host, self._store, self._feeds, self._released, lambda report: self._heard(host, report))

    def _heard(self, host: str, report: HostReport) -> ReportReply:
        self._reports.hear(host, report, self._clock())
        return self._reply(host)

    def close(self) -> None:
        """Hear of no more commits."""
        self._end()

    def _take(self, commit: Commit) -> None:
        for change in commit.changes:
            if change.key == HOLD:
                self._released.set() if change.after is None else self._released.clear()
            if change.key.plural == "placements":
                entry = change.after or change.before
                feed = self._feeds.get(entry.row.host) if entry else None
                if feed is not None:
                    feed.put(commit.rev, change)


class Feed:
    """The changes of one host's Placements that its agent has not taken yet, but for those that it wrote itself."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._waiting: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._own: set[int] = set()

    def own(self, rev: int) -> None:
        """A revision that this host wrote: it need not be told of it."""
        self._own.add(rev)

    def disown(self, rev: int) -> None:
        """That revision was not written after all."""
        self._own.discard(rev)

    def put(self, rev: int, change: Change) -> None:
        """Queue a change, unless it was in the list already or is known."""
        if rev in self._own:
            self._own.discard(rev)
        elif rev > self._since:
            self._waiting.append(change)
            self._wake.set()

    async def take(self) -> News:
        """The next change."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key, before, after = self._waiting.popleft()
        if after is None:
            return Gone(key, before.uid if before else "")
        return Changed(trusted(Placement, after.raw))


class LocalServer:
    """A Server that is the store itself."""

    def __init__(
        self,
        host: str,
        store: Store,
        feeds: dict[str, Feed],
        released: asyncio.Event,
        hear: Callable[[HostReport], ReportReply],
    ) -> None:
        self._host = host
        self._store = store
        self._feeds = feeds
        self._released = released
        self._hear = hear

    async def placements(self) -> AsyncGenerator[News, None]:
        """See Server."""
        await self._released.wait()
        feed = self._feeds[self._host] = Feed(self._store.committed)
        try:
            yield Listed(tuple(trusted(Placement, raw) for raw in self._held()))
            while True:
                yield await feed.take()
        finally:
            if self._feeds.get(self._host) is feed:
                del self._feeds[self._host]

    def _held(self) -> list[bytes]:
        return [entry.raw for _, entry in self._store.list("placements") if entry.row.host == self._host]

    async def write_status(self, placement: Placement, status: PlacementStatus) -> None:
        """See Server."""
        key, held = placement.key, self._store.peek(placement.key)
        if held is None:
            raise NotFound(key.plural, key.name)
        if held.uid != placement.metadata.uid:
            raise Conflict(key.plural, key.name, "it is another object by now (uid differs)")
        told = Update(key, {"status": status.to_json()}, Half.STATUS)
        ticket = self._store.stage([told], by=f"host:{self._host}", patient=True)
        after = ticket.outcome.entries[0]
        feed = self._feeds.get(self._host)
        if feed is not None and after is not None and after.rev != held.rev:
            feed.own(after.rev)
        try:
            await ticket.durable()
        except LogFull:  # the revision was given back, and will be another's
            if feed is not None and after is not None:
                feed.disown(after.rev)
            raise

    async def report(self, report: HostReport) -> ReportReply:
        """See Server."""
        return self._hear(report)

    async def fetch_secrets(self, placement: Key) -> GuestSecrets:
        """See Server: nobody reads the seed of a simulated machine."""
        del placement
        return GuestSecrets()

    async def fetch_image(self, placement: Key, volume: str, path: Path) -> None:
        """See Server: simulated hosts know images by their hash and need no bytes."""
        del path
        raise NotFound("images", f"{placement.name}/{volume}")
