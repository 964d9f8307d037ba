"""Requests with an Idempotency-Key: carried out once, and answered again as often as they come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from aiohttp import web

from nanovirt.portal.api.requests import BODY, ONCE, body, options
from nanovirt.portal.authorization import authorize
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import Cause, Conflict, Expired, Forbidden, Invalid, Malformed, NotFound
from nanovirt.resources.reasons import Reason
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Known, Once, Result, Store

HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,200}")
Reply = web.StreamResponse


class Again(NamedTuple):
    """What a request led to when it was carried out: its revision and the result of each operation."""

    rev: int
    results: Sequence[Result]


Right = tuple[str, str]
"""A verb and a sub-resource."""


class Deed(NamedTuple):
    """What a request does: `act` carries it out, `again` answers when that has been done before.

    `rights`: by which right each of so many results came about. `limit`: bytes of the body.
    """

    act: Callable[[], Awaitable[Reply]]
    again: Callable[[Again], Reply]
    rights: Callable[[int], Iterable[Right]]
    limit: int = BODY_MAX


class InFlight(Conflict):
    """The same request is being carried out at this moment: ask again (HTTP 409)."""

    def __init__(self, key: str) -> None:
        said = Reason.RequestInFlight.say(key=key)
        super().__init__("transactions", key, said)
        self.causes = (Cause("", Reason.RequestInFlight.name, said, {"key": key}),)


class Forgotten(Conflict):
    """It was carried out, and what it led to has left the history since (HTTP 409)."""

    def __init__(self, key: str, rev: int) -> None:
        params = {"key": key, "revision": rev}
        said = Reason.RequestForgotten.say(**params)
        super().__init__("transactions", key, said)
        self.causes = (Cause("", Reason.RequestForgotten.name, said, params),)


class Repeats:
    """Which requests have been carried out stands in the store; which ones are on their way there, here."""

    def __init__(self, store: Store, sealer: Sealer | None = None) -> None:
        """`sealer`: its key goes into what is remembered of bodies, which may hold secrets that are easily guessed."""
        self._store, self._sealer = store, sealer
        self._under_way: dict[tuple[str, str], str] = {}

    async def once(self, request: web.BaseRequest, subject: Subject, deed: Deed) -> Reply:
        """Carry out a request, or answer again when that has been done before.

        Without the header, and for a dry run, it is just carried out. Invalid: the key stands for another request.
        InFlight, Forgotten. Forbidden, NotFound: the subject may neither see what it once wrote any more, nor write it.
        """
        if HEADER not in request.headers or options(request).dry:
            return await deed.act()
        content = request[BODY] = await body(request, deed.limit)
        key = key_in(request.headers[HEADER])
        once = Once(_kept_as(subject, key), self._digest(request, content))
        known = self._store.remembered(subject.name, once.key)
        mine = (subject.name, once.key)
        before = known.digest if known else self._under_way.get(mine)
        if before not in (None, once.digest):
            raise Invalid(HEADER, Reason.RequestDiffers, key=key)
        if known is not None:
            return deed.again(await self._recalled(subject, key, known, deed))
        if before is not None:
            raise InFlight(key)
        self._under_way[mine] = once.digest
        request[ONCE] = once
        try:
            return await deed.act()
        finally:
            del self._under_way[mine]

    def known(self, subject: Subject, key: str) -> Known:
        """The durable request under a key. Raises InFlight, and NotFound when it was never seen or too long ago."""
        mine = (subject.name, _kept_as(subject, key))
        found = self._store.remembered(*mine)
        if found is None and mine not in self._under_way:
            raise NotFound("transactions", key)
        if found is None or found.rev > self._store.committed:
            raise InFlight(key)
        return found

    async def _recalled(self, subject: Subject, key: str, known: Known, deed: Deed) -> Again:
        if known.rev > self._store.committed:
            raise InFlight(key)
        try:
            again = Again(known.rev, await self._store.recall(known.rev))
        except Expired as error:
            raise Forgotten(key, known.rev) from error
        for one, right in zip(again.results, deed.rights(len(again.results)), strict=True):
            self._check(subject, one, right)
        return again

    def _check(self, subject: Subject, one: Result, right: Right) -> None:
        """Who may do it now would be answered with the object as well. Raises Forbidden, NotFound."""
        there = self._store.peek(one.key)
        same = there if there is not None and there.uid == one.uid else None  # what has its name now is another
        verb, subresource = right
        try:
            authorize(subject, verb, one.key.plural, subresource, one.key, same)
        except (Forbidden, NotFound):
            authorize(subject, "get", one.key.plural, "", one.key, same)

    def _digest(self, request: web.BaseRequest, content: bytes) -> str:
        """By which the same request is known again: method, path with query, media type and body."""
        head = "\n".join((request.method, request.rel_url.raw_path_qs, request.headers.get("Content-Type", ""), ""))
        whole = head.encode(errors="surrogateescape") + content  # headers may hold any bytes
        return self._sealer.mark(whole) if self._sealer is not None else hashlib.sha256(whole).hexdigest()


def _kept_as(subject: Subject, key: str) -> str:
    """The key as the store keeps it: a user of the same name who comes later is another one."""
    return f"{subject.uid} {key}" if subject.uid else key


def key_in(said: str) -> str:
    """A key that a client may choose. Raises Malformed."""
    if not KEY.fullmatch(said):
        raise Malformed(f"an {HEADER} has 1 to 200 visible ASCII characters and no blanks; a UUID is a good one")
    return said
