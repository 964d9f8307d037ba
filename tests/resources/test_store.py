"""The contract of the store, on the engine with each log: what writers, readers and watchers may rely on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.resources import engine as engine_module
from nanovirt.resources import ring
from nanovirt.resources.codec import load
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import AlreadyExists, Conflict, Expired, LogFull, NotFound, StoreFailed
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog, Record
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Commit, Create, Delete, Expect, Half, Op, Update, transact

assert kinds()

A, B = Key("instances", "default", "a"), Key("instances", "default", "b")
Doc = dict[str, Any]
OpenLog = Callable[[], Log]


def doc(key: Key, cpus: int = 1, **metadata: Any) -> Doc:
    return {"metadata": {"name": key.name, "namespace": key.namespace, **metadata}, "spec": {"cpus": cpus}}


@asynccontextmanager
async def running(log: Log) -> AsyncIterator[Engine]:
    """An engine with its committer."""
    engine = Engine(log)
    async with asyncio.TaskGroup() as group:
        committer = group.create_task(engine.run())
        try:
            yield engine
        finally:
            committer.cancel()


@pytest.fixture(params=["memory", "file"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    """Opens one log again and again, as restarts do; the memory log keeps its records in the test."""
    kept: list[MemoryLog] = [MemoryLog()]
    with ExitStack() as opened:

        def again() -> Log:
            if request.param == "file":
                return opened.enter_context(closing(FileLog.open(tmp_path / "data")))
            kept.append(MemoryLog(kept[-1].read(0)))
            return kept[-1]

        yield again


async def test_created_object_has_what_the_server_owns(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        outcome = await transact(store, [Create(A, doc(A))], "alice")
        stored = load(store.get(A).raw)
        assert stored["metadata"]["resourceVersion"] == str(outcome.rev) == "1"
        assert stored["metadata"]["generation"] == 1
        assert len(stored["metadata"]["uid"]) == 36
        assert (stored["apiVersion"], stored["kind"]) == ("nano/v1", "Instance")


async def test_name_is_taken_once_even_within_one_commit(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        store.stage([Create(A, doc(A))], "alice")
        with pytest.raises(AlreadyExists):
            store.stage([Create(A, doc(A))], "bob")
        with pytest.raises(NotFound):
            store.get(A)  # not durable yet: no reader sees it


async def test_transaction_is_all_or_nothing(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        with pytest.raises(AlreadyExists):
            await transact(store, [Create(B, doc(B)), Create(A, doc(A))], "alice")
        assert (store.peek(B), store.committed) == (None, 1)
        await transact(store, [Create(B, doc(B)), Update(A, doc(A, cpus=2))], "alice")
        assert store.get(A).rev == store.get(B).rev == 2


@pytest.mark.parametrize(
    "op", [Update(A, doc(A, cpus=3), expect=1), Delete(A, expect=1), Expect(A, 1), Expect(A, None)]
)
async def test_stale_revision_is_a_conflict(open_log: OpenLog, op: Op) -> None:
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        await transact(store, [Update(A, doc(A, cpus=2), expect=1)], "alice")
        with pytest.raises(Conflict):
            await transact(store, [op], "bob")


async def test_write_that_changes_nothing_makes_no_revision_and_no_event(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        seen: list[Commit] = []
        store.subscribe(seen.append)
        await transact(store, [Create(A, doc(A))], "alice")
        outcome = await transact(store, [Update(A, doc(A, finalizers=["nano/instance"]))], "alice")
        await asyncio.sleep(0)
        assert (outcome.rev, store.committed, len(seen)) == (1, 1, 1)


async def test_each_half_leaves_the_other_alone(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        await transact(store, [Update(A, {"status": {"phase": "Running"}, "spec": {"cpus": 9}}, Half.STATUS)], "x")
        await transact(store, [Update(A, {**doc(A, cpus=2), "status": {"phase": "Failed"}})], "alice")
        stored = load(store.get(A).raw)
        assert (stored["spec"]["cpus"], stored["status"]["phase"]) == (2, "Running")
        assert stored["metadata"]["generation"] == 2, "a new spec is a new generation, a new status is not"


async def test_main_half_brings_no_status_where_there_is_none(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        await transact(store, [Update(A, {**doc(A, cpus=2), "status": {"phase": "Failed"}})], "alice")
        assert "status" not in load(store.get(A).raw)


async def test_finalizer_keeps_an_object_until_it_is_taken_away(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        await transact(store, [Delete(A)], "alice")
        marked = load(store.get(A).raw)["metadata"]
        assert (marked["finalizers"], marked["generation"]) == (["nano/instance"], 2)
        rev = store.committed
        await transact(store, [Delete(A)], "alice")
        assert store.committed == rev, "a second delete changes nothing"
        await transact(store, [Update(A, doc(A, finalizers=[]))], "instances")
        assert store.peek(A) is None


async def test_object_made_again_after_deletion_is_another_one(open_log: OpenLog) -> None:
    key = Key("computepools", "", "p")
    async with running(open_log()) as store:
        await transact(store, [Create(key, doc(key))], "alice")
        first = store.get(key).uid
        await transact(store, [Delete(key)], "alice")
        await transact(store, [Create(key, doc(key))], "alice")
        assert store.get(key).uid != first
        with pytest.raises(Conflict):
            await transact(store, [Delete(key, uid=first)], "alice")


async def test_watcher_sees_every_revision_once_in_order_with_before_and_after(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        seen: list[Commit] = []
        store.subscribe(seen.append)
        tickets = [store.stage([Create(A, doc(A))], "x")]
        tickets += [store.stage([Update(A, doc(A, cpus=cpus))], "x") for cpus in range(2, 6)]
        for ticket in tickets:
            await ticket.durable()
        await asyncio.sleep(0)
        assert [commit.rev for commit in seen] == [1, 2, 3, 4, 5]
        changes = [commit.changes[0] for commit in seen]
        assert all(a.after == b.before for a, b in itertools.pairwise(changes))
        assert store.history(3) == seen[3:]


async def test_writer_is_answered_before_watchers_are_told(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        order: list[str] = []
        store.subscribe(lambda _commit: order.append("watcher"))
        await transact(store, [Create(A, doc(A))], "alice")
        order.append("writer")
        await asyncio.sleep(0)
        assert order == ["writer", "watcher"]


async def test_restart_gives_the_same_bytes_and_goes_on_counting(open_log: OpenLog) -> None:
    log = open_log()
    async with running(log) as store:
        await transact(store, [Create(A, doc(A)), Create(B, doc(B))], "alice")
        await transact(store, [Update(A, doc(A, cpus=4))], "alice")
        await transact(store, [Update(B, doc(B, finalizers=[]))], "alice")
        await transact(store, [Delete(B)], "alice")
        before = {key: entry.raw for key, entry in store.list("instances")}
        revision = store.committed
    log.close()
    log = open_log()
    async with running(log) as store:
        assert {key: entry.raw for key, entry in store.list("instances")} == before
        assert store.committed == revision
        assert [commit.rev for commit in store.history(1)] == list(range(2, revision + 1))
        await transact(store, [Create(B, doc(B))], "alice")
        assert store.committed == revision + 1
    log.close()


async def test_list_is_in_key_order_and_by_namespace(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        for space, name in (("b", "x"), ("a", "z"), ("a", "y")):
            key = Key("images", space, name)
            await transact(store, [Create(key, doc(key))], "alice")
        assert [key[1:] for key, _ in store.list("images")] == [("a", "y"), ("a", "z"), ("b", "x")]
        assert [key.name for key, _ in store.list("images", "a")] == ["y", "z"]


async def test_dry_run_checks_everything_and_stores_nothing(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        ticket = store.stage([Create(A, doc(A))], "alice", dry=True)
        assert ticket.outcome.entries[0] is not None
        assert (store.peek(A), store.committed) == (None, 0)
        await transact(store, [Create(A, doc(A))], "alice")
        with pytest.raises(AlreadyExists):
            store.stage([Create(A, doc(A))], "alice", dry=True)


async def test_history_that_is_gone_is_expired(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "RING_CHANGES", 3)
    async with running(open_log()) as store:
        await transact(store, [Create(A, doc(A))], "x")
        for cpus in range(2, 8):
            await transact(store, [Update(A, doc(A, cpus=cpus))], "x")
        assert [commit.rev for commit in store.history(4)] == [5, 6, 7]
        with pytest.raises(Expired):
            store.history(3)


class Broken(MemoryLog):
    """A log on a disk that fails, once or for ever: the only way to have both errors at a chosen moment."""

    error: Exception | None = None

    async def append(self, records: Any) -> None:
        if self.error is not None:
            raise self.error
        await super().append(records)


async def test_failed_log_fails_every_waiting_and_later_write_and_ends_the_committer() -> None:
    log = Broken()
    store = Engine(log)
    committer = asyncio.ensure_future(store.run())  # noqa: TID251 - its end is what is looked at
    await transact(store, [Create(A, doc(A))], "alice")
    log.error = StoreFailed("EIO")
    with pytest.raises(StoreFailed):
        await transact(store, [Create(B, doc(B))], "alice")
    with pytest.raises(StoreFailed):
        store.stage([Delete(A)], "alice")
    with pytest.raises(StoreFailed):
        await committer


async def test_full_log_refuses_undoes_and_goes_on_when_there_is_room() -> None:
    log = Broken()
    async with running(log) as store:
        counted: list[int] = []
        store.subscribe(lambda c: counted.append(sum(1 if x.after else -1 for x in c.changes)), admitted=True)
        log.error = LogFull("no room")
        with pytest.raises(LogFull):
            await transact(store, [Create(A, doc(A))], "alice")
        assert (store.peek(A), sum(counted)) == (None, 0), "what was assumed is given back"
        log.error = None
        assert (await transact(store, [Create(A, doc(A))], "alice")).rev == 1


async def test_refusal_is_told_when_what_it_was_judged_by_is_durable(open_log: OpenLog) -> None:
    async with running(open_log()) as store:
        store.stage([Create(A, doc(A))], "alice")
        with pytest.raises(AlreadyExists):
            await transact(store, [Create(A, doc(A))], "bob")
        assert store.get(A).rev == 1


async def test_refusal_by_a_write_that_came_to_nothing_is_not_told() -> None:
    log = Broken()
    async with running(log) as store:
        log.error = LogFull("no room")
        store.stage([Create(A, doc(A))], "alice")
        with pytest.raises(LogFull):
            await transact(store, [Create(A, doc(A))], "bob")


@pytest.mark.parametrize("dry", [True, False])
async def test_absence_is_told_when_the_deletion_behind_it_is_durable(open_log: OpenLog, dry: bool) -> None:
    pool = Key("computepools", "", "p")
    async with running(open_log()) as store:
        await transact(store, [Create(pool, doc(pool))], "alice")
        store.stage([Delete(pool)], "alice")
        await store.stage([Expect(pool, None)], "bob", dry=dry).durable()
        with pytest.raises(NotFound):
            store.get(pool)


async def test_full_log_still_takes_deletions_from_what_was_kept_back_for_them() -> None:
    class Full(MemoryLog):
        full = False

        async def append(self, records: Any) -> None:
            if self.full:
                raise LogFull("no room")
            await super().append(records)

        def make_room(self) -> bool:
            self.full = False
            return True

    log = Full()
    async with running(log) as store:
        await transact(store, [Create(A, doc(A))], "alice")
        log.full = True
        with pytest.raises(LogFull):
            await transact(store, [Create(B, doc(B))], "alice")
        await transact(store, [Delete(A)], "alice")
        assert store.get(A).deleting
        log.full = True
        await transact(store, [Update(A, doc(A, finalizers=[]))], "instances")
        assert store.peek(A) is None


async def test_writes_that_come_together_share_a_commit() -> None:
    batches: list[int] = []

    class Counting(MemoryLog):
        async def append(self, records: Any) -> None:
            batches.append(len(records))
            await asyncio.sleep(0.005)
            await super().append(records)

    async with running(Counting()) as store:
        keys = [Key("instances", "default", f"i{number}") for number in range(50)]
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(transact(store, [Create(key, doc(key))], "x"))
        assert sum(batches) == 50
        assert len(batches) <= 3


NAMES = st.sampled_from(["a", "b", "c"])
MOVES = st.lists(
    st.tuples(st.sampled_from(["create", "update", "delete", "wait"]), NAMES, st.integers(1, 9)), max_size=40
)


@settings(max_examples=60)
@given(MOVES)
def test_pending_committed_and_replayed_state_agree(moves: list[tuple[str, str, int]]) -> None:
    """Any sequence: what was staged is what is durable in the end, and what a restart reads back."""

    async def play() -> None:
        log = MemoryLog()
        async with running(log) as store:
            model: dict[str, int] = {}
            tickets = []
            for verb, name, cpus in moves:
                key = Key("computepools", "", name)
                thing = doc(key, cpus)
                if verb == "create" and name not in model:
                    tickets.append(store.stage([Create(key, thing)], "x"))
                    model[name] = cpus
                elif verb == "update" and name in model:
                    tickets.append(store.stage([Update(key, thing)], "x"))
                    model[name] = cpus
                elif verb == "delete" and name in model:
                    tickets.append(store.stage([Delete(key)], "x"))
                    del model[name]
                elif verb == "wait":
                    await asyncio.sleep(0)
                pending = {n: store.peek(Key("computepools", "", n)) for n in ("a", "b", "c")}
                assert {n: load(e.raw)["spec"]["cpus"] for n, e in pending.items() if e} == model
            for ticket in tickets:
                await ticket.durable()
            listed = {key.name: load(entry.raw)["spec"]["cpus"] for key, entry in store.list("computepools")}
            assert listed == model
            again = Engine(log)
            assert again.list("computepools") == store.list("computepools")

    asyncio.run(play())


def test_record_is_one_line_of_json_with_who_and_when() -> None:
    async def play() -> Record:
        log = MemoryLog()
        async with running(log) as store:
            await transact(store, [Create(A, doc(A))], "alice", "request-7")
        return next(iter(log.read(0)))

    record = asyncio.run(play())
    body = load(record.body)
    assert b"\n" not in record.body
    assert (body["rev"], body["by"], body["request"]) == (1, "alice", "request-7")
    assert body["at"].endswith("Z")
    assert [(w["verb"], w["kind"], w["name"]) for w in body["writes"]] == [("put", "instances", "a")]


# --- patience -------------------------------------------------------------------------------------------


class Counting(MemoryLog):
    """A log that counts its syncs; while `gate` is not set an append waits, and ends in LogFull if `full`."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = False

    async def append(self, records: Sequence[Record]) -> None:
        self.sizes.append(len(records))
        await self.gate.wait()
        if self.full:
            self.full = False
            raise LogFull("no room")
        await super().append(records)


