"""Which HTTP code each family of errors has, and the Status document that tells a client about one."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from nanovirt.portal.api.replies import reply
from nanovirt.resources import errors
from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.errors import Cause, NanoError
from nanovirt.resources.kind import CORE, KINDS

CODES: dict[type[NanoError], int] = {
    errors.Rejected: 400,
    errors.Malformed: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAllowed: 405,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.Stale: 409,
    errors.Expired: 410,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Invalid: 422,
    errors.Unavailable: 503,
    errors.LogFull: 507,
    NanoError: 500,
}
RETRY_SECONDS = 1


def code_of(error: NanoError) -> int:
    """The HTTP code of the nearest family of `error`."""
    if isinstance(error, errors.Refused):
        error = error.gravest
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def status_of(error: NanoError) -> JSON:
    """The Status document: reason, message, causes by field, and the parameters that belong to the reason."""
    code = code_of(error)
    plural, name = str(error.params.get("plural", "")), str(error.params.get("name", ""))
    details: JSON = {"name": name, "kind": plural, "group": group_of(plural)}
    details = {word: text for word, text in details.items() if text}
    causes = error.causes
    why = getattr(error, "why", "")
    if why and not causes:
        causes = (Cause("", why, str(error), error.params),)
    if causes:
        details["causes"] = [_cause(cause) for cause in causes]
    params = _plain(error.params) if error.params else {}
    if params:
        details["params"] = params
    if code in (503, 507):
        details["retryAfterSeconds"] = RETRY_SECONDS
    return failure(code, error.reason, _message(error, plural, name), details)


def failure(code: int, reason: str, message: str, details: JSON) -> JSON:
    """A Status of that code."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


def refusal(error: NanoError) -> web.Response:
    """The reply that tells of `error`."""
    status = status_of(error)
    headers = {}
    if status["code"] in (503, 507):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, errors.NotAllowed):
        headers["Allow"] = ", ".join(error.allowed)  # RFC 9110 section 15.5.6: empty is legal
    if status["code"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="nano"'
    return reply(dump(status), status["code"], headers)


def group_of(plural: str) -> str:
    """The API group of a kind; "" for core ones and for none."""
    cls = KINDS.get(plural)
    return "" if cls is None or cls.facts.group_version == CORE else cls.facts.group_version.partition("/")[0]


def _message(error: NanoError, plural: str, name: str) -> str:
    """Kubernetes clients expect `instances.nano "web"` where the store says `instances "web"`."""
    group = group_of(plural)
    return str(error).replace(f'{plural} "{name}"', f'{plural}.{group} "{name}"', 1) if group else str(error)


def _cause(cause: Cause) -> JSON:
    made: JSON = {"reason": cause.reason, "message": cause.message}
    if cause.field:
        made["field"] = cause.field
    if cause.params:
        made["params"] = _plain(cause.params)
    return made


def _plain(params: dict[str, Any]) -> JSON:
    scalars = (str, int, float, bool, list, dict, type(None))
    return {name: value if isinstance(value, scalars) else str(value) for name, value in params.items()}
