"""What of a guest's seed is secret, given to the agent of the host that holds the machine, and to nobody else."""

from __future__ import annotations

from aiohttp import web

from nanovirt.portal.identity import Subject
from nanovirt.resources.codec import dump, trusted
from nanovirt.resources.errors import NotFound
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.secret import Secret
from nanovirt.resources.store import Store

PASSWORD, USER_DATA = "password", "userData"
"""The keys of a Secret that a guest is told."""


class Seeds:
    """The sub-resource `secrets` of a Placement."""

    def __init__(self, store: Store, sealer: Sealer) -> None:
        self._store, self._sealer = store, sealer

    async def secrets(self, _request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """GET placements/NAME/secrets: `password` and `userData`, where the instance names Secrets that have them.

        The door has seen that it is the agent of the Placement's host. NotFound from the revision on that revokes the
        Placement, or asks for its deletion. SealBroken.
        """
        del subject
        placement = trusted(Placement, self._store.get(key).raw)
        if placement.deleting or placement.spec.role == "Revoked":
            raise NotFound("placements", key.name)
        instance = trusted(Instance, self._store.get(Key("instances", key.namespace, placement.spec.instance)).raw)
        if instance.metadata.uid != placement.spec.instance_uid:
            raise NotFound("instances", placement.spec.instance)
        guest = instance.spec.guest
        named = {PASSWORD: guest.admin.password_secret if guest.admin else None, USER_DATA: guest.user_data_secret}
        found = {what: self._value(key.namespace, name, what) for what, name in named.items() if name is not None}
        body = dump({what: value for what, value in found.items() if value is not None})
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    def _value(self, namespace: str, name: str, what: str) -> str | None:
        secret = trusted(Secret, self._store.get(Key("secrets", namespace, name)).raw)
        sealed = secret.spec.data.get(what)
        return (
            None if sealed is None else self._sealer.open("Secret", secret.metadata.uid, what, sealed.reveal()).reveal()
        )
