"""Who owns which fields: what an apply patch makes of an object, and what other writes do to managedFields."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from nanovirt.portal.api.intents import Hand
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.requests import Options, body, media_type, truth
from nanovirt.portal.api.writing import Prepared, Settle, Writer
from nanovirt.portal.authorization import authorize, visible
from nanovirt.portal.identity import Subject
from nanovirt.resources import managed
from nanovirt.resources.codec import BODY_MAX, JSON, dump, load, parse
from nanovirt.resources.errors import Conflict, Invalid, Malformed, TooLarge, UnsupportedMedia
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.kind import Document
from nanovirt.resources.managed import NAME_MAX, Manager, Write
from nanovirt.resources.openapi import APPLY_TYPE
from nanovirt.resources.reasons import Reason
from nanovirt.resources.shapes import shape_of
from nanovirt.resources.yaml_reading import parse_yaml

NAMELESS = "unknown"
CLEARED: list[JSON] = [{}]
"""What clears managedFields: an empty list does not, so that clients which do not know them never do it."""


class Applying:
    """One apply patch, by a named manager: `transform` and `settle` are its two halves around the write pipeline."""

    def __init__(self, target: Target, doc: JSON, manager: str, *, force: bool, now: datetime) -> None:
        """Raises Invalid (no manager, or none that can be), Malformed (managedFields in the patch)."""
        if not manager:
            raise Invalid("fieldManager", Reason.FieldValueRequired)
        if len(manager) > NAME_MAX or not manager.isprintable():
            raise Invalid("fieldManager", f"a name of at most {NAME_MAX} printable characters")
        metadata = doc.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise Malformed("metadata must be an object")
        if metadata.get("managedFields") is not None:
            raise Malformed(
                "metadata.managedFields must be nil: the server keeps them; leave them out of what is applied"
            )
        self._target, self._doc, self._manager, self._force = target, doc, manager, force
        self._now, self._shape = _second(now), shape_of(target.cls)

    def prepared(self, writer: Writer, subject: Subject, options: Options) -> Prepared:
        """A change of what is there, or a creation. Raises what Writer.prepare_change and prepare_create do."""
        target = self._target
        key, there = target.key, writer.world.store.peek(target.key)
        if there is None or not (visible(subject, key, there, "patch") or visible(subject, key, there)):
            for verb in ("patch", "create"):  # what one may not see is refused like what is not there
                authorize(subject, verb, key.plural, "", key)
        if there is not None:
            return writer.prepare_change(subject, target, "patch", self.transform, options, self.settle)
        return writer.prepare_create(subject, target, self.fresh(), options, self.settle)

    def fresh(self) -> JSON:
        """The document of a new object. Raises Conflict when the patch is about one that was there before."""
        key, metadata = self._target.key, self._doc["metadata"]
        if metadata.get("resourceVersion") or metadata.get("uid"):
            raise Conflict(key.plural, key.name, "the patch has a resourceVersion or uid, and there is no such object")
        if metadata.get("name", key.name) != key.name:
            raise Malformed(f"the body says name {str(metadata['name'])[:80]!r}, the URL {key.name!r}")
        doc = managed.wanted(self._shape, {}, self._doc, [], self._manager)
        return doc | {"metadata": {**doc["metadata"], "name": key.name}}

    def transform(self, raw: bytes) -> JSON:
        """What the stored object becomes. Raises Invalid."""
        live = load(raw)
        managers = _managers(self._target.cls, live, self._now)
        return managed.wanted(self._shape, live, self._doc, managers, self._manager)

    def settle(self, _cls: type[Document], _doc: JSON, stored: JSON, old: JSON | None) -> None:
        """Write down in `stored` who owns what now. Raises Contested."""
        facts = self._target.facts
        done = Write(self._shape, old or {}, stored, self._now)
        managers = _managers(self._target.cls, old, self._now) if old else []
        after = managed.after_apply(
            done, self._doc, managers, self._manager, force=self._force, version=facts.group_version
        )
        _note(stored, after, facts.group_version)


def _managers(cls: type[Document], live: JSON, now: str) -> list[Manager]:
    entries = live["metadata"].get("managedFields")
    if entries:
        return managed.read(entries)
    said = cls.model_validate(live).model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return managed.unmanaged(shape_of(cls), said, now)


def applies(request: web.BaseRequest) -> bool:
    """Whether a request is an apply patch."""
    return request.method == "PATCH" and media_type(request) == APPLY_TYPE


async def read(request: web.BaseRequest, target: Target, now: datetime) -> Applying:
    """The apply patch in a request. Raises UnsupportedMedia, Invalid (no manager), Malformed, TooLarge."""
    if target.subresource:
        raise UnsupportedMedia(f"{target.subresource} cannot be applied; send application/merge-patch+json")
    doc = await _document(await body(request))
    hand = hand_of(request)
    return Applying(target, doc, hand.manager, force=hand.force, now=now)


def hand_of(request: web.BaseRequest) -> Hand:
    """Who applies, and whether against others, as the query says it."""
    return Hand(request.query.get("fieldManager", ""), truth(request.query.get("force")))


async def _document(content: bytes) -> JSON:
    """JSON, which is what kubectl sends, or YAML, which takes a time that nobody else should wait for."""
    try:
        return parse(content)
    except Malformed:
        return await asyncio.to_thread(parse_yaml, content)


# --- writes that do not apply -----------------------------------------------------------------------------


def follow(request: web.BaseRequest, clock: Callable[[], datetime]) -> Settle:
    """What a PUT or another patch does to managedFields."""
    return settling(lambda: _author(request), clock)


def settling(author: Callable[[], str], clock: Callable[[], datetime]) -> Settle:
    """What a write by that author does to managedFields: nothing, to the many objects that nobody has applied."""

    def settle(cls: type[Document], doc: JSON, stored: JSON, old: JSON | None) -> None:
        if old is not None and "managedFields" in old["metadata"]:
            _follow(Write(shape_of(cls), old, stored, _second(clock())), doc, author(), cls)

    return settle


def _follow(done: Write, doc: JSON, name: str, cls: type[Document]) -> None:
    """Clients may clear managedFields or write others (kubectl does, to take over what it applied by itself)."""
    said = doc["metadata"].get("managedFields")
    managers = [] if said == CLEARED else managed.read(said or done.old["metadata"]["managedFields"])
    after = managed.after_update(done, managers, name) if managers else []
    _note(done.new, after, cls.facts.group_version)


def _note(stored: JSON, managers: list[Manager], version: str) -> None:
    """Write down who owns what. Raises TooLarge: a patch and what is noted of it grow an object beyond any body."""
    stored["metadata"]["managedFields"] = managed.write(managers, version)
    size = len(dump(stored))
    if size > BODY_MAX:
        raise TooLarge(f"the object would have {size} bytes with its managedFields; the limit is {BODY_MAX}")


def _author(request: web.BaseRequest) -> str:
    """Who writes: what the client says, or else the first word of its User-Agent."""
    name = request.query.get("fieldManager") or request.headers.get("User-Agent", "").partition("/")[0]
    return "".join(letter for letter in name[:NAME_MAX] if letter.isprintable()) or NAMELESS


def _second(now: datetime) -> str:
    return rfc3339(now.replace(microsecond=0))
