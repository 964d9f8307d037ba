"""Sessions of browsers: a cookie that stands for a token shown once, and what guards its use by other sites."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from aiohttp import web

from nanovirt.portal.pki import digest
from nanovirt.resources.errors import Forbidden, Unauthorized

COOKIE = "__Host-nano"
"""The prefix binds it to this origin, TLS and all paths (RFC 6265bis section 4.1.3.2)."""
CSRF_HEADER = "X-Nano-CSRF"
IDLE = timedelta(minutes=30)
WHOLE = timedelta(hours=12)
SESSIONS_MAX, OF_ONE_TOKEN = 10_000, 32
READS = ("GET", "HEAD")
AGAIN = "log in again"


@dataclass(eq=False)
class Session:
    """One browser that has shown the token with SHA-256 `token` (hex); `csrf` is what its own pages send back."""

    token: str
    csrf: str
    began: datetime
    seen: datetime

    def over(self, now: datetime) -> bool:
        """Whether it was idle, or went on, for too long."""
        return now - self.seen > IDLE or now - self.began > WHOLE


class Sessions:
    """Keeps sessions in memory alone: a server that starts anew asks everybody to log in again."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._open: dict[str, Session] = {}

    def begin(self, token: str) -> tuple[str, Session]:
        """A new session for the token with that SHA-256; gives the cookie's value, which only the browser keeps."""
        now = self._clock()
        self._sweep(now)
        mine = [key for key, one in self._open.items() if one.token == token]
        for key in mine[: max(0, len(mine) - OF_ONE_TOKEN + 1)]:
            del self._open[key]
        if len(self._open) >= SESSIONS_MAX:
            raise Unauthorized(f"{SESSIONS_MAX} sessions are open; wait for some of them to end")
        value = secrets.token_urlsafe(32)
        made = self._open[digest(value)] = Session(token, secrets.token_urlsafe(32), now, now)
        return value, made

    def end(self, request: web.BaseRequest) -> None:
        """Forget the session of that request, if it has one."""
        self._open.pop(digest(request.cookies.get(COOKIE, "")), None)

    def of(self, request: web.BaseRequest) -> Session | None:
        """The session of a request; None without a cookie. Raises Unauthorized when it is over, Forbidden if forged.

        Reads may come from nowhere else than our own pages, a navigation or a tool; what writes, or opens a socket,
        must name our own origin, and a write must know the session's secret as well.
        """
        value = request.cookies.get(COOKIE)
        if value is None:
            return None
        session, now = self._open.get(digest(value)), self._clock()
        if session is None or session.over(now):
            self.end(request)
            raise Unauthorized(f"the session is over; {AGAIN}")
        check_origin(request)
        sent = request.headers.get(CSRF_HEADER, "")
        if request.method not in READS and not hmac.compare_digest(sent.encode(), session.csrf.encode()):
            raise Forbidden(f"the header {CSRF_HEADER} is not that of the session; load the page anew")
        session.seen = now
        return session

    def goes_on(self, session: Session) -> bool:
        """Whether that session is neither over nor ended."""
        return not session.over(self._clock()) and any(one is session for one in self._open.values())

    def touch(self, session: Session) -> None:
        """Somebody does something there, although no request says so."""
        session.seen = self._clock()

    def _sweep(self, now: datetime) -> None:
        for key in [key for key, one in self._open.items() if one.over(now)]:
            del self._open[key]


def check_origin(request: web.BaseRequest) -> None:
    """Raises Forbidden for a request that another site's page has sent, or may have."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "")
    must_tell = request.method not in READS or "Upgrade" in request.headers
    if origin is not None:
        parts = urlsplit(origin)
        foreign = parts.scheme != "https" or parts.netloc != request.headers.get("Host", "")
    else:
        foreign = site in ("cross-site", "same-site") if not must_tell else site != "same-origin"
    if foreign:
        raise Forbidden("the request comes from a page of another site")
