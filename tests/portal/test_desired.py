"""The directory of desired objects: each hazard of durability.md 5 on a real disk, and what is told of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.portal.desired import looking
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.desired.looking import FILE_MAX, ignored
from nanovirt.portal.desired.wishes import wishes
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.membership import Rights
from nanovirt.resources.codec import load
from nanovirt.resources.errors import Unauthorized
from nanovirt.resources.hold import Hold, HoldSpec
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.store import Create, Delete, transact
from tests.portal.desired_world import NOW, World, machine, text, web, world

BOMB = "a0: &a0 [1]\n" + "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 8))


def several(count: int, first: int = 0) -> str:
    return text(*(machine(f"web-{number}") for number in range(first, first + count)))


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


# --- files as editors leave them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".web.yaml.swp", ".web.yaml.swx", "4913", "web.yaml~", "#web.yaml#", ".#web.yaml", "web.yaml.tmp",
        "web.yaml.bak", "web.yaml.orig", "~web.yaml", ".goutputstream-AB12CD", ".web.yaml.AbCdEf",
        "web.yaml___jb_tmp___", "sedAbCdEf", "web.yaml.rej", "README.md",
    ],
)  # fmt: skip
def test_names_that_editors_use_are_no_manifests(name: str) -> None:
    assert ignored(name)


@pytest.mark.parametrize("name", ["web.yaml", "web.yml", "web.json", "a b.yaml", "web-4913.yaml", "机器.yaml"])
def test_names_that_people_use_are_manifests(name: str) -> None:
    assert not ignored(name)


async def test_git_folders_and_editor_files_do_not_count(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for name in (".git/web.yaml", ".web.yaml.swp", "web.yaml~", ".hidden/web.yaml"):
            here.write(name, "[ broken")
        (here.folder / ".#web.yaml").symlink_to("nobody@nowhere")
        here.put("web.yaml", machine("web-1"))
        await here.see()
        assert [one["path"] for one in here.desired.standing.told()["files"]] == ["web.yaml"]
        assert here.names == {"web-1"}


async def test_half_a_file_does_not_count(tmp_path: Path) -> None:
    whole = text(machine("web-1", cpus=2), machine("web-2"))
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", whole)
        await here.see()
        before = here.store.committed
        for length in range(len(whole)):
            here.write("web.yaml", whole[:length])
            await here.desired.look()
        here.write("web.yaml", whole)
        await here.see()
        assert here.names == {"web-1", "web-2"}
        assert here.store.committed == before


async def test_a_file_that_is_empty_is_one_that_is_being_written(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1"))
        await here.see()
        here.write("web.yaml", "")
        await here.see()
        assert here.names == {"web-1"}
        assert here.reasons("web.yaml") == ["FileBroken"]


async def test_a_file_that_is_renamed_over_another_counts(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("web.yaml", machine("web-1", cpus=1))
        await here.see()
        here.write("web.yaml.new", text(machine("web-1", cpus=2))).rename(here.folder / "web.yaml")
        await here.see()
        assert here.spec("web-1")["cpus"] == 2


async def test_the_content_counts_and_not_the_time_or_the_size(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        file = here.put("web.yaml", machine("web-1", cpus=2))
        tick = file.stat()
        await here.see()
        here.put("web.yaml", machine("web-1", cpus=3))
        os.utime(file, ns=(tick.st_atime_ns, tick.st_mtime_ns))
        assert (file.stat().st_mtime_ns, file.stat().st_size) == (tick.st_mtime_ns, tick.st_size)
        await here.see()
        assert here.spec("web-1")["cpus"] == 3


@pytest.mark.parametrize("time", [0, 2**31 + 5, 4_000_000_000])
async def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, time: int) -> None:
    async with world(tmp_path, prune=True) as here:
        file = here.put("web.yaml", machine("web-1"))
        await here.see()
        os.utime(file, (time, time))
        before = here.store.committed
        await here.see()
        assert here.store.committed == before


async def test_what_goes_and_comes_between_two_looks_was_never_away(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        file = here.put("web.yaml", machine("web-1"))
        await here.see()
        uid = here.store.get(web("web-1")).uid
        file.unlink()
        await here.desired.look()
        here.put("web.yaml", machine("web-1"))
        await here.see()
        assert here.store.get(web("web-1")).uid == uid
        assert not here.store.get(web("web-1")).deleting


# --- files that cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("spec: [", "while parsing"),
        ("kind: Instance\nmetadata: {name: x}\n", "has no apiVersion"),
        ("apiVersion: nano/v1\nkind: Nothing\nmetadata: {name: x}\n", "there is no kind Nothing"),
        ("apiVersion: nano/v1\nkind: Instance\nmetadata: {name: X_y}\n", "is not a short name"),
        ("apiVersion: nano/v1\nkind: Instance\nmetadata: {name: x}\nspec: {cpu: 1}\n", "web.yaml:4"),
        ("apiVersion: nano/v1\nkind: Instance\nmetadata: {name: x}\nspec: {cpus: 0}\n", "spec.cpus"),
        ("apiVersion: nano/v1\nkind: Host\nmetadata: {name: x, namespace: y}\n", "has no namespace"),
        ("apiVersion: nano/v1\nkind: Placement\nmetadata: {name: x}\n", "written by the system"),
        ("apiVersion: v1\nkind: Event\nmetadata: {name: x}\n", "Event objects happen once"),
        ("apiVersion: nano/v1\nkind: Secret\nmetadata: {name: x}\nspec: {data: {a: b}}\n", "no place for a secret"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper"),
        (BOMB, "its aliases"),
        ("#" * (FILE_MAX + 1), "more than"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_used_says_why_and_nothing_else_changes(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("good.yaml", machine("web-1"))
        here.put("web.yaml", machine("web-2"), machine("web-3"))
        await here.see()
        before = here.store.committed
        here.write("web.yaml", content)
        await here.see()
        assert said in here.message("web.yaml")
        assert here.reasons("web.yaml")[0] in ("FileBroken", "FileUnsafe")
        assert here.reasons("good.yaml") == ["FileApplied"]
        assert here.store.committed == before
        here.put("good.yaml", machine("web-1", cpus=2))
        await here.see()
        assert here.spec("web-1")["cpus"] == 2, "other files go on"
        assert not here.store.get(web("web-2")).deleting


async def test_nothing_is_deleted_while_a_file_cannot_be_read(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("a.yaml", machine("web-1"))
        here.put("b.yaml", machine("web-2"))
        await here.see()
        here.write("b.yaml", "[")
        (here.folder / "a.yaml").unlink()
        await here.see()
        assert here.reasons()[1] == "PruneWaits"
        assert not here.store.get(web("web-1")).deleting
        here.put("b.yaml", machine("web-2"))
        await here.see()
        assert here.store.get(web("web-1")).deleting


async def test_an_object_of_a_broken_file_is_not_taken_over_by_another(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.put("a.yaml", machine("web-1"))
        await here.see()
        here.write("a.yaml", "[")
        here.put("b.yaml", machine("web-1", cpus=4))
        await here.see()
        assert here.reasons("b.yaml") == ["ObjectOfBrokenFile"]
        assert here.spec("web-1")["cpus"] == 1
        (here.folder / "a.yaml").unlink()
        await here.see()
        assert here.spec("web-1")["cpus"] == 4


async def test_an_object_that_stands_in_two_files_counts_in_neither(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("a.yaml", machine("web-1"), machine("web-2"))
        await here.see()
        here.put("b.yaml", machine("web-1", cpus=4))
        await here.see()
        assert here.reasons("a.yaml") == here.reasons("b.yaml") == ["ObjectDefinedTwice"]
        assert "a.yaml, b.yaml" in here.message("b.yaml")
        assert here.spec("web-1")["cpus"] == 1
        assert not any(here.store.get(web(name)).deleting for name in here.names)


@pytest.mark.parametrize(
    ("one", "other"), [("web.yaml", "Web.yaml"), ("\u00e9.yaml", "e\u0301.yaml"), ("a/x.yaml", "A/x.yaml")]
)
async def test_names_that_other_file_systems_take_for_one_count_in_neither(
    tmp_path: Path, one: str, other: str
) -> None:
    async with world(tmp_path) as here:
        here.put(one, machine("web-1"))
        here.put(other, machine("web-2"))
        await here.see()
        assert here.reasons(one) == here.reasons(other) == ["FileNamesClash"]
        assert not here.names


@settings(max_examples=300)
@given(st.data())
def test_reading_a_file_never_raises(data: st.DataObject) -> None:
    whole = several(2).encode() + b"{kind: List, apiVersion: v1, items: [{kind: Host, apiVersion: nano/v1}]}\n"
    content = bytearray(whole)
    words = [
        b"1: 2",
        b"!!binary aGk=",
        b"!!set {a}",
        b"\xc3\x28",
        b"\\ud800",
        b"99999999999999999999",
        b".nan",
        b"null",
        b"[]",
    ]
    words += [
        b"&a *a",
        b"? x",
        b"- ",
        b"{}",
        b": ",
        b"<<: 1",
        b"\x00",
        b"2026-11-22T06:00:00Z",
        b"~",
        b"---\n",
        b"%YAML 9\n",
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        at, cut = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 12))
        content[at : at + cut] = data.draw(st.sampled_from(words) | st.binary(max_size=4))
    found, problems = wishes("web.yaml", bytes(content))
    assert found or problems


async def test_a_bug_is_told_and_does_not_end_the_server(tmp_path: Path) -> None:
    class Buggy(Desired):
        async def look(self) -> bool:
            raise ZeroDivisionError("by zero")

    async with world(tmp_path) as here, asyncio.TaskGroup() as group:
        here.desired = Buggy(here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin")
        keeping = group.create_task(here.desired.run())
        async with asyncio.timeout(60):
            while here.reasons() != ["InternalError"]:
                await asyncio.sleep(0.01)
        assert "ZeroDivisionError" in here.message()
        keeping.cancel()


# --- files that others could have written ---------------------------------------------------------------


async def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "web.yaml").write_text(text(machine("web-1")))
    async with world(tmp_path) as here:
        (here.folder / "file.yaml").symlink_to(outside / "web.yaml")
        (here.folder / "folder").symlink_to(outside)
        await here.see()
        assert not here.names
        assert here.reasons("file.yaml") == here.reasons("folder") == ["FileUnsafe"]
        shutil.rmtree(here.folder)
        here.folder.symlink_to(outside)
        await here.see()
        assert here.reasons()[0] == "DirectoryUnsafe"
        assert not here.names


def test_a_link_that_takes_a_place_while_it_is_looked_at_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "web.yaml").write_text(several(1))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "web.yaml").symlink_to(tmp_path / "outside" / "web.yaml")
    (tmp_path / "inside" / "folder").symlink_to(tmp_path / "outside")
    inside = os.open(tmp_path / "inside", looking.FOLDER)
    try:
        sight = looking._read(inside, "web.yaml")
        assert sight is not None
        assert (sight.content, sight.why) == (b"", "symbolic links are not followed")
        assert [(path, bool(one.why)) for path, one in looking._below(inside, "folder", "folder", 0)] == [
            ("folder", True)
        ]
    finally:
        os.close(inside)


async def test_a_pipe_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        os.mkfifo(here.folder / "web.yaml", 0o600)
        here.put("good.yaml", machine("web-1"))
        async with asyncio.timeout(10):
            await here.see()
        assert here.reasons("web.yaml") == ["FileUnsafe"]
        assert here.names == {"web-1"}


async def test_what_others_can_write_does_not_count(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("a.yaml", machine("web-1")).chmod(0o664)
        here.put("b/b.yaml", machine("web-2"))
        (here.folder / "b").chmod(0o777)
        await here.see()
        assert not here.names
        assert "chmod go-w" in here.message("a.yaml")
        assert here.reasons("b") == ["FileUnsafe"]
        (here.folder / "a.yaml").chmod(0o644)
        (here.folder / "b").chmod(0o755)
        await here.see()
        assert here.names == {"web-1", "web-2"}
        here.folder.chmod(0o775)
        (here.folder / "a.yaml").unlink()
        await here.see()
        assert here.reasons()[0] == "DirectoryUnsafe"
        assert not here.store.get(web("web-1")).deleting


@pytest.mark.parametrize(
    ("uid", "mode", "said"), [(0, 0o100644, ""), (12345, 0o100600, "uid 12345"), (0, 0o100602, "602")]
)
def test_what_belongs_to_others_does_not_count(uid: int, mode: int, said: str) -> None:
    why = looking._unsafe(os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0)))
    assert bool(why) == bool(said)
    assert said in why


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


# --- objects without a file -----------------------------------------------------------------------------


async def test_without_prune_everything_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.write("web.yaml", several(2))
        await here.see()
        here.write("web.yaml", several(1))
        await here.see()
        assert here.reasons()[1] == "PruneOff"
        assert not here.store.get(web("web-1")).deleting
        assert await here.desired.prune([web("web-1")], force=False) == [web("web-1")]
        assert here.store.get(web("web-1")).deleting


@pytest.mark.parametrize(
    ("total", "gone", "deleted"), [(4, 3, 3), (4, 4, 0), (29, 3, 3), (29, 4, 0), (50, 5, 5), (50, 6, 0)]
)
async def test_no_more_than_a_tenth_or_three_go_at_once(tmp_path: Path, total: int, gone: int, deleted: int) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("some.yaml", several(total - gone) if total > gone else several(1, 90))
        here.write("web.yaml", several(gone, total - gone))
        await here.see()
        count = len(here.names)
        (here.folder / "web.yaml").unlink()
        for _ in range(4):
            await here.see()
        assert sum(entry.deleting for _, entry in here.store.list("instances")) == (deleted if count == total else 0)
        if not deleted:
            assert here.reasons()[1] == "PruneHeld"


async def test_a_person_may_delete_more_and_only_what_is_named(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("some.yaml", several(1))
        here.write("web.yaml", several(6, 1))
        await here.see()
        (here.folder / "web.yaml").unlink()
        await here.see()
        assert await here.desired.prune([web("web-1"), web("web-2")], force=False) == []
        asked = [web(name) for name in ("web-0", "web-1", "web-2", "web-3", "web-4")]
        assert await here.desired.prune(asked, force=True) == asked[1:]
        assert not here.store.get(web("web-0")).deleting, "it has a file"
        assert not here.store.get(web("web-5")).deleting, "it was not named"


async def test_what_the_api_side_has_changed_stays_without_its_file(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        await here.edit("web-1", disks=[{"name": "system", "size": "1Gi"}, {"name": "data", "size": "1Gi"}])
        here.write("web.yaml", several(1))
        await here.see()
        assert not here.store.get(web("web-1")).deleting
        assert here.reasons()[1] == "PruneContested"
        await here.desired.prune([web("web-1")], force=True)
        assert here.store.get(web("web-1")).deleting


async def test_a_deletion_that_is_refused_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.put("web.yaml", machine("web-1"), machine("web-2", deletionProtection=True))
        await here.see()
        here.put("web.yaml", machine("web-1", cpus=2))
        await here.see()
        assert here.spec("web-1")["cpus"] == 2
        assert not here.store.get(web("web-2")).deleting
        assert here.reasons()[1] == "PruneRefused"
        assert "deletionProtection" in here.message()


async def test_a_directory_that_is_gone_deletes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        before = here.store.committed
        shutil.rmtree(here.folder)
        await here.see()
        assert here.reasons() == ["DirectoryMissing", "PruneWaits"]
        assert await here.desired.prune([web("web-1")], force=True) == []
        assert here.store.committed == before


async def test_only_a_directory_that_was_used_is_missed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as here:
        here.folder.rmdir()
        await here.see()
        assert not caplog.records
        here.folder.mkdir(mode=0o755)
        here.put("web.yaml", machine("web-1"))
        await here.see()
        shutil.rmtree(here.folder)
        await here.see()
        said = [record.__dict__["detail"] for record in caplog.records]
        assert sum("is not there" in one for one in said) == 1


async def test_a_directory_that_is_emptied_meets_the_guard(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(4))
        await here.see()
        shutil.rmtree(here.folder)
        here.folder.mkdir(mode=0o755)
        for _ in range(3):
            await here.see()
        assert here.reasons()[1] == "PruneHeld"
        assert not any(entry.deleting for _, entry in here.store.list("instances"))


async def test_a_directory_that_takes_the_name_of_another_has_to_settle(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        other = tmp_path / "other"
        shutil.copytree(here.folder, other)
        (other / "web.yaml").write_text(several(1))
        here.folder.rename(tmp_path / "old")
        other.rename(here.folder)
        await here.desired.look()
        assert not here.store.get(web("web-1")).deleting
        await here.see()
        assert here.store.get(web("web-1")).deleting


async def test_nothing_counts_while_git_is_at_work(tmp_path: Path) -> None:
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        lock = here.write(".git/index.lock", "")
        (here.folder / "web.yaml").unlink()
        here.put("new.yaml", machine("web-9"))
        before = here.store.committed
        await here.see()
        assert here.reasons()[0] == "DirectoryBusy"
        assert here.store.committed == before
        lock.unlink()
        await here.see()
        assert "web-9" in here.names


async def test_nothing_counts_while_a_restored_store_is_held(tmp_path: Path) -> None:
    """What the hosts hold is not known yet: to make and delete machines now would be to act on a guess."""
    async with world(tmp_path, prune=True) as here:
        here.write("web.yaml", several(2))
        await here.see()
        held = Hold(metadata=ObjectMeta(name="restore", uid="hold"), spec=HoldSpec(revision=1, restored=NOW))
        await transact(here.store, [Create(held.key, held.to_json())], "restore")
        (here.folder / "web.yaml").unlink()
        here.put("new.yaml", machine("web-9"))
        before = here.store.committed
        await here.see()
        assert here.reasons()[0] == "DirectoryHeld"
        assert here.store.committed == before
        await transact(here.store, [Delete(held.key)], "holds")
        await here.see()
        assert "web-9" in here.names


# --- the loop, with real events -------------------------------------------------------------------------


async def _until(here: World, *names: str, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while {key.name for key, entry in here.store.list("instances") if not entry.deleting} != set(names):
            await asyncio.sleep(0.02)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.net", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, umask=0o022, text=True
    )
    return done.stdout


@pytest.mark.timeout(300)
async def test_a_git_repository_is_the_directory(tmp_path: Path) -> None:
    """Commits and checkouts are applied; a broken file changes nothing, and a deleted directory deletes nothing."""
    async with world(tmp_path, prune=True) as here, asyncio.TaskGroup() as group:
        here.desired = Desired(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", prune=True, settle=0.2
        )
        keeping = group.create_task(here.desired.run())
        folder = here.folder
        _git(folder, "init", "-q", "-b", "main")
        here.write("web.yaml", several(3))
        _git(folder, "add", ".")
        _git(folder, "commit", "-qm", "Three machines")
        await _until(here, "web-0", "web-1", "web-2")

        _git(folder, "checkout", "-qb", "more")
        here.put("more.yaml", machine("web-7"), machine("web-8"))
        (folder / "web.yaml").write_text(several(2))
        _git(folder, "add", ".")
        _git(folder, "commit", "-qm", "Two more, one less")
        await _until(here, "web-0", "web-1", "web-7", "web-8")
        await here.let_go("web-2")
        _git(folder, "checkout", "-q", "main")
        await _until(here, "web-0", "web-1", "web-2")
        for name in ("web-7", "web-8"):
            await here.let_go(name)
        _git(folder, "checkout", "-q", "more")
        await _until(here, "web-0", "web-1", "web-7", "web-8")

        await here.desired.look()  # what was applied is noted by then
        before = here.store.committed
        (folder / "web.yaml").write_text("apiVersion: nano/v1\nkind: [\n")
        async with asyncio.timeout(60):
            while here.reasons("web.yaml") != ["FileBroken"]:
                await asyncio.sleep(0.02)
        assert "web.yaml:3" in here.message("web.yaml")
        assert here.store.committed == before
        _git(folder, "checkout", "-q", "--", "web.yaml")

        shutil.rmtree(folder)
        async with asyncio.timeout(60):
            while here.reasons()[0] != "DirectoryMissing":
                await asyncio.sleep(0.02)
        assert not any(entry.deleting for key, entry in here.store.list("instances") if key.name != "web-2")
        keeping.cancel()


@pytest.mark.timeout(90)
async def test_what_no_event_tells_of_is_found_all_the_same(tmp_path: Path) -> None:
    """Queues overflow, and other machines write over NFS: nobody says so."""

    class Deaf(Desired):
        async def _hints(self) -> None:
            await asyncio.Event().wait()

    async with world(tmp_path) as here, asyncio.TaskGroup() as group:
        here.desired = Deaf(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", settle=0.05, rescan=0.3
        )
        keeping = group.create_task(here.desired.run())
        await asyncio.sleep(0.2)
        here.put("web.yaml", machine("web-1"))
        await _until(here, "web-1")
        keeping.cancel()