async def test_patient_writes_share_the_sync_of_the_next_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PATIENCE_SECONDS", 60.0)
    log = Counting()
    async with running(log) as store:
        tickets = [store.stage([Create(key, doc(key))], "controllers", patient=True) for key in (A, B)]
        await asyncio.sleep(0.02)
        assert (log.sizes, store.committed) == ([], 0)
        await transact(store, [Create(A._replace(name="c"), doc(A._replace(name="c")))], "alice")
        assert log.sizes == [3]
        async with asyncio.timeout(30):
            for ticket in tickets:
                await ticket.durable()


async def test_patient_write_alone_is_durable_within_a_moment(open_log: OpenLog) -> None:
    async with running(open_log()) as store, asyncio.timeout(30):
        await store.stage([Create(A, doc(A))], "controllers", patient=True).durable()
        assert store.get(A).rev == 1


@pytest.mark.parametrize("pending", [False, True], ids=["nothing waits", "patience waits"])
async def test_full_log_leaves_no_patience_behind(pending: bool) -> None:
    log = Counting()
    async with running(log) as store, asyncio.timeout(30):
        log.full = True
        log.gate.clear()
        store.stage([Create(A, doc(A))], "alice")
        await asyncio.sleep(0.001)
        if pending:
            store.stage([Create(B, doc(B))], "controllers", patient=True)
        await asyncio.sleep(0.01)
        log.gate.set()
        await asyncio.sleep(0.01)
        assert log.sizes == [1], "nothing is appended in vain"
        await store.stage([Create(B, doc(B))], "controllers", patient=True).durable()
        assert store.get(B).rev == 1
