"""users/NAME/token: a token of a user is made and told once, listed without what it is, and taken back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, ValidationError

from nanovirt.portal.api.bodies import document_of
from nanovirt.portal.api.heads import NAME_LETTERS
from nanovirt.portal.api.repeating import HEADER, key_in
from nanovirt.portal.api.replies import document, success
from nanovirt.portal.api.requests import body
from nanovirt.portal.identity import Subject
from nanovirt.portal.pki import TOKEN_PREFIX, digest
from nanovirt.resources.codec import JSON, causes_of
from nanovirt.resources.credential import Credential, CredentialSpec
from nanovirt.resources.errors import Forbidden, Invalid, Malformed, NotFound
from nanovirt.resources.fields import Title
from nanovirt.resources.kind import GROUP_VERSION, Key
from nanovirt.resources.metadata import Model, ObjectMeta, OwnerReference
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Delete, Entry, Store, Update, transact

DAY = 24 * 3600
SECONDS_DEFAULT, SECONDS_MAX = 30 * DAY, 366 * DAY
NAME_LENGTH = 12
TOKENS_MAX = 50
"""Tokens that one user may have at a time."""
Hook = Callable[[web.BaseRequest, Subject, Key], Any]


class TokenRequest(Model):
    """What is asked for: what the token is for, in words, and for how long it is good."""

    description: Title = ""
    expires_seconds: Annotated[int, Field(ge=60, le=SECONDS_MAX)] = SECONDS_DEFAULT


class TokenDesk:
    """Answers below users/NAME/token; the door has authorized: the administrator, or that user."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock

    @property
    def hooks(self) -> Mapping[tuple[str, str, str], Hook]:
        """(plural, sub-resource, method) -> who answers."""
        answers = {"POST": self.issue, "GET": self.listed, "DELETE": self.revoke}
        return {("users", "token", method): answer for method, answer in answers.items()}

    async def issue(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST: a new token, which no later answer shows again. Raises NotFound, Malformed, Invalid, Forbidden.

        Sent again with its Idempotency-Key, as nobody may have heard the answer, it puts another in place of the first.
        """
        user = self._store.get(key)
        raw = await body(request)
        asked = _asked(document_of(request, raw) if raw else {})
        if user.row.disabled:
            raise Forbidden(Reason.UserDisabled, name=key.name)
        now = self._clock().replace(microsecond=0)
        old = [id_ for id_, entry in self._of(user) if datetime.fromisoformat(entry.row.expires) <= now]
        name = _name_for(request, subject, user)
        lost = self._store.peek(Key("credentials", "", name))
        if lost is None and sum(1 for _ in self._of(user)) - len(old) >= TOKENS_MAX:
            raise Forbidden(Reason.TooManyTokens, name=key.name, limit=TOKENS_MAX)
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        made = _credential(name, (key.name, user.uid), token, asked, now)
        write = Create(made.key, made.to_json()) if lost is None else Update(made.key, made.to_json())
        await transact(self._store, [write, *(Delete(one) for one in old if one != made.key)], subject.name)
        shown = _shown(made.metadata.name, self._store.get(made.key))
        return document({**shown, "status": {"token": token}}, 201)

    async def listed(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """GET: the tokens of the user, by id. Raises NotFound."""
        del request, subject
        items = [_shown(id_.name, entry) for id_, entry in self._of(self._store.get(key))]
        return document({"kind": "UserTokenList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items})

    async def revoke(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """DELETE ?id=ID: that token is worth nothing any more. Raises NotFound, Malformed."""
        user = self._store.get(key)
        wanted = request.query.get("id", "")
        if not wanted:
            raise Malformed("say which token: ?id=ID, as the list of them names it")
        found = next((one for one, _ in self._of(user) if one.name == wanted), None)
        if found is None:
            raise NotFound("tokens", wanted)
        await transact(self._store, [Delete(found)], subject.name)
        return document(success({"name": wanted, "kind": "tokens"}))

    def _of(self, user: Entry) -> Iterator[tuple[Key, Entry]]:
        return (one for one in self._store.list("credentials") if one[1].row.user_uid == user.uid)


def _asked(doc: JSON) -> TokenRequest:
    try:
        return TokenRequest.model_validate({name: doc[name] for name in doc if name not in ("kind", "apiVersion")})
    except ValidationError as error:
        raise Invalid.of(causes_of(error)) from error


def _name_for(request: web.BaseRequest, subject: Subject, user: Entry) -> str:
    """A name at random, or for a request with a key the one that it always has. Raises Malformed."""
    if HEADER not in request.headers:
        return "".join(secrets.choice(NAME_LETTERS) for _ in range(NAME_LENGTH))
    known = digest(f"{subject.name} {user.uid} {key_in(request.headers[HEADER])}")
    return "".join(NAME_LETTERS[letter % len(NAME_LETTERS)] for letter in bytes.fromhex(known)[:NAME_LENGTH])


def _credential(name: str, whose: tuple[str, str], token: str, asked: TokenRequest, now: datetime) -> Credential:
    user, uid = whose
    owner = OwnerReference(api_version=GROUP_VERSION, kind="User", name=user, uid=uid)
    spec = CredentialSpec(
        user=user,
        user_uid=uid,
        digest=digest(token),
        description=asked.description,
        expires=now + timedelta(seconds=asked.expires_seconds),
    )
    return Credential(metadata=ObjectMeta(name=name, owner_references=(owner,)), spec=spec)


def _shown(id_: str, entry: Entry) -> JSON:
    row = entry.row
    spec = {"user": row.user, "description": row.description or "", "expires": row.expires}
    return {"kind": "UserToken", "apiVersion": GROUP_VERSION, "metadata": {"name": id_}, "spec": spec}
