"""What the store remembers of requests with a key, on the engine with each log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nanovirt.resources import idempotency
from nanovirt.resources.codec import load
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import AlreadyExists, LogFull, TooLarge
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.idempotency import KEPT_FOR, Ledger
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.store import Commit, Create, Delete, Expect, Known, Once, Op, Update
from tests.resources.test_store import A, B, Broken, OpenLog, doc, open_log, running

assert open_log
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
POOL = Key("computepools", "", "p")
ONCE = Once("k-1", "digest-1")


async def stage(store: Engine, *ops: Op, by: str = "alice", once: Once = ONCE) -> int:
    ticket = store.stage(ops, by, once=once)
    await ticket.durable()
    return ticket.outcome.rev


# --- the ledger -----------------------------------------------------------------------------------------


def at(hours: float) -> str:
    return rfc3339(NOON + timedelta(hours=hours))


def test_a_key_belongs_to_its_user() -> None:
    ledger = Ledger()
    ledger.add("alice", ONCE, 7, at(0))
    assert ledger.find("alice", "k-1", NOON) == Known("digest-1", 7, NOON)
    assert ledger.find("bob", "k-1", NOON) is None
    assert ledger.find("alice", "k-2", NOON) is None


def test_a_key_is_forgotten_after_a_day_and_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    ledger.add("alice", ONCE, 1, at(0))
    assert ledger.find("alice", "k-1", NOON + KEPT_FOR)
    assert not ledger.find("alice", "k-1", NOON + KEPT_FOR + timedelta(seconds=1))
    ledger.add("alice", Once("k-2", ""), 2, at(25))
    assert len(ledger) == 1
    monkeypatch.setattr(idempotency, "KEPT_EACH", 3)
    for rev in range(3, 9):
        ledger.add("alice", Once(f"k-{rev}", ""), rev, at(26))
    assert kept(ledger, "alice", range(2, 9)) == [6, 7, 8]


def kept(ledger: Ledger, user: str, revs: range) -> list[int]:
    return [rev for rev in revs if ledger.find(user, f"k-{rev}", NOON) is not None]


def test_who_has_the_most_keys_makes_room_for_others_and_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEPT_MAX", 10)
    monkeypatch.setattr(idempotency, "KEPT_EACH", 8)
    ledger = Ledger()
    for rev in (1, 2):
        ledger.add("alice", Once(f"k-{rev}", ""), rev, at(0))
    for rev in range(3, 20):
        ledger.add("mallory", Once(f"k-{rev}", ""), rev, at(0))
    assert kept(ledger, "alice", range(20)) == [1, 2], "many keys of another push out nobody's"
    assert kept(ledger, "mallory", range(20)) == [*range(12, 20)]
    for rev in range(20, 30):
        ledger.add("alice", Once(f"k-{rev}", ""), rev, at(0))
    assert len(ledger) == 10
    assert kept(ledger, "alice", range(30)) == [*range(25, 30)], "each of two has a half"
    assert kept(ledger, "mallory", range(30)) == [*range(15, 20)]
    ledger.add("bob", Once("k-30", ""), 30, at(0))
    assert (kept(ledger, "bob", range(31)), len(ledger)) == ([30], 10)


def test_a_ledger_that_has_forgotten_holds_nothing_of_it() -> None:
    ledger = Ledger()
    for rev in range(1, 5):
        ledger.add(f"user-{rev}", Once("k", ""), rev, at(0))
    ledger.forget_after(2)
    ledger.add("late", Once("k", ""), 5, at(25))
    assert (len(ledger), [*ledger._keys]) == (1, ["late"])


def test_a_key_used_again_after_a_day_counts_from_then() -> None:
    ledger = Ledger()
    ledger.add("alice", ONCE, 1, at(0))
    ledger.add("alice", Once("other", ""), 2, at(1))
    ledger.add("alice", Once("k-1", "digest-2"), 3, at(24.5))
    found = ledger.find("alice", "k-1", NOON + timedelta(hours=30))
    assert found is not None
    assert (found.digest, found.rev) == ("digest-2", 3)
    ledger.forget_after(2)
    assert ledger.find("alice", "k-1", NOON) is None
    assert ledger.find("alice", "other", NOON)


# --- the contract, on each log --------------------------------------------------------------------------


async def test_a_request_is_remembered_with_its_revision_also_after_a_restart(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await stage(store, Create(B, doc(B)), once=Once("k-0", "d"))
        rev = await stage(store, Create(A, doc(A)))
        stored = store.get(A).raw
    log.close()
    log = open_log()
    async with running(log) as again:
        known = again.remembered("alice", "k-1")
        assert known is not None
        assert (known.digest, known.rev) == ("digest-1", rev)
        assert again.remembered("bob", "k-1") is None
        assert [(one.key, one.raw) for one in await again.recall(rev)] == [(A, stored)]
    log.close()


async def test_results_are_told_again_as_they_were_whatever_came_after(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await stage(store, Create(POOL, doc(POOL)), Create(B, doc(B)), once=Once("k-0", ""))
        pool, old = store.get(POOL), store.get(B)
        same = Update(B, doc(B, finalizers=["nano/instance"]))
        ops = (Create(A, doc(A)), Expect(B, 1), Delete(POOL), same, Expect(POOL, None))
        rev = await stage(store, *ops)
        made = store.get(A)
        await stage(store, Update(A, doc(A, cpus=9)), Update(B, doc(B, cpus=9)), once=Once("k-2", ""))
    log.close()
    log = open_log()
    async with running(log) as again:
        told = await again.recall(rev)
        assert [(one.key, one.raw, one.uid) for one in told] == [
            (A, made.raw, made.uid),
            (B, old.raw, old.uid),
            (POOL, None, pool.uid),
            (B, old.raw, old.uid),
            (POOL, None, pool.uid),
        ]
    log.close()


async def test_operations_on_one_object_are_told_again_each(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await stage(store, Create(A, doc(A)), Create(B, doc(B)), once=Once("k-0", ""))
        old = store.get(B)
        held = Update(A, doc(A, finalizers=["x/y"]))
        rev = await stage(store, held, Delete(A), Create(POOL, doc(POOL)), Delete(POOL), Expect(B, 1))
        told = await store.recall(rev)
        gone = store.get(A)
        assert [(one.key, one.raw) for one in told] == [
            (A, gone.raw), (A, gone.raw), (POOL, None), (POOL, None), (B, old.raw),
        ]  # fmt: skip
    log.close()


async def test_objects_are_told_again_from_the_revisions_at_which_they_stood(open_log: OpenLog) -> None:
    log = open_log()
    keys = [Key("instances", "default", f"i{at}") for at in range(40)]
    async with running(log) as store:
        for key in keys[:20]:
            await stage(store, Create(key, doc(key)), once=Once(key.name, ""))
        await stage(store, *[Create(key, doc(key)) for key in keys[20:]], once=Once("k-0", ""))
        old = {key: store.get(key) for key in keys}
        rev = await stage(store, *[Expect(key, old[key].rev) for key in keys[::-1]])
        await stage(store, *[Update(key, doc(key, cpus=9)) for key in keys[::3]], once=Once("k-2", ""))
        told = await store.recall(rev)
        assert [(one.key, one.raw) for one in told] == [(key, old[key].raw) for key in keys[::-1]]
    log.close()


async def test_request_that_changes_nothing_is_remembered_without_an_event(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await stage(store, Create(POOL, doc(POOL)), once=Once("k-0", ""))
        seen: list[Commit] = []
        store.subscribe(seen.append)
        rev = await stage(store, Update(POOL, doc(POOL)))
        assert (rev, store.committed, store.get(POOL).rev) == (2, 2, 1)
        assert [one.raw for one in await store.recall(rev)] == [store.get(POOL).raw]
        assert [change for commit in seen if commit.rev == rev for change in commit.changes] == []
    log.close()


async def test_key_is_known_as_soon_as_it_is_staged_and_not_before(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        with pytest.raises(AlreadyExists):
            store.stage([Create(A, doc(A)), Create(A, doc(A))], "alice", once=ONCE)
        store.stage([Create(A, doc(A))], "alice", once=ONCE, dry=True)
        assert store.remembered("alice", "k-1") is None
        ticket = store.stage([Create(A, doc(A))], "alice", once=ONCE)
        known = store.remembered("alice", "k-1")
        assert known is not None
        assert known.rev > store.committed, "in flight: it is staged, and not durable yet"
        await ticket.durable()
    log.close()


async def test_key_of_a_write_that_was_given_up_is_forgotten() -> None:
    log = Broken()
    async with running(log) as store:
        log.error = LogFull("no room")
        with pytest.raises(LogFull):
            await stage(store, Create(A, doc(A)))
        assert store.remembered("alice", "k-1") is None
        log.error = None
        assert await stage(store, Create(A, doc(A))) == 1


async def test_key_of_a_record_that_is_too_large_is_not_remembered() -> None:
    async with running(MemoryLog()) as store:
        with pytest.raises(TooLarge):
            store.stage([Create(A, doc(A, annotations={"a": "x" * (8 << 20)}))], "alice", once=ONCE)
        assert store.remembered("alice", "k-1") is None


async def test_records_without_a_key_are_as_they_were_and_open(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await store.stage([Create(A, doc(A))], "alice").durable()
    (record,) = log.read(0)
    assert list(load(record.body)) == ["rev", "at", "by", "request", "writes"]
    log.close()
    log = open_log()
    assert Engine(log).remembered("alice", "k-1") is None
    log.close()
