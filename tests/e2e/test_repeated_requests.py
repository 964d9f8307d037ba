"""Requests sent again and again, with answers that nobody reads: each takes effect once, as the log and a model say.

R17 of the goals: a fifth of the requests goes out two to five times, over several clients of a real server over TLS.
Each of them writes its key into what it makes or changes, so the log shows when its effect began.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.idempotency import KEPT_EACH
from tests.e2e.keyed import NANO, Answer, Line, Request, insist, seen, transaction
from tests.e2e.server_process import PATIENT, ServerProcess, running_server

CLIENTS, SLOTS, MACHINES = 6, 5, 12
"""Each client has names for so many pools, which come and go and come again, and at most so many machines."""
SHARE, MOST = 0.2, 5
"""Of all requests, those that are sent more than once, and how often at most."""
LATER = 20
"""Requests of the same client after which a copy may still arrive."""
SETS = "op"
INSTANCES = f"{NANO}/namespaces/default/instances"
POOLS = f"{NANO}/computepools"


@pytest.mark.parametrize(
    ("operations", "seconds"),
    [
        pytest.param(1000, 300, id="some", marks=pytest.mark.timeout(1200)),
        pytest.param(100_000, 5400, id="all", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
async def test_repeated_requests_and_lost_answers_have_no_second_effect(
    tmp_path: Path, operations: int, seconds: float
) -> None:
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")  # noqa: T201 - by it the run can be had again
    with running_server(tmp_path / "data") as server:
        line, until = Line(server), time.monotonic() + seconds
        callers = [Caller(f"c{nth}", line, random.Random(f"{seed} {nth}")) for nth in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.work(math.ceil(operations / CLIENTS), until))
        async with server.client() as client:
            await check_state(client, callers)
        effects = Effects.of(server)
        await check_history(effects, callers, line)
        line.close()
    done, sent, lost = (sum(getattr(one, name) for one in callers) for name in ("done", "sent", "lost"))
    unknown = sum(len(one.unknown) for one in callers)
    took = sum(bool(effects.records[key]) for one in callers for key in one.unknown)
    rest = f"{unknown} never asked for again, {took} of them carried out"
    print(f"{done} operations, {sent} requests, {lost} answers lost, {rest}")  # noqa: T201 - the figure


@dataclass
class Caller:
    """One client: it sends one operation after the other on objects of its own, and keeps the model of them."""

    name: str
    line: Line
    chance: random.Random
    machines: dict[str, JSON] = field(default_factory=dict)
    """Of each machine that should be there, the part of it that is wished: `op`, `powerState`, `restart`."""
    pools: dict[str, str] = field(default_factory=dict)
    """Of each pool that should be there, the key of the last request that wrote it."""
    deleted: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, int] = field(default_factory=dict)
    """By key, how many objects the request puts."""
    unknown: list[str] = field(default_factory=list)
    """Keys of requests whose answer was never had."""
    late: list[tuple[int, Request, Answer]] = field(default_factory=list)
    done: int = 0
    sent: int = 0
    lost: int = 0

    async def work(self, operations: int, until: float) -> None:
        """So many operations, or as many as there is time for."""
        self.line = self.line.another()
        while self.done < operations and time.monotonic() < until:
            self.done += 1
            await self._one(f"{self.name}-{self.done}")
            await self._send_late(self.done)
        await self._send_late(self.done + LATER)
        self.line.close()

    async def _one(self, key: str) -> None:
        verbs = [self._create, self._create, self._patch, self._power, self._restart, self._delete, self._set]
        if len(self.machines) < 2:
            await self._create(key)
        elif len(self.machines) > MACHINES:
            await self._delete(key)
        elif self.chance.random() < 0.02:
            await self._forget(key)
        else:
            await self.chance.choice(verbs)(key)

    # --- operations ---

    async def _create(self, key: str) -> None:
        free = self._free()
        if free and self.chance.random() < 0.5:
            await self._do(Request(key, "POST", POOLS, pool(free, key)), 1)
            self.pools[free] = key
        else:
            answer = await self._do(Request(key, "POST", INSTANCES, machine(self.name, key)), 1, 201)
            self._made(answer.doc, key)

    async def _forget(self, key: str) -> None:
        """Nobody ever learns what became of it."""
        self.unknown.append(key)
        await self._lose(Request(key, "POST", INSTANCES, machine(self.name, key)), self.chance.randint(1, MOST))

    async def _patch(self, key: str) -> None:
        if self.pools and self.chance.random() < 0.5:
            name = self.chance.choice(list(self.pools))
            await self._do(Request(key, "PATCH", f"{POOLS}/{name}", changed(key, description=key)), 1)
            self.pools[name] = key
        else:
            await self._change(key, description=key)

    async def _power(self, key: str) -> None:
        name = self._some()
        wanted = "Stopped" if self.machines[name]["powerState"] == "Running" else "Running"
        await self._change(key, name, powerState=wanted)

    async def _restart(self, key: str) -> None:
        at = f"2026-11-25T{self.done // 3600 % 24:02}:{self.done // 60 % 60:02}:{self.done % 60:02}Z"
        await self._change(key, restart={"at": at, "mode": "Hard"})

    async def _change(self, key: str, name: str = "", **spec: Any) -> None:
        name = name or self._some()
        await self._do(Request(key, "PATCH", f"{INSTANCES}/{name}", changed(key, **spec)), 1)
        wished: JSON = {field: spec[field] for field in ("powerState", "restart") if field in spec}
        self.machines[name] = {**self.machines[name], **wished, "op": key}

    async def _delete(self, key: str) -> None:
        if self.pools and len(self.machines) <= MACHINES and self.chance.random() < 0.7:
            name = self.chance.choice(list(self.pools))
            await self._do(Request(key, "DELETE", f"{POOLS}/{name}"), 0)
            del self.pools[name]
        else:
            name = self._some()
            await self._do(Request(key, "DELETE", f"{INSTANCES}/{name}"), 0)
            del self.machines[name]
        self.deleted[name] += 1

    async def _set(self, key: str) -> None:
        """A machine more, one changed, a pool more and one less, as far as there are such."""
        name, free = self._some(), self._free()
        gone = self.chance.choice(list(self.pools)) if self.pools else ""
        one = {"verb": "patch", "kind": "Instance", "namespace": "default", "name": name}
        writes = [{"verb": "create", "object": machine(self.name, key)}, {**one, "patch": changed(key)}]
        writes += [{"verb": "create", "object": pool(free, key)}] if free else []
        puts = len(writes)
        writes += [{"verb": "delete", "kind": "ComputePool", "name": gone}] if gone else []
        answer = await self._do(transaction(key, writes), puts)
        self._made(answer.doc["results"][0], key)
        self.machines[name] = {**self.machines[name], "op": key}
        if free:
            self.pools[free] = key
        if gone:
            del self.pools[gone]
            self.deleted[gone] += 1

    def _made(self, doc: JSON, key: str) -> None:
        assert doc["metadata"]["name"] not in self.machines
        self.machines[doc["metadata"]["name"]] = {"op": key, "powerState": "Running", "restart": None}

    def _some(self) -> str:
        return self.chance.choice(list(self.machines))

    def _free(self) -> str:
        names = (f"{self.name}-pool-{nth}" for nth in range(SLOTS))
        return next((name for name in names if name not in self.pools), "")

    # --- sending ---

    async def _do(self, request: Request, puts: int, code: int = 0) -> Answer:
        """Have it carried out, whatever gets lost on the way; some copies of it come much later."""
        late = lost = 0
        if self.chance.random() < SHARE:
            copies = self.chance.randint(2, MOST)
            late = self.chance.randint(0, copies - 1)
            lost = copies - 1 - late
        if self.chance.random() < 0.5:
            await self._lose(request, lost)
            answer = await self._read(request)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lose(request, lost))
                answer = await self._read(request)
        assert answer.code == code or (not code and answer.code in {200, 201}), answer
        self.acknowledged[request.key] = puts
        self.late += [(self.done + self.chance.randint(1, LATER), request, answer)] * late
        return answer

    async def _send_late(self, upto: int) -> None:
        """The copies that are due: lost again, or answered as the first time."""
        due, self.late = [one for one in self.late if one[0] <= upto], [one for one in self.late if one[0] > upto]
        for _, request, before in due:
            if self.chance.random() < 0.5:
                await self._lose(request, 1)
            else:
                assert await self._read(request) == before, f"{request} was answered otherwise than before"

    async def _read(self, request: Request) -> Answer:
        self.sent += 1
        return await insist(self.line, request)

    async def _lose(self, request: Request, times: int) -> None:
        self.sent += times
        self.lost += times
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(self.line.another().lose(request, self.chance.uniform(0, 0.01)))


def pool(name: str, key: str) -> JSON:
    """A pool of hosts that nobody uses."""
    return {"kind": "ComputePool", "apiVersion": "nano/v1", "metadata": {"name": name, "annotations": {SETS: key}}}


def machine(prefix: str, key: str) -> JSON:
    """The server chooses its name, so that a second effect is a second machine."""
    named = {"generateName": f"{prefix}-", "namespace": "default", "annotations": {SETS: key}}
    spec = {"memory": "64Mi", "disks": [{"name": "system", "size": "1Mi"}]}
    return {"kind": "Instance", "apiVersion": "nano/v1", "metadata": named, "spec": spec}


def changed(key: str, **spec: Any) -> JSON:
    """A merge patch."""
    return {"metadata": {"annotations": {SETS: key}}, "spec": spec}


# --- what must be so ---------------------------------------------------------------------------------------


async def check_state(client: Client, callers: list[Caller]) -> None:
    """What is there is what the models say; of requests that nobody asked for again, at most one machine each."""
    forgotten = {key for one in callers for key in one.unknown}
    wished = {name: doc for one in callers for name, doc in one.machines.items()}
    async with asyncio.timeout(PATIENT):
        while any("deletionTimestamp" in one["metadata"] for one in (await client.list("instances"))[0]):
            await asyncio.sleep(0.1)
    found, _ = await client.list("instances")
    assert {one["metadata"]["name"]: wish_of(one) for one in found if op_of(one) not in forgotten} == wished
    assert max(Counter(op_of(one) for one in found if op_of(one) in forgotten).values(), default=0) <= 1
    pools, _ = await client.list("computepools")
    there = {one["metadata"]["name"]: op_of(one) for one in pools if op_of(one)}
    assert there == {name: key for one in callers for name, key in one.pools.items()}


def op_of(doc: JSON) -> str:
    """The key of the request that wrote an object last, "" for one of somebody else."""
    return str(doc["metadata"].get("annotations", {}).get(SETS, ""))


def wish_of(doc: JSON) -> JSON:
    """The part of an instance that the model has."""
    return {"op": op_of(doc), "powerState": doc["spec"]["powerState"], "restart": doc["spec"].get("restart")}


@dataclass
class Effects:
    """What the log says: the records of each key, where each effect began, and how often each name was deleted."""

    records: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    begun: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    deleted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, server: ServerProcess) -> Effects:
        """Read from the first record to the last."""
        effects, last = cls(), dict[tuple[str, str], JSON]()
        for record in server.records():
            if "key" in record:
                effects.records[record["key"]["name"]].append(record["rev"])
            for write in record["writes"]:
                effects._add(record["rev"], write, last)
        return effects

    def _add(self, rev: int, write: JSON, last: dict[tuple[str, str], JSON]) -> None:
        at = (write["kind"], write["name"])
        before, after = last.get(at), write["object"] if write["verb"] == "put" else None
        if after is None:
            last.pop(at, None)
        else:
            last[at] = after
            if op_of(after) and (before is None or op_of(before) != op_of(after)):
                self.begun[op_of(after)].append(rev)
        if before and _alive(before) and not (after and _alive(after)):
            self.deleted[write["name"]] += 1


def _alive(doc: JSON) -> bool:
    return "deletionTimestamp" not in doc["metadata"]


async def check_history(effects: Effects, callers: list[Caller], line: Line) -> None:
    """Each acknowledged request stands in the log once and began to show once; the others at most once.

    The server knows of the newest `KEPT_EACH` keys of its one user; it has forgotten the older ones.
    """
    carried_out = sorted((revs[0], key) for key, revs in effects.records.items())
    remembered = {key for _, key in carried_out[-KEPT_EACH:]}
    for caller in callers:
        for key, puts in caller.acknowledged.items():
            assert len(effects.records[key]) == 1, f"{key} stands in the records {effects.records[key]}"
            assert effects.begun[key] == effects.records[key] * puts, f"{key} had effects in {effects.begun[key]}"
        for key in caller.unknown:
            assert len(effects.records[key]) <= 1
            assert effects.begun[key] == effects.records[key]
            assert (await seen(line, key)).code == (200 if key in remembered else 404), key
    assert effects.deleted == sum((one.deleted for one in callers), Counter())
    known = {key for one in callers for key in [*one.acknowledged, *one.unknown]}
    assert set(effects.begun) <= known
