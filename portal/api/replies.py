"""Building replies: JSON bytes with the headers that every API reply has, warnings, and success documents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aiohttp import web
from multidict import CIMultiDict

from nanovirt.resources.codec import JSON, dump

JSON_TYPE = "application/json"
WARNING_MAX = 500
UNPRINTABLE = re.compile(r"[^ -~]")
SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def reply(
    body: bytes, code: int = 200, headers: Mapping[str, str] | None = None, warnings: Sequence[str] = ()
) -> web.Response:
    """A reply of JSON bytes; each warning is a header that kubectl prints."""
    all_headers = CIMultiDict(SAFE)
    all_headers["Content-Type"] = JSON_TYPE
    if headers:
        all_headers.update(headers)
    for warning in warnings:
        all_headers.add("Warning", warning_value(warning))
    return web.Response(body=body, status=code, headers=all_headers)


def document(doc: JSON, code: int = 200, content_type: str = JSON_TYPE) -> web.Response:
    """A reply of one JSON document."""
    return reply(dump(doc), code, {"Content-Type": content_type})


def text(said: str, code: int = 200) -> web.Response:
    """A reply of plain text."""
    return reply(said.encode(), code, {"Content-Type": "text/plain; charset=utf-8"})


def warning_value(said: str) -> str:
    """The value of a Warning header (RFC 7234 section 5.5): quotes escaped, or clients drop it in silence."""
    escaped = UNPRINTABLE.sub("?", said[:WARNING_MAX]).replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'


def success(details: JSON) -> JSON:
    """The Status that answers a deletion which is done."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
