"""The checker finds what is wrong: a sound history, broken in one way after the other, and the rule that notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from nanovirt.resources import registry
from nanovirt.resources.codec import dump, load
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog, Record
from nanovirt.resources.store import Create, Delete, Expect, Once, Op, Update
from tests.histories import promises
from tests.histories.checking import violations
from tests.histories.journal import (
    Begin,
    Done,
    End,
    Entry,
    Expire,
    Found,
    Get,
    Interest,
    Line,
    Listing,
    Open,
    Quiet,
    Refused,
    Told,
    Undone,
    Write,
)
from tests.histories.model import Truth

assert registry.MODULES

P, Q = Key("computepools", "", "p"), Key("computepools", "", "q")
POOLS = Interest("computepools")
GOLD = Interest("computepools", label=("tier", "gold"))
KEYED = 6


def doc(key: Key, number: int, tier: str) -> dict[str, Any]:
    return {"metadata": {"name": key.name, "labels": {"tier": tier}}, "spec": {"number": number}}


WRITES: tuple[tuple[Op, ...], ...] = (
    (Create(P, doc(P, 1, "gold")),),
    (Update(P, doc(P, 2, "gold"), expect=1),),
    (Create(Q, doc(Q, 3, "tin")),),
    (Update(P, doc(P, 4, "tin")), Update(Q, doc(Q, 4, "gold"))),
    (Delete(P),),
    (Update(Q, doc(Q, 6, "gold")),),
)


@dataclass
class Sample:
    """A history to break: revision N was made by call N, and read by call 100 + N; call 200 repeats the keyed one."""

    records: list[Record] = field(repr=False)
    entries: list[Entry] = field(default_factory=list, repr=False)

    @property
    def truth(self) -> Truth:
        return Truth(self.records)

    def found(self) -> set[str]:
        return {rule for rule, _ in violations(self.entries, self.records)}

    def place(self, entry: type[Begin | End], call: int) -> int:
        return next(at for at, one in enumerate(self.entries) if isinstance(one, entry) and one.call == call)

    def answer(self, call: int, reply: Any) -> None:
        self.entries[self.place(End, call)] = End(call, reply)

    def reply(self, call: int) -> Any:
        found = self.entries[self.place(End, call)]
        assert isinstance(found, End)
        return found.reply

    def ask(self, call: int, asked: Any, reply: Any = None, client: str = "bob") -> None:
        self.entries.append(Begin(call, client, asked))
        if reply is not None:
            self.entries.append(End(call, reply))

    def record(self, rev: int, **said: Any) -> None:
        """Write another record, or one over."""
        body = load(self.records[min(rev, len(self.records)) - 1].body)
        self.records[rev - 1 :] = [Record(rev, dump({**body, "rev": rev, **said})), *self.records[rev:]]

    def watch(self, lines: list[Line], after: int | None = 0, interest: Interest = POOLS, **opened: Any) -> None:
        """A stream in which these lines came one by one."""
        self.entries.append(Open(1, interest, after, **opened))
        self.entries += [Told(1, (line,)) for line in lines]

    def due(self, interest: Interest = POOLS, *, raw: bool = False) -> list[Line]:
        return list(promises._lines(interest, self.truth, raw=raw))


def sound() -> Sample:
    """The history as it should be."""

    async def play() -> MemoryLog:
        log = MemoryLog()
        store = Engine(log)
        async with asyncio.TaskGroup() as tasks:
            committer = tasks.create_task(store.run())
            for number, ops in enumerate(WRITES, 1):
                once = Once("key", "same") if number == KEYED else None
                await store.stage(ops, "alice", str(number), once=once).durable()
            committer.cancel()
        return log

    made = Sample(list(asyncio.run(play()).read()))
    truth = made.truth
    for number, ops in enumerate(WRITES, 1):
        contents = tuple(one.content if (one := truth.at(op.key, number)) else None for op in ops)
        write = Write(ops, "key" if number == KEYED else "")
        made.ask(number, write, Done(number, contents), "alice")
        one = truth.at(P, number)
        made.ask(100 + number, Get(P), Found(number, ((P, one.content),) if one else ()))
    made.ask(200, Write(WRITES[KEYED - 1], "key"), made.reply(KEYED), "alice")
    return made


def test_sound_history_breaks_no_rule() -> None:
    history = sound()
    history.watch([*history.due(), Line("BOOKMARK", 6)])
    for number, (interest, after) in enumerate([(GOLD, 0), (POOLS, 2), (GOLD, 4)], 2):
        history.entries.append(Open(number, interest, after))
        history.entries += [Told(number, (line,)) for line in history.due(interest) if line.rev > after]
        history.entries.append(Quiet(number, 6))
    history.entries.append(Open(9, POOLS, 0, raw=True))
    due = history.due(raw=True)
    history.entries += [Told(9, tuple(line for line in due if line.rev == rev)) for rev in range(1, 7)]
    history.ask(300, Write((Create(Q, doc(Q, 1, "tin")),)), Refused("AlreadyExists"))
    history.ask(301, Write((Expect(P, None),)), Done(6, (None,)))
    history.ask(302, Write((Create(P, doc(P, 1, "tin")),)))
    assert not violations(history.entries, history.records)


def test_unknown_outcome_may_be_either() -> None:
    history = sound()
    del history.entries[history.place(End, 5)]
    assert not history.found()


# --- calls ---


def read_of_what_is_not_durable(history: Sample) -> None:
    one = history.truth.at(P, 2)
    assert one is not None
    history.answer(101, Found(1, ((P, one.content),)))


def read_of_what_was(history: Sample) -> None:
    history.answer(104, history.reply(102))


def reads_that_go_back(history: Sample) -> None:
    history.ask(301, Listing("computepools"), Found(0, ()))


def read_of_a_revision_that_never_was(history: Sample) -> None:
    history.answer(106, Found(9, ()))


def lost_acknowledged_write(history: Sample) -> None:
    del history.records[5:], history.entries[history.place(Begin, 106) :]


def revision_used_twice(history: Sample) -> None:
    history.ask(300, Write((Update(Q, doc(Q, 7, "tin")),)))
    written = load(history.records[5].body)["writes"]
    written[0]["object"]["spec"] = {"number": 7}
    written[0]["object"]["metadata"]["labels"] = {"tier": "tin"}
    history.record(6, request="300", by="bob", writes=written)


def write_done_twice(history: Sample) -> None:
    history.record(7, key={})


def key_with_two_effects(history: Sample) -> None:
    history.record(7, request="200")


def repetition_told_something_else(history: Sample) -> None:
    history.answer(200, Done(5, (None,)))


def refused_write_that_was_done(history: Sample) -> None:
    history.answer(5, Refused("NotFound"))


def write_that_was_done_though_the_log_was_full(history: Sample) -> None:
    history.answer(5, Undone())


def dry_run_that_was_done(history: Sample) -> None:
    history.entries[history.place(Begin, 5)] = Begin(5, "alice", Write(WRITES[4], dry=True))


def refusal_without_grounds(history: Sample) -> None:
    history.ask(300, Write((Update(Q, doc(Q, 1, "tin")),)), Refused("NotFound"))


def refusal_on_grounds_of_the_past(history: Sample) -> None:
    history.ask(300, Write((Create(P, doc(P, 1, "tin")),)), Refused("AlreadyExists"))


def refusal_before_its_grounds_could_be_known(history: Sample) -> None:
    at = history.place(Begin, 3)
    history.entries[at:at] = [
        Begin(300, "bob", Write((Create(Q, doc(Q, 1, "tin")),))),
        End(300, Refused("AlreadyExists")),
    ]


def refusal_that_a_later_read_does_not_know(history: Sample) -> None:
    at = history.place(End, 3)
    history.entries[at:at] = [
        Begin(300, "bob", Write((Create(Q, doc(Q, 1, "tin")),))),
        End(300, Refused("AlreadyExists")),
        Begin(301, "bob", Get(Q)),
        End(301, Found(2, ())),
    ]


def revision_that_nobody_asked_for(history: Sample) -> None:
    history.record(6, request="999")


def creation_of_what_is_there(history: Sample) -> None:
    history.entries[history.place(Begin, 2)] = Begin(2, "alice", Write((Create(P, doc(P, 2, "gold")),)))


def write_of_something_else(history: Sample) -> None:
    history.entries[history.place(Begin, 2)] = Begin(2, "alice", Write((Update(P, doc(P, 9, "gold"), expect=1),)))


def set_that_was_done_in_part(history: Sample) -> None:
    history.record(4, writes=load(history.records[3].body)["writes"][:1])


def uid_given_twice(history: Sample) -> None:
    first, third = (load(history.records[at].body)["writes"] for at in (0, 2))
    third[0]["object"]["metadata"]["uid"] = first[0]["object"]["metadata"]["uid"]
    history.record(3, writes=third)


def acknowledgement_of_something_else(history: Sample) -> None:
    history.answer(2, Done(2, history.reply(1).results))


def acknowledgement_before_it_was_asked_for(history: Sample) -> None:
    entries = history.entries
    first = entries[history.place(Begin, 2) : history.place(End, 2) + 1]
    entries[:] = [*first, *(entry for entry in entries if entry not in first)]


CALLS: list[tuple[Callable[[Sample], None], str]] = [
    (read_of_what_is_not_durable, "read"),
    (read_of_what_was, "real time"),
    (reads_that_go_back, "real time"),
    (read_of_a_revision_that_never_was, "durable"),
    (lost_acknowledged_write, "acknowledged"),
    (revision_used_twice, "acknowledged"),
    (write_done_twice, "once in history"),
    (key_with_two_effects, "one effect per key"),
    (repetition_told_something_else, "acknowledged"),
    (refused_write_that_was_done, "no effect of a refusal"),
    (write_that_was_done_though_the_log_was_full, "no effect of a refusal"),
    (dry_run_that_was_done, "no effect of a refusal"),
    (refusal_without_grounds, "refusal"),
    (refusal_on_grounds_of_the_past, "refusal"),
    (refusal_before_its_grounds_could_be_known, "refusal"),
    (refusal_that_a_later_read_does_not_know, "real time"),
    (revision_that_nobody_asked_for, "phantom"),
    (creation_of_what_is_there, "admission"),
    (write_of_something_else, "admission"),
    (set_that_was_done_in_part, "admission"),
    (uid_given_twice, "admission"),
    (acknowledgement_of_something_else, "acknowledged"),
    (acknowledgement_before_it_was_asked_for, "real time"),
]


@pytest.mark.parametrize(("spoil", "rule"), CALLS, ids=[spoil.__name__ for spoil, _ in CALLS])
def test_broken_calls_are_found(spoil: Callable[[Sample], None], rule: str) -> None:
    history = sound()
    spoil(history)
    assert rule in history.found()


# --- watches ---


def event_that_was_not_asked_for(history: Sample) -> None:
    due = history.due()
    history.watch([line for line in due if line.rev in (1, 2, 3)], interest=GOLD)


def events_in_another_order(history: Sample) -> None:
    one, two, *rest = history.due()
    history.watch([two, one, *rest])


def event_told_twice(history: Sample) -> None:
    one, two, *rest = history.due()
    history.watch([one, two, two, *rest])


def event_left_out(history: Sample) -> None:
    one, _, *rest = history.due()
    history.watch([one, *rest])


def silence_at_the_end(history: Sample) -> None:
    history.watch(history.due()[:-1])
    history.entries.append(Quiet(1, 6))


def silence_after_resuming(history: Sample) -> None:
    history.watch([], after=4)
    history.entries.append(Quiet(1, 6))


def revision_in_parts(history: Sample) -> None:
    one, two, three, four, other, five, *_ = history.due()
    history.watch([one, two, three, four, five, other])


def commit_in_parts(history: Sample) -> None:
    history.watch(history.due(raw=True), raw=True)


def resumed_too_late(history: Sample) -> None:
    history.watch(history.due()[3:], after=2)


def resumed_too_early(history: Sample) -> None:
    history.watch(history.due()[1:], after=2)


def refused_without_need(history: Sample) -> None:
    history.watch([], after=4)
    history.entries.append(Expire(1, 4, 4))


def first_state_that_never_was(history: Sample) -> None:
    one, _, three, *_ = history.due()
    history.watch([one, three, Line("FIRST", 3)], after=None)


def first_state_with_something_twice(history: Sample) -> None:
    one, *_ = history.due()
    history.watch([one, one, Line("FIRST", 1)], after=None)


def bookmark_before_its_events(history: Sample) -> None:
    one, *rest = history.due()
    history.watch([one, Line("BOOKMARK", 2), *rest])


def bookmark_that_goes_back(history: Sample) -> None:
    history.watch([*history.due(), Line("BOOKMARK", 6), Line("BOOKMARK", 5)])


def bookmark_over_something_left_out(history: Sample) -> None:
    history.watch([*history.due()[:-1], Line("BOOKMARK", 6)])


def deletion_that_shows_an_older_state(history: Sample) -> None:
    due = history.due(GOLD)
    at = next(at for at, line in enumerate(due) if line.word == "DELETED")
    due[at] = due[at]._replace(content=due[0].content)
    history.watch(due, interest=GOLD)


def commit_with_another_state_before(history: Sample) -> None:
    due = history.due(raw=True)
    history.entries.append(Open(1, POOLS, 0, raw=True))
    history.entries += [Told(1, (due[0],)), Told(1, (due[1]._replace(before=due[1].content),))]


def creation_told_as_change(history: Sample) -> None:
    one, *rest = history.due()
    history.watch([one._replace(word="MODIFIED"), *rest])


def change_told_as_creation(history: Sample) -> None:
    one, two, *rest = history.due()
    history.watch([one, two._replace(word="ADDED"), *rest])


def what_stopped_matching_told_as_change(history: Sample) -> None:
    due, all_ = history.due(GOLD), history.due()
    at = next(at for at, line in enumerate(due) if line.word == "DELETED")
    due[at] = next(line for line in all_ if (line.rev, line.key) == (due[at].rev, due[at].key))
    history.watch(due, interest=GOLD)


def event_with_another_state(history: Sample) -> None:
    one, two, *rest = history.due()
    history.watch([one, two._replace(content=one.content), *rest])


def event_of_a_revision_that_never_was(history: Sample) -> None:
    history.watch([Line("MODIFIED", 7, Q, b"{}")], after=6)


WATCHES: list[tuple[Callable[[Sample], None], str]] = [
    (event_that_was_not_asked_for, "filter"),
    (events_in_another_order, "ordered"),
    (event_told_twice, "unique"),
    (event_left_out, "reliable"),
    (silence_at_the_end, "reliable"),
    (silence_after_resuming, "reliable"),
    (revision_in_parts, "atomic"),
    (commit_in_parts, "atomic"),
    (resumed_too_late, "resumable"),
    (resumed_too_early, "resumable"),
    (refused_without_need, "resumable"),
    (first_state_that_never_was, "resumable"),
    (first_state_with_something_twice, "resumable"),
    (bookmark_before_its_events, "bookmarkable"),
    (bookmark_that_goes_back, "bookmarkable"),
    (bookmark_over_something_left_out, "bookmarkable"),
    (deletion_that_shows_an_older_state, "state before"),
    (commit_with_another_state_before, "state before"),
    (creation_told_as_change, "created or modified"),
    (change_told_as_creation, "created or modified"),
    (what_stopped_matching_told_as_change, "created or modified"),
    (event_with_another_state, "contents"),
    (event_of_a_revision_that_never_was, "durable"),
]


@pytest.mark.parametrize(("spoil", "rule"), WATCHES, ids=[spoil.__name__ for spoil, _ in WATCHES])
def test_broken_watches_are_found(spoil: Callable[[Sample], None], rule: str) -> None:
    history = sound()
    spoil(history)
    assert rule in history.found()


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {rule for _, rule in WATCHES} == {*promises.PROMISES, "durable"}
