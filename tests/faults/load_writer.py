"""A program that loads a store over a file log until it is killed, and says what it sends and what is acknowledged.

`python -m tests.faults.load_writer DIRECTORY SEED LIFE`. First `found REVISION DIGEST`, of all objects that the start
has found; then, before the log can hear of a transaction, `sent REVISION NAME VALUE...` (`-`: deleted); and `acked
REVISION` when it is durable.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from hashlib import sha256
from pathlib import Path

from nanovirt.resources.codec import load
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Create, Delete, Op, Ticket, Update

kinds()
SIZES = Sizes(segment=1 << 18, ballast=1 << 12, room=0, snapshot=1 << 20, history=1 << 22)
WRITERS, NAMES = 12, 300
DELETED = "-"
State = dict[str, tuple[str, int]]
"""The value of each name, and the revision that it is from."""


def digest(state: State) -> str:
    """The same for the same state."""
    lines = sorted(f"{name} {value} {rev}" for name, (value, rev) in state.items())
    return sha256("\n".join(lines).encode()).hexdigest()


def held(engine: Engine) -> State:
    """What the store has."""
    docs = [load(entry.raw)["metadata"] for _, entry in engine.list("namespaces")]
    return {doc["name"]: (doc["annotations"]["value"], int(doc["resourceVersion"])) for doc in docs}


def say(lines: list[str]) -> None:
    """All at once."""
    rest = memoryview("".join(f"{line}\n" for line in lines).encode())
    while rest:
        rest = rest[os.write(1, rest) :]


class Writer:
    """Sends bursts of transactions and waits until each is durable."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._chance = random.Random(name)
        self._sent = 0

    async def run(self) -> None:
        """For ever."""
        while True:
            burst = [self._send() for _ in range(self._chance.randint(1, 10))]
            say([line for line, _ in burst])
            for _, ticket in burst:
                await ticket.durable()
                say([f"acked {ticket.outcome.rev}"])

    def _send(self) -> tuple[str, Ticket]:
        names = self._chance.sample(range(NAMES), self._chance.choice([1, 1, 1, 2]))
        changes = [self._change(f"n-{number}") for number in names]
        ticket = self._engine.stage([op for op, _ in changes], self._name)
        return f"sent {ticket.outcome.rev} " + " ".join(words for _, words in changes), ticket

    def _change(self, name: str) -> tuple[Op, str]:
        key = Key("namespaces", "", name)
        there = self._engine.peek(key) is not None
        if there and self._chance.random() < 0.2:
            return Delete(key), f"{name} {DELETED}"
        self._sent += 1
        value = f"{self._name}.{self._sent}"
        doc = {"metadata": {"name": name, "annotations": {"value": value}}}
        return Update(key, doc) if there else Create(key, doc), f"{name} {value}"


async def main(directory: Path, seed: str, life: str) -> None:
    """Recover, say so, write."""
    log = FileLog.open(directory, SIZES)
    engine = Engine(log)
    say([f"found {engine.committed} {digest(held(engine))}"])
    async with asyncio.TaskGroup() as group:
        group.create_task(log.tend())
        group.create_task(engine.run())
        for nth in range(WRITERS):
            group.create_task(Writer(engine, f"{seed}.{life}.{nth}").run())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
