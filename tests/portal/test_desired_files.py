"""Which files of desired objects count: whole, understood, and none that an editor keeps beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.portal.desired.looking import FILE_MAX, ignored
from nanovirt.portal.desired.wishes import wishes
from tests.portal.desired_world import machine, several, text, web, world

BOMB = "a0: &a0 [1]\n" + "".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 8))


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
        (f"kind: !!int {json.dumps(BOMB)}", "is no int"),
        (f"spec: {{cpus: {'0777' * 1500}}}", "spec.cpus: '0777"),
        (f"apiVersion: nano/v1\nkind: Instance\nmetadata: {{name: x}}\nspec: {{cpus: {'1' * 64}}}\n", "64-bit"),
        ('spec: {cpus: !!int "\\t5"}', "is no int"),
        ("spec: {cpus: !!bool x}", "'x' is no bool"),
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
