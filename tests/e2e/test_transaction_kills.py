"""A transaction of a thousand instances, killed anywhere: readers, watchers and controllers see all of it or nothing.

The server runs with simulated hosts. It dies by kill -9, at a system call of the log (strace) or at a random moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import StoreUnreachable
from nanovirt.resources.kind import Key
from tests.e2e.keyed import Answer, Line, Request, insist, seen, transaction
from tests.e2e.server_process import PATIENT, ServerProcess, running_server
from tests.e2e.test_kill_points import killer
from tests.e2e.waiting import quiet, until_ready

COUNT, HOSTS = 1000, 20
AFTER = 0.5
"""Seconds behind the answer within which a random kill may still fall: the controllers are busy then."""


class Moment(NamedTuple):
    """The call number `nth` of the log's thread, which is not carried out; or without one some random moment."""

    syscall: str = ""
    nth: int = 0

    def __str__(self) -> str:
        return f"at {self.syscall} {self.nth}" if self.syscall else "at random"


RANDOM = Moment()
SOME = (Moment("write", 1), Moment("fdatasync", 1), Moment("write", 2), RANDOM)
"""Before it is on disk; there, but not durable; durable, and nobody has been told."""
ALL = (
    *(Moment(syscall, nth) for nth in range(1, 9) for syscall in ("write", "fdatasync")),
    *[RANDOM] * 24,
)


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(SOME, id="some", marks=pytest.mark.timeout(900)),
        pytest.param(ALL, id="all", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
async def test_killed_transaction_is_seen_whole_or_not_at_all(tmp_path: Path, moments: tuple[Moment, ...]) -> None:
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")  # noqa: T201 - by it the random moments can be had again
    with running_server(tmp_path / "data", "--simulated-hosts", str(HOSTS)) as server:
        async with server.client() as client:
            for number in (1, HOSTS):
                await until_ready(client, Key("hosts", "", f"sim-{number}"))
            trials = [Trial(server, client, f"set-{nth}", tmp_path / "trace") for nth, _ in enumerate(moments)]
            for nth, (trial, moment) in enumerate(zip(trials, moments, strict=True)):
                found = await trial.run(moment, random.Random(f"{seed} {nth}"))
                print(f"{nth}: {moment}: {found}")  # noqa: T201 - the list of moments
                await trial.clear()


@dataclass
class Trial:
    """One transaction, the server that dies of it, and who looks on."""

    server: ServerProcess
    client: Client
    name: str
    trace: Path
    added: list[JSON] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)

    async def run(self, moment: Moment, chance: random.Random) -> str:
        """Kill at that moment, begin again, and check; how much the restarted server had of it, for the list."""
        # A call is counted from a moment on at which the log stands still.
        since = await quiet(self.client) if moment.syscall else (await self.client.list("namespaces", limit=1))[1]
        async with self._looked_on(since):
            answer, when = await self._struck(moment, chance)
            self.server.wait()
            await self.server.restart()
            whole = await self._after_restart(answer)
            await self._repeated()
            await self._placed()
        assert self.listed <= {0, COUNT}, f"a reader saw {self.listed} objects"
        self._check_history()
        return f"{when}, {'answered' if answer else 'no answer'}, {'whole' if whole else 'nothing'} after the restart"

    @property
    def request(self) -> Request:
        """The same one each time it is asked for."""
        return transaction(self.name, [{"verb": "create", "object": self._machine(nth)} for nth in range(COUNT)])

    def _machine(self, nth: int) -> JSON:
        named = {"name": f"{self.name}-{nth}", "namespace": "default", "labels": {"set": self.name}}
        spec = {"memory": "64Mi", "disks": [{"name": "system", "size": "1Mi"}]}
        return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": named, "spec": spec}

    # --- the death ---

    async def _struck(self, moment: Moment, chance: random.Random) -> tuple[Answer | None, str]:
        """Post it to a server that dies meanwhile, or soon after; its answer if it came, and when the death did."""
        line = Line(self.server)
        delay = chance.uniform(0, AFTER)
        trap = killer(self.server, moment.nth, self.trace, moment.syscall) if moment.syscall else nullcontext()
        try:
            with trap:
                async with asyncio.TaskGroup() as group:
                    asked = group.create_task(line.ask(self.request))
                    if not moment.syscall:
                        await asyncio.sleep(delay)
                        self.server.strike()
                    async with asyncio.timeout(PATIENT):
                        while self.server.alive:
                            await asyncio.sleep(0.005)
            return asked.result(), moment.syscall or f"{delay:.3f} s"
        finally:
            line.close()

    # --- what must be so ---

    async def _after_restart(self, answer: Answer | None) -> bool:
        """All is there or nothing, which the server says of the key, too; whether it is there."""
        items, _ = await self.client.list("instances", "default", f"set={self.name}")
        placements = await self._placements()
        assert len(items) in {0, COUNT}
        assert items or not placements, "placed, and not there"
        assert items or not self.added, "the watcher was told of what never was"
        assert {one["spec"]["instanceUid"] for one in placements} <= {one["metadata"]["uid"] for one in items}
        line = Line(self.server)
        known = await seen(line, self.name)
        line.close()
        assert known.code == (200 if items else 404), known
        if answer is not None:
            assert (answer.code, len(items)) == (200, COUNT), "answered, and lost"
            assert known.doc["metadata"]["resourceVersion"] == answer.doc["metadata"]["resourceVersion"]
        return bool(items)

    async def _repeated(self) -> None:
        """The same request again and again: there once, and answered alike."""
        line = Line(self.server)
        first, second = await insist(line, self.request), await insist(line, self.request)
        known = await seen(line, self.name)
        line.close()
        assert (first.code, second.code, known.code) == (200, 200, 200)
        assert first.doc == second.doc
        rev = known.doc["metadata"]["resourceVersion"]
        assert {one["metadata"]["resourceVersion"] for one in first.doc["results"]} == {rev}
        assert first.doc["metadata"]["resourceVersion"] == rev
        items, _ = await self.client.list("instances", "default", f"set={self.name}")
        assert len({one["metadata"]["uid"] for one in items}) == len(items) == COUNT

    async def _placed(self) -> None:
        """The controllers place each of them, and the watcher has been told of each."""
        async with asyncio.timeout(PATIENT):
            while len(await self._placements()) < COUNT or len(self.added) < COUNT:
                await asyncio.sleep(0.1)

    async def _placements(self) -> list[JSON]:
        items, _ = await self.client.list("placements", "default")
        return [one for one in items if one["spec"]["instance"].startswith(f"{self.name}-")]

    def _check_history(self) -> None:
        """One record has them all, the watcher was told of it once, and the first Placement of each came after it."""
        first: dict[tuple[str, str], int] = {}
        made: list[tuple[int, str]] = []
        uids: set[str] = set()
        for doc in self.server.records():
            for write in doc["writes"]:
                at = (write["kind"], write["name"])
                if write["verb"] == "put" and write["name"].startswith(f"{self.name}-") and at not in first:
                    first[at] = doc["rev"]
                    made.append((doc["rev"], write["kind"]))
                    uids.add(write["object"]["metadata"]["uid"])
        born = {rev for rev, kind in made if kind == "instances"}
        assert len(born) == 1, f"made in revisions {born}"
        assert sum(kind == "instances" for _, kind in made) == COUNT
        assert all(rev > min(born) for rev, kind in made if kind == "placements")
        assert sum(kind == "placements" for _, kind in made) == COUNT, "each has been placed once"
        names = [one["metadata"]["name"] for one in self.added]
        assert len(set(names)) == len(names) == COUNT, "the watcher was told of some twice"
        assert {one["metadata"]["resourceVersion"] for one in self.added} == {str(min(born))}
        assert {one["metadata"]["uid"] for one in self.added} <= uids

    # --- who looks on ---

    @asynccontextmanager
    async def _looked_on(self, since: str) -> AsyncIterator[None]:
        """Within the block a watcher and a reader follow what happens, through the death and beyond."""
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(self.server.client())
            reader = await stack.enter_async_context(self.server.client())
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._watch(watcher, since)), group.create_task(self._read(reader))]
                yield
                for task in tasks:
                    task.cancel()

    async def _watch(self, client: Client, since: str) -> None:
        async with aclosing(client.watch("instances", "default", since, label_selector=f"set={self.name}")) as events:
            async for event in events:
                if event.type == "ADDED":
                    self.added.append(event.object)
                assert event.type != "DELETED", event

    async def _read(self, client: Client) -> None:
        """One page each time: pages are of the moment at which they are asked for."""
        while True:
            try:
                items, _ = await client.list("instances", "default", f"set={self.name}", limit=2 * COUNT)
                self.listed.add(len(items))
            except StoreUnreachable:
                pass  # dead at the moment
            await asyncio.sleep(0.02)

    async def clear(self) -> None:
        """Delete what was made, so that the next one finds room."""
        one = {"verb": "delete", "kind": "Instance", "namespace": "default"}
        line = Line(self.server)
        gone = await insist(
            line, transaction(f"{self.name}-end", [{**one, "name": f"{self.name}-{nth}"} for nth in range(COUNT)])
        )
        line.close()
        assert gone.code == 200, gone
        async with asyncio.timeout(PATIENT):
            while await self._placements() or (await self.client.list("instances", "default"))[0]:
                await asyncio.sleep(0.1)
