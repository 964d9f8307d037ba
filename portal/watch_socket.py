"""`/ws/v1/watch`: many watches over one socket, for browsers, which open only six connections to a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import WSMsgType, web

from nanovirt.portal.api import paths
from nanovirt.portal.api.failures import status_of
from nanovirt.portal.api.fanout import Watcher
from nanovirt.portal.api.watching import Watches
from nanovirt.portal.identity import Subject, now_utc
from nanovirt.resources.codec import dump
from nanovirt.resources.errors import Expired, Forbidden, Malformed, NanoError
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.kind import CORE, GROUP_VERSION

PROTOCOL = "nano.watch.v1"
WATCHES_MAX = 64
SOCKETS_MAX = 32
"""Of one user."""
MESSAGE_MAX = 16 * 1024
FLUSH_SECONDS = 0.05
PIECE = 64 * 1024
PENDING_MAX = 4 * 1024 * 1024
"""Bytes that may wait for one watch while its socket does not keep up."""
HEARTBEAT_SECONDS = 20.0
SELECTORS = ("fieldSelector", "labelSelector", "resourceVersion")


class Channel:
    """One watch of a socket: the lines that wait to be sent, in the order of their revisions."""

    def __init__(self, ident: int, wake: Callable[[], None]) -> None:
        self.ident = ident
        self._wake = wake
        self._lines: list[bytes] = []
        self._size = 0
        self._taken = asyncio.Event()
        self.failed: bytes | None = None

    async def begin(self) -> None:
        """Nothing needs to be said."""

    async def write(self, piece: bytes) -> None:
        """Lines of the state at the beginning; waits until they are taken."""
        for line in piece.splitlines():
            self.put(line)
        self._taken.clear()
        await self._taken.wait()

    def watcher(self, since: int, subject: Subject) -> Watcher | None:
        """Who takes the rest."""
        return Follower(self, since, asyncio.get_running_loop().create_future(), subject)

    def put(self, line: bytes) -> bool:
        """One line more; False when too much waits: then nothing of it is kept, and the watch is over."""
        if line.startswith(b'{"type":"ERROR"'):
            self.fail(orjson.dumps(orjson.loads(line)["object"]))
            return False
        self._lines.append(line)
        self._size += len(line)
        self._wake()
        return self._size <= PENDING_MAX

    def fail(self, status: bytes) -> None:
        """The watch is over, for the reason that the Status says."""
        self.failed = status
        self._wake()

    def take(self) -> Iterator[bytes]:
        """The messages for all that waits, and the failure at their end."""
        lines, self._lines, self._size = self._lines, [], 0
        for some in _packed(lines):
            yield b'{"id":%d,"events":[%b]}' % (self.ident, b",".join(some))
        if self.failed is not None:
            yield b'{"id":%d,"error":%b}' % (self.ident, self.failed)
        self._taken.set()


class Follower(Watcher):
    """Hands the hub's lines to a channel instead of a connection of their own."""

    __slots__ = ("channel",)

    def __init__(self, channel: Channel, since: int, done: asyncio.Future[None], subject: Subject) -> None:
        super().__init__(asyncio.Transport(), since, done, subject)
        self.channel = channel

    def send(self, frames: list[tuple[int, bytes]], _whole: bytes) -> None:
        """Those that are new; one that does not keep up has to list again."""
        if self.done.done():
            return
        for rev, line in frames:
            if rev > self.since and not self.channel.put(line.rstrip(b"\n")):
                self.expire(rev)
                return

    def expire(self, rev: int) -> None:
        """Say 410 and end."""
        self.channel.fail(dump(status_of(Expired(self.since, rev))))
        self.end()


class WatchSockets:
    """Answers `/ws/v1/watch`."""

    def __init__(self, identify: Callable[[web.BaseRequest], Subject], watches: Watches) -> None:
        self._identify, self._watches = identify, watches
        self._open: dict[str, int] = {}

    async def page(self, request: web.BaseRequest) -> web.StreamResponse:
        """One socket, from its opening to its end. Raises Unauthorized, Forbidden for a page of another site."""
        name = self._identify(request).name
        if self._open.get(name, 0) >= SOCKETS_MAX:
            raise Forbidden(f"{name} has {SOCKETS_MAX} sockets open already")
        socket = web.WebSocketResponse(
            protocols=(PROTOCOL,), heartbeat=HEARTBEAT_SECONDS, compress=False, max_msg_size=MESSAGE_MAX
        )
        if not socket.can_prepare(request):
            raise Malformed(f"this path is a websocket; ask with the subprotocol {PROTOCOL}")
        await socket.prepare(request)
        self._open[name] = self._open.get(name, 0) + 1
        try:
            await Socket(request, socket, self._identify, self._watches).run()
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
        return socket


