"""The checker of calls: whether what clients were told fits one order of revisions, which is that of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nanovirt.resources.kind import Key
from nanovirt.resources.log import Record
from nanovirt.resources.store import Op
from tests.histories import promises
from tests.histories.journal import Begin, Done, End, Entry, Found, Get, Listing, Refused, Reply, Told, Undone, Write
from tests.histories.model import Refusal, Revision, Thing, Truth, outcome


class Violation(NamedTuple):
    """A rule that a history breaks, and where."""

    rule: str
    said: str


def violations(entries: Sequence[Entry], records: Iterable[Record]) -> list[Violation]:
    """All that is wrong with a history, of which the log keeps `records`; costs O(n log n)."""
    truth = Truth(records)
    found = [*Calls(entries, truth).violations()]
    found += [Violation(*broken) for broken in promises.broken(entries, truth)]
    return found


class Calls:
    """The calls of a history against the revisions in the log."""

    def __init__(self, entries: Sequence[Entry], truth: Truth) -> None:
        self._entries, self._truth = entries, truth
        self._begun = {entry.call: (at, entry) for at, entry in enumerate(entries) if isinstance(entry, Begin)}
        self._replies = {entry.call: entry.reply for entry in entries if isinstance(entry, End)}
        self._made = {revision.request: revision for revision in truth.revisions}
        self._under_key = {(one.client, one.once): one for one in truth.revisions if one.once}
        self._since = [0, *(self._begun.get(_number(one), (-1, None))[0] for one in truth.revisions)]
        """When the call behind each revision began."""

    def violations(self) -> Iterator[Violation]:
        """What is wrong."""
        yield from self._revisions()
        yield from self._answers()

    # --- every revision is what somebody asked for, once ---

    def _revisions(self) -> Iterator[Violation]:
        seen: set[str] = set()
        keys: set[tuple[str, str]] = set()
        uids: set[str] = set()
        for revision in self._truth.revisions:
            _, begin = self._begun.get(_number(revision), (0, None))
            if begin is None or not isinstance(begin.asked, Write):
                yield Violation("phantom", f"nobody asked for revision {revision.rev}")
                continue
            if revision.request in seen:
                yield Violation("once in history", f"call {begin.call} made revision {revision.rev} too")
            seen.add(revision.request)
            if revision.once and (revision.client, revision.once) in keys:
                yield Violation("one effect per key", f"{revision.once} took effect again at {revision.rev}")
            keys.add((revision.client, revision.once))
            reply = self._replies.get(begin.call)
            if begin.asked.dry or isinstance(reply, Refused | Undone):
                yield Violation("no effect of a refusal", f"call {begin.call} made revision {revision.rev}")
            elif said := self._wrong_step(revision, begin.asked.ops, uids):
                yield Violation("admission", f"revision {revision.rev}: {said}")

    def _wrong_step(self, revision: Revision, ops: Sequence[Op], uids: set[str]) -> str:
        """Why the state before does not become what the log says by these operations."""
        before = {op.key: self._thing(op.key, revision.rev - 1) for op in ops}
        try:
            after = _carried_out(ops, before, revision.rev)
        except Refusal as refusal:
            return f"the state before it asks for {refusal}"
        made = {key: version.thing if version else None for key, _, version in revision.changes}
        if {key for key in after if after[key] is not before[key]} != made.keys():
            return "it changes other objects than were asked for"
        for key, thing in made.items():
            wanted = after[key]
            if wanted is not None and thing is not None and not wanted.uid:
                if thing.uid in uids:
                    return f"{key} got a uid that is taken"
                uids.add(thing.uid)
                wanted = wanted._replace(uid=thing.uid)
            if thing != wanted:
                return f"{key} became {thing} instead of {wanted}"
        return ""

    # --- every answer fits the revision that it names, and that fits time ---

    def _answers(self) -> Iterator[Violation]:
        floor, floors = 0, dict[int, int]()
        for now, entry in enumerate(self._entries):
            match entry:
                case Begin(call):
                    floors[call] = floor
                case End(call, reply):
                    rev, rule, said = self._judged(call, reply, floors[call], now)
                    if rule:
                        yield Violation(rule, f"call {call} {self._begun[call][1].asked}, told {reply}: {said}")
                    floor = max(floor, rev)
                case Told(stream, lines):
                    rev = max(line.rev for line in lines)
                    if rev > self._truth.head or self._since[rev] > now:
                        yield Violation("durable", f"stream {stream} was told revision {rev}, which was not there")
                    else:
                        floor = max(floor, rev)
                case _:
                    pass

    def _judged(self, call: int, reply: Reply, floor: int, now: int) -> tuple[int, str, str]:
        """The revision up to which the caller now knows the state; the broken rule, or "", and why."""
        match reply:
            case Undone():
                return 0, "", ""
            case Refused(error):
                return self._refused(call, error, floor, now)
            case Found() | Done():
                pass
        rev, rule = reply.rev, ""
        revision = self._made.get(str(call))
        if revision is None and isinstance(reply, Done):
            revision = self._under_key.get(self._key(call))
            rule = "" if revision is None else self._again(call, revision, reply)
        elif revision is not None and isinstance(reply, Done) and revision.rev != rev:
            rule = f"its revision is {revision.rev}"
        if rule:
            return 0, "acknowledged", rule
        if rev > self._truth.head or self._since[rev] > now:
            return 0, "acknowledged" if isinstance(reply, Done) else "durable", "the log does not have it"
        if revision is None and rev < floor:
            return 0, "real time", f"revision {floor} was known before it began"
        if revision is not None and revision.request == str(call) and rev <= floor:
            return 0, "real time", f"revision {floor} was known before it began"
        return rev, *self._contents(call, reply, rev, made=revision is not None)

    def _key(self, call: int) -> tuple[str, str]:
        _, begin = self._begun[call]
        return begin.client, (begin.asked.once if isinstance(begin.asked, Write) else "")

    def _again(self, call: int, revision: Revision, reply: Done) -> str:
        """Why a repeated request must not be told that."""
        if _number(revision) not in self._begun:
            return "nobody asked for that revision"
        begin = self._begun[_number(revision)][1]
        if begin.asked != self._begun[call][1].asked:
            return f"the key belongs to call {begin.call}"
        return "" if reply.rev == revision.rev else f"the key led to revision {revision.rev}"

    def _contents(self, call: int, reply: Done | Found, rev: int, *, made: bool) -> tuple[str, str]:
        asked = self._begun[call][1].asked
        if isinstance(reply, Found):
            assert not isinstance(asked, Write)
            return ("", "") if reply.objects == self._state(asked, rev) else ("read", f"revision {rev} is otherwise")
        assert isinstance(asked, Write)
        shown = tuple(version.content if (version := self._truth.at(op.key, rev)) else None for op in asked.ops)
        if made:
            return ("", "") if shown == reply.results else ("acknowledged", f"revision {rev} led to something else")
        before = {op.key: self._thing(op.key, rev) for op in asked.ops}
        try:
            after = _carried_out(asked.ops, before, rev)
        except Refusal as refusal:
            return "acknowledged", f"revision {rev} asks for {refusal}"
        if asked.dry:
            return "", ""
        if any(after[key] is not before[key] for key in before):
            return "acknowledged", "the log does not have it"
        return ("", "") if shown == reply.results else ("acknowledged", f"revision {rev} is otherwise")

    def _state(self, asked: Get | Listing, rev: int) -> tuple[tuple[Key, bytes], ...]:
        if isinstance(asked, Get):
            version = self._truth.at(asked.key, rev)
            return ((asked.key, version.content),) if version else ()
        return tuple((key, version.content) for key, version in self._truth.all_at(*asked, rev))

    def _refused(self, call: int, error: str, floor: int, now: int) -> tuple[int, str, str]:
        """The first revision that justifies it, of all that were known when it began or were begun when it ended."""
        asked = self._begun[call][1].asked
        assert isinstance(asked, Write)
        keys = {op.key for op in asked.ops}
        for rev in range(floor, self._truth.head + 1):
            if rev > floor and self._since[rev] > now:
                break
            if rev > floor and not self._truth.touched(keys, rev):
                continue
            try:
                _carried_out(asked.ops, {key: self._thing(key, rev) for key in keys}, rev + 1)
            except Refusal as refusal:
                if str(refusal) == error:
                    return rev, "", ""
        return 0, "refusal", f"no revision from {floor} on asked for {error}"

    def _thing(self, key: Key, rev: int) -> Thing | None:
        version = self._truth.at(key, rev)
        return version.thing if version else None


def _carried_out(ops: Sequence[Op], before: dict[Key, Thing | None], rev: int) -> dict[Key, Thing | None]:
    """The state after `ops`; what is unchanged is the same object. Raises Refusal."""
    after: defaultdict[Key, Thing | None] = defaultdict(lambda: None, before)
    for op in ops:
        after[op.key] = outcome(op, after[op.key], rev)
    return after


def _number(revision: Revision) -> int:
    return int(revision.request or 0)
