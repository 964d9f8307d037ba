"""Stores of this release, of older and of newer ones: what is in them once a server has started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.desired.plan import memory_of
from nanovirt.portal.shipping import RELEASE, SETUP, ship
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.defaults import EDITION, defaults, made
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import LogFull
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.log import Log, MemoryLog, Record
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.registry import kinds
from nanovirt.resources.shipped import SHIPPED
from nanovirt.resources.shipping import FORMER, digest
from nanovirt.resources.store import Create, Delete, Update, transact
from tests.portal.older_release import OPERATOR, VIEWER, older

assert kinds()
NOW = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
SIZES = Sizes(segment=1 << 16, ballast=1 << 12, room=0)
ROLE = Key("roles", "", "operator")
WINDOWS = Key("systemtemplates", "", "windows-11")


@asynccontextmanager
async def served(log: Log, things: Sequence[Document] = (), edition: int = EDITION) -> AsyncIterator[Engine]:
    """The store behind a log that has `things` at first, after the start of a server."""
    store = Engine(log, lambda: NOW)
    async with asyncio.TaskGroup() as group:
        committer = group.create_task(store.run())
        try:
            if things:
                await transact(store, [Create(one.key, one.to_json()) for one in things], SETUP)
            await ship(store, NOW, edition)
            yield store
        finally:
            committer.cancel()


def doc(store: Engine, key: Key) -> JSON:
    return load(store.get(key).raw)


def spec(store: Engine, key: Key = ROLE) -> Any:
    return doc(store, key)["spec"]


def of(thing: Key) -> Any:
    """As this release ships it."""
    return next(one for one in defaults() if one.key == thing).to_json()["spec"]


def events(store: Engine) -> list[tuple[str, str]]:
    told = [load(entry.raw) for _, entry in store.list("events")]
    return [(one["involvedObject"]["name"], one["reason"]) for one in told]


async def edited(store: Engine, **changes: Any) -> None:
    """Somebody edits the role."""
    there = doc(store, ROLE)
    await transact(store, [Update(ROLE, there | {"spec": there["spec"] | changes})], "alice")


def writers(log: Log) -> list[str]:
    return [load(record.body)["by"] for record in log.read()]


async def test_new_store_begins_with_one_revision_and_later_starts_write_nothing() -> None:
    log = MemoryLog()
    for _ in range(3):
        async with served(log) as store:
            assert store.committed == 1
            assert {str(one.key) for one in defaults()} <= {
                str(key) for plural in kinds() for key, _ in store.list(plural)
            }
    assert writers(log) == [SETUP]


async def test_store_of_an_older_release_on_disk_gets_what_it_lacks_in_one_revision(tmp_path: Path) -> None:
    assert digest(OPERATOR) in FORMER["roles/operator"]
    assert digest(VIEWER) in FORMER["roles/viewer"]
    for things in (list(older()), [], []):
        log = FileLog.open(tmp_path, SIZES)
        try:
            async with served(log, things) as store:
                assert store.committed == 2
                assert spec(store) == of(ROLE)
                assert spec(store, WINDOWS) == of(WINDOWS)
                assert doc(store, ROLE)["metadata"]["generation"] == 2
                assert events(store) == []
        finally:
            log.close()
    log = FileLog.open(tmp_path, SIZES)
    assert writers(log) == [SETUP, RELEASE]
    log.close()


async def test_what_somebody_edited_stays_and_is_told_once() -> None:
    log = MemoryLog()
    mine = made("Role", "operator", rules=[])
    things = [one for one in older() if one.key != ROLE] + [mine]
    async with served(log, things) as store:
        assert spec(store)["rules"] == []
        assert events(store) == [("operator", "ShippedOtherwise")]
        assert spec(store, VIEWER.key) == of(VIEWER.key)
    async with served(log) as store:
        assert store.committed == 2


async def test_what_somebody_deleted_stays_deleted() -> None:
    log = MemoryLog()
    async with served(log) as store:
        await transact(store, [Delete(ROLE), Delete(Key("systemtemplates", "", "legacy"))], "alice")
    for edition in (EDITION, EDITION + 1, EDITION + 1):
        async with served(log, edition=edition) as store:
            assert store.peek(ROLE) is None
            assert store.committed == (2 if edition == EDITION else 3)


async def test_newer_store_is_not_reset_by_an_older_server() -> None:
    log = MemoryLog()
    async with served(log, edition=EDITION + 1) as store:
        await transact(store, [Update(ROLE, OPERATOR.to_json())], "newer")  # as if the newer one had it otherwise
        record = doc(store, SHIPPED)
        record["spec"]["objects"]["roles/operator"]["left"] = digest(OPERATOR)
        await transact(store, [Update(SHIPPED, record), Delete(WINDOWS)], "newer")
    async with served(log) as store:
        assert (store.committed, spec(store)) == (3, OPERATOR.to_json()["spec"])
    async with served(log, edition=EDITION + 1) as store:
        assert spec(store) == of(ROLE), "the newer one goes on from what it has left"


async def test_rights_that_an_admin_took_away_do_not_come_back() -> None:
    log = MemoryLog()
    async with served(log, list(older())) as store:
        assert spec(store) == of(ROLE)
        await edited(store, rules=OPERATOR.to_json()["spec"]["rules"])
    for edition in (EDITION, EDITION + 1):
        async with served(log, edition=edition) as store:
            assert spec(store)["rules"] == OPERATOR.to_json()["spec"]["rules"]


async def test_store_of_every_moment_of_a_start_ends_alike() -> None:
    """A kill leaves the log with the record of the start or without it: there is nothing between."""
    whole = MemoryLog()
    async with served(whole, list(older())) as store:
        wanted = {key: entry.raw for plural in (*kinds(), "shipped") for key, entry in store.list(plural)}
    records = list(whole.read())
    for kept in range(1, len(records) + 1):
        async with served(MemoryLog(records[:kept])) as store:
            found = {key: load(entry.raw)["spec"] for key, entry in store.list("roles")}
            assert found == {key: load(raw)["spec"] for key, raw in wanted.items() if key.plural == "roles"}
            assert doc(store, SHIPPED)["spec"] == load(wanted[SHIPPED])["spec"]


class Full(MemoryLog):
    """It takes so many records."""

    room = 1

    async def append(self, records: Sequence[Record]) -> None:
        if self.head() >= self.room:
            raise LogFull("no room")
        await super().append(records)


async def test_full_disk_keeps_no_store_in_use_from_being_served() -> None:
    log = Full()
    async with served(log, list(older())) as store:
        assert (store.committed, spec(store)) == (1, OPERATOR.to_json()["spec"])
    log.room = 9
    async with served(log) as store:
        assert spec(store) == of(ROLE)


async def test_new_store_without_room_is_refused() -> None:
    log = Full()
    log.room = 0
    with pytest.RaisesGroup(LogFull):
        async with served(log):
            pass


async def test_what_a_directory_applies_is_left_to_it() -> None:
    log = MemoryLog()
    memory = {
        "metadata": {"name": "roles/operator"},
        "spec": {"plural": "roles", "name": "operator", "uid": "u", "generation": 1, "file": "a.yaml", "digest": "d"},
    }
    store = Engine(log, lambda: NOW)
    async with asyncio.TaskGroup() as group:
        committer = group.create_task(store.run())
        await transact(store, [Create(one.key, one.to_json()) for one in older()], SETUP)
        await transact(store, [Create(memory_of(ROLE), memory)], "desired")
        committer.cancel()
    async with served(log) as store:
        assert spec(store) == OPERATOR.to_json()["spec"]
        assert spec(store, VIEWER.key) == of(VIEWER.key)


async def test_restored_store_that_is_held_gets_it_too() -> None:
    log = MemoryLog()
    hold = Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=1, restored=NOW))
    async with served(log, [*older(), hold]) as store:
        assert spec(store) == of(ROLE)
        assert store.peek(HOLD) is not None


async def test_edit_that_is_taken_back_lets_it_follow_again() -> None:
    log = MemoryLog()
    async with served(log) as store:
        await edited(store, description="ours")
    async with served(log) as store:
        assert events(store) == [("operator", "ShippedOtherwise")]
        await edited(store, description="")
        told = store.committed
    async with served(log) as store:
        assert store.committed == told + 1
        assert doc(store, SHIPPED)["spec"]["objects"]["roles/operator"] == {"left": digest(made_role()), "withheld": ""}
    async with served(log) as store:
        assert store.committed == told + 1


def made_role() -> Document:
    return next(one for one in defaults() if one.key == ROLE)
