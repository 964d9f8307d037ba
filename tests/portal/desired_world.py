"""A directory of desired objects on a real disk, its real keeper, and the engine and pipeline that it writes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from nanovirt.portal.api.intents import intents
from nanovirt.portal.api.requests import Options
from nanovirt.portal.api.transacting import Transactor
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.resources import registry
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.defaults import defaults
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.store import Create, Half, Update, transact

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
assert registry.MODULES


def machine(name: str, **spec: Any) -> JSON:
    """An Instance that needs nothing."""
    wanted = {"disks": [{"name": "system", "size": "1Gi"}], **spec}
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": wanted}


def text(*docs: JSON) -> str:
    """A file of these documents."""
    return "---\n".join(yaml.dump(one, Dumper=DUMPER, sort_keys=False, allow_unicode=True) for one in docs)


def several(count: int, first: int = 0) -> str:
    """A file of so many Instances, web-0 and on."""
    return text(*(machine(f"web-{number}") for number in range(first, first + count)))


def web(name: str) -> Key:
    return Key("instances", "default", name)


@dataclass
class World:
    """`see` lets the keeper look twice, which is when what lies there counts."""

    folder: Path
    store: Engine
    writer: Writer
    desired: Desired
    subjects: list[Subject] = field(default_factory=lambda: [ADMIN])

    def put(self, path: str, *docs: JSON) -> Path:
        """Write a file as a careful program does."""
        return self.write(path, text(*docs))

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.folder / path
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if file.is_symlink():
            file.unlink()  # or what it leads to would be written
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(0o644)
        return file

    async def see(self) -> JSON:
        for _ in range(2):
            await self.desired.look()
        return self.desired.standing.told()

    def doc(self, name: str) -> JSON:
        """An Instance as it is stored."""
        return load(self.store.get(web(name)).raw)

    def spec(self, name: str) -> Any:
        return self.doc(name)["spec"]

    @property
    def names(self) -> set[str]:
        return {key.name for key, _ in self.store.list("instances")}

    async def api(self, *writes: JSON) -> None:
        """What somebody else writes through the API."""
        await Transactor(self.store, self.writer, lambda: NOW).carry_out(
            ADMIN, intents(list(writes)), Options(dry=False, validation="Strict")
        )

    async def edit(self, name: str, **spec: Any) -> None:
        """A merge patch of an Instance by somebody else."""
        named = {"kind": "Instance", "namespace": "default", "name": name}
        await self.api({"verb": "patch", **named, "patch": {"spec": spec}})

    async def remove(self, name: str) -> None:
        """Somebody else deletes an Instance, and the host has said that nothing is left."""
        await self.api({"verb": "delete", "kind": "Instance", "namespace": "default", "name": name})
        await self.let_go(name)

    async def let_go(self, name: str) -> None:
        """What the controllers do at the end of a deletion."""
        entry = self.store.peek(web(name))
        if entry is not None and entry.deleting:
            doc = load(entry.raw)
            doc["metadata"]["finalizers"] = []
            await transact(self.store, [Update(web(name), doc, Half.MAIN)], "system:controllers")

    def reasons(self, path: str = "") -> list[str]:
        """Why a file (or the directory) is as it is."""
        told = self.desired.standing.told()
        if not path:
            return [one["reason"] for one in told["conditions"]]
        return [one["reason"] for file in told["files"] if file["path"] == path for one in file["conditions"]]

    def message(self, path: str = "") -> str:
        told = self.desired.standing.told()
        found = (
            told["conditions"]
            if not path
            else [one for file in told["files"] if file["path"] == path for one in file["conditions"]]
        )
        return " ".join(one["message"] for one in found)


@asynccontextmanager
async def world(folder: Path, *, prune: bool = False, store: Engine | None = None) -> AsyncIterator[World]:
    """A cluster as it begins, and an empty directory."""
    engine = store or Engine(MemoryLog(), lambda: NOW)
    directory = folder / "desired"
    directory.mkdir(mode=0o755, exist_ok=True)
    async with asyncio.TaskGroup() as group:
        committer = group.create_task(engine.run())
        try:
            if not engine.committed:
                await transact(engine, [Create(thing.key, thing.to_json()) for thing in defaults()], "system:setup")
            writer = Writer(engine)
            subjects = [ADMIN]
            desired = Desired(
                engine, writer, directory, lambda: subjects[0], lambda: NOW, user="admin", prune=prune, settle=0.0
            )
            yield World(directory, engine, writer, desired, subjects)
        finally:
            committer.cancel()
