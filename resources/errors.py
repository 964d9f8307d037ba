"""Every error of Nano, sorted by who must act on it: the caller, the program (retry), time, or a person."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanovirt.resources.reasons import Reason


class Cause(NamedTuple):
    """One thing that is wrong with one field: `field` is the JSON path, `params` belong to `reason`."""

    field: str
    reason: str
    message: str
    params: dict[str, Any]

    @classmethod
    def of(cls, field: str, why: Reason | str, /, **params: Any) -> Cause:
        """What a reason says with these `params`; a text is a sentence of its own (FieldValueInvalid)."""
        word, message = (why.name, why.say(**params)) if isinstance(why, Reason) else ("FieldValueInvalid", why)
        return cls(field, word, message, params)


class NanoError(Exception):
    """Whatever Nano itself says went wrong; the message names what, to what, and what to do next."""

    reason: str = "InternalError"
    params: dict[str, Any]
    causes: tuple[Cause, ...] = ()

    def __init__(self, message: str, **params: Any) -> None:
        super().__init__(message)
        self.params = params


class Refused(NanoError):
    """Several writes of one transaction cannot be, and so none was carried out; `causes` names each by its number.

    It is answered as `gravest` would be: the error that a caller has to mend first.
    """

    def __init__(self, message: str, gravest: NanoError, causes: tuple[Cause, ...]) -> None:
        super().__init__(message)
        self.reason, self.gravest, self.causes = gravest.reason, gravest, causes


# --- Rejected: the caller must change something -------------------------------------------------------


class Rejected(NanoError):
    """The caller must change the request; sending it again as it is will fail again."""

    reason = "BadRequest"


class Invalid(Rejected):
    """One or several fields cannot be accepted; nothing was stored (HTTP 422)."""

    reason = "Invalid"

    def __init__(self, field: str, why: Reason | str, **params: Any) -> None:
        cause = Cause.of(field, why, **params)
        super().__init__(f"{field}: {cause.message}" if field else cause.message, **params)
        self.causes = (cause,)

    @classmethod
    def of(cls, causes: list[Cause]) -> Invalid:
        """One error that carries several causes, so that a person can mend all of them at once."""
        first = causes[0]
        error = cls(first.field, first.message, **first.params)
        error.causes = tuple(causes)
        error.args = ("; ".join(f"{c.field}: {c.message}" if c.field else c.message for c in causes),)
        return error


class Malformed(Rejected):
    """The request could not be read at all: broken JSON, unknown field under strict decoding (HTTP 400)."""

    reason = "BadRequest"

    def __init__(self, message: str, causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes


class TooLarge(Rejected):
    """The request is over a stated limit (HTTP 413)."""

    reason = "RequestEntityTooLarge"


class UnsupportedMedia(Rejected):
    """The Content-Type or Content-Encoding is not one that is read here (HTTP 415)."""

    reason = "UnsupportedMediaType"


class NotAllowed(Rejected):
    """The verb does not exist on that resource (HTTP 405); `allowed`: the methods that do, as far as is known."""

    reason = "MethodNotAllowed"

    def __init__(self, message: str, *allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class Unauthorized(Rejected):
    """Nobody was recognized behind the request (HTTP 401)."""

    reason = "Unauthorized"


class Forbidden(Rejected):
    """Somebody was recognized, and may not do this (HTTP 403)."""

    reason = "Forbidden"

    def __init__(self, why: Reason | str, **params: Any) -> None:
        super().__init__(why.say(**params) if isinstance(why, Reason) else why, **params)
        self.why = why.name if isinstance(why, Reason) else ""


class NotFound(Rejected):
    """No such object, or none that the caller may see (HTTP 404)."""

    reason = "NotFound"

    def __init__(self, plural: str, name: str) -> None:
        super().__init__(f'{plural} "{name}" not found', plural=plural, name=name)


class AlreadyExists(Rejected):
    """An object of that kind and name is there already (HTTP 409)."""

    reason = "AlreadyExists"

    def __init__(self, plural: str, name: str) -> None:
        super().__init__(f'{plural} "{name}" already exists', plural=plural, name=name)


# --- Stale: the program reads again and retries --------------------------------------------------------


class Stale(NanoError):
    """What the caller knew is out of date; read again and decide anew."""


class Conflict(Stale):
    """The object changed since it was read (HTTP 409)."""

    reason = "Conflict"

    def __init__(self, plural: str, name: str, why: str = "") -> None:
        super().__init__(
            f'Operation cannot be fulfilled on {plural} "{name}": '
            + (why or "the object has been modified; please apply your changes to the latest version and try again"),
            plural=plural,
            name=name,
        )


class Expired(Stale):
    """The asked revision is older than the kept history: list again (HTTP 410)."""

    reason = "Expired"

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest}); list again", asked=asked, oldest=oldest)


class Forgotten(Expired):
    """The asked past is older than what is kept (HTTP 410); `oldest`, `at`: from where on it is known."""

    reason = "Forgotten"

    def __init__(self, asked: str, oldest: int, at: str) -> None:
        NanoError.__init__(
            self,
            f"{asked} is not kept any more: history begins with revision {oldest} ({at})",
            asked=asked,
            oldest=oldest,
            at=at,
        )
        self.oldest, self.at = oldest, at


# --- Unavailable: time heals it ------------------------------------------------------------------------


class Unavailable(NanoError):
    """Something that is needed does not answer now; the same call may succeed later (HTTP 503)."""

    reason = "ServiceUnavailable"


class HypervisorError(Unavailable):
    """libvirt, QEMU or a tool of the host refused or did not answer; `code` is libvirt's error number or 0."""

    reason = "HypervisorError"

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class HostUnreachable(Unavailable):
    """The agent of that host does not answer."""

    reason = "HostUnreachable"


class StoreUnreachable(Unavailable):
    """The server that holds the store does not answer, or ended the connection."""

    reason = "StoreUnreachable"


class StoreFailed(Unavailable):
    """A write or fsync failed: whether the record is on disk is unknown until the next start; nothing is retried."""

    reason = "StoreFailed"


class LogFull(Unavailable):
    """The disk has no room for another record; nothing was written (HTTP 507)."""

    reason = "LogFull"


# --- A person is needed --------------------------------------------------------------------------------


class SealBroken(NanoError):
    """A stored secret does not open: another key, another object, or damage."""

    reason = "SealBroken"


class StoreCorrupt(NanoError):
    """The log is damaged in a place that no crash explains; the store refuses to start.

    `path`, `offset`: where; `last_good`: the last whole revision; `command`: what to type to go on without the rest.
    """

    reason = "StoreCorrupt"

    def __init__(self, path: str, offset: int, last_good: int, why: str, command: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset} ({why}); last good revision {last_good}. "
            f"Restore a backup, or accept the loss with: {command}",
            path=path,
            offset=offset,
            lastGood=last_good,
            command=command,
        )
        self.path, self.offset, self.last_good, self.command = path, offset, last_good, command
