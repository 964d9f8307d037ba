"""The one entrance of the API: who asks, what the path means, which verb answers; every refusal becomes a Status."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from nanovirt.portal import powering
from nanovirt.portal.api import applying, bodies, bulk, paths
from nanovirt.portal.api.documents import Documents
from nanovirt.portal.api.failures import refusal
from nanovirt.portal.api.fanout import Hub
from nanovirt.portal.api.lasting import Lasting
from nanovirt.portal.api.paths import Target, Unknown
from nanovirt.portal.api.reading import Reader, selected
from nanovirt.portal.api.recalling import Recaller
from nanovirt.portal.api.recounting import Recounter
from nanovirt.portal.api.repeating import Again, Deed, InFlight, Repeats
from nanovirt.portal.api.replies import document, reply, success, text
from nanovirt.portal.api.requests import BODY, body, options, truth
from nanovirt.portal.api.reviews import REVIEWS, review
from nanovirt.portal.api.rolling_back import RollBack
from nanovirt.portal.api.scaling import scalable, shown, through
from nanovirt.portal.api.secrets import public
from nanovirt.portal.api.transacting import Transactor
from nanovirt.portal.api.transactions import TRANSACTION_MAX, WORD, Foresee, Transactions, nothing
from nanovirt.portal.api.watching import Watches
from nanovirt.portal.api.writing import Deletion, Writer, Written
from nanovirt.portal.authorization import authorize
from nanovirt.portal.identity import Subject
from nanovirt.resources import hold
from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import Forbidden, HostUnreachable, Malformed, NanoError, NotAllowed, NotFound
from nanovirt.resources.kind import CORE, GROUP_VERSION, Key
from nanovirt.resources.past import Past
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Store

log = logging.getLogger(__name__)

Reply = web.StreamResponse
Hook = Callable[[web.BaseRequest, Subject, Key], Awaitable[Reply]]
Page = Callable[[web.BaseRequest], Awaitable[Reply]]
Door = Callable[[web.BaseRequest, Key], Awaitable[Reply]]
HookTable = Mapping[tuple[str, str, str], Hook]
"""(plural, sub-resource, method) -> who answers; the door has authorized by then."""
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
IMPERSONATION = ("Impersonate-User", "Impersonate-Group", "Impersonate-Uid")
KEYED = ("", "status", "owner", "adopt")
"""Sub-resources whose writes may have an Idempotency-Key, and are answered with the object."""
STREAMED = ("upload",)
"""Sub-resources whose bodies are taken as they come, and may be longer than any memory."""
HISTORY, TIMELINE = "history", "timeline"
READS = ("GET", "HEAD")
ON_COLLECTIONS = (*READS, "POST", "DELETE")
ON_OBJECTS = (*READS, "PUT", "PATCH", "DELETE")
IN_NAMESPACE = 8
"""Parts of apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE."""
ROOTS = {"apis": GROUP_VERSION, "api": CORE}


def _now() -> datetime:
    return datetime.now(UTC)


class Api:
    """`handle` answers every request of the REST API; `close` ends the open watches."""

    def __init__(
        self,
        store: Store,
        identify: Callable[[web.BaseRequest], Subject],
        hooks: HookTable | None = None,
        pages: Mapping[tuple[str, str], Page] | None = None,
        *,
        version: str = "0.1.0",
        ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = _now,
        sealer: Sealer | None = None,
        standing: Callable[[Subject], bool] = lambda _subject: True,
        foresee: Foresee = nothing,
        doors: Mapping[tuple[str, str, str], Door] | None = None,
    ) -> None:
        """`pages`: (method, exact path) -> handler for what is no object; it looks after its own authentication.

        `doors`: (plural, sub-resource, method) -> handler for a sub-resource that recognizes who asks by itself.
        `standing`: whether a subject may go on as what it was recognized as; asked again for every open watch.
        """
        self._store, self.identify, self._ready, self._clock = store, identify, ready, clock
        self._hooks, self._pages, self._doors = dict(hooks or {}), dict(pages or {}), dict(doors or {})
        self.writer = Writer(store, sealer)
        self._repeats = Repeats(store, sealer)
        self._transactions = Transactions(store, self.writer, self._repeats, foresee, clock)
        self.reader = Reader(store, clock)
        past = Past(store.log, lambda: store.committed)
        self._bulk = bulk.Bulk(self.writer, self.reader, clock)
        self._recaller, self._recounter = Recaller(store, past, clock), Recounter(store, past)
        self._roll_back = RollBack(store, past, Transactor(store, self.writer, clock), clock)
        self._lasting = Lasting(store)
        self.hub = Hub(store, clock, lambda: self._writing > 0, standing)
        self._writing = 0
        self.watches = Watches(store, self.hub, clock)
        self._documents = Documents(version, hooks=self._hooks)

    def add(self, pages: Mapping[tuple[str, str], Page]) -> None:
        """More pages, of what itself needs this API."""
        self._pages.update(pages)

    def close(self) -> None:
        """End every watch, so that the server can stop."""
        self.hub.close()

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request; whatever Nano itself refuses is told as a Status document."""
        try:
            return await self._answer(request)
        except NanoError as error:
            refused = refusal(error)
            # A host that is away is no fault of this server; its condition says so already.
            if refused.status >= 500 and not isinstance(error, hold.Held | HostUnreachable):
                log.exception("request failed", extra={"path": request.path}, exc_info=error)
            return refused

    async def _answer(self, request: web.BaseRequest) -> Reply:
        path = request.rel_url.raw_path
        segments = path.strip("/").split("/")
        root = segments[0]
        for header in IMPERSONATION:
            if header in request.headers:  # to be deaf to it would answer for somebody else
                raise Forbidden(f"impersonation is not possible here; leave the header {header} (--as) out")
        page = self._pages.get((request.method, path))
        if page is not None:
            return await page(request)
        if len(segments) == IN_NAMESPACE and (door := self._doors.get((segments[5], segments[7], request.method))):
            target = paths.target("/".join(segments[1:3]), segments[3:])
            return await door(request, target.key)
        if root in ROOTS and len(segments) > (2 if root == "api" else 3):
            subject = self.identify(request)
            group_version = "/".join(segments[1:2] if root == "api" else segments[1:3])
            if group_version != ROOTS[root]:
                return await self._review(request, subject, segments)
            if root == "apis" and segments[3] == HISTORY:
                return await self._history(request, subject, segments[4:])
            if root == "apis" and segments[3] == WORD:
                subject = await self._arrived(request, subject, TRANSACTION_MAX)
                return await self._counted(self._transactions.answer(request, subject, segments[4:]))
            target = paths.target(group_version, segments[2 if root == "api" else 3 :])
            return await self._object(request, subject, target)
        if root in ("healthz", "livez", "readyz"):
            return text("ok") if root != "readyz" or self._ready() else text("not ready", 503)
        if root != "version":
            self.identify(request)
        return self._documents.answer(request, segments)

    async def _review(self, request: web.BaseRequest, subject: Subject, segments: list[str]) -> Reply:
        kind = REVIEWS.get("/".join(segments[1:]))
        if kind is None:
            raise Unknown
        if request.method != "POST":
            raise NotAllowed(f"{request.method} is not possible here; POST the review", "POST")
        doc = bodies.document_of(request, await body(request))
        authorization = request.headers.get("Authorization", "")
        return document(review(kind, doc, subject, self._store, authorization), 201)

    async def _object(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        method = request.method
        hook = self._hooks.get((target.key.plural, target.subresource, method)) if target.subresource else None
        if hook is not None and target.subresource in STREAMED:
            return await self._hooked(request, subject, target, hook)
        if target.subresource == TIMELINE and target.key.name:
            return await self._recounter.timeline(partial(self.identify, request), target, request)
        power = target.key.plural == bulk.PLURAL and target.subresource in powering.VERBS
        if hook is None and target.subresource not in ("", "status") and not scalable(target) and not power:
            raise Unknown
        if power and method != "POST":
            raise NotAllowed(f"{method} is not possible here; POST it", "POST")
        if method == "POST" and target.key.plural == bulk.PLURAL and not target.subresource and target.key.name:
            return await self._many(request, subject, target)
        if method in READS and hook is None:
            return await self._read(request, subject, target)
        subject = await self._arrived(request, subject)
        if hook is not None and target.subresource not in KEYED:
            return await self._hooked(request, subject, target, hook)
        write = partial(self._hooked, hook=hook) if hook is not None else self._power if power else self._write
        verb = (
            "patch"
            if power
            else "deletecollection"
            if method == "DELETE" and not target.key.name
            else VERBS.get(method, "")
        )
        deed = Deed(
            partial(write, request, subject, target),
            partial(_told_again, request, target._replace(subresource="") if power else target),
            lambda count: [(verb, "" if power else target.subresource)] * count,
        )
        return await self._counted(self._repeats.once(request, subject, deed))

    async def _many(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        if target.key.name not in bulk.VERBS:
            known = ", ".join(bulk.VERBS)
            raise NotAllowed(f"POST is not possible on one of {target.key.plural}, but for {known}", *ON_OBJECTS)
        subject = await self._arrived(request, subject)
        return await self._counted(self._bulk.answer(request, subject, target))

    async def _power(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        written = await self._bulk.change(request, subject, target)
        return _told(target._replace(subresource=""), written)

    async def _arrived(self, request: web.BaseRequest, subject: Subject, limit: int = BODY_MAX) -> Subject:
        """Who asks, as things are once the whole body is there: rights may end while it is on its way."""
        if request.content.is_eof():
            return subject
        request[BODY] = await body(request, limit)
        return self.identify(request)

    async def _counted(self, writing: Coroutine[Any, Any, Reply]) -> Reply:
        """Carry out a write, known as one that is under way; told is a refusal only when its grounds are durable."""
        self._writing += 1
        try:
            return await writing
        except InFlight:
            raise
        except NanoError:
            await self._store.settled()
            raise
        finally:
            self._writing -= 1

    async def _write(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        method = request.method
        if target.key.name:
            return await self._change(request, subject, target)
        if method == "POST":
            return await self._create(request, subject, target)
        if method == "DELETE":
            return await self._delete_all(request, subject, target)
        raise NotAllowed(f"{method} is not possible on the collection {target.key.plural}", *ON_COLLECTIONS)

    async def _hooked(self, request: web.BaseRequest, subject: Subject, target: Target, hook: Hook) -> Reply:
        self._let_in(request, subject, target)
        act = partial(hook, request, subject, target.key)
        if target.subresource not in STREAMED:
            return await act()
        left = (subject.until - self._clock()).total_seconds() if subject.until is not None else None
        return await self._lasting.carry(target.key, partial(self._let_in_again, request, target), left, act)

    def _let_in(self, request: web.BaseRequest, subject: Subject, target: Target) -> None:
        key = target.key
        try:
            entry = self._store.get(key)
        except NotFound:
            entry = None
        verb = VERBS.get(request.method, request.method.lower())
        authorize(subject, verb, key.plural, target.subresource, key, entry)

    def _let_in_again(self, request: web.BaseRequest, target: Target) -> None:
        self._let_in(request, self.identify(request), target)

    async def _read(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        if subject.host and target.key.plural == "placements" and hold.held(self._store):
            raise hold.Held
        watch = truth(request.query.get("watch")) if request.query_string else False
        if request.query_string and "at" in request.query:
            if watch:
                raise Malformed("a watch tells what is to come; leave at=... out")
            who = partial(self.identify, request)
            recall = self._recaller.get if target.key.name else self._recaller.all
            return await recall(who, target, request)
        if watch and not target.subresource and request.method == "GET":
            return await self.watches.watch(subject, target, request)
        if target.key.name:
            return self.reader.get(subject, target, request)
        return self.reader.list(subject, target, request)

    async def _history(self, request: web.BaseRequest, subject: Subject, rest: list[str]) -> Reply:
        who = partial(self.identify, request)
        match request.method, rest:
            case (("GET" | "HEAD"), []):
                return await self._recounter.revisions(who, request)
            case (("GET" | "HEAD"), ["diff"]):
                return await self._recounter.differences(who, request)
            case "POST", ["rollback"]:
                await self._arrived(request, subject)
                return await self._counted(self._roll_back.answer(request, who))
            case _, [] | ["diff"]:
                raise NotAllowed("the past is only read", *READS)
            case _, ["rollback"]:
                raise NotAllowed("POST a rollback", "POST")
            case _:
                raise Unknown

    # --- writes ---

    async def _create(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        asked = options(request)
        doc = bodies.document_of(request, await body(request))
        written = await self.writer.create(subject, target, doc, asked)
        assert written.entry is not None
        return reply(public(target.facts, written.entry.raw), 201, warnings=written.warnings)

    async def _change(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        method = request.method
        if method == "DELETE" and not target.subresource:
            return await self._delete(request, subject, target)
        if method not in ("PUT", "PATCH"):
            allowed = ON_OBJECTS[:-1] if target.subresource else ON_OBJECTS
            raise NotAllowed(f"{method} is not possible on one of {target.key.plural}", *allowed)
        if applying.applies(request):
            return await self._apply(request, subject, target)
        asked = options(request)
        transform = bodies.transform(request, await body(request), target.group)
        if scalable(target):
            transform = through(target, transform, asked.validation)
        settle = applying.follow(request, self._clock)
        written = await self.writer.change(subject, target, VERBS[method], transform, asked, settle)
        return _told(target, written)

    async def _apply(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        asked = options(request)
        patch = await applying.read(request, target, self._clock())
        prepared = patch.prepared(self.writer, subject, asked)
        return _told(target, await self.writer.carry_out(prepared, subject, asked))

    async def _delete(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        asked = options(request)
        deletion = bodies.deletion(request, await body(request), dry=asked.dry)
        return _told(target, await self.writer.delete(subject, target, deletion))

    async def _delete_all(self, request: web.BaseRequest, subject: Subject, target: Target) -> Reply:
        asked = options(request)
        deletion: Deletion = bodies.deletion(request, await body(request), dry=asked.dry)
        chosen = selected(subject, target.facts, request)
        found = self.reader.found(subject, target, chosen, "deletecollection").items
        found = self.reader.page(found, request).items
        count = await self.writer.delete_all(subject, target, [key for key, _ in found], deletion)
        return _counted_out(target, count)


def _told(target: Target, written: Written) -> Reply:
    """The object after a write, or that it is gone."""
    if written.entry is not None:
        code = 200 if written.before else 201
        return reply(shown(target, written.entry.raw), code, warnings=written.warnings)
    if written.last is not None:
        return reply(shown(target, written.last.raw), warnings=written.warnings)
    assert written.before is not None
    return _gone(target, target.key.name, written.before.uid)


def _told_again(request: web.BaseRequest, target: Target, again: Again) -> Reply:
    """What a write answered when it was carried out, without its warnings."""
    if request.method == "DELETE" and not target.key.name:
        return _counted_out(target, len({one.key for one in again.results}))
    key, raw, uid = again.results[-1]
    if raw is not None:
        made = request.method == "POST" and not target.subresource
        return reply(shown(target, raw), 201 if made else 200)
    return _gone(target, key.name, uid)


def _gone(target: Target, name: str, uid: str) -> Reply:
    return document(success({"name": name, "group": target.group, "kind": target.key.plural, "uid": uid}))


def _counted_out(target: Target, count: int) -> Reply:
    return document(success({"kind": target.key.plural, "group": target.group, "params": {"count": count}}))
