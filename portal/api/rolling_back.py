"""Rolling back: what people wrote made again what it was at a revision, as one new transaction or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from aiohttp import web

from nanovirt.portal.api import applying, bodies
from nanovirt.portal.api.intents import Intent
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.recalling import Who
from nanovirt.portal.api.remembered import entry_in, seen
from nanovirt.portal.api.repeating import HEADER
from nanovirt.portal.api.replies import document
from nanovirt.portal.api.requests import Options, body, options
from nanovirt.portal.api.transacting import AT_ONCE, Transactor
from nanovirt.portal.api.writing import Deletion, Settle
from nanovirt.portal.authorization import unlimited, visible
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.resources import disruption
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.disruption import Effect
from nanovirt.resources.errors import Cause, Conflict, Invalid, Malformed, NotFound, Refused
from nanovirt.resources.history import Question
from nanovirt.resources.kind import GROUP_VERSION, KINDS, Key
from nanovirt.resources.metadata import OWNER_LABEL, RESERVED_PREFIX
from nanovirt.resources.past import Past
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import by_any_name, kinds
from nanovirt.resources.role import IDENTITY
from nanovirt.resources.snapshots import name_of
from nanovirt.resources.store import Change, Entry, Store

KIND = "Rollback"
FIELDS = ("apiVersion", "kind", "metadata", "to", "objects", "deleteNew", "maxDisruption", "plan")
CHOICE = ("kind", "namespace", "name")
ATTEMPTS = 5
STAYING = ("finalizers", "ownerReferences", "resourceVersion")
"""What is not brought back: it speaks of other objects, or of another moment."""
BULKY = ("instances", "instancesets", "images", "volumes")
"""Kinds whose deletion takes bytes with it that no history holds."""
WRITE = re.compile(r"writes\[(\d+)\]")
State = dict[Key, Entry]


class Asked(NamedTuple):
    """A rollback as the body asks for it: to which revision or time, of which objects ("" is any)."""

    to: str
    kind: str
    namespace: str
    name: str
    delete_new: bool
    most: Effect | None
    plan: str

    def takes(self, key: Key) -> bool:
        """Whether an object is meant, and is of a kind that can be rolled back."""
        mine = zip((self.kind, self.namespace, self.name), key, strict=True)
        return key.plural in kinds() and _of_people(key) and all(not wanted or wanted == its for wanted, its in mine)

    def apart(self, key: Key) -> bool:
        """Whether it stays as it is all the same: secrets always, and rights unless they are meant by name."""
        return KINDS[key.plural].facts.sealed or (key.plural in IDENTITY and not self.name)


class Moved(Conflict):
    """What a rollback would do is not what was planned (HTTP 409): look at the plan again."""

    def __init__(self, to: str) -> None:
        super().__init__("history", to, "what it would do has changed since it was planned; look at the plan again")


class RollBack:
    """Answers POST /apis/nano/v1/history/rollback."""

    def __init__(self, store: Store, past: Past, transactor: Transactor, clock: Callable[[], datetime]) -> None:
        self._store, self._past, self._transactor, self._clock = store, past, transactor, clock

    async def answer(self, request: web.BaseRequest, who: Who) -> web.Response:
        """Carry it out, or with `dryRun=All` only say what it would do. Refused names every object that cannot be."""
        if HEADER in request.headers:
            raise Malformed(f"a rollback takes no {HEADER}: done again, it finds nothing to do")
        wanted, asked = options(request), _asked(bodies.document_of(request, await body(request)))
        settle = applying.follow(request, self._clock)
        async with self._past.ask(Question("objects", asked.to, asked.kind, asked.namespace, asked.name)) as told:
            then = {key: entry async for piece in told.pieces for key, entry in _entries(piece, asked)}
        for attempt in range(ATTEMPTS):
            try:
                said = await self._carried_out(who(), then, asked, wanted, settle)
                return document(said | {"to": {"revision": str(told.rev), "time": told.at}})
            except Refused as error:
                if attempt == ATTEMPTS - 1 or type(error.gravest) is not Conflict:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _carried_out(
        self, subject: Subject, then: State, asked: Asked, wanted: Options, settle: Settle | None
    ) -> JSON:
        """Tried first, so that the whole plan is known before any of it is done; then done, if nothing has moved."""
        intents, left = await self._intents(subject, then, asked)
        rev, told = self._store.committed, list[JSON]()
        try:
            if intents:
                tried = await self._transactor.carry_out(subject, intents, wanted._replace(dry=True), settle)
                told = [_told(change) for change in tried.changes]
            _judge(asked, told)
            if told and not wanted.dry:
                rev = (await self._transactor.carry_out(subject, intents, wanted, settle)).rev
        except Refused as error:
            raise _named(error, intents) from error
        head: JSON = {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {"resourceVersion": str(rev)}}
        return head | {"plan": _digest(told), "changes": told, "left": left}

    async def _intents(self, subject: Subject, then: State, asked: Asked) -> tuple[list[Intent], list[JSON]]:
        """The writes that lead back, and what is left as it is, with the reason.

        NotFound: the one object that is named was not there then, and is not there now.
        """
        intents: list[Intent] = []
        left: list[JSON] = []
        new = self._new(then, asked)
        if asked.name and not (
            any(seen(self._store, subject, *one) for one in then.items()) or any(visible(subject, *one) for one in new)
        ):
            raise NotFound(asked.kind, asked.name)
        for at, (key, one) in enumerate([*sorted(then.items()), *new]):
            if at % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            now = self._store.peek(key)
            found = self._back(subject, asked, key, one, now) if key in then else _away(subject, asked, key, now)
            if isinstance(found, Intent):
                intents.append(found)
            elif found:
                left.append(_object(key) | {"reason": found})
        return intents, left

    def _new(self, then: State, asked: Asked) -> list[tuple[Key, Entry]]:
        """What is there now and was not then, whether it is to be seen or not."""
        plurals = [asked.kind] if asked.kind else kinds()
        there = (one for plural in plurals for one in self._store.list(plural, asked.namespace))
        return [(key, entry) for key, entry in there if key not in then and asked.takes(key)]

    def _back(self, subject: Subject, asked: Asked, key: Key, then: Entry, now: Entry | None) -> Intent | str | None:
        """What makes an object again what it was; a word: why that is left; None: nothing is to be done."""
        if not seen(self._store, subject, key, then) or (now and now.rev == then.rev):
            return None
        doc, target = load(then.raw), Target(KINDS[key.plural], key, "")
        if now is None or not visible(subject, key, now):
            if then.owners or asked.apart(key):
                return "Owned" if then.owners else "Apart"
            return Intent("create", target, _new(doc), owner=self._owner(subject, then), lenient=True)
        old = load(now.raw)
        if _main(doc) == _main(old):
            return None
        if asked.apart(key) or now.deleting:
            return "BeingDeleted" if now.deleting else "Apart"
        back = _new(doc)
        back["metadata"] |= {name: old["metadata"][name] for name in STAYING if name in old["metadata"]}
        return Intent("update", target, back, lenient=True)

    def _owner(self, subject: Subject, then: Entry) -> str:
        """Whose an object is that is made anew: its former owner's, if an administrator makes it and there is one."""
        owner = then.labels.get(OWNER_LABEL, "")
        known = owner == ADMIN.name or self._store.peek(Key("users", "", owner)) is not None
        return owner if unlimited(subject) and known else ""


