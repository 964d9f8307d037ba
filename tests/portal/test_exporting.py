"""`export/`: one file for each object, good for git; status and secrets stay out, and writes do not wait for it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanovirt.portal.exporting import MARKER, Export, file_of
from nanovirt.resources.codec import load
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Rejected
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Delete, Half, Update, transact
from tests.portal.desired_world import machine, web
from tests.portal.world import running_store


def create(name: str, **spec: object) -> Create:
    doc = machine(name, **spec)
    doc["metadata"]["namespace"] = "default"
    return Create(web(name), doc)


@asynccontextmanager
async def exporting(store: Engine, folder: Path) -> AsyncIterator[Export]:
    export = Export(store, folder, pause=0.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(export.run())
        yield export
        running.cancel()


def git(folder: Path, *arguments: str) -> str:
    whoever = ["-c", "user.name=T", "-c", "user.email=t@example.net"]
    return subprocess.run(["git", *whoever, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


async def until(export: Export, store: Engine) -> None:
    async with asyncio.timeout(50):
        while export.revision < store.committed:
            await asyncio.sleep(0.01)


async def settled(export: Export, store: Engine, *ops: Create | Update | Delete) -> None:
    await transact(store, ops, "test")
    await asyncio.sleep(0.05)
    await until(export, store)


def files(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()} - {MARKER}


def read(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name).read_text())
    return found


async def test_each_object_has_a_file_for_as_long_as_it_is_there(tmp_path: Path) -> None:
    async with running_store() as store, exporting(store, tmp_path) as export:
        await settled(export, store, create("web-1", cpus=2), create("web-2"))
        assert files(tmp_path) == {"instances/default/web-1.json", "instances/default/web-2.json"}
        assert read(tmp_path, "instances/default/web-1.json") == {
            "apiVersion": "nano/v1",
            "kind": "Instance",
            "metadata": {"name": "web-1", "namespace": "default"},
            "spec": {"cpus": 2, "disks": [{"name": "system", "size": "1Gi"}]},
        }
        doc = load(store.get(web("web-1")).raw)
        doc["metadata"]["finalizers"] = []
        await settled(export, store, Update(web("web-1"), doc), Delete(web("web-1")))
        assert files(tmp_path) == {"instances/default/web-2.json"}
        marker = read(tmp_path, MARKER)
        assert marker["revision"] == str(store.committed)
        assert "not read" in str(marker["what"])


async def test_a_status_changes_no_file(tmp_path: Path) -> None:
    async with running_store() as store, exporting(store, tmp_path) as export:
        await settled(export, store, create("web-1"))
        file = tmp_path / "instances/default/web-1.json"
        before = file.stat()
        doc = load(store.get(web("web-1")).raw) | {"status": {"phase": "Running"}}
        await transact(store, [Update(web("web-1"), doc, Half.STATUS)], "test")
        await settled(export, store, create("web-2"))
        assert file.stat().st_ino == before.st_ino
        assert "status" not in read(tmp_path, "instances/default/web-1.json")
        doc["spec"]["cpus"] = 8
        await settled(export, store, Update(web("web-1"), doc))
        assert '"cpus": 8' in file.read_text()


async def test_an_annotation_changes_the_file_and_what_was_applied_last_is_left_out(tmp_path: Path) -> None:
    async with running_store() as store, exporting(store, tmp_path) as export:
        await settled(export, store, create("web-1"))
        doc = load(store.get(web("web-1")).raw)
        kubectl = "kubectl.kubernetes.io/last-applied-configuration"
        doc["metadata"]["annotations"] = {"team": "blue", kubectl: "{}"}
        await settled(export, store, Update(web("web-1"), doc))
        metadata = read(tmp_path, "instances/default/web-1.json")["metadata"]
        assert metadata == {"name": "web-1", "namespace": "default", "annotations": {"team": "blue"}}


async def test_secrets_events_and_what_is_internal_stay_out(tmp_path: Path) -> None:
    sealed = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"data": {"password": "ciphertext"}}}
    event = {"metadata": {"name": "e", "namespace": "default"}}
    memory = {"metadata": {"name": "m"}, "spec": {"plural": "instances"}}
    async with running_store() as store, exporting(store, tmp_path) as export:
        await settled(
            export,
            store,
            Create(Key("secrets", "default", "s"), sealed),
            Create(Key("events", "default", "e"), event),
            Create(Key("applied", "", "m"), memory),
            Create(Key("credentials", "", "c"), {"metadata": {"name": "c"}, "spec": {"digest": "0"}}),
        )
        assert files(tmp_path) == {"secrets/default/s.json"}
        assert "ciphertext" not in (tmp_path / "secrets/default/s.json").read_text()


async def test_a_start_brings_everything_up_to_date_and_touches_nothing_else(tmp_path: Path) -> None:
    async with running_store() as store:
        await transact(store, [create("web-1"), create("web-2")], "test")
        async with exporting(store, tmp_path) as export:
            await until(export, store)
        kept = (tmp_path / "instances/default/web-2.json").stat()
        (tmp_path / "instances/default/web-1.json").write_text("spoiled")
        (tmp_path / "instances/default/gone.json").write_text("{}")
        (tmp_path / "roles").mkdir()
        (tmp_path / "roles/gone.json").write_text("{}")
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/config.json").write_text("mine")
        (tmp_path / "notes.json").write_text("mine")
        async with exporting(store, tmp_path) as export:
            await until(export, store)
        assert files(tmp_path) == {
            "instances/default/web-1.json", "instances/default/web-2.json", ".git/config.json", "notes.json",
        }  # fmt: skip
        assert read(tmp_path, "instances/default/web-1.json")["kind"] == "Instance"
        assert (tmp_path / "instances/default/web-2.json").stat().st_ino == kept.st_ino


async def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    async with running_store() as store:
        with pytest.raises(Rejected, match=r"holds thesis\.tex"):
            Export(store, tmp_path)


async def test_a_change_is_one_line_of_a_git_diff(tmp_path: Path) -> None:
    async with running_store() as store, exporting(store, tmp_path) as export:
        await settled(export, store, create("web-1", cpus=2))
        for arguments in ("init -q", "add .", "commit -qm Before"):
            git(tmp_path, *arguments.split())
        doc = load(store.get(web("web-1")).raw)
        doc["spec"]["cpus"] = 4
        await settled(export, store, Update(web("web-1"), doc))
        assert git(tmp_path, "diff", "--numstat", "--", "instances") == "1\t1\tinstances/default/web-1.json\n"


async def test_a_disk_that_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanovirt.portal.exporting.RETRY_SECONDS", 0.05)
    async with running_store() as store, exporting(store, tmp_path / "export") as export:
        await settled(export, store, create("web-1"))
        blocked = tmp_path / "export" / "instances"
        blocked.rename(tmp_path / "aside")
        blocked.write_text("a file where a folder has to be")
        await transact(store, [create("web-2")], "test")
        await asyncio.sleep(0.3)
        blocked.unlink()
        await until(export, store)
        assert files(tmp_path / "export") == {"instances/default/web-1.json", "instances/default/web-2.json"}


def test_a_name_that_is_too_long_for_a_file_ends_in_a_hash() -> None:
    one, other = (file_of(Key("instances", "default", "a" * 250 + end)) for end in "bc")
    assert one != other
    assert len(one.name) <= 255
