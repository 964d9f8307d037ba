"""`/auth/`: a browser shows its token once and gets a session for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import body
from nanovirt.portal.identity import TOKEN_MAX, Identities, Subject
from nanovirt.portal.pki import digest
from nanovirt.portal.sessions import COOKIE, Session, check_origin
from nanovirt.resources.errors import Malformed, Unauthorized

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
LOGIN_MAX = 4096
EMPTY = {"kind": "Session", "apiVersion": "nano/v1", "spec": {}}


class Login:
    """The pages of the login."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    @property
    def pages(self) -> Mapping[tuple[str, str], Page]:
        """(method, path) -> who answers."""
        return {
            ("POST", "/auth/login"): self.login,
            ("GET", "/auth/session"): self.session,
            ("POST", "/auth/logout"): self.logout,
        }

    async def login(self, request: web.BaseRequest) -> web.Response:
        """`{"token": ...}` -> a cookie, and what `session` says. Raises Unauthorized for a token that is not known."""
        check_origin(request)
        token = _token(await body(request, LOGIN_MAX))
        known = digest(token)
        subject = self._identities.by_digest(known)
        self._identities.sessions.end(request)
        value, session = self._identities.sessions.begin(known)
        answer = document(_shown(subject, session))
        answer.set_cookie(COOKIE, value, secure=True, httponly=True, samesite="Strict", path="/")
        return answer

    async def session(self, request: web.BaseRequest) -> web.Response:
        """Who is logged in, and the secret that writes of the page must send; an empty `spec` when nobody is."""
        try:
            session = self._identities.sessions.of(request)
            subject = self._identities.by_digest(session.token) if session is not None else None
        except Unauthorized:  # over: to ask is how a page finds out, and no error
            session = subject = None
        return document(_shown(subject, session) if session is not None and subject is not None else dict(EMPTY))

    async def logout(self, request: web.BaseRequest) -> web.Response:
        """End the session."""
        self._identities.sessions.of(request)
        self._identities.sessions.end(request)
        answer = document(dict(EMPTY))
        answer.del_cookie(COOKIE, secure=True, httponly=True, samesite="Strict", path="/")
        return answer


def _token(raw: bytes) -> str:
    try:
        doc = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed("the body is not JSON") from error
    token = doc.get("token") if isinstance(doc, dict) else None
    if not isinstance(token, str) or not 0 < len(token) <= TOKEN_MAX:
        raise Malformed('send {"token": "..."}')
    return token


def _shown(subject: Subject, session: Session) -> dict[str, object]:
    spec = {"user": subject.name, "groups": list(subject.groups), "csrf": session.csrf}
    return {"kind": "Session", "apiVersion": "nano/v1", "spec": spec}
