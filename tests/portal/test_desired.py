"""The directory of desired objects as a whole: its set is one revision, and what else the API side did stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.membership import Rights
from nanovirt.resources.codec import load
from nanovirt.resources.errors import Unauthorized
from nanovirt.resources.kind import Key
from tests.portal.desired_world import NOW, machine, web, world


async def test_a_set_of_files_is_one_revision_and_then_nothing_more(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("namespaces.yaml", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
        inside = machine("web-1")
        inside["metadata"]["namespace"] = "team"
        here.put("below/web.json", inside)
        here.put("more.yml", machine("web-2", cpus=2))
        await here.see()
        made = here.store.get(Key("instances", "team", "web-1"))
        assert made.rev == here.store.get(web("web-2")).rev
        assert here.reasons() == ["DirectoryApplied", "NothingVanished"]
        before = here.store.committed
        await here.see()
        assert here.store.committed == before


async def test_nothing_is_ever_written_into_the_directory(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1"))
        here.write("bad.yaml", "[")
        before = _tree(here.folder)
        await here.see()
        await here.edit("web-1", cpus=3)
        await here.see()
        assert _tree(here.folder) == before


def _tree(folder: Path) -> list[tuple[str, int, int, int]]:
    found = [folder, *folder.rglob("*")]
    return sorted((str(one), one.stat().st_ino, one.stat().st_mtime_ns, one.stat().st_size) for one in found)


# --- two sides ------------------------------------------------------------------------------------------


async def test_what_the_api_side_changes_stays_and_the_rest_is_merged(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1", cpus=2))
        await here.see()
        await here.edit("web-1", cpus=4)
        here.put("web.yaml", machine("web-1", cpus=3, memory="2Gi"))
        await here.see()
        assert (here.spec("web-1")["cpus"], here.spec("web-1")["memory"]) == (4, "2Gi")
        assert here.reasons("web.yaml") == ["ApiSideWins"]
        assert "spec.cpus" in here.message("web.yaml")
        told = [load(entry.raw) for _, entry in here.store.list("events")]
        assert [(one["reason"], one["involvedObject"]["name"]) for one in told] == [("ApiSideWins", "web-1")]
        before = here.store.committed
        await here.see()
        assert here.store.committed == before, "it is told once"
        here.put("web.yaml", machine("web-1", cpus=4, memory="2Gi"))
        await here.see()
        assert here.reasons("web.yaml") == ["FileApplied"]
        here.put("web.yaml", machine("web-1", cpus=5, memory="2Gi"))
        await here.see()
        assert here.spec("web-1")["cpus"] == 5


async def test_an_edit_in_the_very_moment_is_not_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1", cpus=1))
        await here.see()
        for value in range(2, 40):
            here.put("web.yaml", machine("web-1", cpus=100 + value))
            await here.desired.look()
            async with asyncio.TaskGroup() as group:
                group.create_task(here.desired.look())
                await asyncio.sleep(value * 0.0001)
                await here.edit("web-1", cpus=value)
            assert here.spec("web-1")["cpus"] == value
            here.put("web.yaml", machine("web-1", cpus=value))
            await here.see()


async def test_what_the_api_side_deletes_is_not_made_anew(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1"))
        await here.see()
        await here.remove("web-1")
        here.put("web.yaml", machine("web-1", cpus=2))
        await here.see()
        assert not here.names
        assert here.reasons("web.yaml") == ["DeletedByApi"]
        here.put("web.yaml", machine("web-2"))
        await here.see()
        here.put("web.yaml", machine("web-1", cpus=2), machine("web-2"))
        await here.see()
        assert here.names == {"web-1", "web-2"}


async def test_what_the_api_side_makes_anew_is_its_own(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1"), machine("web-2"))
        await here.see()
        await here.remove("web-1")
        doc = machine("web-1", cpus=7)
        doc["metadata"]["namespace"] = "default"
        await here.api({"verb": "create", "object": doc})
        here.put("web.yaml", machine("web-1", memory="2Gi"), machine("web-2"))
        await here.see()
        assert (here.spec("web-1")["cpus"], here.spec("web-1")["memory"]) == (7, "1Gi")
        assert here.reasons("web.yaml") == ["DeletedByApi"]
        here.put("web.yaml", machine("web-2"))
        await here.see()
        assert not here.store.get(web("web-1")).deleting


async def test_what_is_there_already_is_taken_up_as_it_is(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        doc = machine("web-1", cpus=4)
        doc["metadata"]["namespace"] = "default"
        await here.api({"verb": "create", "object": doc})
        here.put("web.yaml", machine("web-1", cpus=2, memory="2Gi"))
        await here.see()
        assert (here.spec("web-1")["cpus"], here.spec("web-1")["memory"]) == (4, "2Gi")
        assert here.reasons("web.yaml") == ["ApiSideWins"]


async def test_what_was_applied_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1", cpus=2), machine("web-2"))
        await here.see()
        await here.edit("web-1", cpus=4)
        here.desired = Desired(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", prune=True, settle=0.0
        )
        here.put("web.yaml", machine("web-1", cpus=2))
        await here.see()
        assert here.spec("web-1")["cpus"] == 4
        assert here.store.get(web("web-2")).deleting


# --- the set as a whole ---------------------------------------------------------------------------------


async def test_a_set_is_carried_out_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("a.yaml", machine("web-1"))
        here.put("b.yaml", machine("web-2", computePool="nowhere"))
        await here.see()
        assert not here.names
        assert here.reasons()[0] == "SetRefused"
        assert here.reasons("a.yaml") == ["FileWaits"]
        assert here.reasons("b.yaml") == ["FileRefused"]
        assert "spec.computePool" in here.message("b.yaml")
        here.put("b.yaml", machine("web-2"))
        await here.see()
        assert here.names == {"web-1", "web-2"}


async def test_it_may_do_what_its_user_may(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1"))
        here.subjects[0] = Subject("alice", (), rights=Rights({("create", "instances", ""): {"team": True}}, (), 0))
        await here.see()
        assert not here.names
        assert "alice may not create instances" in here.message("web.yaml")
        here.subjects[0] = Subject("alice", (), rights=Rights({("create", "instances", ""): {"default": True}}, (), 0))
        await here.see()
        assert here.doc("web-1")["metadata"]["labels"]["nano/owner"] == "alice"


async def test_a_user_who_is_gone_changes_nothing(tmp_path: Path) -> None:
    def nobody() -> Subject:
        raise Unauthorized("the User alice is not there, or is disabled")

    async with world(tmp_path) as here:
        here.desired = Desired(here.store, here.writer, here.folder, nobody, lambda: NOW, user="alice", settle=0.0)
        here.put("web.yaml", machine("web-1"))
        await here.see()
        assert not here.names
        assert here.reasons()[0] == "SetRefused"
        assert "alice is not there" in here.message()
