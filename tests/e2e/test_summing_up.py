"""A server whose log is summed up all the time, killed and restarted: nothing is lost, no watch has to list anew."""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.snapshots import revision_of, snapshots
from tests.e2e.keyed import Line, insist, transaction
from tests.e2e.server_process import PATIENT, ServerProcess, running_server

NAMES, ROUNDS, DEATHS = 60, 120, 6
HISTORY = "1Mi"


class TidyServer(ServerProcess):
    """Sums up its log often."""

    program = (sys.executable, "-m", "tests.e2e.tidy_server")


def made(number: int, turn: int) -> JSON:
    """An Instance of about 1 KB that never runs."""
    metadata = {"name": f"i-{number}", "namespace": "default", "annotations": {"turn": f"{turn} {'x' * 500}"}}
    spec = {"powerState": "Stopped"}
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": metadata, "spec": spec}


async def follow(client: Client, revision: str, seen: dict[str, str]) -> None:
    """Keep what a watch tells, from one revision on and for ever; Expired would end the test."""
    async with aclosing(client.watch("instances", "default", revision)) as events:
        async for event in events:
            if event.type != "BOOKMARK":
                metadata = event.object["metadata"]
                assert int(metadata["resourceVersion"]) > int(seen.get(metadata["name"], "0")), metadata
                seen[metadata["name"]] = metadata["resourceVersion"]


def at_hand(server: ServerProcess) -> list[int]:
    """The revisions of the snapshots that a start may begin from."""
    return [revision_of(path) for path in snapshots(server.folder / "data") if path.parent.name == "snap"]


async def write(server: ServerProcess, first: int, least: int) -> int:
    """Change many instances with each request, insisting on an answer, as often as `least` says and until there is
    a past of two snapshots, and no third one of a summing up that was killed; the last turn.
    """
    line, turn = Line(server), first - 1
    while turn < least or len(at_hand(server)) != 2:
        turn += 1
        verb = "update" if turn else "create"
        writes = [{"verb": verb, "object": made(number, turn)} for number in range(NAMES)]
        answer = await insist(line, transaction(f"turn-{turn}", writes))
        assert answer.code == 200, answer
    line.close()
    return turn


async def kill(server: ServerProcess, chance: random.Random) -> None:
    """Kill it again and again, every other time while its log is summed up."""
    for death in range(DEATHS):
        until = asyncio.get_running_loop().time() + chance.uniform(0.2, 3)
        while asyncio.get_running_loop().time() < until and not (death % 2 and _summing_up(server)):
            await asyncio.sleep(0.005)
        server.kill()
        await server.restart()


def _summing_up(server: ServerProcess) -> bool:
    return any(server.folder.glob("data/*/*.tmp"))


@pytest.mark.timeout(600)
async def test_log_that_is_summed_up_all_the_time_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")  # noqa: T201
    with running_server(tmp_path / "server", "--history", HISTORY, cls=TidyServer) as server:
        seen: dict[str, str] = {}
        async with server.client() as client, server.client() as watcher:
            _, revision = await client.list("instances", "default")
            async with asyncio.TaskGroup() as group:
                following = group.create_task(follow(watcher, revision, seen))
                async with asyncio.TaskGroup() as busy:
                    writing = busy.create_task(write(server, 0, ROUNDS))
                    busy.create_task(kill(server, random.Random(seed)))
                items, _ = await client.list("instances", "default")
                there = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}
                async with asyncio.timeout(PATIENT):
                    while seen != there:
                        await asyncio.sleep(0.1)
                following.cancel()
            assert len(items) == NAMES
            assert {item["metadata"]["annotations"]["turn"].split()[0] for item in items} == {str(writing.result())}
        data = server.folder / "data"
        async with asyncio.timeout(PATIENT):  # what the last death left behind goes when the log is summed up again
            await write(server, writing.result() + 1, 0)
        kept = sum(path.stat().st_size for path in (data / "history").iterdir())
        assert kept < 2 * (1 << 20), "what a start needs may be more than the bound, but not by much"
        assert "could not be summed up" not in server.said()
