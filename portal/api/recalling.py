"""GET and LIST with `?at=`: objects as they were at a revision or time, told piece by piece while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime

from aiohttp import web

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.reading import selected, token_of, token_read
from nanovirt.portal.api.remembered import entry_in, raw_of, seen
from nanovirt.portal.api.replies import JSON_TYPE, SAFE, reply
from nanovirt.portal.api.requests import Shape, number, shape
from nanovirt.portal.api.scaling import scalable, shown
from nanovirt.portal.api.secrets import public
from nanovirt.portal.authorization import authorize, unlimited
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.errors import NanoError, NotFound
from nanovirt.resources.history import Question
from nanovirt.resources.kind import Facts, Key
from nanovirt.resources.past import Past, Told
from nanovirt.resources.selectors import matcher
from nanovirt.resources.store import Entry, Store
from nanovirt.resources.tables import definitions, row

Who = Callable[[], Subject]
"""Who asks, as rights are at that moment; raises Unauthorized."""
HEADERS = {**SAFE, "Content-Type": JSON_TYPE}
ROWS_AT_ONCE = 16
"""Others get a turn after so many."""
Item = tuple[Key, Entry]
Texts = AsyncIterator[list[bytes]]


class Recaller:
    """Everything that reads objects of the past on behalf of a subject."""

    def __init__(self, store: Store, past: Past, clock: Callable[[], datetime]) -> None:
        self._store, self._past, self._clock = store, past, clock

    async def get(self, who: Who, target: Target, request: web.BaseRequest) -> web.Response:
        """One object. NotFound: it was not there, or is not for the subject to see. Invalid, Forgotten: see Past."""
        key = target.key
        authorize(who(), "get", key.plural, target.subresource, key)
        if target.subresource == "status" and "status" not in target.cls.model_fields:
            raise NotFound(key.plural, f"{key.name}/status")
        async with self._past.ask(Question("objects", request.query["at"], *key)) as told:
            found = [entry_in(line) async for piece in told.pieces for line in piece]
        entry = found[0][1] if found else None
        if entry is None or not seen(self._store, who(), key, entry):
            raise NotFound(key.plural, key.name)
        wanted = shape(request)
        if not wanted.table or scalable(target):
            return reply(shown(target, entry.raw))
        head = _table_head(target.facts)
        rows = b",".join(self._rows(target.facts, [entry.raw], wanted))
        return reply(dump(head | {"metadata": {"resourceVersion": str(entry.rev)}})[:-1] + b',"rows":[' + rows + b"]}")

    async def all(self, who: Who, target: Target, request: web.BaseRequest) -> web.StreamResponse:
        """All objects of a kind, or a page of them, as they were; see `get`."""
        facts, key = target.facts, target.key
        authorize(who(), "list", key.plural, "", key)
        limit, token = number(request, "limit") or 0, request.query.get("continue", "")
        after = token_read(token)[1] if token else None
        wanted, chosen = shape(request), selected(who(), facts, request)
        accepts = matcher(chosen, facts)
        async with self._past.ask(Question("objects", request.query["at"], key.plural, key.namespace)) as told:
            subject = who()
            plain = unlimited(subject) and accepts is None and not limit and after is None

            def items(piece: Iterable[bytes]) -> Iterator[Item]:
                for one, entry in map(entry_in, piece):
                    if after is not None and (one.namespace, one.name) <= after:
                        continue
                    if (accepts is None or accepts(one, entry)) and seen(self._store, subject, one, entry, "list"):
                        yield one, entry

            listed = _Listed(limit, told)
            texts = _raws(told, key.plural) if plain else listed.raws(items)
            head = _table_head(facts) if wanted.table else _list_head(facts)
            opened = dump(head)[:-1] + (b',"rows":[' if wanted.table else b',"items":[')
            items_shown = self._shown(facts, texts, wanted)
            return await streamed(request, opened, items_shown, lambda: b'],"metadata":%b}' % dump(listed.metadata()))

    async def _shown(self, facts: Facts, texts: Texts, wanted: Shape) -> Texts:
        async for raws in texts:
            if not wanted.table:
                yield [public(facts, raw) for raw in raws] if facts.sealed else raws
                continue
            for at in range(0, len(raws), ROWS_AT_ONCE):
                yield list(self._rows(facts, raws[at : at + ROWS_AT_ONCE], wanted))
                await asyncio.sleep(0)

    def _rows(self, facts: Facts, raws: Iterable[bytes], wanted: Shape) -> Iterator[bytes]:
        now = self._clock()
        return (dump(row(facts, load(public(facts, raw)), now, wanted.include)) for raw in raws)


class _Listed:
    """How far a page of a list of the past has come."""

    def __init__(self, limit: int, told: Told) -> None:
        self._limit, self._told = limit, told
        self._count = 0
        self._last: Key | None = None
        self._more = False

    async def raws(self, items: Callable[[list[bytes]], Iterator[Item]]) -> Texts:
        """The objects of the page."""
        async for piece in self._told.pieces:
            found: list[bytes] = []
            for key, entry in items(piece):
                if self._limit and self._count == self._limit:
                    self._more = True
                    break
                self._last, self._count = key, self._count + 1
                found.append(entry.raw)
            yield found
            if self._more:
                return

    def metadata(self) -> JSON:
        """What the list says of itself, once it is known."""
        said: JSON = {"resourceVersion": str(self._told.rev)}
        return said | {"continue": token_of(self._told.rev, self._last)} if self._more and self._last else said


async def _raws(told: Told, plural: str) -> Texts:
    async for piece in told.pieces:
        yield [raw_of(line, plural) for line in piece]


def _list_head(facts: Facts) -> JSON:
    return {"kind": f"{facts.kind}List", "apiVersion": facts.group_version}


def _table_head(facts: Facts) -> JSON:
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": definitions(facts)}


async def streamed(
    request: web.BaseRequest, head: bytes, texts: Texts, tail: Callable[[], bytes]
) -> web.StreamResponse:
    """A reply whose items come as they are read; when that breaks off, so does the connection."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    try:
        comma = b""
        await response.write(head)
        async for some in texts:
            if some:
                await response.write(comma + b",".join(some))
                comma = b","
        await response.write_eof(tail())
    except NanoError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the past broke off") from error
    return response
