"""instances/VERB and instances/NAME/VERB: power, and deletion of many, with an answer for each instance by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from aiohttp import web

from nanovirt.portal import powering
from nanovirt.portal.api import applying, bodies
from nanovirt.portal.api.failures import status_of
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.reading import Reader, selected
from nanovirt.portal.api.repeating import HEADER
from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import Options, body, options
from nanovirt.portal.api.writing import Deletion, Settle, Writer, Written
from nanovirt.portal.identity import Subject
from nanovirt.resources import patching
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.errors import Conflict, Invalid, Malformed, Rejected, TooLarge
from nanovirt.resources.kind import GROUP_VERSION, Key
from nanovirt.resources.reasons import Reason

PLURAL = "instances"
DELETE = "delete"
VERBS = (*powering.VERBS, DELETE)
KIND = "BulkResult"
NAMES_MAX = 1000
FIELDS = frozenset(("apiVersion", "kind", "names", "force", "at"))


class Asked(NamedTuple):
    """What the body says: which ones (empty: those that the query selects), by force, and when it was ordered."""

    names: tuple[str, ...]
    force: bool
    at: datetime
    exact: bool
    """Whether the one who asks has said when: then the order is given once for that time."""


class Bulk:
    """Each instance is authorized, changed and answered by itself: one that cannot be keeps no other from it."""

    def __init__(self, writer: Writer, reader: Reader, clock: Callable[[], datetime]) -> None:
        self._writer, self._reader, self._clock = writer, reader, clock

    async def answer(self, request: web.BaseRequest, subject: Subject, target: Target) -> web.StreamResponse:
        """POST .../instances/VERB; `target` is the collection's, with the verb as its name.

        An Idempotency-Key has no meaning: sent again, everything but restart and reset finds nothing to do any more,
        and those do once for each `at`.
        """
        if HEADER in request.headers:
            raise Malformed(f"{HEADER} is not for many at a time; send it again without, with the same `at`")
        verb, wishes = target.key.name, options(request)
        asked = self._asked(bodies.document_of(request, await body(request)))
        named = [Key(PLURAL, target.key.namespace, name) for name in asked.names] or self._selected(
            request, subject, target
        )
        settle = applying.follow(request, self._clock)
        items = [await self._one(subject, target._replace(key=key), verb, asked, wishes, settle) for key in named]
        failed = sum(item["status"] == "Failure" for item in items)
        head = {"apiVersion": GROUP_VERSION, "kind": KIND, "verb": verb, "failed": failed}
        return document({**head, "items": items})

    async def change(self, request: web.BaseRequest, subject: Subject, target: Target) -> Written:
        """POST .../instances/NAME/VERB: the instance afterwards."""
        asked = self._asked(bodies.document_of(request, content) if (content := await body(request)) else {})
        if asked.names:
            raise Invalid("names", "the path says which one")
        written, _said = await self._power(
            subject, target, target.subresource, asked, options(request), applying.follow(request, self._clock)
        )
        return written

    def _selected(self, request: web.BaseRequest, subject: Subject, target: Target) -> Sequence[Key]:
        if not request.query.get("labelSelector"):
            raise Invalid("names", "say which: names in the body, or labelSelector in the query")
        everything = target._replace(key=target.key._replace(name=""))
        found = self._reader.found(subject, everything, selected(subject, target.facts, request)).items
        if len(found) > NAMES_MAX:
            raise TooLarge(f"{len(found)} instances have these labels; the limit is {NAMES_MAX}")
        return [key for key, _ in found]

    async def _one(
        self, subject: Subject, one: Target, verb: str, asked: Asked, wishes: Options, settle: Settle
    ) -> JSON:
        try:
            if verb == DELETE:
                await self._writer.delete(subject, one, Deletion(dry=wishes.dry))
                said = "deleting"
            else:
                _written, said = await self._power(subject, one, verb, asked, wishes, settle)
        except (Rejected, Conflict) as error:
            return {"name": one.key.name, **_failure(status_of(error))}
        return {"name": one.key.name, "status": "Success", "message": said}

    async def _power(
        self, subject: Subject, target: Target, verb: str, asked: Asked, wishes: Options, settle: Settle
    ) -> tuple[Written, str]:
        said = ""

        def transform(raw: bytes) -> JSON:
            nonlocal said
            doc = load(raw)
            patch, said = powering.change(verb, doc, asked.at, force=asked.force)
            if asked.exact and "restart" in (patch or {}).get("spec", {}) and _ordered(doc, asked.at):
                patch, said = None, "was ordered already"
            return patching.merge(doc, patch or {})

        one = target._replace(subresource="")
        return await self._writer.change(subject, one, "patch", transform, wishes, settle), said

    def _asked(self, doc: JSON) -> Asked:
        for field in doc:
            if field not in FIELDS:
                raise Invalid(field, Reason.FieldUnknown, known=", ".join(sorted(FIELDS)))
        names, force = doc.get("names", []), doc.get("force", False)
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise Invalid("names", "it must be a list of names")
        if len(names) > NAMES_MAX:
            raise TooLarge(f"{len(names)} names; the limit is {NAMES_MAX}")
        if not isinstance(force, bool):
            raise Invalid("force", "it is true or false")
        return Asked(tuple(dict.fromkeys(names)), force, self._at(doc.get("at")), "at" in doc)

    def _at(self, said: Any) -> datetime:
        if said is None:
            return self._clock()
        try:
            at = datetime.fromisoformat(said)
        except (TypeError, ValueError):
            at = None
        if at is None or at.tzinfo is None:
            raise Invalid("at", "it is a time with its zone, such as 2026-11-22T06:00:00Z")
        return at


def _ordered(doc: JSON, at: datetime) -> bool:
    """Whether an order of that time was given already, or a later one, which it must not follow."""
    before = (doc["spec"].get("restart") or {}).get("at")
    return before is not None and datetime.fromisoformat(before) >= at


def _failure(status: JSON) -> JSON:
    return {field: status[field] for field in ("status", "reason", "message", "code", "details")}
