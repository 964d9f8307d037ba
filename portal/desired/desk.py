"""The paths below /apis/nano/v1/desired: how the directory stands, and deleting what has no file any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from nanovirt.portal.api.bodies import document_of
from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import body
from nanovirt.portal.authorization import unlimited
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.desired.standing import named
from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Forbidden, Invalid
from nanovirt.resources.kind import GROUP_VERSION, Key
from nanovirt.resources.registry import by_kind

PATH = f"/apis/{GROUP_VERSION}/desired"
OBJECTS_MAX = 10_000
Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Identify = Callable[[web.BaseRequest], Subject]


def pages(desired: Desired, identify: Identify) -> Mapping[tuple[str, str], Page]:
    """(method, path) -> who answers; the administrator alone is."""

    async def status(request: web.BaseRequest) -> web.StreamResponse:
        _administrator(identify(request), "see")
        return document(desired.standing.told())

    async def prune(request: web.BaseRequest) -> web.StreamResponse:
        """`{objects: [{kind, namespace, name}], force}`: only what is named goes, so that nobody deletes unseen."""
        _administrator(identify(request), "prune")
        doc = document_of(request, await body(request))
        _administrator(identify(request), "prune")
        pruned = await desired.prune(_objects(doc), force=doc.get("force") is True)
        return document({**desired.standing.told(), "pruned": [named(key) for key in pruned]})

    return {("GET", PATH): status, ("POST", f"{PATH}/prune"): prune}


def _administrator(subject: Subject, verb: str) -> None:
    if not unlimited(subject):
        raise Forbidden(f"{subject.name} may not {verb} the directory of desired objects")


def _objects(doc: JSON) -> list[Key]:
    listed = doc.get("objects")
    if not isinstance(listed, list) or not 0 < len(listed) <= OBJECTS_MAX:
        raise Invalid("objects", f"it must be a list of 1 to {OBJECTS_MAX} objects, as `vanished` of the status has it")
    return [_key(at, one) for at, one in enumerate(listed)]


def _key(at: int, one: Any) -> Key:
    words = [one.get(word) or "" for word in ("kind", "namespace", "name")] if isinstance(one, dict) else []
    cls = by_kind(words[0]) if words and all(isinstance(word, str) for word in words) else None
    if cls is None:
        raise Invalid(f"objects[{at}]", "it must be {kind, namespace, name} of a kind that is there")
    return Key(cls.facts.plural, words[1], words[2])