class Socket:
    """One open socket: reads what is asked, and sends what all its watches have to tell."""

    def __init__(
        self,
        request: web.BaseRequest,
        socket: web.WebSocketResponse,
        identify: Callable[[web.BaseRequest], Subject],
        watches: Watches,
    ) -> None:
        self._request, self._socket, self._identify, self._watches = request, socket, identify, watches
        self._channels: dict[int, tuple[Channel, asyncio.Task[None]]] = {}
        self._news = asyncio.Event()
        self._pongs: list[bytes] = []

    async def run(self) -> None:
        """Until the client goes."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send())
            try:
                async for message in self._socket:
                    if message.type is not WSMsgType.TEXT:
                        break
                    self._asked(message.data, group)
            finally:
                sending.cancel()
                for _, task in self._channels.values():
                    task.cancel()

    async def _send(self) -> None:
        """What waits, at most every 50 ms: a client that reads slowly makes this wait, and the channels fill."""
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._news.clear()
                pongs, self._pongs = self._pongs, []
                for pong in pongs:
                    await self._socket.send_str(pong.decode())
                for ident, (channel, task) in tuple(self._channels.items()):
                    for message in channel.take():
                        await self._socket.send_str(message.decode())
                    if channel.failed is not None:
                        task.cancel()
                        self._channels.pop(ident, None)
        except ConnectionError:
            await self._socket.close()

    def _asked(self, text: str, group: asyncio.TaskGroup) -> None:
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError:
            said = None
        match said:
            case {"op": "ping"}:
                self._pongs.append(dump({"op": "pong", "serverTime": rfc3339(now_utc())}))
                self._news.set()
            case {"op": "unwatch", "id": int(ident)}:
                held = self._channels.pop(ident, None)
                if held is not None:
                    held[1].cancel()
            case {"op": "watch", "id": int(ident), "path": str()} if 0 <= ident < 2**31:
                self._watch(ident, said, group)
            case _:
                self._pongs.append(dump({"error": status_of(Malformed("known are watch, unwatch and ping"))}))
                self._news.set()

    def _watch(self, ident: int, said: dict[str, Any], group: asyncio.TaskGroup) -> None:
        held = self._channels.pop(ident, None)
        if held is not None:
            held[1].cancel()
        channel = Channel(ident, self._news.set)
        if len(self._channels) >= WATCHES_MAX:
            channel.fail(dump(status_of(Forbidden(f"one socket has at most {WATCHES_MAX} watches"))))
            said = {}
        task = group.create_task(self._tell(channel, said))
        self._channels[ident] = (channel, task)

    async def _tell(self, channel: Channel, said: dict[str, Any]) -> None:
        """Carry one watch; an end by itself (its time is over) is told as one, too, so that the client goes on."""
        if not said:
            return
        try:
            request, target = self._as_request(said)
            await self._watches.tell(self._identify(self._request), target, request, channel)
            if channel.failed is None:
                channel.fail(dump(status_of(Expired(0, 0))))
        except NanoError as error:
            channel.fail(dump(status_of(error)))

    def _as_request(self, said: dict[str, Any]) -> tuple[web.BaseRequest, paths.Target]:
        """The watch as if it had been asked for by itself."""
        version, rest = _taken_apart(said["path"].partition("?")[0].strip("/").split("/"))
        asked = {name: str(said[name]) for name in SELECTORS if said.get(name)}
        asked["watch"] = "true"
        if said.get("bookmarks"):
            asked["allowWatchBookmarks"] = "true"
        if not asked.get("resourceVersion"):
            asked |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        url = f"{said['path'].partition('?')[0]}?{urlencode(asked)}"
        try:
            return self._request.clone(rel_url=url), paths.target(version, rest)
        except ValueError as error:
            raise Malformed("the path is none") from error


def _taken_apart(segments: list[str]) -> tuple[str, list[str]]:
    """Group and version, and what stands behind them. Raises Unknown."""
    match segments:
        case ["apis", group, number, *rest] if rest and f"{group}/{number}" == GROUP_VERSION:
            return GROUP_VERSION, rest
        case ["api", number, *rest] if rest and number == CORE:
            return CORE, rest
        case _:
            raise paths.Unknown


def _packed(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Lines in parts of a size that is worth a message."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size > PIECE:
            yield some
            some, size = [], 0
    if some:
        yield some