def _away(subject: Subject, asked: Asked, key: Key, now: Entry | None) -> Intent | str | None:
    """What takes away an object that was not there; it is left unless that was asked for."""
    if now is None or now.deleting or not visible(subject, key, now):
        return None
    if now.owners:
        return "Owned"
    if not asked.delete_new or asked.apart(key):
        return "CreatedSince"
    return Intent("delete", Target(KINDS[key.plural], key, ""), {}, Deletion(uid=now.uid))


def _entries(lines: list[bytes], asked: Asked) -> Iterator[tuple[Key, Entry]]:
    """The objects that are meant, among those of a whole revision."""
    for line in lines:
        said = load((name_of(line) or b"{") + b"}")
        if asked.takes(Key(said["kind"], said["namespace"], said["name"])):
            yield entry_in(line)


def _main(doc: JSON) -> JSON:
    """What people write of an object, and a rollback makes again."""
    return _new({**doc, "metadata": {**doc["metadata"], "labels": _labels(doc)}})


def _new(doc: JSON) -> JSON:
    metadata = doc["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "labels", "annotations") if metadata.get(name)}
    return {name: value for name, value in doc.items() if name != "status"} | {"metadata": kept}


def _labels(doc: JSON) -> dict[str, str]:
    labels = doc["metadata"].get("labels", {})
    return {name: text for name, text in labels.items() if not name.startswith(RESERVED_PREFIX)}


def _of_people(key: Key) -> bool:
    return not KINDS[key.plural].facts.system and key.plural != "events"


# --- the plan -------------------------------------------------------------------------------------------


def _object(key: Key) -> JSON:
    said = {"kind": KINDS[key.plural].facts.kind, "namespace": key.namespace, "name": key.name}
    return {name: text for name, text in said.items() if text}


def _told(change: Change) -> JSON:
    """What becomes of an object, and what that does to what runs."""
    key, before, after = change
    if before is None or after is None or (after.deleting and not before.deleting):
        action = "Created" if before is None else "Deleted"
        effect = Effect.DataLoss if action == "Deleted" and key.plural in BULKY else Effect.Live
        return _object(key) | {"action": action, "effect": effect.name, "fields": []}
    found = disruption.changes(KINDS[key.plural].facts.kind, load(before.raw), load(after.raw))
    fields = [
        {"path": one.path, "before": one.current, "after": one.desired, "effect": one.effect.name} for one in found
    ]
    return _object(key) | {"action": "Restored", "effect": disruption.worst(found).name, "fields": fields}


def _digest(told: list[JSON]) -> str:
    return hashlib.sha256(dump({"changes": told})).hexdigest()


def _judge(asked: Asked, told: list[JSON]) -> None:
    """Moved: it is not what was planned. Invalid: something is worse than what was allowed."""
    if asked.plan and asked.plan != _digest(told):
        raise Moved(asked.to)
    if asked.most is None:
        return
    bad = [one for one in told if Effect[one["effect"]] > asked.most]
    causes = []
    for one in bad:
        named = "/".join(one[word] for word in ("kind", "namespace", "name") if word in one)
        said = f"its effect is {one['effect']}, worse than {asked.most.name}"
        causes.append(Cause(named, "TooDisruptive", said, {"effect": one["effect"]}))
    if causes:
        raise Invalid.of(causes)


def _named(error: Refused, intents: Sequence[Intent]) -> Refused:
    """A refusal that names objects instead of the places of writes that nobody has sent."""

    def name(text: str) -> str:
        return WRITE.sub(lambda found: str(intents[int(found[1])].target.key), text)

    causes = tuple(cause._replace(field=name(cause.field)) for cause in error.causes)
    return Refused(name(str(error)), error.gravest, causes)


# --- the body -------------------------------------------------------------------------------------------


def _asked(doc: JSON) -> Asked:
    """A rollback as a body asks for it. Malformed, Invalid."""
    if doc.get("kind", KIND) != KIND or doc.get("apiVersion", GROUP_VERSION) != GROUP_VERSION:
        raise Malformed(f"a rollback has apiVersion {GROUP_VERSION!r} and kind {KIND!r}")
    _known(doc, FIELDS, "")
    to, chosen, most = doc.get("to"), doc.get("objects"), doc.get("maxDisruption") or ""
    if not isinstance(to, str) or not to:
        raise Invalid("to", "say to which revision or time, as a text")
    if not isinstance(chosen, dict):
        raise Invalid("objects", "say which: {kind, namespace, name}, any of them, or {} for all")
    _known(chosen, CHOICE, "objects.")
    words = [chosen.get(word) or "" for word in CHOICE]
    if not all(isinstance(one, str) for one in words):
        raise Invalid("objects", "kind, namespace and name are texts")
    found = by_any_name(words[0]) if words[0] else None
    if words[0] and (found is None or not _of_people(Key(found.facts.plural, "", ""))):
        raise Invalid("objects.kind", f"{words[0][:40]!r} is no kind that people write")
    if words[2] and not words[0]:
        raise Invalid("objects.kind", Reason.FieldValueRequired)
    if not isinstance(doc.get("deleteNew", False), bool):
        raise Invalid("deleteNew", "it must be true or false")
    if most and most not in (one.name for one in Effect if one is not Effect.Refused):
        raise Invalid("maxDisruption", "it must be one of Live, NextStart, Restart, DataLoss")
    plan = doc.get("plan") or ""
    if not isinstance(plan, str):
        raise Invalid("plan", "it is the text that a dry run has given")
    plural = found.facts.plural if found else ""
    return Asked(to, plural, words[1], words[2], doc.get("deleteNew", False), Effect[most] if most else None, plan)


def _known(doc: JSON, fields: Sequence[str], below: str) -> None:
    for field in doc:
        if field not in fields:
            raise Invalid(f"{below}{field}", Reason.FieldUnknown, known=", ".join(fields))
