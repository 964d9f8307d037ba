"""Watchers that join, resume, are slow and break off: over the real HTTP server, and as sinks of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random

import orjson

from nanovirt.portal.api.serving import ApiServer
from nanovirt.resources import wire
from nanovirt.resources.codec import dump
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Expired
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.store import Commit, Entry
from tests.histories.journal import End, Expire, Found, Interest, Journal, Line, Listing, Quiet, Told
from tests.histories.wires import Chunks, Wire

INTERESTS = (
    Interest("computepools"),
    Interest("computepools", label=("tier", "gold")),
    Interest("placements", field=("host", "h1")),
    Interest("placements", "a"),
    Interest("placements", "b", ("tier", "tin"), ("host", "h2")),
    Interest("instances"),
)
EVERYTHING = Interest()
SLOWEST = 0.3


def path(interest: Interest, after: int | None) -> str:
    """The request of a watch."""
    selectors = {}
    if interest.label:
        selectors["labelSelector"] = "=".join(interest.label)
    if interest.field:
        selectors["fieldSelector"] = "spec." + "=".join(interest.field)
    start = {"sendInitialEvents": True} if after is None else {"resourceVersion": after}
    facts = KINDS[interest.plural].facts
    return wire.path(facts.group_version, interest.plural, interest.namespace, "", "") + wire.query(
        watch=True, allowWatchBookmarks=True, **selectors, **start
    )


class Stream:
    """One watch over HTTP, written down line by line."""

    def __init__(self, journal: Journal, server: ApiServer, interest: Interest, after: int | None) -> None:
        self._journal, self.interest, self.after = journal, interest, after
        self.number = journal.open(interest, after)
        self._chunks, self._lines = Chunks(), wire.Lines()
        self.wire = Wire(server)
        self.wire.send(f"GET {path(interest, after)} HTTP/1.1\r\nHost: nano\r\n\r\n".encode())
        self.first = -1
        """The revision that ended the first state; -1 before."""
        self.expired: Expire | None = None

    def read(self, most: int) -> Iterator[bytes]:
        """The lines in what has come, as they are."""
        for piece in self._chunks.feed(self.wire.take(most)):
            for line in self._lines.feed(piece):
                self._note(line)
                yield line

    def _note(self, text: bytes) -> None:
        said = orjson.loads(text)
        word, found = said["type"], said["object"]
        if word == "ERROR":
            params = found["details"]["params"]
            self.expired = Expire(self.number, params["asked"], params["oldest"])
            self._journal.write(self.expired)
            return
        metadata = found["metadata"]
        rev = int(metadata["resourceVersion"])
        if word == "BOOKMARK":
            if "annotations" in metadata:
                word, self.first = "FIRST", rev
            self._journal.write(Told(self.number, (Line(word, rev),)))
            return
        key = Key(self.interest.plural, metadata.get("namespace", ""), metadata["name"])
        content = text.rstrip(b"\n")[len(b'{"type":"","object":') + len(word) : -1]
        self._journal.write(Told(self.number, (Line(word, rev, key, content),)))


class Watcher:
    """One client that follows an interest through all lives, as `nanovirt.resources.client` does."""

    def __init__(self, journal: Journal, chance: Random, interest: Interest) -> None:
        self._journal, self._chance, self._interest = journal, chance, interest
        self._cursor: wire.Cursor | None = None
        self._kept = 0
        self.stream: Stream | None = None

    async def live(self, server: ApiServer, store: Engine, calm: Callable[[], bool]) -> None:
        """Follow while this server lives; before that, take what the one before had sent."""
        if self.stream is not None:
            self._take(self.stream, self._chance.randint(0, 1 << 14))
        while True:
            after = self._start(store)
            self.stream = Stream(self._journal, server, self._interest, after)
            try:
                await self._follow(self.stream, calm)
            finally:
                self.stream.wire.drop()
            await asyncio.sleep(self._chance.random() * 0.05)

    def _start(self, store: Engine) -> int | None:
        """Where to go on, or after a list, or (None) with the first state."""
        if self._cursor is not None:
            return int(self._cursor.resource_version)
        if self._chance.random() < 0.5:
            return None
        asked = Listing(self._interest.plural, self._interest.namespace)
        call = self._journal.begin("watcher", asked)
        rev = store.committed
        found = Found(rev, tuple((key, entry.raw) for key, entry in store.list(*asked)))
        self._journal.write(End(call, found))
        if not rev:
            return None  # 0 asks for the first state, as no revision does
        self._begin(rev)
        return rev

    def _begin(self, rev: int) -> None:
        self._cursor = wire.Cursor(str(rev))
        self._kept = self._journal.open(self._interest, rev)

    async def _follow(self, stream: Stream, calm: Callable[[], bool]) -> None:
        """Read until it ends, or one loses patience."""
        pieces = self._chance.randint(1, 60)
        while not stream.wire.over and stream.expired is None:
            await stream.wire.arrived.wait()
            if not calm():
                pieces -= 1
                if self._chance.random() < 0.1:
                    await asyncio.sleep(self._chance.random() * SLOWEST)
            most = self._chance.choice((200, 2000, 1 << 20))
            if not self._take(stream, most) or (pieces < 0 and not calm()):
                return

    def _take(self, stream: Stream, most: int) -> bool:
        """Take in what has come; False when it has to be begun anew."""
        for line in stream.read(most):
            if stream.expired is not None:
                self._cursor = None
                return False
            if self._cursor is None:
                if stream.first > 0:
                    self._begin(stream.first)
                continue
            event = self._cursor.take(line)
            if event is not None:
                self._journal.write(Told(self._kept, (_line(event, self._interest.plural),)))
        return True

    def resume(self, rev: int) -> None:
        """Go on after that revision, of which another life was told (0: it was told nothing)."""
        if rev:
            self._begin(rev)

    def quiet(self, head: int) -> None:
        """It has had the time to hear of all."""
        if self.stream is not None and not self.stream.wire.over and self._cursor is not None:
            self._journal.write(Quiet(self.stream.number, head))
            self._journal.write(Quiet(self._kept, head))


class Probe:
    """A client that resumes where it likes: at the edge of what is kept, close to the end, in the future."""

    def __init__(self, journal: Journal, chance: Random) -> None:
        self._journal, self._chance = journal, chance

    async def live(self, server: ApiServer, store: Engine) -> None:
        """Look, again and again."""
        oldest = 1
        while True:
            await asyncio.sleep(self._chance.random() * 0.05)
            around = self._chance.choice((oldest, oldest, oldest - 1, oldest + 1, store.committed))
            after = max(around + self._chance.choice((0, 0, 0, -1, 2)), 1)
            stream = Stream(self._journal, server, self._chance.choice(INTERESTS), after)
            try:
                async with asyncio.timeout(self._chance.random() * 0.05):
                    while stream.expired is None:
                        await stream.wire.arrived.wait()
                        for _ in stream.read(1 << 20):
                            pass
            except TimeoutError:
                pass
            finally:
                stream.wire.drop()
            if stream.expired is not None:
                oldest = stream.expired.oldest


class Sink:
    """Who hears the store's own commits, and asks for those between two lives."""

    def __init__(self, journal: Journal, seen: int = 0) -> None:
        self._journal, self._seen = journal, seen
        self._stream = 0

    def live(self, store: Engine) -> None:
        """Hear everything from now on, as long as this store lives."""
        try:
            missed = store.history(self._seen)
        except Expired:
            missed, self._seen = (), store.committed
        self._stream = self._journal.open(EVERYTHING, self._seen, raw=True)
        for commit in missed:
            self._hear(commit)
        store.subscribe(self._hear)

    def _hear(self, commit: Commit) -> None:
        self._seen = commit.rev
        if commit.changes:
            self._journal.write(Told(self._stream, tuple(_raw(commit.rev, *change) for change in commit.changes)))

    def quiet(self, head: int) -> None:
        """It has had the time to hear of all."""
        self._journal.write(Quiet(self._stream, head))


def _raw(rev: int, key: Key, before: Entry | None, after: Entry | None) -> Line:
    word = ("MODIFIED" if before else "ADDED") if after else "DELETED"
    return Line(word, rev, key, after.raw if after else b"", before.raw if before else b"")


def _line(event: wire.Event, plural: str) -> Line:
    metadata = event.object["metadata"]
    key = Key(plural, metadata.get("namespace", ""), metadata["name"])
    return Line(event.type, int(metadata["resourceVersion"]), key, dump(event.object))
