"""What is passed on at once to the agent of the host where an instance is Active: answered in time, or refused."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from nanovirt.resources import errors, wire
from nanovirt.resources.console import FRAME_MAX
from nanovirt.resources.errors import Conflict, HostUnreachable, NanoError, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.report import HostFacts, lost_after
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Commit, Entry, Store

UID_HEADER = "Nano-Placement-Uid"
WHY_HEADER = "Nano-Refusal"
"""In which an agent says why it opens no websocket: the client library reads no body there."""
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
ANSWER_MAX = 1 << 20
"""Bytes that an answer may have unless its caller allows more: an agent may have been taken over."""
PASSED_ON = (errors.Conflict, errors.Malformed, errors.TooLarge, errors.HypervisorError, errors.Invalid)
"""What an agent may refuse with; anything else that it says is a fault of its own."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The Active Placement of an instance."""

    key: Key
    uid: str
    instance: Key
    instance_uid: str
    host: str
    host_uid: str


class Relay:
    """The server's way to its agents. Every call raises what it is refused with:

    NotFound without such an instance, Conflict when it is placed nowhere, HostUnreachable when its host does not answer
    or is not there yet, and what PASSED_ON lists in the agent's own words.
    """

    def __init__(
        self, store: Store, reports: Reports, tls: ssl.SSLContext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tls`: shows the server's certificate. `clock`: the one that `reports` was started with."""
        self._store, self._reports, self._tls, self._clock = store, reports, tls, clock
        self._active: dict[str, Key] = {}
        self._where: dict[str, IPv4Address | IPv6Address] = {}
        self._open: aiohttp.ClientSession | None = None
        for key, entry in store.list("placements"):
            self._note(key, None, entry)
        self._end = store.subscribe(self._follow)

    async def close(self) -> None:
        """End every connection."""
        self._end()
        if self._open is not None:
            await self._open.close()

    # --- where ---

    def _follow(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            if key.plural == "placements":
                self._note(key, before, after)

    def _note(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        if before is not None and self._active.get(before.row.instance_uid) == key:
            del self._active[before.row.instance_uid]
        if after is not None and after.row.role == "Active":
            self._active[after.row.instance_uid] = key

    def placed(self, instance: Key) -> Placed:
        """Where an instance is. Raises NotFound; Conflict when it is nowhere."""
        uid = self._store.get(instance).uid
        key = self._active.get(uid)
        entry = self._store.peek(key) if key is not None else None
        if key is None or entry is None:
            why = f"it has no host yet; `nanoctl why instance/{instance.name}` says what it waits for"
            raise Conflict(instance.plural, instance.name, why)
        host = self._store.peek(Key("hosts", "", entry.row.host))
        return Placed(key, entry.uid, instance, uid, entry.row.host, host.uid if host is not None else "")

    def facts(self, host: str) -> HostFacts:
        """What a host that is alive says of itself. Raises HostUnreachable."""
        heard = self._reports.heard(host)
        if heard is None or self._clock() - heard.at >= lost_after():
            raise HostUnreachable(f"host {host} does not report; is its agent running?")
        return heard.report.facts

    # --- asking ---

    @asynccontextmanager
    async def request(
        self,
        instance: Key,
        method: str,
        word: str,
        *,
        body: bytes | None = None,
        seconds: float = ANSWER_SECONDS,
        **query: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask the agent `/placements/NAMESPACE/NAME/WORD`; leaves only when it agrees. The block reads the answer.

        `seconds` are for everything, the block included.
        """
        placed, url, headers = self._call(instance, word, query)
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        with _faults(placed.host):
            async with self._session().request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as reply:
                if not 200 <= reply.status < 300:
                    raise _refused(placed, reply.status, await reply.content.read(ANSWER_MAX))
                try:
                    yield reply
                finally:
                    _leave(reply)

    async def fetch(
        self,
        instance: Key,
        method: str,
        word: str,
        *,
        body: bytes | None = None,
        seconds: float = ANSWER_SECONDS,
        limit: int = ANSWER_MAX,
        **query: str,
    ) -> bytes:
        """The whole answer, which may have `limit` bytes."""
        async with self.request(instance, method, word, body=body, seconds=seconds, **query) as reply:
            found = bytearray()
            async for piece in reply.content.iter_any():
                found += piece
                if len(found) > limit:
                    raise HostUnreachable(f"{word} of {instance.name}: its host answered more than {limit} bytes")
            return bytes(found)

    @asynccontextmanager
    async def open(
        self,
        instance: Key,
        word: str,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
        **query: str,
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket of binary messages to the agent, open within the block; `seconds` are for opening it."""
        placed, url, own = self._call(instance, word, query)
        with _faults(placed.host):
            async with asyncio.timeout(seconds):
                opened = await self._shake(placed, url, {**(headers or {}), **own})
        try:
            yield opened
        finally:
            await opened.close()

    async def _shake(self, placed: Placed, url: str, headers: dict[str, str]) -> aiohttp.ClientWebSocketResponse:
        """The handshake of RFC 6455 done by aiohttp; a refusal is asked for its words by a plain request."""
        try:
            return await self._session().ws_connect(
                url, headers=headers, max_msg_size=FRAME_MAX, compress=0, heartbeat=20.0, autoping=True
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 101:
                raise
            why = error.headers.get(WHY_HEADER, "") if error.headers else ""
            raise _refused(placed, error.status, why.encode()) from error

    def _call(self, instance: Key, word: str, query: dict[str, str]) -> tuple[Placed, str, dict[str, str]]:
        placed = self.placed(instance)
        facts = self.facts(placed.host)
        if not facts.port or not placed.host_uid:
            raise HostUnreachable(f"the agent of host {placed.host} listens on no port; is it too old?")
        try:
            self._where[placed.host_uid] = ip_address(facts.address)
        except ValueError as error:
            raise HostUnreachable(f"host {placed.host} does not say at which address it is") from error
        path = "/".join(quote(part, safe="") for part in (placed.key.namespace, placed.key.name, word))
        # The name in the URL is what the certificate must say; where that is, the resolver knows.
        url = f"https://{placed.host_uid}:{facts.port}/placements/{path}{wire.query(**query)}"
        return placed, url, {UID_HEADER: placed.uid}

    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=self._tls, resolver=_Hosts(self._where), use_dns_cache=False)
            self._open = aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)
        return self._open


class _Hosts(AbstractResolver):
    """Knows by the uid of a host where it was when it was called last."""

    def __init__(self, where: dict[str, IPv4Address | IPv6Address]) -> None:
        self._where = where

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        where = self._where[host]
        kind = socket.AF_INET if where.version == 4 else socket.AF_INET6
        return [
            ResolveResult(hostname=host, host=str(where), port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
        ]

    async def close(self) -> None:
        return None


@contextmanager
def _faults(host: str) -> Iterator[None]:
    """Faults of the connection to a host become HostUnreachable."""
    try:
        yield
    except TimeoutError as error:
        raise HostUnreachable(f"host {host} did not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        why = (cause.strerror if isinstance(cause, OSError) else "") or cause
        raise HostUnreachable(f"host {host} cannot be reached: {why}") from error


def _leave(reply: aiohttp.ClientResponse) -> None:
    """Whoever stops in the middle does not wait for the polite end of TLS with a peer that may go on for ever."""
    if not reply.content.at_eof() and reply.connection is not None and reply.connection.transport is not None:
        reply.connection.transport.abort()


def _refused(placed: Placed, code: int, said: bytes) -> NanoError:
    """What the agent refused with. One that does not know the Placement is behind, or ahead, of the server."""
    error = wire.refusal(code, said, f"host {placed.host}")
    if isinstance(error, NotFound) or (isinstance(error, Conflict) and error.params.get("plural") == "placements"):
        return HostUnreachable(f"host {placed.host} does not run {placed.instance.name} as it should now; try again")
    if isinstance(error, PASSED_ON):
        return error
    return HostUnreachable(f"host {placed.host} refuses: {error}")
