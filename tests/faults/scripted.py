"""What stands in revision N of a scripted log: a transaction like the engine's, known from N, a seed and a life."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import orjson

from nanovirt.resources.file_log import Sizes
from nanovirt.resources.log import Record

SIZES = Sizes(segment=1 << 12, ballast=1 << 12, room=0, snapshot=1 << 13, history=1 << 11)
"""Small, so that a short script goes through several segments, sums them up and gives up the oldest."""
NAMES = 12
LARGEST = 3000
"""Bytes of padding in an object."""


def sizes(seed: int) -> Sizes:
    """What the log of a seed is opened with: some keep hardly any history, some nearly all."""
    return replace(SIZES, history=(1 << 9, 1 << 11, 1 << 13)[seed % 3])


@cache
def record(rev: int, seed: int = 0, life: int = 0) -> Record:
    """One or two writes to a handful of objects; one in four is a deletion. Lives write different things."""
    chance = random.Random(f"{seed} {life} {rev}")
    writes = [_write(rev, chance) for _ in range(chance.randint(1, 2))]
    said = {
        "rev": rev,
        "at": f"2030-01-01T00:00:00.{rev % 1_000_000:06d}Z",
        "by": f"life-{life}",
        "request": f"r-{rev}",
    }
    return Record(rev, json.dumps({**said, "writes": writes}, separators=(",", ":")).encode())


def _write(rev: int, chance: random.Random) -> dict[str, object]:
    name = f"o-{chance.randrange(NAMES)}"
    key = {"kind": "instances", "namespace": "default", "name": name}
    if chance.random() < 0.25:
        return {"verb": "delete", **key}
    padding = "v" * int(LARGEST ** chance.random())
    metadata: dict[str, object] = {"name": name, "namespace": "default", "uid": f"{rev:032x}"}
    metadata |= {"resourceVersion": str(rev), "generation": 1, "annotations": {"padding": padding}}
    doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": metadata, "spec": {"cpus": 1 + rev % 8}}
    return {"verb": "put", **key, "object": doc}


def records(first: int, last: int, seed: int = 0, life: int = 0) -> list[Record]:
    """Revisions `first` to `last`, both included."""
    return [record(rev, seed, life) for rev in range(first, last + 1)]


def batch(after: int, chance: random.Random, seed: int = 0, life: int = 0) -> list[Record]:
    """A group commit behind revision `after`, of one to four records."""
    return records(after + 1, after + chance.randint(1, 4), seed, life)


def summed(history: Sequence[Record]) -> list[bytes]:
    """What these records add up to, as a snapshot says it, in no order."""
    last: dict[str, bytes] = {}
    for one in history:
        for write in orjson.loads(one.body)["writes"]:
            if write.pop("verb") == "put":
                last[write["name"]] = orjson.dumps(write)
            else:
                last.pop(write["name"], None)
    return sorted(last.values())
