"""Reading requests: bodies within limits, query parameters as real clients send them, the shape that Accept wants."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiohttp import web

from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import Malformed, TooLarge, UnsupportedMedia
from nanovirt.resources.store import Once

BODY_SECONDS = 30
JSON_TYPES = ("", "application/json", "application/octet-stream")
ONCE: web.RequestKey[Once] = web.RequestKey("once", Once)
BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)
"""What is known of a request by the time it is carried out: its Idempotency-Key, and its body once that is read."""
PROTOBUF = "application/vnd.kubernetes.protobuf"


class Options(NamedTuple):
    """What a write asks for beside its body."""

    dry: bool
    validation: str
    once: Once | None = None
    accept: frozenset[str] = frozenset()
    """The losses of data that are accepted: `DISK@SIZE` and the like."""


class Shape(NamedTuple):
    """How objects are shown: as themselves, or as rows of a Table with so much of the object."""

    table: bool = False
    include: str = "Metadata"


PLAIN = Shape()


def truth(text: str | None) -> bool:
    """A boolean as Python and Go clients write it: absent, false and 0 are false, all else is true."""
    return text is not None and text.lower() not in ("false", "0")


def number(request: web.BaseRequest, name: str) -> int | None:
    """A whole, non-negative query parameter, or None. Raises Malformed."""
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise Malformed(f"the query parameter {name}={text[:40]!r} is not a whole number")
    return int(text)


def media_type(request: web.BaseRequest) -> str:
    """The Content-Type without its parameters; "" when the client sends none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def body(request: web.BaseRequest, limit: int = BODY_MAX) -> bytes:
    """The whole body. Raises UnsupportedMedia before reading what is encoded, TooLarge without reading to the end."""
    if BODY in request:
        return request[BODY]
    if "Content-Encoding" in request.headers:
        raise UnsupportedMedia("send the body as it is: Content-Encoding is not read here")
    if (request.content_length or 0) > limit:
        raise TooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
    if limit != BODY_MAX:
        request = request.clone(client_max_size=limit)
    if request.content.is_eof():
        return await request.read()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body has more than {limit} bytes, which is the limit") from error
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {BODY_SECONDS} s") from error


def options(request: web.BaseRequest) -> Options:
    """The options of a write. Raises Malformed for values that do not exist."""
    query, once = request.query, request.get(ONCE)
    if not query:
        return Options(dry=False, validation="Strict", once=once)
    dry = query.getall("dryRun", [])
    if any(one not in ("All", "") for one in dry):
        raise Malformed(f"dryRun={dry[0][:40]!r}: the only value is All")
    validation = query.get("fieldValidation") or "Strict"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise Malformed(f"fieldValidation={validation[:40]!r}: known are Strict, Warn and Ignore")
    accept = frozenset(one for said in query.getall("acceptDataLoss", []) for one in said.split(",") if one)
    return Options(dry="All" in dry, validation=validation, once=once, accept=accept)


def shape(request: web.BaseRequest) -> Shape:
    """Whether the client wants a Table; any other Accept gets JSON, never 406."""
    accept = request.headers.get("Accept", "")
    if "as=Table" not in accept:
        return PLAIN
    for one in accept.split(","):
        words = {word.strip() for word in one.split(";")}
        if {"as=Table", "g=meta.k8s.io"} <= words and "v=v1" in words:
            return Shape(table=True, include=_include(request))
        if words & {"application/json", "*/*"} and len(words) == 1:
            return PLAIN
    return PLAIN


def _include(request: web.BaseRequest) -> str:
    include = request.query.get("includeObject") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise Malformed(f"includeObject={include[:40]!r}: known are None, Metadata and Object")
    return include
