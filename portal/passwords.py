"""Setting the password of a guest's user: by its agent at once, or else by its seed when it starts next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import Options, body
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.authorization import authorize
from nanovirt.portal.identity import Subject
from nanovirt.portal.relaying import Relay
from nanovirt.resources import patching
from nanovirt.resources.codec import JSON, dump, load, parse, trusted
from nanovirt.resources.errors import Conflict, Invalid, NotFound
from nanovirt.resources.guest import ADMIN_NAME
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.secret import Secret, SecretText
from nanovirt.resources.store import Store

FIELDS = ("user", "password", "secret")
PASSWORD_MAX = 512
SECONDS = 20.0
WISHES = Options(dry=False, validation="Strict", once=None)


class Asked(NamedTuple):
    """Whose password, and which."""

    user: str
    password: SecretText


class Passwords:
    """POST instances/NAME/password."""

    def __init__(self, store: Store, relay: Relay, sealer: Sealer, writer: Callable[[], Writer]) -> None:
        self._store, self._relay, self._sealer, self._writer = store, relay, sealer, writer

    async def answer(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """A body {user, password}, or {user, secret: NAME of a Secret with the key `password`}; `user` may be left out.

        Replies {user, applied: Now | NextStart}. The second when no agent answers: then the password stands in the
        Secret of `spec.guest.admin`, written in the caller's name. Invalid, Conflict, Malformed (the guest refuses),
        HostUnreachable.
        """
        instance = trusted(Instance, self._store.get(key).raw)
        asked = self._asked(parse(await body(request)), subject, instance)
        order = dump({"user": asked.user, "password": asked.password.reveal()})
        try:
            await self._relay.fetch(key, "POST", "password", body=order, seconds=SECONDS)
        except Conflict as silent:
            return document(await self._later(subject, key, instance, asked, silent), 202)
        return document({"user": asked.user, "applied": "Now"})

    def _asked(self, doc: JSON, subject: Subject, instance: Instance) -> Asked:
        for field in doc:
            if field not in FIELDS:
                raise Invalid(field, Reason.FieldUnknown, known=", ".join(FIELDS))
        admin = instance.spec.guest.admin
        user, password, secret = (
            doc.get("user", admin.name if admin else "root"),
            doc.get("password"),
            doc.get("secret"),
        )
        if not isinstance(user, str) or not ADMIN_NAME.fullmatch(user):
            raise Invalid("user", "a user of the guest such as root or ops")
        if (password is None) == (secret is None):
            raise Invalid("password", Reason.OneMemberRequired, members="password, secret")
        said = password if secret is None else self._kept(subject, instance.metadata.namespace, secret)
        if not isinstance(said, str) or not 0 < len(said) <= PASSWORD_MAX or not said.isprintable():
            raise Invalid("password", f"a text of 1 to {PASSWORD_MAX} printable characters")
        return Asked(user, SecretText(said))

    def _kept(self, subject: Subject, namespace: str, name: object) -> str:
        """The password of a Secret that the caller may see."""
        if not isinstance(name, str):
            raise Invalid("secret", "the name of a Secret")
        key = Key("secrets", namespace, name)
        authorize(subject, "get", "secrets", "", key, self._store.peek(key))
        secret = trusted(Secret, self._store.get(key).raw)
        sealed = secret.spec.data.get("password")
        if sealed is None:
            raise Invalid("secret", f"Secret {name} has no key `password`")
        return self._sealer.open("Secret", secret.metadata.uid, "password", sealed.reveal()).reveal()

    async def _later(self, subject: Subject, key: Key, instance: Instance, asked: Asked, silent: Conflict) -> JSON:
        """Into the Secret of the administrator: its seed is the only other way into a guest."""
        admin = instance.spec.guest.admin
        if admin is not None and admin.name != asked.user:
            why = f"{silent}; at its start the guest is told only the password of {admin.name}"
            raise Conflict("instances", key.name, why)
        name = admin.password_secret if admin and admin.password_secret else f"{key.name}-password"[:253]
        await self._write_secret(subject, Key("secrets", key.namespace, name), asked.password)
        wish: JSON = {"spec": {"guest": {"admin": {"name": asked.user, "passwordSecret": name}}}}
        target = Target(Instance, key, "")
        await self._writer().change(subject, target, "patch", lambda raw: patching.merge(load(raw), wish), WISHES)
        return {"user": asked.user, "applied": "NextStart", "secret": name}

    async def _write_secret(self, subject: Subject, key: Key, password: SecretText) -> None:
        target, data = Target(Secret, key, ""), {"data": {"password": password.reveal()}}
        if self._store.peek(key) is not None:
            merged = {"spec": data}
            await self._writer().change(subject, target, "patch", lambda raw: patching.merge(load(raw), merged), WISHES)
            return
        metadata = {"name": key.name, "namespace": key.namespace}
        doc = {"apiVersion": "nano/v1", "kind": "Secret", "metadata": metadata, "spec": data}
        try:
            await self._writer().create(subject, target._replace(key=key._replace(name="")), doc, WISHES)
        except NotFound as error:
            raise Conflict("secrets", key.name, str(error)) from error
