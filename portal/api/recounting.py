"""What has happened: the timeline of an object, the differences between two revisions, the list of revisions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.reading import token_of, token_read
from nanovirt.portal.api.recalling import Who, streamed
from nanovirt.portal.api.remembered import Pair, pairs
from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import number, truth
from nanovirt.portal.api.secrets import public
from nanovirt.portal.authorization import authorize, unlimited
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.disruption import below, differences
from nanovirt.resources.errors import Forbidden, Invalid, Malformed, NotAllowed, NotFound
from nanovirt.resources.history import Question
from nanovirt.resources.kind import GROUP_VERSION, KINDS, Key
from nanovirt.resources.past import Past, Told
from nanovirt.resources.registry import by_any_name, kinds
from nanovirt.resources.store import Entry, Store

USUAL, MOST = 100, 1000
"""Entries of a page."""
PAGE_SECONDS = 5.0
"""After so long a page ends where it is; the next one goes on from there."""
WRITES_SAID = 20
APART = ("apiVersion", "kind", "metadata", "spec", "status")
NOWHERE = Key("", "", "")


class Recounter:
    """Everything that tells changes of the past on behalf of a subject."""

    def __init__(self, store: Store, past: Past, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._past, self._clock = store, past, clock

    async def timeline(self, who: Who, target: Target, request: web.BaseRequest) -> web.Response:
        """What happened to an object, and to earlier ones of its name, newest first; `uid` means one of them alone.

        NotFound: nothing of it is kept, or to be seen. Invalid, Forgotten: see Past.
        """
        key, uid = target.key, request.query.get("uid", "")
        if request.method not in ("GET", "HEAD"):
            raise NotAllowed("a timeline is only read", "GET", "HEAD")
        authorize(who(), "get", key.plural, "", key)
        page = self._page(request)
        async with self._past.ask(Question("steps", self._start(request), *key, word=target.facts.kind)) as told:
            async for line in _lines(told, page):
                if b'"kind"' not in line:
                    page.reach(load(line)["rev"])
                for said, pair in pairs(self._store, who(), [line] if b'"kind"' in line else ()):
                    if uid in ("", _uid_of(pair)):
                        page.add(said["rev"], list(_entries(said, pair)))
        if not (page.items or page.rest or "continue" in request.query):
            raise NotFound(key.plural, key.name)
        return document(page.reply("Timeline", told))

    async def revisions(self, who: Who, request: web.BaseRequest) -> web.Response:
        """Which revisions there are, newest first, with who made them and what they wrote: for administrators."""
        if not unlimited(who()):
            raise Forbidden("the list of revisions is for administrators; ask for the timeline of an object")
        page = self._page(request)
        async with self._past.ask(Question("revisions", self._start(request))) as told:
            async for line in _lines(told, page):
                said = load(line)
                page.add(said["rev"], [_revision(said)])
        return document(page.reply("History", told))

    async def differences(self, who: Who, request: web.BaseRequest) -> web.StreamResponse:
        """What differs between two revisions (`from`, `to`: the newest), by `kind`, `namespace` and `name`.

        Of what people write, the spec, labels and annotations; with `all` of everything and its status, too.
        """
        query, every = request.query, truth(request.query.get("all"))
        if not query.get("from"):
            raise Malformed("say from which revision or time on: ?from=41")
        kind, space, name = _plural(query.get("kind", "")), query.get("namespace", ""), query.get("name", "")
        to = query.get("to") or str(self._store.committed)
        async with self._past.ask(Question("differences", query["from"], kind, space, name, to=to)) as told:
            subject = who()
            head: JSON = {"apiVersion": GROUP_VERSION, "kind": "Difference", "metadata": {}}
            head["from"] = {"revision": str(told.rev), "time": told.at}
            head["to"] = {"revision": str(told.to), "time": told.to_at}

            async def items() -> AsyncIterator[list[bytes]]:
                async for piece in told.pieces:
                    found = (pair for _, pair in pairs(self._store, subject, piece))
                    wanted = (pair for pair in found if kind or every or _of_people(pair.key))
                    yield [dump(item) for pair in wanted if (item := _difference(pair, every=every))]

            return await streamed(request, dump(head)[:-1] + b',"items":[', items(), lambda: b"]}")

    def _page(self, request: web.BaseRequest) -> _Page:
        until = self._clock() + PAGE_SECONDS
        return _Page(min(number(request, "limit") or USUAL, MOST), lambda: self._clock() > until)

    def _start(self, request: web.BaseRequest) -> str:
        token = request.query.get("continue", "")
        return str(token_read(token)[0]) if token else request.query.get("at") or str(self._store.committed)


class _Page:
    """Entries from the newest revision back; a page ends between two revisions."""

    def __init__(self, limit: int, late: Callable[[], bool]) -> None:
        self.items: list[JSON] = []
        self.rest: int | None = None
        """The revision with which the next page begins, once this one is full."""
        self._limit, self._late = limit, late
        self._last: int | None = None

    def add(self, rev: int, entries: list[JSON]) -> None:
        """What there is to tell of a revision, or of a part of it."""
        if rev != self._last and (len(self.items) >= self._limit or self._late()):
            self.rest = rev
            return
        self._last = rev
        self.items += entries

    def reach(self, rev: int) -> None:
        """All above that revision has been told."""
        if self._late():
            self.rest = rev

    def reply(self, kind: str, told: Told) -> JSON:
        """The page as a document."""
        more = self.rest is not None and self.rest > told.since
        metadata: JSON = {"resourceVersion": str(told.rev)}
        if more and self.rest is not None:
            metadata["continue"] = token_of(self.rest, NOWHERE)
        since = {"revision": str(told.since), "time": told.since_at}
        return {"apiVersion": GROUP_VERSION, "kind": kind, "metadata": metadata, "since": since, "items": self.items}


async def _lines(told: Told, page: _Page) -> AsyncIterator[bytes]:
    """The lines of an answer until the page is full."""
    async for piece in told.pieces:
        for line in piece:
            yield line
            if page.rest is not None:
                return


# --- entries --------------------------------------------------------------------------------------------


def _uid_of(pair: Pair) -> str:
    """The uid of the object that a step tells of."""
    entry = pair.after or pair.before
    assert entry is not None
    match pair.key.plural:
        case "placements":
            return str(entry.row.instance_uid)
        case "events":
            return str(load(entry.raw).get("involvedObject", {}).get("uid", ""))
        case _:
            return entry.uid


def _entries(said: JSON, pair: Pair) -> Iterator[JSON]:
    """What a person would want to be told of a step, if anything."""
    before, after = (_shown(pair.key, entry) for entry in (pair.before, pair.after))
    entry = pair.after or pair.before
    assert entry is not None
    head: JSON = {"revision": str(said["rev"]), "time": said["at"], "by": said["by"]}
    if said["request"]:
        head["request"] = said["request"]
    head |= {"object": str(pair.key), "uid": entry.uid}
    told = _of_event if pair.key.plural == "events" else _of_object
    for one in told(pair, before, after):
        yield head | one


def _of_event(pair: Pair, _before: JSON, after: JSON) -> Iterator[JSON]:
    if pair.after is not None:
        words = {word: after[word] for word in ("reason", "message", "params", "count") if after.get(word)}
        yield {"type": "Event", "severity": after.get("type", "Normal"), **words}


def _of_object(pair: Pair, before: JSON, after: JSON) -> Iterator[JSON]:
    placed = pair.key.plural == "placements"
    if pair.before is None:
        about = {"host": after["spec"]["host"], "epoch": after["spec"]["epoch"]} if placed else {}
        yield {"type": "Decided" if placed else "Created", **about}
    elif pair.after is None:
        yield {"type": "Deleted"}
    else:
        if pair.after.deleting and not pair.before.deleting:
            yield {"type": "DeletionAsked"}
        if fields := changed(pair):
            yield {"type": "Decided" if placed else "Changed", "fields": fields}
    if pair.before is not None and pair.after is not None:
        yield from _of_status(placed, before.get("status") or {}, after.get("status") or {})


def _of_status(placed: bool, before: JSON, after: JSON) -> Iterator[JSON]:  # noqa: FBT001 - which of two writers it was
    if placed:
        if fields := _fields("status", before, after):
            yield {"type": "Reported", "fields": fields}
        return
    then, now = _scheduled(before), _scheduled(after)
    if now and (then.get("status"), then.get("reason"), then.get("message")) != (
        now.get("status"), now.get("reason"), now.get("message"),
    ):  # fmt: skip
        yield {"type": "Decided", **{word: now[word] for word in ("reason", "message", "params") if now.get(word)}}
    if before.get("phase") != after.get("phase"):
        yield {"type": "Phase", "fields": [_field("status.phase", before.get("phase"), after.get("phase"))]}


def _scheduled(status: JSON) -> JSON:
    found = status.get("conditions") or ()
    return next((one for one in found if one.get("type") == "Scheduled"), {})


# --- fields ---------------------------------------------------------------------------------------------


def _shown(key: Key, entry: Entry | None) -> JSON:
    return load(public(KINDS[key.plural].facts, entry.raw)) if entry else {}


def changed(pair: Pair) -> list[JSON]:
    """Where the main halves of an object differ; of what is sealed, only that it does."""
    before, after = _shown(pair.key, pair.before), _shown(pair.key, pair.after)
    fields = [_field(*one) for one in differences(before, after)]
    rest = ({name: doc[name] for name in doc if name not in APART} for doc in (before, after))
    fields += [_field(path.removeprefix("."), then, now) for path, then, now in below("", *rest)]
    if KINDS[pair.key.plural].facts.sealed and pair.before and pair.after:
        values = (load(entry.raw)["spec"].get("data") for entry in (pair.before, pair.after))
        fields += [] if len({dump({"": one}) for one in values}) == 1 else [{"path": "spec.data"}]
    return fields


def _fields(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[JSON]:
    return [_field(*one) for one in below(path, before, after)]


def _field(path: str, before: Any, after: Any) -> JSON:
    return {"path": path, "before": before, "after": after}


def _difference(pair: Pair, *, every: bool) -> JSON | None:
    """What differs of an object; None: nothing that was asked for."""
    facts = KINDS[pair.key.plural].facts
    said: JSON = {"kind": facts.kind, "namespace": pair.key.namespace, "name": pair.key.name}
    said = {name: text for name, text in said.items() if text}
    if pair.before is None:
        return said | {"change": "Created"}
    if pair.after is None:
        return said | {"change": "Deleted"}
    fields = changed(pair)
    if every:
        before, after = _shown(pair.key, pair.before), _shown(pair.key, pair.after)
        fields += _fields("status", before.get("status") or {}, after.get("status") or {})
    if pair.before.uid != pair.after.uid:
        return said | {"change": "Replaced", "fields": fields}
    return said | {"change": "Changed", "fields": fields} if fields else None


def _of_people(key: Key) -> bool:
    return not KINDS[key.plural].facts.system and key.plural != "events"


def _plural(word: str) -> str:
    """The plural of a kind by any of its names; "" for none. Invalid."""
    found = by_any_name(word) if word else None
    if word and found is None:
        raise Invalid("kind", f"there is no kind {word[:40]!r}")
    return found.facts.plural if found else ""


def _revision(said: JSON) -> JSON:
    told = [{"verb": verb, "object": str(Key(*name))} for verb, *name in said["writes"] if name[0] in kinds()]
    head = {"revision": str(said["rev"]), "time": said["at"], "by": said["by"], "count": len(told)}
    return head | ({"request": said["request"]} if said["request"] else {}) | {"writes": told[:WRITES_SAID]}
