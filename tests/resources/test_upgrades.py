"""Objects that older releases stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nanovirt.resources import engine as engine_module
from nanovirt.resources import upgrades
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import NanoError
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Create, Update, transact

kinds()
SIZES = Sizes(segment=1 << 12, ballast=1 << 12, room=0)


def said(doc: JSON, word: str) -> JSON:
    """The object with one more word in an annotation."""
    annotations = doc["metadata"].get("annotations", {})
    return {**doc, "metadata": {**doc["metadata"], "annotations": {"said": annotations.get("said", "") + word}}}


def set_steps(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Let the schema of namespaces have changed once for each word."""
    steps = [lambda doc, word=word: said(doc, word) for word in words]
    monkeypatch.setattr(upgrades, "UPGRADES", {"namespaces": steps})
    engine_module._object_of.cache_clear()


async def written(directory: Path, *names: str) -> None:
    log = FileLog.open(directory, SIZES)
    store = Engine(log)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(store.run())
        for name in names:
            key = Key("namespaces", "", name)
            make = Update if store.peek(key) else Create
            await transact(store, [make(key, {"metadata": {"name": name, "labels": {"of": "x" * 900}}})], "alice")
        running.cancel()
    log.close()


def read(directory: Path) -> dict[str, str]:
    """What was said to each object."""
    log = FileLog.open(directory, SIZES)
    try:
        docs = [load(entry.raw) for _, entry in Engine(log).list("namespaces")]
    finally:
        log.close()
    return {doc["metadata"]["name"]: doc["metadata"].get("annotations", {}).get("said", "") for doc in docs}


async def test_each_object_takes_the_steps_that_it_lacks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(tmp_path, "one", "two", "three", "four", "five", "six")
    set_steps(monkeypatch, "a")
    assert set(read(tmp_path).values()) == {"a"}
    await written(tmp_path, "seven")
    set_steps(monkeypatch, "a", "b")
    wanted = dict.fromkeys(["one", "two", "three", "four", "five", "six"], "ab") | {"seven": "b"}
    assert read(tmp_path) == wanted
    live = int(max((tmp_path / "wal").iterdir()).stem)
    sum_up(tmp_path, live, 1 << 20)
    assert read(tmp_path) == wanted
    set_steps(monkeypatch, "a", "b", "c")
    assert read(tmp_path) == {name: f"{words}c" for name, words in wanted.items()}


async def test_objects_of_a_newer_release_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_steps(monkeypatch, "a")
    await written(tmp_path, "one")
    set_steps(monkeypatch)
    with pytest.raises(NanoError, match="namespaces of schema 2, this Nano knows only up to 1"):
        read(tmp_path)


async def test_kind_of_a_newer_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(tmp_path, "one")
    monkeypatch.delitem(KINDS, "namespaces")
    with pytest.raises(NanoError, match="the store holds namespaces, a kind that this Nano does not know"):
        read(tmp_path)
