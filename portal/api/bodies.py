"""What the body of a write means by its media type: a document, a patch, or options of a deletion."""

from __future__ import annotations

from aiohttp import web

from nanovirt.portal.api import protobuf
from nanovirt.portal.api.requests import JSON_TYPES, ONCE, PROTOBUF, media_type, truth
from nanovirt.portal.api.writing import Deletion, Transform
from nanovirt.resources import patching
from nanovirt.resources.codec import BODY_MAX, JSON, load, parse
from nanovirt.resources.errors import Invalid, Malformed, UnsupportedMedia
from nanovirt.resources.metadata import PROPAGATION
from nanovirt.resources.openapi import APPLY_TYPE

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def document_of(request: web.BaseRequest, body: bytes, limit: int = BODY_MAX) -> JSON:
    """The document in a body. Raises UnsupportedMedia, Malformed, TooLarge."""
    kind = media_type(request)
    if kind == PROTOBUF:
        return protobuf.document(body)
    if kind not in JSON_TYPES:
        raise UnsupportedMedia(f"the body is {kind[:80]!r}; send application/json")
    return parse(body, limit)


def transform(request: web.BaseRequest, body: bytes, group: str) -> Transform:
    """What a PUT or PATCH makes of the stored bytes of a kind of that group ("": core). Raises Invalid for `force`."""
    if request.method == "PUT":
        doc = document_of(request, body)
        return lambda _raw: doc
    if "force" in request.query:
        raise Invalid("force", "only an apply patch takes fields from other managers; leave it out")
    kind = media_type(request)
    if kind == MERGE:
        patch = parse(body)
        return lambda raw: patching.merge(load(raw), patch)
    if kind == JSON_PATCH:
        found = patching.operations(body)
        return lambda raw: patching.json_patch(load(raw), found)
    if kind == STRATEGIC and not group:  # clients know how to patch the core kinds, and do not ask which way
        patch = parse(body)
        return lambda raw: patching.strategic(load(raw), patch)
    known = f"send {MERGE} (kubectl patch --type=merge), {JSON_PATCH} (--type=json) or {APPLY_TYPE}"
    raise UnsupportedMedia(f"patches of type {kind[:80]!r} are not supported here: {known}")


def deletion(request: web.BaseRequest, body: bytes, *, dry: bool) -> Deletion:
    """The options of a DELETE, which stand in the query or in the body."""
    doc: JSON = {}
    if body:
        doc = protobuf.delete_options(body) if media_type(request) == PROTOBUF else parse(body)
    wanted = doc.get("preconditions") or {}
    asked = doc.get("dryRun") or []
    if not isinstance(wanted, dict) or not isinstance(asked, list):
        raise Malformed("DeleteOptions look like {preconditions: {uid: ...}, dryRun: [All]}")
    revision = str(wanted.get("resourceVersion") or "")
    if revision and not revision.isdigit():
        raise Malformed(f"resourceVersion {revision[:40]!r} is none that this server gave")
    uid, expected = str(wanted.get("uid") or ""), int(revision) if revision else None
    return Deletion(dry or "All" in asked, uid, expected, request.get(ONCE), _propagation(request, doc))


def _propagation(request: web.BaseRequest, doc: JSON) -> str:
    """What becomes of the dependents; older clients ask for orphans with a boolean. Raises Invalid."""
    said = doc.get("propagationPolicy") or request.query.get("propagationPolicy") or ""
    if said not in ("", "Background", *PROPAGATION):
        raise Invalid("propagationPolicy", f"{str(said)[:40]!r}: known are Background, Foreground and Orphan")
    orphaned = doc.get("orphanDependents") is True or truth(request.query.get("orphanDependents"))
    return str(said) or ("Orphan" if orphaned else "")
