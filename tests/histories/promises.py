"""The checker of watches: nine promises, each a question of its own about one stream (etcd's robustness tests).

A stream is first compared with what it has to be, which is cheap; one that differs is asked which promise it breaks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise

from nanovirt.resources.codec import dump, load
from nanovirt.resources.kind import Key
from tests.histories.journal import Done, End, Entry, Expire, Found, Interest, Line, Open, Quiet, Told
from tests.histories.model import Thing, Truth, Version

MARKS = ("BOOKMARK", "FIRST")


@dataclass
class Stream:
    """What one watcher heard, in order; `wanted` is all that there ever was for it."""

    opened: Open
    wanted: Sequence[Line]
    truth: Truth
    groups: list[tuple[Line, ...]] = field(default_factory=list)
    expired: Expire | None = None
    known: int = 0
    """The newest revision that anybody had been told of when it began."""
    quiet: int = 0
    """The revision up to which it has been given time to hear of all."""

    @property
    def lines(self) -> list[Line]:
        """All lines."""
        return list(chain.from_iterable(self.groups))

    @property
    def events(self) -> list[Line]:
        """Without bookmarks, and without the first state."""
        return [line for line in self.after_first if line.word not in MARKS]

    @property
    def after_first(self) -> list[Line]:
        """What came behind the first state; all, if that was not asked for."""
        if self.opened.after is not None:
            return self.lines
        marks = [at for at, line in enumerate(self.lines) if line.word == "FIRST"]
        return self.lines[marks[0] + 1 :] if marks else []

    @property
    def first(self) -> list[Line]:
        """The first state, with what came before its end was told."""
        return self.lines[: len(self.lines) - len(self.after_first)]

    @property
    def start(self) -> int:
        """The revision that the events follow."""
        if self.opened.after is not None:
            return self.opened.after
        return next((line.rev for line in self.lines if line.word == "FIRST"), self.truth.head)

    def due(self, after: int, upto: int) -> Sequence[Line]:
        """What has to be told of the revisions above `after` up to `upto`."""
        return self.wanted[_behind(self.wanted, after) : _behind(self.wanted, upto)]


def broken(entries: Sequence[Entry], truth: Truth) -> Iterator[tuple[str, str]]:
    """The promises that a history breaks, each with where."""
    for stream in streams(entries, truth):
        if not _as_it_has_to_be(stream):
            found = [(name, said) for name, promise in PROMISES.items() for said in promise(stream)]
            for name, said in found or [("watch", "it differs")]:
                yield name, f"stream {stream.opened}: {said}"


def streams(entries: Sequence[Entry], truth: Truth) -> list[Stream]:
    """The streams of a history."""
    wanted: dict[tuple[Interest, bool], Sequence[Line]] = {}
    found: dict[int, Stream] = {}
    known = 0
    for entry in entries:
        match entry:
            case Open(stream, interest, _, raw):
                if (interest, raw) not in wanted:
                    wanted[interest, raw] = list(_lines(interest, truth, raw=raw))
                found[stream] = Stream(entry, wanted[interest, raw], truth, known=known)
            case Told(stream, lines):
                found[stream].groups.append(lines)
                known = max(known, lines[-1].rev)
            case End(_, Found(rev) | Done(rev)):
                known = max(known, rev)
            case Expire(stream):
                found[stream].expired = entry
            case Quiet(stream, head):
                found[stream].quiet = head
            case _:
                pass
    return list(found.values())


def wants(interest: Interest, key: Key, thing: Thing | None) -> bool:
    """Whether that state of an object is of interest."""
    if thing is None or interest.plural not in ("", key.plural) or interest.namespace not in ("", key.namespace):
        return False
    if interest.label and thing.labels.get(interest.label[0]) != interest.label[1]:
        return False
    return not interest.field or (thing.spec or {}).get(interest.field[0]) == interest.field[1]


def _lines(interest: Interest, truth: Truth, *, raw: bool) -> Iterator[Line]:
    for revision in truth.revisions:
        for key, before, after in revision.changes:
            had, has = (wants(interest, key, one.thing if one else None) for one in (before, after))
            if had or has:
                word = ("MODIFIED" if had else "ADDED") if has else "DELETED"
                yield _line(word, revision.rev, key, before, after, raw=raw)


def _line(word: str, rev: int, key: Key, before: Version | None, after: Version | None, *, raw: bool) -> Line:
    if raw:
        return Line(word, rev, key, after.content if after else b"", before.content if before else b"")
    if word != "DELETED":
        return Line(word, rev, key, after.content if after else b"")
    assert before is not None
    doc = load(before.content)
    doc["metadata"]["resourceVersion"] = str(rev)
    return Line(word, rev, key, dump(doc))


def _behind(lines: Sequence[Line], rev: int) -> int:
    """The place of the first line above a revision."""
    return bisect_right(lines, rev, key=lambda line: line.rev)


def _as_it_has_to_be(stream: Stream) -> bool:
    """Whether there is nothing wrong with it: all is as wanted, from the start on, as far as it goes."""
    at, last = _behind(stream.wanted, stream.start), stream.start
    for line in stream.after_first:
        if line.word in MARKS:
            if line.word == "FIRST" or _behind(stream.wanted, line.rev) > at or line.rev < last:
                return False
            last = line.rev
        elif at >= len(stream.wanted) or stream.wanted[at] != line:
            return False
        else:
            at += 1
    if stream.expired or (stream.opened.after is None and stream.first):
        return not any(chain.from_iterable(promise(stream) for promise in PROMISES.values()))
    return at >= _behind(stream.wanted, stream.quiet) and not any(_atomic(stream))


# --- the nine, and whether the contents are right ---


def _filter(stream: Stream) -> Iterator[str]:
    """Only what was asked for."""
    interest = stream.opened.interest
    for line in stream.lines:
        if line.word in MARKS:
            continue
        states = [stream.truth.at(line.key, rev) for rev in (line.rev, line.rev - 1)]
        if not any(wants(interest, line.key, state.thing if state else None) for state in states):
            yield f"{line} was not asked for"


def _ordered(stream: Stream) -> Iterator[str]:
    """Revisions never go back."""
    for one, other in pairwise(stream.events):
        if other.rev < one.rev:
            yield f"{other} after {one}"


def _unique(stream: Stream) -> Iterator[str]:
    """Nothing is told twice."""
    for (rev, key), count in Counter((line.rev, line.key) for line in stream.events).items():
        if count > 1:
            yield f"revision {rev} of {key} was told {count} times"


def _reliable(stream: Stream) -> Iterator[str]:
    """Nothing is left out between the first and the last that was told, nor at the end when there was time for it."""
    events = stream.events
    told = {(line.rev, line.key) for line in events}
    last = max((line.rev for line in events), default=0)
    for line in stream.due(stream.start, max(last - 1, stream.quiet)):
        if (line.rev, line.key) not in told:
            yield f"{line} was left out"


def _atomic(stream: Stream) -> Iterator[str]:
    """What one revision changes comes together: one behind the other, and raw in one piece."""
    revs = [rev for rev, _ in groupby(line.rev for line in stream.events)]
    yield from (f"revision {rev} comes in parts" for rev, count in Counter(revs).items() if count > 1)
    for lines in stream.groups if stream.opened.raw else ():
        due = stream.due(lines[0].rev - 1, lines[0].rev)
        if len({line.rev for line in lines}) != 1 or len(due) > len(lines):
            yield f"not all of revision {lines[0].rev} at once"


def _resumable(stream: Stream) -> Iterator[str]:
    """A resumed watch tells exactly what follows, or that it cannot."""
    events = stream.events
    yield from (f"{line} is not after revision {stream.start}" for line in events if line.rev <= stream.start)
    if events and stream.opened.after is not None:
        due = stream.due(stream.start, events[0].rev)
        if due and (due[0].rev, due[0].key) != (events[0].rev, events[0].key):
            yield f"it goes on with {events[0]} instead of {due[0]}"
    expired = stream.expired
    if expired and expired.asked == stream.opened.after and expired.oldest <= expired.asked <= stream.known:
        yield f"revision {expired.asked} was refused, although history begins after {expired.oldest}"
    if stream.opened.after is None and stream.first and stream.first[-1].word == "FIRST":
        yield from _first_state(stream)


def _first_state(stream: Stream) -> Iterator[str]:
    """The state at the revision that ends it."""
    interest, shown = stream.opened.interest, dict[Key, bytes]()
    for line in stream.first[:-1]:
        if line.word == "ADDED" and line.key in shown:
            yield f"{line} was there already"
        if line.word == "DELETED":
            shown.pop(line.key, None)
        elif line.word not in MARKS:
            shown[line.key] = line.content
    there = stream.truth.all_at(interest.plural, interest.namespace, stream.start)
    if shown != {key: one.content for key, one in there if wants(interest, key, one.thing)}:
        yield f"what came first is not the state at revision {stream.start}"


def _bookmarkable(stream: Stream) -> Iterator[str]:
    """What a bookmark says has been told has been told, and nothing of it comes later."""
    last, told, at = stream.start, 0, _behind(stream.wanted, stream.start)
    for line in stream.after_first:
        if line.word in MARKS:
            if line.rev < last:
                yield f"the bookmark {line.rev} goes back behind {last}"
            if told < _behind(stream.wanted, line.rev) - at:
                yield f"the bookmark {line.rev} comes before events up to there"
            last = max(last, line.rev)
        else:
            told += 1
            if line.rev <= last and last > stream.start:
                yield f"{line} comes behind the bookmark {last}"


def _before(stream: Stream) -> Iterator[str]:
    """The state before is right: raw as it was, and else as what a deletion shows."""
    wanted = {(line.rev, line.key): line for line in stream.due(stream.start, stream.truth.head)}
    for line in stream.events:
        due = wanted.get((line.rev, line.key))
        wrong = due is not None and (due.before != line.before if stream.opened.raw else due.content != line.content)
        if wrong and (stream.opened.raw or line.word == "DELETED"):
            yield f"{line} shows another state before"


def _created_or_modified(stream: Stream) -> Iterator[str]:
    """ADDED is what was not there (for this watcher), MODIFIED what was, DELETED what is no more."""
    wanted = {(line.rev, line.key): line.word for line in stream.due(stream.start, stream.truth.head)}
    for line in stream.events:
        due = wanted.get((line.rev, line.key), line.word)
        if due != line.word:
            yield f"{line} is {due}"


def _contents(stream: Stream) -> Iterator[str]:
    """The object is as that revision left it."""
    for line in stream.lines:
        version = stream.truth.at(line.key, line.rev)
        if line.word in ("ADDED", "MODIFIED") and (version is None or version.content != line.content):
            yield f"{line} shows another state"


PROMISES: dict[str, Callable[[Stream], Iterator[str]]] = {
    "filter": _filter,
    "ordered": _ordered,
    "unique": _unique,
    "reliable": _reliable,
    "atomic": _atomic,
    "resumable": _resumable,
    "bookmarkable": _bookmarkable,
    "state before": _before,
    "created or modified": _created_or_modified,
    "contents": _contents,
}
