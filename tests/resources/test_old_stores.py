"""Data directories that earlier releases wrote: tests/golden/store/VERSION holds one of each format."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanovirt.resources.codec import load
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.store_directory import FORMAT_VERSION, read_format

kinds()
STORES = Path(__file__).parent.parent / "golden" / "store"
WRITTEN = datetime(2026, 11, 25, 19, 56, tzinfo=UTC)
SIZES = Sizes(segment=1 << 12, ballast=1 << 12, room=0)


def namespaces(directory: Path) -> dict[str, dict[str, str]]:
    """Their labels, by name."""
    log = FileLog.open(directory, SIZES)
    try:
        store = Engine(log, lambda: WRITTEN + timedelta(hours=1))
        assert store.committed == 15
        assert store.remembered("alice", "k-9")
        return {key.name: load(store.get(key).raw)["metadata"].get("labels", {}) for key, _ in store.list("namespaces")}
    finally:
        log.close()


@pytest.mark.parametrize("version", sorted(path.name for path in STORES.iterdir()))
def test_store_of_an_earlier_release_is_opened_and_is_of_this_one_then(version: str, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(STORES / version, directory)
    before = read_format(directory / "FORMAT")
    assert before.version == int(version)
    wanted: dict[str, dict[str, str]] = {"default": {}, "shared": {}} | {
        f"n-{n}": {"a": "b"} if n == 4 else {} for n in range(12) if n != 3
    }
    assert namespaces(directory) == wanted
    after = read_format(directory / "FORMAT")
    assert (after.version, after.cluster, after.incarnation) == (FORMAT_VERSION, before.cluster, before.incarnation)
    sum_up(directory, 12, 1 << 20)
    assert namespaces(directory) == wanted


def test_every_earlier_format_has_a_store_here() -> None:
    assert {int(path.name) for path in STORES.iterdir()} >= set(range(1, FORMAT_VERSION))


def test_namespace_of_an_old_store_is_what_it_was(tmp_path: Path) -> None:
    shutil.copytree(STORES / "1", tmp_path / "data")
    log = FileLog.open(tmp_path / "data", SIZES)
    found = load(Engine(log).get(Key("namespaces", "", "n-4")).raw)
    log.close()
    assert found["metadata"]["resourceVersion"] == "15"
