"""The path /apis/nano/v1/transactions: bodies and replies of sets of writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from urllib.parse import unquote

from aiohttp import web

from nanovirt.portal.api import applying, bodies
from nanovirt.portal.api.failures import group_of
from nanovirt.portal.api.intents import KIND, intents, right_of, writes_of
from nanovirt.portal.api.paths import Unknown
from nanovirt.portal.api.repeating import Again, Deed, Repeats, Right, key_in
from nanovirt.portal.api.replies import document, reply, success
from nanovirt.portal.api.requests import BODY, body, options, truth
from nanovirt.portal.api.secrets import public
from nanovirt.portal.api.transacting import Done, Transactor
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.errors import NotAllowed
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.kind import GROUP_VERSION, KINDS, Key
from nanovirt.resources.store import Change, Result, Store

WORD = "transactions"
TRANSACTION_MAX = 4 << 20
"""Bytes of a whole set; with defaults it may grow, and a record of the log holds twice as much."""
Foresee = Callable[[Sequence[Change]], Mapping[Key, JSON]]
"""What the controllers would make of changes: for new instances, host and addresses, or the reason why they wait."""
WARNINGS_SAID = 20
"""More headers than a hundred break clients."""


def nothing(_changes: Sequence[Change]) -> Mapping[Key, JSON]:
    """What is foreseen where no controllers run."""
    return {}


class Transactions:
    """Answers what comes to that path."""

    def __init__(
        self, store: Store, writer: Writer, repeats: Repeats, foresee: Foresee, clock: Callable[[], datetime]
    ) -> None:
        self._transactor, self._repeats, self._foresee = Transactor(store, writer, clock), repeats, foresee
        self._clock = clock

    async def answer(self, request: web.BaseRequest, subject: Subject, rest: list[str]) -> web.StreamResponse:
        """`rest`: the segments of the path behind the word."""
        if len(rest) > 1:
            raise Unknown
        if rest and request.method == "GET":
            return self._seen(subject, key_in(unquote(rest[0])))
        if rest or request.method != "POST":
            raise NotAllowed(f"{request.method} is not possible here; POST a set of writes, or GET one by its key")
        act, again = partial(self._post, request, subject), partial(_told_again, request)
        return await self._repeats.once(request, subject, Deed(act, again, partial(_rights, request), TRANSACTION_MAX))

    def _seen(self, subject: Subject, key: str) -> web.Response:
        """What became of a request with that Idempotency-Key, of whatever kind it was."""
        known = self._repeats.known(subject, key)
        head = _head(known.rev)
        head["metadata"] |= {"name": key, "creationTimestamp": rfc3339(known.at)}
        return document(head)

    async def _post(self, request: web.BaseRequest, subject: Subject) -> web.Response:
        asked = options(request)
        found = writes_of(_body_of(request, await body(request, TRANSACTION_MAX)))
        settle = applying.follow(request, self._clock)
        done = await self._transactor.carry_out(subject, intents(found, applying.hand_of(request)), asked, settle)
        if not (asked.dry and truth(request.query.get("forecast"))):
            return _told(done)
        foreseen = self._foresee(done.changes)
        return _told(done, [foreseen.get(one.key, {}) for one in done.results])


def _body_of(request: web.BaseRequest, content: bytes) -> JSON:
    return bodies.document_of(request, content, TRANSACTION_MAX)


def _told_again(request: web.BaseRequest, again: Again) -> web.Response:
    """The results of the writes stand last, behind what went along with them."""
    count = len(writes_of(_body_of(request, request[BODY])))
    return _told(Done(again.rev, again.results[-count:]))


def _rights(request: web.BaseRequest, count: int) -> list[Right]:
    """What went along is read, as far as it is told at all; so is what was expected."""
    asked = [right_of(one) for one in writes_of(_body_of(request, request[BODY]))]
    return [("get", "")] * (count - len(asked)) + asked


def _told(done: Done, foreseen: list[JSON] | None = None) -> web.Response:
    warnings = [*done.warnings[:WARNINGS_SAID]]
    if len(done.warnings) > WARNINGS_SAID:
        warnings.append(f"{len(done.warnings) - WARNINGS_SAID} more warnings are left out")
    head = dump(_head(done.rev) | ({} if foreseen is None else {"forecast": foreseen}))
    return reply(head[:-1] + b',"results":[' + b",".join(map(_one, done.results)) + b"]}", warnings=warnings)


def _head(rev: int) -> JSON:
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {"resourceVersion": str(rev)}}


def _one(result: Result) -> bytes:
    """The object, or the Status that tells that there is none (any more)."""
    key = result.key
    if result.raw is not None:
        return public(KINDS[key.plural].facts, result.raw)
    details = {"name": key.name, "group": group_of(key.plural), "kind": key.plural, "uid": result.uid}
    return dump(success({name: text for name, text in details.items() if text}))
