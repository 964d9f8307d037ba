"""Who is behind a request: a bearer token, a browser's session, or the certificate that the client has proved."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nanovirt.portal.credentials import Credentials, Known
from nanovirt.portal.membership import Membership, Rights
from nanovirt.portal.pki import HOST_PREFIX, HOSTS, USERS, digest
from nanovirt.portal.sessions import Sessions
from nanovirt.resources.credentials import ADMINS
from nanovirt.resources.errors import NotFound, Unauthorized
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Commit, Store

TOKEN_MAX = 256
ADVICE = "send the token or the client certificate from admin.kubeconfig"


@dataclass(frozen=True)
class Subject:
    """Whoever asks; `host` is the name of the Host whose agent it is, "" for all others.

    A User has `rights` as they were when the request came, its `uid`, and, with a token, the token's id and end.
    """

    name: str
    groups: tuple[str, ...]
    host: str = ""
    rights: Rights | None = field(default=None, compare=False)
    uid: str = ""
    credential: str = ""
    until: datetime | None = None


def now_utc() -> datetime:
    """The time."""
    return datetime.now(UTC)


SYSTEM = Subject("system:controllers", ("nano:system",))
"""The controllers inside the server."""
ADMIN = Subject("admin", (ADMINS,))


class Identities:
    """Knows the tokens by their digests, and hosts and users as they stand in the store at this moment."""

    def __init__(self, store: Store, tokens: Mapping[str, Subject], clock: Callable[[], datetime] = now_utc) -> None:
        """`tokens`: SHA-256 of a token (hex) -> who it means, beside the tokens of users."""
        self._store = store
        self.sessions = Sessions(clock)
        self._membership, self._credentials = Membership(store), Credentials(store, clock)
        self._subjects: dict[str, Subject] = {}
        self._tokens = [(known.encode(), subject) for known, subject in tokens.items()]
        self._names = {entry.uid: key.name for key, entry in store.list("hosts")}
        store.subscribe(self._follow)

    def _follow(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            if key.plural == "hosts" and before is not None:
                self._names.pop(before.uid, None)
            if key.plural == "hosts" and after is not None:
                self._names[after.uid] = key.name

    def identify(self, request: web.BaseRequest) -> Subject:
        """The one who asks. Raises Unauthorized, also for a wrong token beside a good certificate."""
        given = request.headers.getall("Authorization", [])
        if given:
            return self._by_token(given)
        session = self.sessions.of(request)
        if session is not None:
            return self.by_digest(session.token)
        # The loop keeps what the TLS handshake verified with the connection: nothing is parsed or checked twice.
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if not certificate:
            raise Unauthorized(f"the request says not who asks; {ADVICE}")
        return self.by_certificate(certificate)

    def _by_token(self, given: list[str]) -> Subject:
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not 0 < len(token) <= TOKEN_MAX:
            raise Unauthorized(f"the header Authorization must be one `Bearer TOKEN`; {ADVICE}")
        return self.by_digest(digest(token))

    def by_digest(self, known_by: str) -> Subject:
        """Whom the token with that SHA-256 (hex) stands for today. Raises Unauthorized."""
        asked = known_by.encode()
        found = [subject for known, subject in self._tokens if hmac.compare_digest(known, asked)]
        user = self._credentials.find(known_by)
        if found:
            return found[0]
        subject = self._by_credential(user) if user is not None else None
        if subject is None:
            raise Unauthorized(f"the token is not known here, or not any more; {ADVICE}")
        return subject

    def _by_credential(self, known: Known) -> Subject | None:
        """The user of a token, made once for as long as it has the same rights."""
        made = self._subjects.get(known.id)
        if made is None or made.until != known.expires or made.rights is not self._membership.rights(known.user):
            made = self._user(known.user, known.user_uid, known.id, known.expires)
            self._subjects[known.id] = made
        if self._stands(made):
            return made
        del self._subjects[known.id]
        return None

    def _user(self, name: str, uid: str, credential: str = "", until: datetime | None = None) -> Subject:
        rights = self._membership.rights(name)
        groups = (USERS, *rights.groups)
        return Subject(name, groups, rights=rights, uid=uid, credential=credential, until=until)

    def user(self, name: str) -> Subject:
        """The User of that name, whoever says so. Raises Unauthorized for one who is not there or is disabled."""
        try:
            subject = self._user(name, self._store.get(Key("users", "", name)).uid)
        except NotFound:
            subject = Subject(name, ())
        if not self._stands(subject):
            raise Unauthorized(f"the User {name} is not there, or is disabled")
        return subject

    def _stands(self, subject: Subject) -> bool:
        """Whether the User is there, the same one, and not disabled."""
        try:
            entry = self._store.get(Key("users", "", subject.name))
        except NotFound:
            return False
        return entry.uid == subject.uid and not entry.row.disabled and not entry.deleting

    def again(self, subject: Subject) -> Subject:
        """The same one with the rights of this moment. Raises Unauthorized when it may not be recognized any more."""
        if subject.rights is None:
            return subject
        if subject.credential and not self._credentials.good(subject.credential):
            raise Unauthorized("the token is not good any more")
        fresh = self.user(subject.name)
        if fresh.uid != subject.uid:
            raise Unauthorized(f"another User {subject.name} is meant")
        return fresh

    def standing(self, subject: Subject) -> bool:
        """Whether a subject may go on as what it was recognized as: a watch ends when this is no longer so."""
        if subject.rights is None:
            return True
        if subject.credential and not self._credentials.good(subject.credential):
            return False
        return subject.rights is self._membership.rights(subject.name) and self._stands(subject)

    def by_certificate(self, certificate: Mapping[str, Any]) -> Subject:
        """Whom a verified certificate (as `SSLSocket.getpeercert` gives it) names today. Raises Unauthorized."""
        said = [pair for part in certificate.get("subject", ()) for pair in part]
        names = [value for field, value in said if field == "commonName"]
        organizations = [value for field, value in said if field == "organizationName"]
        match organizations, names:
            case [organization], [name] if organization == ADMINS:
                return Subject(name, (ADMINS,))
            case [organization], [name] if organization == HOSTS and name.startswith(HOST_PREFIX):
                return self._host(name.removeprefix(HOST_PREFIX))
            case [organization], [name] if organization == USERS:
                uids = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
                subject = self._user(name, uids[0] if uids else "")
                if self._stands(subject):
                    return subject
        raise Unauthorized(f"the certificate names nobody who may ask here; {ADVICE}")

    def _host(self, uid: str) -> Subject:
        """Deleting the Host is what revokes its certificate, at once and on connections that are open."""
        name = self._names.get(uid, "")
        try:
            here = bool(name) and self._store.get(Key("hosts", "", name)).uid == uid
        except NotFound:
            here = False
        if not here:
            raise Unauthorized("the Host of this certificate is gone; add it anew with `nanoctl host add`")
        return Subject(f"{HOST_PREFIX}{uid}", (HOSTS,), host=name)
