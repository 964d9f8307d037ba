"""The server killed at every store commit of a create, a stop, a start and a delete: everything converges, once.

A point is a sync of the log: its record is written, nobody has been told of it, and kill -9 takes the server there.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.errors import AlreadyExists, NotFound, StoreUnreachable
from tests.e2e.server_process import PATIENT, ServerProcess
from tests.e2e.simulated_agent import SimulatedAgent, starts, until_nothing_is_left, with_agents
from tests.e2e.waiting import condition, instance, instance_key, quiet, until, until_gone, until_gone_named
from tests.faults.strace import KILL, Fault

SAMPLE = (2, 4)
"""Which points are tried when there is no time for all of them."""
MOST = 40
"""More commits than one wish can take: an operation that needs them does not settle."""
WRITE = ("verb", "kind", "name")
Step = Callable[[Client, str], Awaitable[object]]


@dataclass(frozen=True)
class Operation:
    """What is wished of the instance of a name, what must be so before, what is so after it, and its starts by then."""

    title: str
    before: tuple[Step, ...]
    wish: Step
    after: Step
    starts: int


async def create(client: Client, name: str) -> None:
    await client.create(instance(name))


async def running(client: Client, name: str) -> None:
    await until(client, instance_key(name), "Running")


async def stopped(client: Client, name: str) -> None:
    await until(client, instance_key(name), "Stopped")


async def stop(client: Client, name: str) -> None:
    await client.patch(instance_key(name), {"spec": {"powerState": "Stopped"}})


async def start(client: Client, name: str) -> None:
    await client.patch(instance_key(name), {"spec": {"powerState": "Running"}})


async def delete(client: Client, name: str) -> None:
    await client.delete(instance_key(name))


OPERATIONS = [
    Operation("create", (), create, running, starts=1),
    Operation("stop", (create, running), stop, stopped, starts=1),
    Operation("start", (create, running, stop, stopped), start, running, starts=2),
    Operation("delete", (create, running), delete, until_gone_named, starts=1),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", [pytest.param(SAMPLE, id="some"), pytest.param((), id="all", marks=pytest.mark.long)])
@pytest.mark.parametrize("agent_too", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_server_killed_at_a_commit_does_everything_once(
    tmp_path: Path, which: tuple[int, ...], *, agent_too: bool
) -> None:
    points: list[str] = []
    async with with_agents(tmp_path, "node-1") as (server, agents, client):
        await quiet(client)
        trial = Trial(server, agents, client, tmp_path / "trace", agent_too=agent_too)
        for operation in OPERATIONS:
            found = [f"{operation.title} {line}" async for line in trial.points_of(operation, which or count(1))]
            assert found, f"no commit of {operation.title} was struck"
            points += found
    print("\n".join(points))  # noqa: T201 - the list of points


@dataclass(frozen=True)
class Trial:
    """One server and one host, on which instance after instance lives through a death of the server."""

    server: ServerProcess
    agents: dict[str, SimulatedAgent]
    client: Client
    trace: Path
    agent_too: bool

    async def points_of(self, operation: Operation, which: Iterable[int]) -> AsyncIterator[str]:
        """Strike at each of these commits, as far as the operation has so many; what each point was."""
        for at in which:
            assert at < MOST, f"{operation.title} does not come to an end"
            name = f"{operation.title}-{at}"
            for step in operation.before:
                await step(self.client, name)
            await quiet(self.client)
            struck_at = await self._struck(operation, name, at)
            await self._check(operation, name)
            if not struck_at:
                return
            yield f"{at}: {struck_at}"

    async def _struck(self, operation: Operation, name: str, at: int) -> str:
        """Wish it of a server that dies at commit number `at`; what that wrote, or "" if all was settled before."""
        revision = records(self.server)[-1][0]
        with killer(self.server, at, self.trace):
            answered = await heard(operation.wish, self.client, name)
            while self.server.alive:
                if answered and await settled(operation.after, self.client, name):
                    return ""
                await asyncio.sleep(0.02)
        self.server.wait()
        struck_at = [what for rev, what in records(self.server) if rev > revision][-1]
        if self.agent_too:
            await self.agents["node-1"].end()
        await self.server.restart()
        if self.agent_too:
            self.agents["node-1"].begin()
        assert answered or await heard(operation.wish, self.client, name)
        return struck_at

    async def _check(self, operation: Operation, name: str) -> None:
        """It ends as it would have without the death, each start was made once, and a deletion leaves nothing."""
        await operation.after(self.client, name)
        if operation.wish is not delete:
            doc = await self.client.get(instance_key(name))
            assert starts(self.agents)[doc["metadata"]["uid"]] == operation.starts
            assert len(doc["status"]["addresses"]) == len((await self.client.list("addresses"))[0]) == 1
            assert condition(doc)["status"] == "True", (name, condition(doc))
            await self.client.delete(instance_key(name))
        for plural in ("instances", "placements", "volumes", "addresses"):
            await until_gone(self.client, plural)
        await until_nothing_is_left(self.agents)
        assert max(starts(self.agents).values()) <= 2


async def heard(wish: Step, client: Client, name: str) -> bool:
    """Whether the server lived to answer; that it has heard the wish before is an answer, too."""
    try:
        await wish(client, name)
    except StoreUnreachable:
        return False
    except (AlreadyExists, NotFound):
        return True
    return True


async def settled(after: Step, client: Client, name: str) -> bool:
    """Whether the end has come with the server alive, and nothing was written for a second after it."""
    try:
        await after(client, name)
        await quiet(client)
    except StoreUnreachable:
        return False
    return True


@contextmanager
def killer(server: ServerProcess, at: int, trace: Path, syscall: str = "fdatasync") -> Iterator[None]:
    """Within the block, the call number `at` of the server's log is not carried out: the server is killed instead.

    The main thread is not traced: the log has one of its own, in which it writes, syncs, and wakes the main one.
    """
    words = ["-o", str(trace), "-e", f"trace={syscall}", "-e", f"inject={Fault(syscall, KILL, at)}"]
    command = ["strace", "-qq", *words, *(f"--attach={task.name}" for task in threads(server.pid))]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENT
        while not traced(server.pid):
            assert strace.poll() is None, "strace cannot attach to the server"
            assert time.monotonic() < deadline, "strace does not attach to the server"
            time.sleep(0.01)
        yield
    finally:
        if strace.poll() is None and server.alive:
            strace.send_signal(signal.SIGINT)
        strace.wait(PATIENT)


def threads(pid: int) -> list[Path]:
    """Of each thread but the main one, its folder in /proc."""
    return [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]


def traced(pid: int) -> bool:
    """Whether every thread but the main one is being traced."""
    states = [(task / "status").read_text() for task in threads(pid)]
    return not any(re.search(r"^TracerPid:\s+0$", state, re.MULTILINE) for state in states)


def records(server: ServerProcess) -> list[tuple[int, str]]:
    """Each record of the log with what it writes, such as `put placements web-1`."""
    return [
        (doc["rev"], ", ".join(f"{one['verb']} {one['kind']} {one['name']}" for one in doc["writes"]))
        for doc in server.records()
    ]
