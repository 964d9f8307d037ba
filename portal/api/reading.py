"""GET and LIST on the fast path: stored bytes are joined, labels and rows are asked, plain JSON is never decoded."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.replies import reply
from nanovirt.portal.api.requests import Shape, number, shape
from nanovirt.portal.api.scaling import scalable, shown
from nanovirt.portal.api.secrets import public
from nanovirt.portal.authorization import SEES_ALL, authorize, forced_selector, visibility_class, visible
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.errors import Malformed, NotFound
from nanovirt.resources.kind import Facts, Key
from nanovirt.resources.selectors import Selection, matcher, selection
from nanovirt.resources.store import Entry, Store
from nanovirt.resources.tables import definitions, row

Found = Sequence[tuple[Key, Entry]]


class Page(NamedTuple):
    """A part of a list: its items, the token for what follows ("" at the end), and how many follow if that is known.

    `revision` is that of the first part: a watch from there on tells of all that changed while the parts were read.
    """

    items: Found
    token: str = ""
    remaining: int | None = None
    revision: int = 0


class Reader:
    """Everything that reads committed objects on behalf of a subject."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock

    def get(self, subject: Subject, target: Target, request: web.BaseRequest) -> web.Response:
        """One object. Raises NotFound, also for what the subject may not see."""
        key = target.key
        if target.subresource == "status" and "status" not in target.cls.model_fields:
            raise NotFound(key.plural, f"{key.name}/status")
        entry = self.entry(subject, target)
        wanted = shape(request)
        if not wanted.table or scalable(target):
            return reply(shown(target, entry.raw))
        return reply(self._table(target.facts, [(key, entry)], wanted, {"resourceVersion": str(entry.rev)}))

    def entry(self, subject: Subject, target: Target) -> Entry:
        """The committed object. Raises NotFound, Forbidden."""
        key = target.key
        try:
            entry = self._store.get(key)
        except NotFound:
            authorize(subject, "get", key.plural, target.subresource, key)
            raise
        authorize(subject, "get", key.plural, target.subresource, key, entry)
        return entry

    def list(self, subject: Subject, target: Target, request: web.BaseRequest) -> web.Response:
        """A list or a page of it."""
        authorize(subject, "list", target.key.plural, "", target.key)
        found = self.found(subject, target, selected(subject, target.facts, request))
        page = self.page(found.items, request)
        metadata: JSON = {"resourceVersion": str(page.revision)}
        if page.token:
            metadata["continue"] = page.token
            if found.remaining is None and page.remaining:
                metadata["remainingItemCount"] = page.remaining
        wanted = shape(request)
        if wanted.table:
            return reply(self._table(target.facts, page.items, wanted, metadata))
        return reply(joined(target.facts, metadata, (public(target.facts, entry.raw) for _, entry in page.items)))

    def page(self, items: Found, request: web.BaseRequest) -> Page:
        """The part of `items` that `limit` and `continue` ask for."""
        limit, token = number(request, "limit") or 0, request.query.get("continue", "")
        revision = self._store.committed
        return paged(items, limit, token, revision) if limit or token else Page(items, revision=revision)

    def found(self, subject: Subject, target: Target, chosen: Selection, verb: str = "list") -> Page:
        """All committed objects that are asked for and may be seen; `remaining` -1 when some were left out.

        With another `verb`: those to which the subject may do that.
        """
        key = target.key
        entries = self._store.list(key.plural, key.namespace)
        accepts = matcher(chosen, target.facts)
        if accepts is not None:
            entries = [one for one in entries if accepts(*one)]
        whole = visibility_class(subject, verb, key.plural, key.namespace) == SEES_ALL
        if not whole:
            entries = [one for one in entries if visible(subject, *one, verb)]
        return Page(entries, remaining=None if accepts is None and whole else -1)

    def _table(self, facts: Facts, items: Found, wanted: Shape, metadata: JSON) -> bytes:
        now = self._clock()
        rows = b",".join(dump(row(facts, load(public(facts, entry.raw)), now, wanted.include)) for _, entry in items)
        head: JSON = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        head["columnDefinitions"] = definitions(facts)
        return dump(head)[:-1] + b',"rows":[' + rows + b"]}"


def joined(facts: Facts, metadata: JSON, raws: Iterable[bytes]) -> bytes:
    """The bytes of a list, made of the bytes of its items."""
    head = dump({"kind": f"{facts.kind}List", "apiVersion": facts.group_version, "metadata": metadata})
    return b"".join((head[:-1], b',"items":[', b",".join(raws), b"]}"))


def selected(subject: Subject, facts: Facts, request: web.BaseRequest) -> Selection:
    """What the query selects, and what the server adds for that subject."""
    query = request.query
    forced = forced_selector(subject, facts.plural)
    field_text = query.get("fieldSelector", "") if query else ""
    field_text = ",".join(one for one in (forced, field_text) if one)
    label_text = query.get("labelSelector", "") if query else ""
    return selection(label_text, field_text, facts) if label_text or field_text else Selection()


def paged(items: Found, limit: int, token: str, revision: int) -> Page:
    """At most `limit` (0: all) items after the key in `token`; a list that changes meanwhile keeps its key order."""
    start = 0
    if token:
        revision, after = token_read(token)
        start = bisect_right(items, after, key=lambda one: (one[0].namespace, one[0].name))
    end = start + limit if limit else len(items)
    part = items[start:end]
    if end >= len(items) or not part:
        return Page(part, revision=revision)
    last = part[-1][0]
    return Page(part, token_of(revision, last), len(items) - end, revision)


def token_of(revision: int, last: Key) -> str:
    """What names the place behind `last` in a list of that revision."""
    return base64.urlsafe_b64encode(orjson.dumps([revision, last.namespace, last.name])).decode()


def token_read(token: str) -> tuple[int, tuple[str, str]]:
    """Revision, and namespace and name of the last one. Malformed."""
    try:
        made: Any = orjson.loads(base64.urlsafe_b64decode(token))
        return int(made[0]), (str(made[1]), str(made[2]))
    except (ValueError, binascii.Error, TypeError, IndexError, KeyError) as error:
        raise Malformed("the continue token is none that this server gave") from error
