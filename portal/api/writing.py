"""The write pipeline: decode -> default -> validate -> admit -> [a dry run stops here] -> commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from nanovirt.portal.api import admission, reserved, strictness, zones
from nanovirt.portal.api.admission import Wanted, World
from nanovirt.portal.api.heads import new_key, same_identity
from nanovirt.portal.api.index import Index
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.requests import Options
from nanovirt.portal.api.secrets import Vault
from nanovirt.portal.authorization import authorize, sight_of, visible
from nanovirt.portal.identity import Subject
from nanovirt.resources import stamping
from nanovirt.resources.codec import BODY_MAX, JSON, decode, dump, load
from nanovirt.resources.errors import Conflict, NotAllowed, NotFound, TooLarge
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.metadata import PROPAGATION
from nanovirt.resources.rows import entry_of
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, Delete, Entry, Half, Once, Op, Store, Ticket, Update

Transform = Callable[[bytes], JSON]
"""From the stored bytes to the document that is wanted."""
Settle = Callable[[type[Document], JSON, JSON, JSON | None], None]
"""Whose the fields are after a write: kind, the document asked for, what will be stored (to be amended), what is."""


class Written(NamedTuple):
    """What a write led to: the object as stored (None: gone), the object before, and what to warn of.

    `last` is what a change made of an object that ended by it: it took the last finalizer away.
    """

    entry: Entry | None
    before: Entry | None
    warnings: list[str]
    last: Entry | None = None


class Prepared(NamedTuple):
    """A write that is right by itself, before admission looks at what is around it (`wanted` None: not needed).

    What the last of `ops` leads to is the result.
    """

    ops: list[Op]
    before: Entry | None = None
    wanted: Wanted | None = None
    warnings: Sequence[str] = ()


class Deletion(NamedTuple):
    """The DeleteOptions that matter here."""

    dry: bool = False
    uid: str = ""
    revision: int | None = None
    once: Once | None = None
    propagation: str = ""
    """Background, Foreground or Orphan; "" is Background."""


class Writer:
    """Everything that changes objects on behalf of a subject."""

    def __init__(self, store: Store, sealer: Sealer | None = None) -> None:
        self._store, self._vault = store, Vault(sealer)
        index = Index(store)
        zones.known()  # read before anybody waits for an answer
        self.world = World(store, lambda: index)

    async def create(self, subject: Subject, target: Target, doc: JSON, options: Options) -> Written:
        """A new object. Raises Malformed, Invalid, Forbidden, NotFound (namespace), AlreadyExists, TooLarge."""
        return await self.carry_out(self.prepare_create(subject, target, doc, options), subject, options)

    def prepare_create(
        self,
        subject: Subject,
        target: Target,
        doc: JSON,
        options: Options,
        settle: Settle | None = None,
        *,
        owner: str = "",
    ) -> Prepared:
        """A creation that is right by itself; whether the name is free, the store says. `owner`: "" is the subject."""
        authorize(subject, "create", target.key.plural, "", target.key)
        key = new_key(target, doc)
        admission.refuse_system(target.cls)
        doc.pop("status", None)
        made, warnings = strictness.read(target.cls, doc, options.validation)
        stored = made.to_json()
        reserved.take_acceptance(stored)
        reserved.stamp_reserved(stored, None, owner or subject.name)
        wanted = Wanted(key, made, stored, sees=sight_of(subject))
        self._vault.keep(wanted)
        if settle is not None:
            settle(target.cls, reserved.without_acceptance(doc), stored, None)
        return Prepared([Create(key, stored)], None, wanted, [*warnings, *zones.unknown(wanted)])

    async def change(
        self,
        subject: Subject,
        target: Target,
        verb: str,
        transform: Transform,
        options: Options,
        settle: Settle | None = None,
    ) -> Written:
        """The object, or its status, after `transform` (PUT: the new document; PATCH: the patched one)."""
        prepared = self.prepare_change(subject, target, verb, transform, options, settle)
        return await self.carry_out(prepared, subject, options)

    def prepare_change(
        self,
        subject: Subject,
        target: Target,
        verb: str,
        transform: Transform,
        options: Options,
        settle: Settle | None = None,
    ) -> Prepared:
        """A change that is right by itself, of the object as the pending state has it."""
        before = self._seen(subject, verb, target)
        doc = self._vault.transformed(target.facts, before, transform)
        expect = same_identity(target, doc, before)
        if target.subresource == "status":
            return _prepare_status(target, doc, before, expect)
        admission.refuse_system(target.cls)
        doc.pop("status", None)
        made, warnings = strictness.read(target.cls, doc, options.validation)
        stored, old = made.to_json(), load(before.raw)
        accepted = reserved.take_acceptance(stored, options.accept)
        reserved.stamp_reserved(stored, old, subject.name)
        wanted = Wanted(target.key, made, stored, before, old, sight_of(subject), accepted)
        self._vault.keep(wanted)
        if settle is not None:
            settle(target.cls, reserved.without_acceptance(doc), stored, old)
        if len(before.raw) > BODY_MAX // 2:
            _fits(stored)
        warnings = [*warnings, *zones.unknown(wanted)]
        return Prepared([Update(target.key, stored, Half.MAIN, expect)], before, wanted, warnings)

    async def carry_out(self, prepared: Prepared, subject: Subject, options: Options) -> Written:
        """Commit what was prepared without a wait since, once admission lets it pass. Raises Invalid, NotFound."""
        warnings = list(prepared.warnings)
        if prepared.wanted is not None:
            warnings += admission.admit(self.world, prepared.wanted)
        entries = await self._commit(prepared.ops, subject, options)
        last = _ended(prepared) if entries[-1] is None and options.once is None else None
        return Written(entries[-1], prepared.before, warnings, last)

    async def delete(self, subject: Subject, target: Target, deletion: Deletion) -> Written:
        """Remove or mark one object. Raises NotFound, Conflict (precondition), Held, Forbidden."""
        prepared = self.prepare_delete(subject, target, deletion)
        assert prepared.before is not None
        admission.admit_delete(self.world, target.key, prepared.before, sight_of(subject))
        entries = await self._commit(prepared.ops, subject, deletion)
        return Written(entries[-1], prepared.before, [])

    def prepare_delete(self, subject: Subject, target: Target, deletion: Deletion) -> Prepared:
        """A deletion that the subject may ask for; whether the object is still in use, admission says."""
        before = self._seen(subject, "delete", target)
        admission.refuse_system(target.cls, "delete")
        if deletion.uid and deletion.uid != before.uid:
            raise Conflict(target.key.plural, target.key.name, f"it has uid {before.uid} by now, not {deletion.uid}")
        return Prepared([*self._events_of(target.key), *_farewell(target.key, before, deletion)], before)

    async def delete_all(self, subject: Subject, target: Target, found: Iterable[Key], deletion: Deletion) -> int:
        """Delete all that was `found`, or nothing if one of them must stay. Gives how many."""
        authorize(subject, "deletecollection", target.key.plural, "", target.key)
        admission.refuse_system(target.cls)
        if target.key.plural == "namespaces":
            raise NotAllowed("namespaces are deleted one by one")
        there = [(key, entry) for key in found if (entry := self._store.peek(key)) is not None]
        present = [one for one in there if visible(subject, *one, "deletecollection")]  # it may just have changed hands
        for key, entry in present:
            admission.admit_delete(self.world, key, entry, sight_of(subject))
        if present:
            ops = [op for key, entry in present for op in _farewell(key, entry, deletion)]
            await self._commit(ops, subject, deletion)
        return len(present)

    def _events_of(self, key: Key) -> list[Op]:
        """The Events of a namespace go with it."""
        if key.plural != "namespaces":
            return []
        return [Delete(one) for one, _ in self._store.list("events", key.name) if self._store.peek(one) is not None]

    def _seen(self, subject: Subject, verb: str, target: Target) -> Entry:
        """The pending object, if the subject may know of it."""
        key = target.key
        entry = self._store.peek(key)
        authorize(subject, verb, key.plural, target.subresource, key, entry)
        if entry is None:
            raise NotFound(key.plural, key.name)
        return entry

    async def _commit(self, ops: list[Op], subject: Subject, asked: Options | Deletion) -> tuple[Entry | None, ...]:
        ticket: Ticket = self._store.stage(ops, subject.name, dry=asked.dry, once=asked.once)
        await ticket.durable()
        return ticket.outcome.entries


def _prepare_status(target: Target, doc: JSON, before: Entry, expect: int | None) -> Prepared:
    if "status" not in target.cls.model_fields or target.facts.sealed:
        raise NotAllowed(f"{target.facts.plural} have no status that can be written")
    made = decode(target.cls, {**load(before.raw), "status": doc.get("status") or {}})
    return Prepared([Update(target.key, made.to_json(), Half.STATUS, expect)], before)


def _ended(prepared: Prepared) -> Entry | None:
    """What the change made of an object that it ended, at the revision before: clients expect it of a PUT or PATCH."""
    op, before = prepared.ops[-1], prepared.before
    if not isinstance(op, Update) or before is None:
        return None
    last = stamping.main_replaced(KINDS[op.key.plural].facts, load(before.raw), op.doc)
    return entry_of(op.key.plural, last, before.rev)


def _farewell(key: Key, entry: Entry, deletion: Deletion) -> list[Op]:
    """Delete; a finalizer says first what the garbage collector has to do with the dependents before that is done."""
    wanted = [one for one in (PROPAGATION.get(deletion.propagation, ""), KINDS[key.plural].facts.removable) if one]
    doc = load(entry.raw) if wanted else {"metadata": {}}
    held = doc["metadata"].get("finalizers", [])
    more = [one for one in wanted if one not in held]
    if not more:
        return [Delete(key, deletion.revision, deletion.uid)]
    doc["metadata"]["finalizers"] = [*held, *more]
    return [Update(key, doc, Half.MAIN, deletion.revision), Delete(key, None, deletion.uid)]


def _fits(doc: JSON) -> None:
    """Defaults and patches must not make an object larger than a body may be."""
    size = len(dump(doc))
    if size > BODY_MAX:
        raise TooLarge(f"the object would have {size} bytes; the limit is {BODY_MAX}")
