"""Whether time tells the absent from the invisible: the same requests of a member about both, in turns."""

from __future__ import annotations

import gc
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import uvloop

from tests.bench._wire import Http
from tests.portal.people_world import People, document, group, people_world, role

SHORT = bool(os.environ.get("NANO_BENCH_SHORT"))
TRIES, WARM = (200, 50) if SHORT else (2_000, 200)
OTHERS = 200
"""Objects of somebody else, and as many names that are not taken."""
ALARM = 5.0
"""Per cent of the median by which the two may differ."""
SETS = "/apis/nano/v1/transactions"
SECRETS = "/apis/nano/v1/namespaces/team-a/secrets"
MERGE, JSON = "application/merge-patch+json", "application/json"


@dataclass(frozen=True)
class Question:
    """A request about a name."""

    what: str
    method: str
    path: str = SECRETS + "/{name}"
    body: str = ""
    kind: str = JSON

    async def ask(self, client: Http, name: str) -> float:
        """Seconds until it is answered, which must not be with the object."""
        path, body = self.path.replace("{name}", name), self.body.replace("{name}", name).encode()
        began = time.perf_counter()
        code, said = await client.call(self.method, path, body, self.kind)
        took = time.perf_counter() - began
        assert code in (404, 409), (self, code, said)
        return took


def transaction(write: dict[str, str]) -> str:
    """A set of one write."""
    return orjson.dumps({"kind": "Transaction", "writes": [write]}).decode()


NAMED = {"kind": "Secret", "namespace": "team-a", "name": "{name}"}
QUESTIONS = (
    Question("get", "GET"),
    Question("patch", "PATCH", body='{"spec":{"displayName":"x"}}', kind=MERGE),
    Question("delete", "DELETE"),
    Question("set: expect", "POST", SETS, transaction({"verb": "expect", "resourceVersion": "1"} | NAMED)),
    Question("set: delete", "POST", SETS, transaction({"verb": "delete", **NAMED})),
)  # fmt: skip


class Authorized(Http):
    """A connection of a member."""

    token = ""

    async def call(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> tuple[int, bytes]:
        """Status and body of one request; HEAD is not asked for."""
        return await super().call(method, path, body, f"{kind}\r\nAuthorization: Bearer {self.token}")


@asynccontextmanager
async def member(p: People) -> AsyncIterator[Authorized]:
    """Alice, who may do everything with what is hers, among what is not."""
    await p.user("alice")
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete")
    await p.does(role("all", (["secrets"], verbs)), group("team", ["alice"], ["all"], ["team-a"]))
    await p.does(*(document("secrets", f"there-{at}", "team-a", "bob") for at in range(OTHERS)))
    client = await Authorized.open(int(p.base.rpartition(":")[2]))
    assert isinstance(client, Authorized)
    client.token = p.tokens["alice"]
    try:
        yield client
    finally:
        client.close()


async def times(client: Http, question: Question) -> tuple[list[float], list[float]]:
    """Seconds of requests about the invisible, and of those about the absent; which comes first is thrown."""
    taken: dict[str, list[float]] = {"there": [], "gone": []}
    for at in range(WARM + TRIES):
        for word in random.sample(("there", "gone"), 2):
            name = f"{word:<5}-{random.randrange(OTHERS)}".replace(" ", "x")
            took = await question.ask(client, name)
            if at >= WARM:
                taken[word].append(took)
    return taken["there"], taken["gone"]


async def measure() -> list[tuple[str, float, float]]:
    """Of each question the medians in ms."""
    async with people_world() as p, member(p) as client:
        found = []
        for question in QUESTIONS:
            gc.collect()
            there, gone = await times(client, question)
            found.append((question.what, statistics.median(there) * 1000, statistics.median(gone) * 1000))
        return found


def main() -> None:
    """Print the table; ends with 1 when a difference is beyond the alarm and the run is not a short one."""
    breached = []
    print(f"median of {TRIES} tries, in turns{'invisible':>12}{'absent':>10}  ms{'differ':>10} %")
    for what, there, gone in uvloop.run(measure()):
        percent = abs(there - gone) / min(there, gone) * 100
        print(f"{what:32}{there:12.3f}{gone:10.3f}    {percent:10.1f}")
        if percent >= ALARM:
            breached.append(what)
    print(f"goal and alarm: less than {ALARM:.0f} %")
    if breached and not SHORT:
        print(f"absence: beyond the alarm: {'; '.join(breached)}")
        sys.exit(1)
