"""The path /apis/nano/v1/transactions: bodies and replies of sets of writes."""

from __future__ import annotations

from aiohttp import web

from nanovirt.portal.api import bodies
from nanovirt.portal.api.failures import group_of
from nanovirt.portal.api.intents import KIND, intents, writes_of
from nanovirt.portal.api.paths import Unknown
from nanovirt.portal.api.replies import reply, success
from nanovirt.portal.api.requests import body, options
from nanovirt.portal.api.transacting import Done, Result, Transactor
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.errors import NotAllowed
from nanovirt.resources.kind import GROUP_VERSION
from nanovirt.resources.store import Store

WORD = "transactions"
TRANSACTION_MAX = 4 << 20
"""Bytes of a whole set; with defaults it may grow, and a record of the log holds twice as much."""
WARNINGS_SAID = 20
"""More headers than a hundred break clients."""


class Transactions:
    """Answers what comes to that path."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._transactor = Transactor(store, writer)

    async def answer(self, request: web.BaseRequest, subject: Subject, rest: list[str]) -> web.Response:
        """`rest`: the segments of the path behind the word."""
        if rest:
            raise Unknown
        if request.method != "POST":
            raise NotAllowed(f"{request.method} is not possible here; POST a set of writes")
        return await self._post(request, subject)

    async def _post(self, request: web.BaseRequest, subject: Subject) -> web.Response:
        asked = options(request)
        doc = bodies.document_of(request, await body(request, TRANSACTION_MAX), TRANSACTION_MAX)
        done = await self._transactor.carry_out(subject, intents(writes_of(doc)), asked)
        return _told(done)


def _told(done: Done) -> web.Response:
    warnings = done.warnings[:WARNINGS_SAID]
    if len(done.warnings) > WARNINGS_SAID:
        warnings.append(f"{len(done.warnings) - WARNINGS_SAID} more warnings are left out")
    head = dump(_head(done.rev))
    return reply(head[:-1] + b',"results":[' + b",".join(map(_one, done.results)) + b"]}", warnings=warnings)


def _head(rev: int) -> JSON:
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {"resourceVersion": str(rev)}}


def _one(result: Result) -> bytes:
    """The object, or the Status that tells that there is none (any more)."""
    if result.raw is not None:
        return result.raw
    key = result.key
    details = {"name": key.name, "group": group_of(key.plural), "kind": key.plural, "uid": result.uid}
    return dump(success({name: text for name, text in details.items() if text}))
