"""Backup, hold and verification over the API: for administrators alone, and whole or not at all."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import ClientError

from nanovirt.portal import safekeeping
from nanovirt.portal.agents import Agents
from nanovirt.portal.safekeeping import Safekeeping
from nanovirt.resources.backup_contents import inspect
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.hold import HOLD, Hold, HoldSpec, held
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.report import HeldNic, Holding, HostReport
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, transact
from tests.portal.api_world import NANO, World, world
from tests.portal.world import host, placement

SIZES = Sizes(ballast=1 << 12, room=0)


class Desk:
    """A world whose store lies in a folder, with the pages in question."""

    def __init__(self, w: World, folder: Path) -> None:
        self.w, self.folder = w, folder
        self.reports = Reports(0.0)
        self.now = 1.0
        self.agents = Agents(w.store, self.reports, lambda: self.now)
        self.pages = Safekeeping(w.store, self.reports, self.agents, folder, w.api.identify)
        w.api._pages.update(self.pages.pages)

    async def holds(self) -> None:
        spec = HoldSpec(revision=7, restored=datetime(2026, 11, 22, tzinfo=UTC))
        await transact(
            self.w.store, [Create(HOLD, Hold(metadata=ObjectMeta(name=HOLD.name), spec=spec).to_json())], "restore"
        )


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    log = FileLog.open(folder, SIZES)
    try:
        async with world(log=log) as w:
            yield Desk(w, folder)
    finally:
        log.close()


def revision_of(content: bytes, folder: Path) -> int:
    file = folder.with_name("got.tar")
    file.write_bytes(content)
    with file.open("rb") as opened:
        return inspect(opened)[0].revision


PAGES = [("GET", "/backup"), ("GET", "/restore"), ("DELETE", "/restore"), ("GET", "/verify")]


@pytest.mark.parametrize(("method", "path"), PAGES)
async def test_only_administrators_are_answered(tmp_path: Path, method: str, path: str) -> None:
    async with desk(tmp_path / "data") as d:
        await d.holds()
        for subject, code in (("stranger", 403), ("node-1", 403), ("nobody", 401)):
            answer = await d.w.call(method, path, subject=subject)
            assert (answer.code, answer.doc["kind"]) == (code, "Status"), subject
        assert held(d.w.store)


async def test_backup_over_the_api_is_whole_and_of_now(tmp_path: Path) -> None:
    async with desk(tmp_path / "data") as d:
        await asyncio.sleep(1.2)  # SYNCED is behind the log for a second
        answer = await d.w.call("GET", "/backup?history=true")
        assert (answer.code, answer.headers["Content-Type"]) == (200, "application/x-tar")
        assert revision_of(answer.raw, d.folder) == d.w.store.committed


async def test_backup_holds_no_secret_in_the_clear(tmp_path: Path) -> None:
    values = [f"planted-{secrets.token_hex(16)}" for _ in range(20)]
    async with desk(tmp_path / "data") as d:
        made = {"apiVersion": "nano/v1", "kind": "Secret", "metadata": {"name": "s"}}
        made["spec"] = {"data": {f"k{number}": value for number, value in enumerate(values)}}
        await d.w.make(f"{NANO}/namespaces/default/secrets", made)
        await asyncio.sleep(1.2)
        content = (await d.w.call("GET", "/backup?history=true")).raw
    assert revision_of(content, d.folder) == d.w.store.committed
    assert b'"kind":"secrets"' in content
    assert not [value for value in values if value.encode() in content or b64encode(value.encode()) in content]


async def test_second_backup_at_the_same_time_waits_for_a_better_one(tmp_path: Path) -> None:
    async with desk(tmp_path / "data") as d, asyncio.TaskGroup() as group:
        first = group.create_task(d.w.call("GET", "/backup"))
        while not d.pages._busy.locked():
            await asyncio.sleep(0.001)
        assert (await d.w.call("GET", "/backup")).code == 503
        assert (await first).code == 200


async def test_store_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    async with desk(tmp_path / "data") as d:
        (d.folder / "FORMAT").rename(d.folder / "gone")
        answer = await d.w.call("GET", "/backup")
        assert answer.code == 503
        assert "holds no store" in answer.doc["message"]


async def test_backup_that_breaks_off_does_not_look_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaking_off.py").write_text(
        "import sys\nif __name__ == '__main__':\n    sys.stdout.write('x' * 5000)\n    sys.exit(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import breaking_off  # type: ignore[import-not-found]  # noqa: PLC0415 - made a moment ago

    monkeypatch.setattr(safekeeping, "backup", breaking_off)
    async with desk(tmp_path / "data") as d:
        with pytest.raises(ClientError):
            await d.w.call("GET", "/backup")


async def test_hold_is_told_and_let_go_by_name(tmp_path: Path) -> None:
    async with desk(tmp_path / "data") as d:
        assert (await d.w.call("GET", "/restore")).doc == {"held": False}
        assert (await d.w.call("DELETE", "/restore")).code == 404
        await d.holds()
        await transact(d.w.store, [host("node-1")], "test")
        told = (await d.w.call("GET", "/restore")).doc
        assert (told["held"], told["revision"]) == (True, 7)
        assert told["hosts"] == [{"name": "node-1", "accounted": False, "message": "has not reported"}]
        assert (await d.w.call("DELETE", "/restore")).code == 200
        assert not held(d.w.store)
        last = list(d.w.store._log.read())[-1].body
        assert b'"by":"admin"' in last
        assert b'"kind":"holds"' in last


async def test_agents_are_told_no_placements_while_the_store_is_held(tmp_path: Path) -> None:
    async with desk(tmp_path / "data") as d:
        await transact(d.w.store, [host("node-1"), placement("web-1", "node-1")], "test")
        await d.holds()
        for watch in ("", "&watch=true"):
            path = f"{NANO}/placements?fieldSelector=spec.host%3Dnode-1{watch}"
            answer = await d.w.call("GET", path, subject="node-1")
            assert (answer.code, answer.doc["reason"]) == (503, "RestoreHeld")
        assert (await d.w.call("GET", f"{NANO}/placements")).code == 200
        await d.w.call("DELETE", "/restore")
        assert (await d.w.call("GET", f"{NANO}/placements", subject="node-1")).code == 200


async def test_verify_lists_what_differs(tmp_path: Path) -> None:
    uid = "00000000-0000-4000-8000-000000000001"
    lost = placement("web-1", "node-1")
    lost.doc["status"] = {"state": "Running"}
    async with desk(tmp_path / "data") as d:
        await transact(d.w.store, [host("node-1"), host("node-2"), host("node-3"), host("node-4"), lost], "test")
        nics = (HeldNic(mac="52:54:00:00:00:01", ip="10.0.0.7"),)
        stranger = Holding(uuid="u", name="default.late", state="Running", nics=nics)
        d.reports.hear("node-1", HostReport(holdings=(Holding(uuid=uid, name="", epoch=3), stranger)), d.now)
        d.reports.hear("node-2", HostReport(holdings=(Holding(uuid=uid, name="default.web", state="Running"),)), d.now)
        d.reports.hear("node-3", HostReport(), d.now)
        d.now = 1.0
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(d.w.call("GET", "/verify"))
            await asyncio.sleep(0.3)
            assert b'"holdings":true' in d.agents.reply("node-1")
            d.now = 100.0
            for name in ("node-1", "node-2", "node-3"):
                heard = d.reports.heard(name)
                assert heard is not None
                d.reports.hear(name, heard.report, 8.0)
            d.now = 8.0
        said = asked.result().doc
        assert b'"holdings":false' in d.agents.reply("node-1")
    found = {(one["host"], one["what"], one["machine"]): one["detail"] for one in said["differences"]}
    assert said["hosts"] == 4
    assert found.keys() == {
        ("node-1", "Missing", "default/web"),
        ("node-1", "Ahead", "default/web"),
        ("node-1", "Unclaimed", "default.late"),
        ("node-2", "Elsewhere", "default.web"),
        ("node-3", "Unknown", ""),
        ("node-4", "Silent", ""),
    }
    assert found["node-1", "Unclaimed", "default.late"] == "Running, 52:54:00:00:00:01 10.0.0.7"
    assert "the store has it on node-1" in found["node-2", "Elsewhere", "default.web"]
