"""What travels between a client and the API, without any I/O: paths, queries, Status replies as errors, watch lines."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import orjson

from nanovirt.resources import errors
from nanovirt.resources.errors import Cause, NanoError

JSON = dict[str, Any]
BACKOFF_FIRST = 0.2
BACKOFF_LAST = 10.0
PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The annotation in which kubectl and nanoctl keep the manifest that was applied last."""
LINE_MAX = 8 << 20
"""Bytes that one watch event may have; the server stores objects of 1 MiB at most."""


class Event(NamedTuple):
    """One change seen by a watch: `type` is ADDED, MODIFIED or DELETED."""

    type: str
    object: JSON


class Sync(NamedTuple):
    """All that there is, told at the beginning and again whenever the history had a gap; `type` is SYNC."""

    type: str
    items: list[JSON]
    resource_version: str


def path(group_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """`/apis/nano/v1/namespaces/team-a/instances/web-1/status`; namespace "" stands for all, or for cluster scope."""
    root = f"/api/{group_version}" if "/" not in group_version else f"/apis/{group_version}"
    space = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    tail = "".join(f"/{quote(part, safe='')}" for part in (name, subresource) if part)
    return f"{root}{space}/{plural}{tail}"


def query(**parameters: str | int | bool) -> str:
    """`?labelSelector=app%3Dweb&watch=true`, empty parameters left out; names are camelCase already."""
    given = {name: "true" if value is True else str(value) for name, value in parameters.items() if value}
    return f"?{urlencode(given)}" if given else ""


def backoff(failures: int) -> float:
    """Seconds to wait after that many failures in a row (from 1): doubled each time, half of it random."""
    longest: float = min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)


# --- errors ---------------------------------------------------------------------------------------------


def _members(family: type[NanoError]) -> Iterator[type[NanoError]]:
    for one in family.__subclasses__():
        yield one
        yield from _members(one)


BY_CODE: dict[int, type[NanoError]] = {
    400: errors.Malformed,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.NotAllowed,
    409: errors.Conflict,
    410: errors.Expired,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
    422: errors.Invalid,
    507: errors.LogFull,
}
_BY_REASON: dict[str, type[NanoError]] = {
    **{one.reason: one for one in _members(NanoError) if one.__module__ == errors.__name__},
    "BadRequest": errors.Malformed,
    "InternalError": NanoError,
}


def refusal(code: int, body: bytes, what: str = "") -> NanoError:
    """The error behind a reply that is no success; `what` (method and path) is named when the reply says nothing."""
    status = _status(body)
    if status is not None:
        return error_of(status, code)
    text = body[:200].decode(errors="replace").strip()
    cls = BY_CODE.get(code, errors.Unavailable if code >= 500 or code == 429 else errors.Malformed)
    return _made(cls, f"{what or 'the request'} was answered with HTTP {code}" + (f": {text}" if text else ""), {}, ())


def error_of(status: JSON, code: int = 0) -> NanoError:
    """The error that a Status of kind Failure stands for, with its message, parameters and causes."""
    code = int(status.get("code") or code)
    details = status.get("details") or {}
    fallback = BY_CODE.get(code, NanoError if code == 500 else errors.Unavailable)
    cls = _BY_REASON.get(status.get("reason") or "", fallback)
    causes = tuple(_cause(one) for one in details.get("causes") or ())
    params = dict(details.get("params") or {})
    for name in ("name", "kind", "retryAfterSeconds"):
        if details.get(name):
            params.setdefault(name, details[name])
    return _made(cls, str(status.get("message") or status.get("reason") or f"HTTP {code}"), params, causes)


def _cause(cause: JSON) -> Cause:
    text = {name: str(cause.get(name) or "") for name in ("field", "reason", "message")}
    return Cause(text["field"], text["reason"], text["message"], dict(cause.get("params") or {}))


def _made(cls: type[NanoError], message: str, params: JSON, causes: tuple[Cause, ...]) -> NanoError:
    """An error of that class with the server's own words, which its constructor would make anew."""
    error = cls.__new__(cls)
    NanoError.__init__(error, message)
    error.params = params
    error.causes = causes
    if isinstance(error, errors.Forbidden):
        error.why = causes[0].reason if causes else ""
    if isinstance(error, errors.HypervisorError):
        error.code = int(params.get("code") or 0)
    return error


def _status(body: bytes) -> JSON | None:
    try:
        doc = orjson.loads(body)
    except ValueError:
        return None
    return doc if isinstance(doc, dict) and doc.get("kind") == "Status" else None


# --- watch ----------------------------------------------------------------------------------------------


class Lines:
    """Cuts a byte stream into lines, whatever the pieces it comes in."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that `piece` completes. StoreUnreachable for a line beyond LINE_MAX."""
        first, *others = piece.split(b"\n")
        self._keep(first)
        if not others:
            return []
        whole = [b"".join(self._rest), *others[:-1]]
        self._rest, self._size = [], 0
        self._keep(others[-1])
        return [line for line in whole if line.strip()]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LINE_MAX:
            raise errors.StoreUnreachable(f"the server sent a watch event of more than {LINE_MAX} bytes")
        if part:
            self._rest.append(part)


class Cursor:
    """Where a watch stands: takes its lines, moves on with revisions that are told to the end, tells where to resume.

    The changes of one transaction bear the same revision, and a connection may break among them. So a revision counts
    as told when a later one or a bookmark comes; after a break it is asked for again, and what was told of it left out.
    """

    def __init__(self, resource_version: str) -> None:
        self.resource_version = resource_version
        self._latest = ""
        self._told: set[tuple[str, str]] = set()

    def take(self, line: bytes) -> Event | None:
        """The event of a line, or None for a bookmark and for what has been told before the connection broke.

        Raises what an ERROR event says, Expired among others.
        """
        try:
            event = orjson.loads(line)
            kind, found = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.StoreUnreachable(f"the server sent a watch line that is no event: {line[:80]!r}") from error
        if kind == "ERROR":
            raise error_of(found)
        metadata = found.get("metadata", {})
        revision = metadata.get("resourceVersion") or self._latest
        if kind == "BOOKMARK":
            self.resource_version = revision or self.resource_version
            return None
        if revision != self._latest:
            self.resource_version = self._latest or self.resource_version
            self._latest, self._told = revision, set()
        one = (metadata.get("namespace", ""), metadata.get("name", ""))
        if one in self._told:
            return None
        self._told.add(one)
        return Event(kind, found)
