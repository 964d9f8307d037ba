"""The write pipeline for a set: each write as if it came alone, admission for all of them together, one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from nanovirt.portal.api.applying import Applying
from nanovirt.portal.api.intents import Intent, copied
from nanovirt.portal.api.judging import Batch, judge_names, judge_sizes, judge_together, refused
from nanovirt.portal.api.requests import Options
from nanovirt.portal.api.writing import Prepared, Settle, Writer
from nanovirt.portal.authorization import authorize, sight_of, visible
from nanovirt.portal.identity import Subject
from nanovirt.resources.errors import Conflict, NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Change, Draft, Entry, Expect, Outcome, Result, Store, Ticket, told

AT_ONCE = 32
"""So many writes are prepared before others get their turn."""


class Done(NamedTuple):
    """What a set led to: its revision, one result for each write, what to warn of, and what each write is about."""

    rev: int
    results: Sequence[Result]
    warnings: Sequence[str] = ()
    led: Sequence[tuple[Key, Entry | None, Entry | None]] = ()

    @property
    def changes(self) -> Sequence[Change]:
        """What changed."""
        return [Change(key, before, after) for key, before, after in self.led if after is not before]


class Transactor:
    """Carries out sets of writes on behalf of a subject."""

    def __init__(self, store: Store, writer: Writer, clock: Callable[[], datetime]) -> None:
        self._store, self._writer, self._clock = store, writer, clock
        self._turn = asyncio.Lock()

    async def carry_out(
        self, subject: Subject, asked: Sequence[Intent | NanoError], options: Options, settle: Settle | None = None
    ) -> Done:
        """All writes in one revision, or none. Raises Refused with the causes of every write that cannot be.

        TooLarge: the record would be larger than a log takes. LogFull, StoreFailed: see Ticket.
        """
        # One set after the other: prepared in turns, all of them would wait for the last and lie about in memory.
        async with self._turn:
            batch, warnings, ticket = await self._staged(subject, Batch(asked), options, settle)
        await ticket.durable()
        return _done(batch, warnings, ticket.outcome)

    async def _staged(
        self, subject: Subject, batch: Batch, options: Options, settle: Settle | None
    ) -> tuple[Batch, list[str], Ticket]:
        """Prepare, judge and stage a set. Nobody else gets a turn between the last two."""
        for at, one in enumerate(batch.asked):
            if at % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if isinstance(one, Intent):
                self._prepare(subject, batch, at, one, options, settle)
            else:
                batch.refuse(at, one)
        # From here to the commit nobody else gets a turn, so what is looked at is what is written to.
        self._refresh(subject, batch, options, settle)
        judge_names(self._store, batch)
        drafted = self._store.draft(batch.ops)
        warnings = self._judge(subject, batch, drafted)
        if batch.faults:
            raise refused(batch)
        return batch, warnings, self._store.stage(drafted, subject.name, dry=options.dry, once=options.once)

    def _prepare(
        self, subject: Subject, batch: Batch, at: int, one: Intent, options: Options, settle: Settle | None
    ) -> None:
        """Prepare one write, or note what is wrong with it."""
        try:
            batch.prepared[at] = self._prepared(subject, one, options, settle)
        except NanoError as error:
            batch.prepared.pop(at, None)
            batch.refuse(at, error)

    def _prepared(self, subject: Subject, one: Intent, options: Options, settle: Settle | None) -> Prepared:
        writer, target = self._writer, one.target
        match one.verb:
            case "create":
                return writer.prepare_create(subject, target, copied(one.doc), options, owner=one.owner)
            case "update" | "patch":
                return writer.prepare_change(subject, target, one.verb, one.transform, options, settle)
            case "apply":
                patch = Applying(target, copied(one.doc), one.hand.manager, force=one.hand.force, now=self._clock())
                return patch.prepared(writer, subject, options)
            case "delete":
                return _as_expected(writer.prepare_delete(subject, target, one.deletion), target.key, one)
            case _:
                return self._expected(subject, target.key, one.revision)

    def _expected(self, subject: Subject, key: Key, revision: int | None) -> Prepared:
        """An expectation that holds as far as the subject can see: what is not there for it counts as absent."""
        there = self._store.peek(key)
        before = there if there is not None and visible(subject, key, there) else None
        authorize(subject, "get", key.plural, "", key, before)
        if (before.rev if before else None) != revision:
            raise Conflict(key.plural, key.name)
        return Prepared([Expect(key, there.rev if there else None, unseen=there is not before)], before)

    def _refresh(self, subject: Subject, batch: Batch, options: Options, settle: Settle | None) -> None:
        """Prepare once more what others have changed meanwhile."""
        for at, one in batch.intents:
            found = batch.prepared.get(at)
            if found and one.verb != "create" and self._store.peek(one.target.key) is not found.before:
                self._prepare(subject, batch, at, one, options, settle)

    def _judge(self, subject: Subject, batch: Batch, drafted: Draft) -> list[str]:
        count = len(batch.prepared)
        judge_sizes(batch, list(map(told, drafted.ops[-count:], drafted.outcome.entries[-count:])))
        return judge_together(self._writer.world, batch, drafted, sight_of(subject))


def _done(batch: Batch, warnings: Sequence[str], outcome: Outcome) -> Done:
    """What the writes of a set led to: the last operation of each, behind what went along with them."""
    led, results = list[tuple[Key, Entry | None, Entry | None]](), list[Result]()
    for (ops, before, _, _), after in zip(batch.prepared.values(), outcome.entries[-len(batch.asked) :], strict=True):
        last = ops[-1]
        key, entry = last.key, told(last, after)
        led.append((key, before, entry))
        gone = before.uid if before is not None else ""
        results.append(Result(key, None, gone) if entry is None else Result(key, entry.raw, entry.uid))
    return Done(outcome.rev, results, warnings, led)


def _as_expected(deletion: Prepared, key: Key, one: Intent) -> Prepared:
    assert deletion.before is not None
    if one.deletion.revision is not None and deletion.before.rev != one.deletion.revision:
        raise Conflict(key.plural, key.name)
    return deletion
