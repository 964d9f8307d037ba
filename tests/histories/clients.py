"""Clients that ask at random, know what they were told, and write down every call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from nanovirt.resources.codec import load
from nanovirt.resources.errors import AlreadyExists, Conflict, LogFull, NotFound, StoreFailed
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Delete, Entry, Expect, Half, Once, Op, Store, Update
from tests.histories.journal import Asked, Done, End, Found, Get, Journal, Listing, Refused, Reply, Undone, Write

NAMES = 8
KEYS = [
    *(Key("computepools", "", f"p{number}") for number in range(NAMES)),
    *(Key(kind, space, f"o{number}") for kind in ("placements", "instances") for space in ("a", "b")
      for number in range(NAMES // 2)),
]  # fmt: skip
HOSTS = ("h1", "h2")
TIERS = ("gold", "tin")


@dataclass
class Population:
    """All that the clients of a history share: what they may still ask, what they know, what they may repeat."""

    chance: Random
    journal: Journal
    left: int
    """Calls that are still to be made."""
    known: dict[Key, tuple[int, Any]] = field(default_factory=dict)
    """Revision and document of each object, as somebody was told at some time; revision 0: it was not there."""
    keyed: list[tuple[str, Write]] = field(default_factory=list)
    """Requests with a key, and who sent them."""


class Client:
    """One client of one server."""

    def __init__(self, name: str, population: Population, store: Store) -> None:
        self.name, self._all, self._store = name, population, store
        self._chance = population.chance

    async def live(self) -> None:
        """Ask until there is nothing left to ask."""
        while self._all.left > 0:
            self._all.left -= 1
            await asyncio.sleep(self._chance.random() * 0.003)
            await self.ask(*self._wish())

    def _wish(self) -> tuple[Asked, str]:
        """What to ask next, and as whom."""
        dice = self._chance.random()
        if dice < 0.25:
            return Get(self._key()), self.name
        if dice < 0.32:
            return Listing(self._key().plural, self._chance.choice(("", "", "a"))), self.name
        if dice < 0.40 and self._all.keyed:
            client, write = self._chance.choice(self._all.keyed[-60:] if dice < 0.38 else self._all.keyed)
            return write, client
        keys = {self._key() for _ in range(1 if dice < 0.85 else self._chance.randint(2, 4))}
        ops = tuple(self._op(key) for key in sorted(keys))
        if dice > 0.97:
            return Write(ops, dry=True), self.name
        if dice > 0.75:
            write = Write(ops, f"k{len(self._all.keyed)}")
            self._all.keyed.append((self.name, write))
            return write, self.name
        return Write(ops), self.name

    def _key(self) -> Key:
        return self._chance.choice(KEYS)

    def _op(self, key: Key) -> Op:
        rev, doc = self._all.known.get(key, (0, None))
        expect = rev if self._chance.random() < 0.5 else None
        dice = self._chance.random()
        if dice < 0.05:
            return Expect(key, rev or None)
        if doc is None or dice < 0.1:
            return Create(key, self._doc(key))
        if dice < 0.3:
            uid = doc["metadata"]["uid"] if self._chance.random() < 0.3 else ""
            return Delete(key, expect, uid)
        if dice < 0.4:
            return Update(key, {"status": {"state": self._chance.choice(("Up", "Down"))}}, Half.STATUS, expect)
        if dice < 0.47:
            return Update(key, doc, expect=expect)
        return Update(key, self._doc(key), expect=expect)

    def _doc(self, key: Key) -> dict[str, Any]:
        """A document that nobody has written before."""
        metadata: dict[str, Any] = {"name": key.name}
        if key.namespace:
            metadata["namespace"] = key.namespace
        if self._chance.random() < 0.7:
            metadata["labels"] = {"tier": self._chance.choice(TIERS)}
        if key.plural != "computepools" and self._chance.random() < 0.5:
            metadata["finalizers"] = ["nano/test"]
        return {"metadata": metadata, "spec": {"host": self._chance.choice(HOSTS), "number": self._chance.random()}}

    async def ask(self, asked: Asked, client: str) -> None:
        """One call, from its beginning to its end, if it has one."""
        journal = self._all.journal
        call = journal.begin(client, asked)
        try:
            reply = await self._answer(asked, client, str(call))
        except LogFull:
            reply = Undone()
        except StoreFailed:
            return
        if reply is not None:
            journal.write(End(call, reply))

    async def _answer(self, asked: Asked, client: str, call: str) -> Reply | None:
        if isinstance(asked, Write):
            return await self._write(asked, client, call)
        rev = self._store.committed
        if isinstance(asked, Get):
            try:
                entry = self._store.get(asked.key)
            except NotFound:
                self._learn(asked.key, None)
                return Found(rev, ())
            self._learn(asked.key, entry)
            return Found(rev, ((asked.key, entry.raw),))
        return Found(rev, tuple((key, entry.raw) for key, entry in self._store.list(*asked)))

    async def _write(self, write: Write, client: str, call: str) -> Reply | None:
        once = Once(write.once, "same") if write.once else None
        known = self._store.remembered(client, write.once) if write.once else None
        if known is not None:
            if known.rev > self._store.committed:
                return None  # it is under way
            return Done(known.rev, tuple(result.raw for result in await self._store.recall(known.rev)))
        patient = self._chance.random() < 0.2
        try:
            ticket = self._store.stage(write.ops, client, call, dry=write.dry, patient=patient, once=once)
        except (Conflict, AlreadyExists, NotFound) as refusal:
            await self._store.settled()
            return Refused(type(refusal).__name__)
        await ticket.durable()
        if not write.dry:
            for op, entry in zip(write.ops, ticket.outcome.entries, strict=True):
                self._learn(op.key, entry)
        return Done(ticket.outcome.rev, tuple(entry.raw if entry else None for entry in ticket.outcome.entries))

    def _learn(self, key: Key, entry: Entry | None) -> None:
        self._all.known[key] = (entry.rev, load(entry.raw)) if entry else (0, None)
