"""The server in the same process: each host hears of its own Placements only, and never of what it wrote itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from nanovirt.agent.local_server import LocalServers
from nanovirt.agent.server import Changed, Gone, Listed, News
from nanovirt.resources.codec import load, trusted
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Conflict, LogFull, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog, Record
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.report import HostFacts, HostReport, ReportReply
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Delete, Update, transact
from tests.agent.placements import placement

RUNNING = PlacementStatus(state="Running", epoch=1)


@asynccontextmanager
async def running(log: MemoryLog | None = None) -> AsyncIterator[Engine]:
    store = Engine(log or MemoryLog())
    async with asyncio.TaskGroup() as group:
        work = group.create_task(store.run())
        yield store
        work.cancel()


async def put(store: Engine, made: Placement) -> Placement:
    known = store.peek(made.key) is not None
    op = Update(made.key, made.to_json()) if known else Create(made.key, made.to_json())
    await transact(store, [op], "test")
    return trusted(Placement, store.get(made.key).raw)


async def remove(store: Engine, key: Key) -> None:
    doc = load(store.get(key).raw)
    doc["metadata"]["finalizers"] = []
    await transact(store, [Update(key, doc), Delete(key)], "test")


def servers(store: Engine) -> LocalServers:
    return LocalServers(store, Reports(0.0), lambda: 7.0, lambda host: ReportReply(storage_paths=(f"/{host}",)))


async def quiet(news: asyncio.Task[News]) -> bool:
    await asyncio.sleep(0.01)
    return not news.done()


async def test_list_comes_first_and_holds_only_what_is_on_that_host() -> None:
    async with running() as store:
        mine, _ = await put(store, placement()), await put(store, placement(2, host="node-2"))
        async with aclosing(servers(store).of("node-1").placements()) as news:
            assert await anext(news) == Listed((mine,))


async def test_change_of_another_host_is_not_heard() -> None:
    async with running() as store, aclosing(servers(store).of("node-1").placements()) as news:
        assert await anext(news) == Listed(())
        await put(store, placement(2, host="node-2"))
        mine = await put(store, placement())
        assert await anext(news) == Changed(mine)


async def test_removal_is_heard_with_its_uid() -> None:
    async with running() as store:
        mine = await put(store, placement())
        async with aclosing(servers(store).of("node-1").placements()) as news:
            await anext(news)
            await remove(store, mine.key)
            assert await anext(news) == Gone(mine.key, mine.metadata.uid)


async def test_own_status_is_durable_and_not_heard_but_the_next_change_is() -> None:
    async with running() as store:
        mine, server = await put(store, placement()), servers(store).of("node-1")
        async with aclosing(server.placements()) as news:
            await anext(news)
            await server.write_status(mine, RUNNING)
            assert trusted(Placement, store.get(mine.key).raw).status == RUNNING
            await server.write_status(mine, RUNNING)  # changes nothing, so there is no revision to pass over
            changed = await put(store, placement(cpu=9))
            assert await anext(news) == Changed(changed)


async def test_status_that_changes_nothing_does_not_hide_the_change_before_it() -> None:
    async with running() as store:
        mine, server = await put(store, placement()), servers(store).of("node-1")
        async with aclosing(server.placements()) as news:
            await anext(news)
            ticket = store.stage([Update(mine.key, placement(cpu=9).to_json())], "test")
            await server.write_status(mine, mine.status)
            await ticket.durable()
            changed = await anext(news)
            assert isinstance(changed, Changed)
            assert changed.placement.spec.cpu == 9


async def test_what_is_in_the_list_is_not_heard_again() -> None:
    async with running() as store:
        ticket = store.stage([Create(placement().key, placement().to_json())], "test")
        local = servers(store)
        await ticket.durable()  # committed, and watchers hear of it in the next turn of the loop
        async with aclosing(local.of("node-1").placements()) as news, asyncio.TaskGroup() as group:
            listed = await anext(news)
            assert isinstance(listed, Listed)
            assert len(listed.placements) == 1

            async def following() -> News:
                return await anext(news)

            coming = group.create_task(following())
            assert await quiet(coming)
            coming.cancel()


async def test_status_never_lands_on_a_namesake() -> None:
    async with running() as store:
        old, server = await put(store, placement()), servers(store).of("node-1")
        await remove(store, old.key)
        await put(store, placement(uid="33333333-3333-4333-8333-000000000001"))
        with pytest.raises(Conflict):
            await server.write_status(old, PlacementStatus(released=True))
        assert not trusted(Placement, store.get(old.key).raw).status.released


async def test_status_of_what_is_gone_is_refused() -> None:
    async with running() as store:
        with pytest.raises(NotFound):
            await servers(store).of("node-1").write_status(placement(), RUNNING)


async def test_report_is_heard_with_the_servers_time_and_answered() -> None:
    async with running() as store:
        reports = Reports(0.0)
        local = LocalServers(store, reports, lambda: 7.0, lambda host: ReportReply(storage_paths=(f"/{host}",)))
        report = HostReport(sequence=1, facts=HostFacts(boot_id="b"))
        assert (await local.of("node-1").report(report)).storage_paths == ("/node-1",)
        assert reports.heard("node-1") == (report, 7.0)


async def test_host_that_ended_its_watch_is_told_nothing_and_may_begin_anew() -> None:
    async with running() as store:
        local = servers(store)
        async with aclosing(local.of("node-1").placements()) as news:
            await anext(news)
        mine = await put(store, placement())
        async with aclosing(local.of("node-1").placements()) as news:
            assert await anext(news) == Listed((mine,))


class FullOnce(MemoryLog):
    """A log that refuses one append when `full`."""

    full = False

    async def append(self, records: Sequence[Record]) -> None:
        if self.full:
            self.full = False
            raise LogFull("no room")
        await super().append(records)


async def test_revision_that_a_full_log_took_back_is_nobodys_own() -> None:
    log = FullOnce()
    async with running(log) as store:
        mine, server = await put(store, placement()), servers(store).of("node-1")
        async with aclosing(server.placements()) as news:
            await anext(news)
            log.full = True
            with pytest.raises(LogFull):
                await server.write_status(mine, RUNNING)
            await put(store, mine.model_copy(update={"spec": mine.spec.model_copy(update={"power_state": "Stopped"})}))
            async with asyncio.timeout(30):
                told = await anext(news)
            assert isinstance(told, Changed)
            assert told.placement.spec.power_state == "Stopped"
