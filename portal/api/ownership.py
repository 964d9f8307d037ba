"""PLURAL/NAME/owner: giving an object, with all that the system made of it, to another user in one revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

from nanovirt.portal.api.bodies import document_of
from nanovirt.portal.api.replies import reply
from nanovirt.portal.api.requests import ONCE, body
from nanovirt.portal.api.secrets import public
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.resources.codec import load
from nanovirt.resources.errors import Invalid, Malformed
from nanovirt.resources.instance_set import SET_LABEL
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Entry, Store, Update

Hook = Callable[[web.BaseRequest, Subject, Key], Any]
CHILDREN = ("placements", "volumes", "events")


class Ownership:
    """The only way to change the label `nano/owner`; the door lets administrators in and nobody else."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def hooks(self) -> Mapping[tuple[str, str, str], Hook]:
        """(plural, sub-resource, method) -> who answers, for every kind of object that users make."""
        given = [plural for plural, cls in kinds().items() if cls.facts.namespaced and not cls.facts.system]
        return {(plural, "owner", "POST"): self.give for plural in given if plural not in CHILDREN}

    async def give(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST {user: NAME}: the object as it is then. Raises NotFound, Malformed, Invalid (no such user), Conflict."""
        self._store.get(key)
        user = document_of(request, await body(request)).get("user")
        if not isinstance(user, str) or not user:
            raise Malformed("say to whom: {user: NAME}")
        if user != ADMIN.name and self._store.peek(Key("users", "", user)) is None:
            raise Invalid("user", Reason.ReferenceMissing, kind="User", name=user)
        entry = self._store.peek(key) or self._store.get(key)
        ops = [_given(one, held, user) for one, held in self._family(key, entry)]
        await self._store.stage(ops, subject.name, once=request.get(ONCE)).durable()
        return reply(public(KINDS[key.plural].facts, self._store.get(key).raw))

    def _family(self, key: Key, entry: Entry) -> Iterator[tuple[Key, Entry]]:
        """The members of a set, what was made of them and of the object, and at last the object itself.

        By ownerReferences, but for the addresses of an instance, which cannot have any.
        """
        heads = [(key, entry), *self._members(key, entry)]
        uids = {held.uid for _, held in heads}
        yield from heads[1:]
        for plural in ("placements", "volumes"):
            yield from (one for one in self._store.peek_all(plural) if not uids.isdisjoint(one[1].owners))
        yield from (one for one in self._store.peek_all("addresses") if one[1].row.instance_uid in uids)
        for one, held in self._store.peek_all("events"):
            about = load(held.raw).get("involvedObject", {}) if one.namespace == key.namespace else {}
            if about.get("uid") in uids:
                yield one, held
        yield key, entry

    def _members(self, key: Key, entry: Entry) -> list[tuple[Key, Entry]]:
        if key.plural != "instancesets":
            return []
        found = self._store.peek_all("instances")
        return [one for one in found if entry.uid in one[1].owners and one[1].labels.get(SET_LABEL) == key.name]


def _given(key: Key, entry: Entry, user: str) -> Update:
    doc = load(entry.raw)
    doc["metadata"]["labels"] = {**doc["metadata"].get("labels", {}), OWNER_LABEL: user}
    return Update(key, doc, expect=entry.rev)
