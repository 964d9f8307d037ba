"""The past over HTTP: a server whose log is in memory or in small files, and what changes in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nanovirt.resources.codec import dump, load
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.store import Half, Update, transact
from tests.portal.api_world import INSTANCES, NANO, Reply, World, world

JSON = dict[str, Any]
POOLS, HISTORY = f"{NANO}/addresspools", f"{NANO}/history"
BACK = f"{HISTORY}/rollback"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
SMALL = Sizes(segment=1 << 14, ballast=1 << 12, room=0)
WEB = Key("instances", "default", "web-1")


@asynccontextmanager
async def remembering(kind: str, folder: Path) -> AsyncIterator[World]:
    """A world whose log is in `memory`, or in a `file` and more below the folder."""
    log: Log = MemoryLog() if kind == "memory" else FileLog.open(folder, SMALL)
    try:
        async with world(log=log) as running:
            yield running
    finally:
        log.close()


async def change(w: World, name: str = "web-1", subject: str = "admin", **spec: Any) -> JSON:
    headers = {"Content-Type": "application/merge-patch+json"}
    made = await w.call("PATCH", f"{INSTANCES}/{name}", {"spec": spec}, headers=headers, subject=subject)
    assert made.code == 200, made.raw
    found: JSON = made.doc
    return found


async def remove(w: World, path: str, key: Key) -> None:
    """Delete, and do what the controllers would do until it is gone."""
    assert (await w.call("DELETE", path)).code == 200
    if entry := w.store.peek(key):
        doc = load(entry.raw)
        doc["metadata"]["finalizers"] = []
        await transact(w.store, [Update(key, doc)], "system:controllers")


async def gone(w: World, name: str = "web-1") -> None:
    await remove(w, f"{INSTANCES}/{name}", Key("instances", "default", name))


def revision(doc: JSON) -> int:
    return int(doc["metadata"]["resourceVersion"])


def names(reply: Reply) -> list[str]:
    return [one["metadata"]["name"] for one in reply.doc["items"]]


async def status(w: World, key: Key, **said: Any) -> None:
    doc = load(w.store.get(key).raw) | {"status": said}
    await transact(w.store, [Update(key, doc, Half.STATUS)], "system:agent")


async def back(w: World, to: int | str, subject: str = "admin", query: str = "", **asked: Any) -> Reply:
    doc = {"to": str(to), "objects": {}, **asked}
    return await w.call("POST", BACK + query, doc, subject=subject)


def specs(w: World) -> dict[Key, bytes]:
    """The main halves of what people write."""
    found = {}
    for plural in ("instances", "addresspools", "images", "computepools"):
        for key, entry in w.store.list(plural):
            doc = load(entry.raw)
            labels = {name: text for name, text in doc["metadata"].get("labels", {}).items() if name != "nano/owner"}
            found[key] = dump({"spec": doc["spec"], "labels": labels, "notes": doc["metadata"].get("annotations", {})})
    return found
