"""The client of the API for agents, tests and other programs: objects by key, lists, watches that heal themselves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import aiohttp
import orjson

from nanovirt.resources import access, kubeconfig, wire
from nanovirt.resources.access import Credentials
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Conflict, Expired, NotFound, StoreUnreachable, Unavailable
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.wire import Event, Sync

PAGE = 500
CHUNK = 8 << 20
"""Bytes of one piece of an upload."""
Body = bytes | BytesIO
JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Patience:
    """Seconds: to connect, for a whole request, and of silence before a watch or a transfer counts as broken.

    A server sends a bookmark every 30 s (every 10 s to agents), so a longer silence means that nobody is there.
    """

    connect: float = 5.0
    request: float = 30.0
    silence: float = 45.0


class Client:
    """An asynchronous context manager over one pool of connections; methods raise the errors of `resources.errors`.

    What the server refuses comes as Rejected or Stale, in its own words; whatever is wrong with the connection as
    StoreUnreachable. Nothing but a watch is retried: the caller knows whether a repetition is safe.
    """

    def __init__(self, by: Credentials, patience: Patience = Patience()) -> None:
        self.credentials = by
        self._patience = patience
        self._tls = access.tls(by)
        self._open: aiohttp.ClientSession | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path, context: str | None = None) -> Self:
        """With what a kubeconfig says, our own admin.kubeconfig or any other. Raises BadCredentials."""
        return cls(kubeconfig.from_kubeconfig(path, context))

    @classmethod
    def from_credentials_file(cls, path: Path) -> Self:
        """With the file of a host's agent. Raises BadCredentials."""
        return cls(access.from_credentials_file(path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection, running watches included."""
        session, self._open = self._open, None
        if session is not None:
            await session.close()

    # --- one object -----------------------------------------------------------------------------------

    async def get(self, key: Key, subresource: str = "") -> JSON:
        """The object under a key. NotFound when there is none that the caller may see."""
        return await self._json("GET", path_of(key, subresource))

    async def create(self, doc: Mapping[str, Any], *, dry_run: bool = False) -> JSON:
        """Store a new object; its kind, namespace and name stand in it. AlreadyExists, Invalid."""
        plural, namespace, _ = key_of(doc)
        return await self._json("POST", path_of(Key(plural, namespace, "")) + _dry(dry_run=dry_run), doc)

    async def replace(self, doc: Mapping[str, Any], *, status: bool = False) -> JSON:
        """Store `doc` in place of what is there; Conflict if its resourceVersion is set and no longer the stored one.

        With `status` only that half is written, otherwise everything but that half.
        """
        return await self._json("PUT", path_of(key_of(doc), "status" if status else ""), doc)

    async def patch(
        self,
        key: Key,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        kind: Literal["merge", "json"] = "merge",
        subresource: str = "",
        *,
        dry_run: bool = False,
    ) -> JSON:
        """Change some fields (RFC 7386 merge patch, or an RFC 6902 list of operations); returns the whole object."""
        url = path_of(key, subresource) + _dry(dry_run=dry_run)
        return await self._json("PATCH", url, body, content_type=wire.PATCH_TYPES[kind])

    async def delete(self, key: Key, *, uid: str = "", propagation: str = "", dry_run: bool = False) -> JSON:
        """Ask for a deletion: returns a Status when it is gone, the object when finalizers keep it for now.

        With `uid`, Conflict if another object bears that name by now.
        """
        options: JSON = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if propagation:
            options["propagationPolicy"] = propagation
        return await self._json("DELETE", path_of(key) + _dry(dry_run=dry_run), options)

    async def post(self, path: str, doc: Mapping[str, Any]) -> JSON:
        """Send `doc` to a path that is no object, such as `/apis/nano/v1/hosts/node-1/report`."""
        return await self._json("POST", path, doc)

    # --- many objects ---------------------------------------------------------------------------------

    async def list(
        self, plural: str, namespace: str = "", label_selector: str = "", field_selector: str = "", limit: int = 0
    ) -> tuple[list[JSON], str]:
        """All objects that match, and the revision from which a watch goes on; `limit` is the size of a page.

        The pages of a long list may be of different revisions; the revision returned is the first page's, so that a
        watch from there misses nothing. Expired when the list took longer than the server keeps its place.
        """
        items: list[JSON] = []
        first = going_on = ""
        while True:
            url = path_of(Key(plural, namespace, "")) + wire.query(
                labelSelector=label_selector,
                fieldSelector=field_selector,
                limit=limit or PAGE,
                **{"continue": going_on},
            )
            page = await self._json("GET", url)
            items += [_named(plural, item) for item in page.get("items") or ()]
            first = first or page["metadata"]["resourceVersion"]
            going_on = page["metadata"].get("continue") or ""
            if not going_on:
                return items, first

    async def watch(
        self,
        plural: str,
        namespace: str = "",
        resource_version: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[Event, None]:
        """Every change after a revision, for ever; without a revision, all objects as ADDED first, as a list has them.

        A broken connection is made anew with growing, jittered pauses, and nothing is missed or told twice. Expired
        when the server no longer knows the revision: list again (`follow` does). Rejected when it refuses for good.
        """
        failures = 0
        while not resource_version:
            try:
                items, resource_version = await self.list(plural, namespace, label_selector, field_selector)
            except Unavailable:
                failures += 1
                await asyncio.sleep(wire.backoff(failures))
                continue
            for item in items:
                yield Event("ADDED", item)
        cursor, failures = wire.Cursor(resource_version), 0
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        while True:
            url = path_of(Key(plural, namespace, "")) + wire.query(
                watch=True, allowWatchBookmarks=True, resourceVersion=cursor.resource_version, **selectors
            )
            try:
                async with aclosing(self._lines(url)) as lines:
                    async for line in lines:
                        failures = 0
                        if event := cursor.take(line):
                            yield event
            except Unavailable:
                failures += 1
            await asyncio.sleep(wire.backoff(failures) if failures else 0)

    async def follow(
        self, plural: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncGenerator[Sync | Event, None]:
        """What an informer needs: `Sync(items)` first, then each change; a new Sync after every gap in the history.

        After a Sync, whatever is not among its items is gone. Goes on for ever; only Rejected ends it.
        """
        failures = 0
        while True:
            try:
                items, revision = await self.list(plural, namespace, label_selector, field_selector)
            except (Unavailable, Expired):
                failures += 1
                await asyncio.sleep(wire.backoff(failures))
                continue
            failures = 0
            yield Sync("SYNC", items, revision)
            changes = self.watch(
                plural, namespace, revision, label_selector=label_selector, field_selector=field_selector
            )
            try:
                async with aclosing(changes):
                    async for event in changes:
                        yield event
            except Expired:
                await asyncio.sleep(wire.backoff(1))

    # --- bytes ----------------------------------------------------------------------------------------

    async def fetch_into(self, path: str, file: IO[bytes], progress: Callable[[int, int], None] | None = None) -> str:
        """Stream what is behind a path into `file` and return its sha256; `progress(received, total)`, total 0 unknown.

        StoreUnreachable when it breaks off; what has arrived is then in the file, and is worth nothing.
        """
        digest, received = hashlib.sha256(), 0
        async with aclosing(self._pieces(path)) as pieces:
            async for piece, total in pieces:
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
                received += len(piece)
                if progress:
                    progress(received, total)
        return digest.hexdigest()

    async def upload(self, key: Key, file: IO[bytes], progress: Callable[[int, int], None] | None = None) -> None:
        """Send the bytes of an image, in pieces, from where an earlier attempt ended; the server checks their sha256.

        `file` can seek. Conflict when the image has its bytes already, or somebody else is sending them.
        """
        path, digest, sent = path_of(key, "upload"), hashlib.sha256(), 0
        total = await asyncio.to_thread(file.seek, 0, SEEK_END)
        await asyncio.to_thread(file.seek, 0)
        async with self._reply("HEAD", path) as reply:
            there, length = (int(reply.headers.get(name, 0)) for name in ("Upload-Offset", "Upload-Length"))
        if length and there == length:
            raise Conflict(key.plural, key.name, "it has all its bytes already; make another Image for others")
        there = there if length == total else 0
        while piece := await asyncio.to_thread(file.read, CHUNK):
            digest.update(piece)
            start, sent = max(sent, there), sent + len(piece)
            if sent > there:
                whole = digest.hexdigest() if sent == total else ""
                url = path + wire.query(offset=str(start), total=total, sha256=whole)
                rest = BytesIO(piece[len(piece) - (sent - start) :])
                async with self._reply("PUT", url, rest, BYTES_TYPE, long=True):
                    pass
            if progress:
                progress(sent, total)

    @asynccontextmanager
    async def stream(self, path: str, doc: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send `doc`; gives the pieces of an answer that goes on as long as the block does (StoreUnreachable)."""
        async with self._reply("POST", path, orjson.dumps(doc), JSON_TYPE, long=True) as reply:

            async def pieces() -> AsyncIterator[bytes]:
                try:
                    async for piece in reply.content.iter_any():
                        yield piece
                except (aiohttp.ClientError, OSError) as error:
                    raise StoreUnreachable(f"{self.credentials.server} cannot be reached: {error}") from error

            try:
                yield pieces()
            finally:
                if reply.connection is not None and reply.connection.transport is not None:
                    reply.connection.transport.abort()

    # --- the door -------------------------------------------------------------------------------------

    async def _json(self, method: str, url: str, doc: Any = None, content_type: str = JSON_TYPE) -> JSON:
        body = None if doc is None else orjson.dumps(doc)
        async with self._reply(method, url, body, content_type) as reply:
            found = orjson.loads(await reply.read())
        return dict(found)

    async def _lines(self, url: str) -> AsyncGenerator[bytes, None]:
        lines = wire.Lines()
        async with aclosing(self._pieces(url)) as pieces:
            async for piece, _ in pieces:
                for line in lines.feed(piece):
                    yield line

    async def _pieces(self, url: str) -> AsyncGenerator[tuple[bytes, int], None]:
        """Bytes as they come, each with the total that the server announced, or 0."""
        async with self._reply("GET", url, long=True) as reply:
            try:
                async for piece in reply.content.iter_any():
                    yield piece, reply.content_length or 0
            finally:
                # Whoever stops in the middle does not wait for the polite end of TLS with a peer that may be gone.
                if reply.connection is not None and reply.connection.transport is not None:
                    reply.connection.transport.abort()

    @asynccontextmanager
    async def _reply(
        self, method: str, url: str, body: Body | None = None, content_type: str = "", *, long: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; leaves only when the reply is a success. Here, and only here, aiohttp's errors become ours."""
        named = {"Content-Type": content_type} if body is not None else {}
        try:
            async with self._session().request(
                method, self.credentials.server + url, data=body, headers=named, timeout=self._timeout(long=long),
                ssl=self._tls or True, allow_redirects=False,
            ) as reply:  # fmt: skip
                if not 200 <= reply.status < 300:
                    raise wire.refusal(reply.status, await reply.read(), f"{method} {url.partition('?')[0]}")
                yield reply
        except TimeoutError as error:
            raise StoreUnreachable(f"{self.credentials.server} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnreachable(f"{self.credentials.server} cannot be reached: {error}") from error
        except orjson.JSONDecodeError as error:
            raise StoreUnreachable(f"{self.credentials.server} answered with something that is no JSON") from error

    def _timeout(self, *, long: bool) -> aiohttp.ClientTimeout:
        patience = self._patience
        if long:
            return aiohttp.ClientTimeout(total=None, sock_connect=patience.connect, sock_read=patience.silence)
        return aiohttp.ClientTimeout(total=patience.request, sock_connect=patience.connect)

    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=self._tls or True)
            self._open = aiohttp.ClientSession(
                connector=connector, headers=access.headers(self.credentials), trust_env=False
            )
        return self._open


def path_of(key: Key, subresource: str = "") -> str:
    """The URL path of an object, or of a whole kind when the name is "". NotFound for a kind that does not exist."""
    cls = kinds().get(key.plural)
    if cls is None:
        raise NotFound("kinds", key.plural)
    return wire.path(cls.facts.group_version, key.plural, key.namespace, key.name, subresource)


def key_of(doc: Mapping[str, Any]) -> Key:
    """Where a document belongs, by the kind and metadata in it; a namespaced one without a namespace to `default`."""
    facts = next((one.facts for one in kinds().values() if one.facts.kind == doc.get("kind")), None)
    if facts is None:
        raise NotFound("kinds", str(doc.get("kind")))
    metadata = doc.get("metadata") or {}
    space = (metadata.get("namespace") or "default") if facts.namespaced else ""
    return Key(facts.plural, space, metadata.get("name") or "")


def _dry(*, dry_run: bool) -> str:
    return wire.query(dryRun="All") if dry_run else ""


def _named(plural: str, item: JSON) -> JSON:
    """List items carry no kind of their own in some servers; callers may rely on it."""
    facts = kinds()[plural].facts
    return item if "kind" in item else {"apiVersion": facts.group_version, "kind": facts.kind, **item}
