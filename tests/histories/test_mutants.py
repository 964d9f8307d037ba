"""The checker and the histories have teeth: a store that is wrong in one way after the other is found out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nanovirt.portal.api import events, fanout
from nanovirt.resources import compaction, engine
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Expired, NotFound
from nanovirt.resources.idempotency import Ledger
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log
from nanovirt.resources.ring import Ring
from nanovirt.resources.store import Change, Commit, Entry
from tests.histories import grounds
from tests.histories.lives import played

CALLS, MOST = 1500, 12
"""Of each history, and how many histories a mutant may live through."""

Patch = Callable[[Any, str, Any], None]


def reads_serve_the_pending_state(patch: Patch) -> None:
    def get(self: Engine, key: Key) -> Entry:
        entry = self.peek(key)
        if entry is None:
            raise NotFound(key.plural, key.name)
        return entry

    patch(Engine, "get", get)


def writes_are_acknowledged_before_they_are_durable(patch: Patch) -> None:
    async def until(_self: Engine, _rev: int) -> None: ...

    patch(Engine, "_until", until)


def refusals_are_told_before_their_grounds_are_durable(patch: Patch) -> None:
    async def settled(_self: Engine) -> None: ...

    patch(Engine, "settled", settled)


def resumed_watch_skips_one_event(patch: Patch) -> None:
    after = Ring.after
    patch(Ring, "after", lambda self, rev: after(self, rev)[1:])


def revision_is_used_twice_after_a_crash(patch: Patch) -> None:
    opened = grounds.InMemory.open

    def forgetful(self: grounds.InMemory) -> Log:
        self._log._records = self._log._records[:-1]
        return opened(self)

    patch(grounds.InMemory, "open", forgetful)


def admission_looks_at_the_committed_state(patch: Patch) -> None:
    patch(Engine, "peek", lambda self, key: self._objects[key.plural].get(key[1:]))


def history_is_said_to_reach_further_back_than_it_does(patch: Patch) -> None:
    def after(self: Ring, rev: int) -> list[Commit]:
        if rev < self.oldest - 1:
            raise Expired(rev, self.oldest - 1)
        return [commit for _, _, commit in self._kept if commit.rev > rev]

    patch(Ring, "after", after)


def history_is_said_to_end_before_it_does(patch: Patch) -> None:
    after = Ring.after

    def strict(self: Ring, rev: int) -> list[Commit]:
        if rev == self.oldest and rev:
            raise Expired(rev, self.oldest)
        return after(self, rev)

    patch(Ring, "after", strict)


def keys_are_forgotten_at_a_restart(patch: Patch) -> None:
    replay = Engine._replay

    def forgetful(self: Engine) -> None:
        replay(self)
        self._ledger = Ledger()

    patch(Engine, "_replay", forgetful)


def keys_are_forgotten_by_a_snapshot(patch: Patch) -> None:
    patch(Ledger, "say", lambda _self: iter(()))


def snapshot_leaves_an_object_out(patch: Patch) -> None:
    lines = compaction._lines

    def all_but_one(*args: Any) -> Iterator[bytes]:
        yield from list(lines(*args))[1:]

    patch(compaction, "_lines", all_but_one)


def bookmarks_are_ahead_of_events(patch: Patch) -> None:
    bookmark = events.bookmark
    patch(events, "bookmark", lambda facts, rev, *shape, **end: bookmark(facts, rev + 1, *shape, **end))


def slow_watchers_lose_events(patch: Patch) -> None:
    patch(fanout.Watcher, "_give_up", lambda _self, _rev: None)


def what_stops_matching_is_not_told(patch: Patch) -> None:
    def verdict(self: fanout.Group, change: Change) -> str:
        if not self.wants(change.key, change.after):
            return ""
        return "MODIFIED" if self.wants(change.key, change.before) else "ADDED"

    patch(fanout.Group, "verdict", verdict)


def watchers_hear_only_one_change_of_a_set(patch: Patch) -> None:
    tell = Engine._tell
    patch(Engine, "_tell", lambda self, commits: tell(self, [one._replace(changes=one.changes[:1]) for one in commits]))


def watchers_hear_of_what_is_not_durable(patch: Patch) -> None:
    queue_up = Engine._queue_up

    def loud(self: Engine, commit: Commit, *rest: Any) -> None:
        queue_up(self, commit, *rest)
        self._tell([commit])

    patch(Engine, "_queue_up", loud)


def full_log_keeps_what_it_refused(patch: Patch) -> None:
    unstage = Engine._unstage

    def tenacious(self: Engine, *args: Any) -> None:
        pending = dict(self._pending)
        unstage(self, *args)
        self._pending |= pending

    patch(Engine, "_unstage", tenacious)


def last_of_a_batch_is_lost(patch: Patch) -> None:
    patch(engine, "BATCH_RECORDS", 4)
    commit = Engine._commit
    patch(Engine, "_commit", lambda self, commits: commit(self, list(commits)[: max(len(commits) - 1, 1)]))


MUTANTS: list[tuple[Callable[[Patch], None], set[str]]] = [
    (reads_serve_the_pending_state, {"read"}),
    (writes_are_acknowledged_before_they_are_durable, {"real time", "acknowledged"}),
    (refusals_are_told_before_their_grounds_are_durable, {"real time", "refusal"}),
    (resumed_watch_skips_one_event, {"reliable", "resumable"}),
    (revision_is_used_twice_after_a_crash, {"acknowledged"}),
    (admission_looks_at_the_committed_state, {"admission"}),
    (history_is_said_to_reach_further_back_than_it_does, {"reliable", "resumable"}),
    (history_is_said_to_end_before_it_does, {"resumable"}),
    (keys_are_forgotten_at_a_restart, {"one effect per key", "refusal"}),
    (keys_are_forgotten_by_a_snapshot, {"one effect per key", "refusal"}),
    (snapshot_leaves_an_object_out, {"read"}),
    (bookmarks_are_ahead_of_events, {"bookmarkable", "durable"}),
    (slow_watchers_lose_events, {"reliable"}),
    (what_stops_matching_is_not_told, {"reliable"}),
    (watchers_hear_only_one_change_of_a_set, {"atomic", "reliable"}),
    (watchers_hear_of_what_is_not_durable, {"unique", "durable", "real time"}),
    (full_log_keeps_what_it_refused, {"refusal", "admission"}),
    (last_of_a_batch_is_lost, {"answer"}),
]
FALLS_OVER = "falls over"


@pytest.mark.parametrize(("spoil", "rules"), MUTANTS, ids=[spoil.__name__ for spoil, _ in MUTANTS])
def test_wrong_store_is_found_out(
    spoil: Callable[[Patch], None], rules: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    spoil(monkeypatch.setattr)
    found: set[str] = set()
    tried = 0
    for seed in range(10, 10 + MOST) if spoil is not revision_is_used_twice_after_a_crash else range(10, 10 * MOST, 10):
        tried += 1
        found = found_out(seed)
        if found:
            break
    print(f"{spoil.__name__}: history {tried}, {', '.join(sorted(found))}")  # noqa: T201 - the table
    assert found & rules or found == {FALLS_OVER}


def found_out(seed: int) -> set[str]:
    """The rules that a history breaks; a store that falls over by itself is found out, too."""
    try:
        return {rule for rule, _ in played(seed, CALLS).violations()}
    except* KeyError:
        pass
    return {FALLS_OVER}


def test_store_as_it_is_passes_as_many() -> None:
    logging.disable()
    try:
        assert not [one for seed in range(10, 14) for one in played(seed, CALLS).violations()]
    finally:
        logging.disable(logging.NOTSET)
