"""Stores that are filled beforehand, without a server: as many objects as a benchmark wants, all of them settled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from nanovirt.controllers import instances
from nanovirt.controllers.actions import Transact
from nanovirt.controllers.world import World
from nanovirt.resources import registry
from nanovirt.resources.codec import JSON, load, trusted
from nanovirt.resources.conditions import condition
from nanovirt.resources.defaults import defaults, made
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.reasons import Reason
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Half, Update, transact

BATCH = 100
HOSTS = 1_000
NOTE = "x" * 715
"""Makes an Instance about 2 KB once stored."""
NAME, UID, HOST = "template-name", str(uuid.UUID(int=1)), "template-host"
IP = "10.1.0.0"
INSTANCE = Key("instances", "default", NAME)
ROOM: JSON = {"cpus": 32, "memory": "128Gi", "disk": "2Ti"}
WISH: JSON = {
    "cpus": 2,
    "memory": "4Gi",
    "disks": [{"name": "system", "size": "20Gi"}],
}

assert registry.kinds()


def plain(count: int) -> Iterator[list[Create]]:
    """Instances of 2 KB that nobody can place, with the status that says so."""
    bench = Bench()
    bench.add_instance(NOTE)
    bench.plan()
    yield from bench.copies(count, (INSTANCE,))


def owned(count: int) -> Iterator[list[Create]]:
    """Instances with Placement, Volume and Address, on hosts of which nothing has been heard: phase Unknown."""
    for number in range(HOSTS):
        yield [_create(_host(f"host-{number:04}"))]
    bench = Bench()
    bench.add_host()
    bench.add_instance("x" * 100)
    bench.plan()
    bench.tell_running()
    bench.silence_host()
    bench.plan()
    kept = [key for key in bench.keys if key.plural in ("instances", "placements", "volumes", "addresses")]
    yield from bench.copies(count, kept)


def beginnings() -> Iterator[Document]:
    """What a new cluster begins with, with an address pool that is large enough."""
    yield from (thing for thing in defaults() if thing.facts.kind != "AddressPool")
    ranges = [{"name": "guests", "first": "10.1.0.0", "last": "10.199.255.255"}]
    yield made("AddressPool", "lan", network="default", subnet="10.0.0.0/8", gateway="10.0.0.1", ranges=ranges)


def _host(name: str) -> Document:
    return made("Host", name, bridges=[{"network": "default", "device": "nano0"}])


def _create(thing: Document) -> Create:
    return Create(thing.key, thing.to_json())


class Bench:
    """One instance that is planned as the real controller does it, to be copied."""

    def __init__(self) -> None:
        self._store = Engine(MemoryLog())
        self._world = World(self._store, Reports(0.0))
        self._store.stage([_create(thing) for thing in beginnings()], "bench")
        self.keys: list[Key] = []

    def add_host(self) -> None:
        host = _host(HOST)
        ready = (
            condition("Ready", "True", Reason.Reporting, 1),
            condition("StorageReady", "True", Reason.StorageReady, 1),
        )
        status = {"architecture": "x86_64", "capacity": ROOM, "conditions": [one.to_json() for one in ready]}
        self._store.stage([Create(host.key, host.to_json() | {"status": status})], "bench")

    def silence_host(self) -> None:
        key = Key("hosts", "", HOST)
        self._store.stage([Update(key, {"status": {}}, Half.STATUS)], "bench")

    def add_instance(self, note: str) -> None:
        metadata = {"name": NAME, "namespace": "default", "uid": UID, "labels": {"app": "web"}}
        doc = {"metadata": {**metadata, "annotations": {"note": note}}, "spec": WISH}
        instance = Instance.model_validate(doc)
        self._store.stage([Create(INSTANCE, instance.to_json())], "bench")
        self.keys.append(INSTANCE)

    @property
    def mac(self) -> str:
        """Of the instance's card; "" before it is placed."""
        entry = next((self._store.peek(key) for key in self.keys if key.plural == "addresses"), None)
        return str(entry.row.mac) if entry is not None else ""

    def tell_running(self) -> None:
        key = next(key for key in self.keys if key.plural == "placements")
        status = {
            "state": "Running",
            "epoch": 1,
            "appliedGeneration": 1,
            "applied": {"cpu": 2, "memory": "4Gi"},
            "started": 1,
            "nics": [{"name": "nic0", "mac": self.mac, "ip": IP, "leased": True}],
            "volumes": [{"name": "system", "used": "196608"}],
        }
        self._store.stage([Update(key, {"status": status}, Half.STATUS)], "bench")

    def plan(self) -> None:
        entry = self._store.peek(INSTANCE)
        assert entry is not None
        for action in instances.plan(trusted(Instance, entry.raw), self._world, datetime.now(UTC)):
            assert isinstance(action, Transact)
            self._store.stage(action.ops, "instances")
            self.keys += [op.key for op in action.ops if isinstance(op, Create)]

    def copies(self, count: int, keys: list[Key] | tuple[Key, ...]) -> Iterator[list[Create]]:
        """The objects under `keys` as those of so many instances, each with names, uids and addresses of its own."""
        found = [(key, self._store.peek(key)) for key in keys]
        raws = [(key, entry.raw) for key, entry in found if entry is not None]
        mac = self.mac or "no card"
        for number in range(count):
            texts = _texts(number, mac)
            yield [_copy(key, raw, texts) for key, raw in raws]


def _texts(number: int, card: str) -> dict[bytes, bytes]:
    high, middle, low = number >> 16, number >> 8 & 255, number & 255
    texts = {
        NAME: f"vm-{number:06}",
        UID: str(uuid.uuid4()),
        HOST: f"host-{number % HOSTS:04}",
        IP: f"10.{1 + high}.{middle}.{low}",
        card: f"52:54:00:{high:02x}:{middle:02x}:{low:02x}",
    }
    return {old.encode(): new.encode() for old, new in texts.items()}


def _copy(key: Key, raw: bytes, texts: dict[bytes, bytes]) -> Create:
    for old, new in texts.items():
        raw = raw.replace(old, new)
    doc = load(raw)
    if key.plural != "instances":
        doc["metadata"]["uid"] = str(uuid.uuid4())
    return Create(Key(key.plural, doc["metadata"].get("namespace", ""), doc["metadata"]["name"]), doc)


async def _write(directory: Path, groups: Iterator[list[Create]]) -> dict[str, tuple[int, int]]:
    journal = FileLog.open(directory)
    store = Engine(journal)
    sizes: dict[str, tuple[int, int]] = {}
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(store.run())
        await transact(store, [_create(thing) for thing in beginnings()], "bench")
        many: list[Create] = []
        for group in groups:
            many += group
            if len(many) >= BATCH:
                await transact(store, many, "bench")
                many = []
        if many:
            await transact(store, many, "bench")
        committer.cancel()
    for plural in registry.kinds():
        entries = store.list(plural)
        sizes[plural] = (len(entries), sum(len(entry.raw) for _, entry in entries))
    journal.close()
    return sizes


def fill(directory: Path, groups: Iterator[list[Create]]) -> dict[str, tuple[int, int]]:
    """Make a log of that; count and bytes of what is in it, by plural."""
    return asyncio.run(_write(directory, groups))
