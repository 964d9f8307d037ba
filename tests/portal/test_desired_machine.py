"""R15: whatever editors, people and crashes do to directory and API, nothing is lost, looped or deleted unasked."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from nanovirt.portal.cli.manifests import SUFFIXES
from nanovirt.portal.desired.keeping import Desired
from nanovirt.portal.identity import ADMIN
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.kind import Key
from tests.portal.desired_world import NOW, World, machine, text, web, world

DEFAULTS: dict[str, Any] = {"cpus": 1, "memory": "1Gi", "description": ""}
NAMES = [f"web-{number}" for number in range(12)]
PATHS = ["a.yaml", "b.yml", "sub/c.json", "d.yaml"]
VALUES: dict[str, list[Any]] = {"cpus": [1, 2, 3], "memory": ["1Gi", "2Gi", "3Gi"], "description": ["", "blue", "red"]}
LEAST, SHARE = 3, 10
NAME = re.compile(rb"name: (web-\d+)\b")

names = st.sampled_from(NAMES)
paths = st.sampled_from(PATHS)
fields = st.fixed_dictionaries({}, optional={field: st.sampled_from(some) for field, some in VALUES.items()})
contents = st.dictionaries(names, fields, min_size=1, max_size=6)
edits = st.sampled_from([(field, value) for field, some in VALUES.items() for value in some])

Fields = dict[str, Any]


class Crash(Exception):
    """The server ends at that point."""


class Crashing(Desired):
    """Ends when it has written, before it has noted what."""

    async def _remember(self, *_given: Any) -> None:
        raise Crash


class Machine(RuleBasedStateMachine):
    """The model is the flat part of the design: three values for each field, and who wrote last.

    `files`: path -> name -> fields; None for a file that cannot be used. `live`, `base`: what the API has, and what was
    applied last. `touched`: objects that the API side has changed beyond their file. `owned`: what the API side has
    written since the file last said the same; that is never written over, whatever else the model thinks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.temporary = Path(tempfile.mkdtemp(prefix="nano-desired-"))
        self.files: dict[str, dict[str, Fields] | None] = {}
        self.live: dict[str, Fields] = {}
        self.base: dict[str, Fields] = {}
        self.home: dict[str, str] = {}
        self.touched: set[str] = set()
        self.strangers: set[str] = set()
        """Objects that the API side has made anew under a name of the directory."""
        self.owned: dict[tuple[str, str], Any] = {}
        self.writes = 0
        self.stood: set[str] = set()

    @initialize(prune=st.booleans())
    def begin(self, *, prune: bool) -> None:
        self.prune = prune

        async def made() -> World:
            async with world(self.temporary, prune=prune) as here:
                return here

        self.world = self.runner.run(made())
        (self.temporary / "elsewhere.yaml").write_text(text(machine("web-99")))

    def teardown(self) -> None:
        self.runner.close()
        shutil.rmtree(self.temporary)

    def does(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something while the store commits."""

        async def run() -> Any:
            async with asyncio.TaskGroup() as group:
                committer = group.create_task(self.world.store.run())
                try:
                    return await work
                finally:
                    committer.cancel()

        return self.runner.run(run())

    # --- what the API side does ---

    @rule(name=names, edit=edits)
    def api_edits(self, name: str, edit: tuple[str, Any]) -> None:
        field, value = edit
        if name in self.live and self.live[name][field] != value:
            self.does(self.world.edit(name, **{field: value}))
            self._edited(name, field, value)

    def _edited(self, name: str, field: str, value: Any) -> None:
        self.live[name][field] = value
        self.owned[name, field] = value
        if name in self.base:
            self.touched.add(name)

    @rule(name=names)
    def api_deletes(self, name: str) -> None:
        if name in self.live:
            self.does(self.world.remove(name))
            self._gone(name)

    def _gone(self, name: str) -> None:
        del self.live[name]
        self.strangers.discard(name)
        self.touched.discard(name)
        self.owned = {key: value for key, value in self.owned.items() if key[0] != name}

    @rule(name=names, said=fields)
    def api_creates(self, name: str, said: Fields) -> None:
        if name in self.live:
            return
        doc = machine(name, **said)
        doc["metadata"]["namespace"] = "default"
        self.does(self.world.api({"verb": "create", "object": doc}))
        self.live[name] = {**DEFAULTS, **said}
        self.owned |= {(name, field): value for field, value in said.items() if value != DEFAULTS[field]}
        if name in self.base:
            self.strangers.add(name)

    # --- what editors do ---

    def _content(self, docs: dict[str, Fields]) -> str:
        return text(*(machine(name, **said) for name, said in docs.items()))

    def _path(self, path: str) -> Path:
        return self.world.folder / path

    def _careful(self, path: str, content: str) -> None:
        """Write beside it, then rename."""
        beside = self.world.write(f"{path}.tmp", content)
        beside.rename(self._path(path))

    @rule(path=paths, docs=contents)
    def saved_by_rename(self, path: str, docs: dict[str, Fields]) -> None:
        self._careful(path, self._content(docs))
        self.files[path] = docs

    @rule(path=paths, docs=contents, share=st.floats(0, 1))
    def written_in_place(self, path: str, docs: dict[str, Fields], share: float) -> None:
        self.writes += 1  # or the same half would have been seen before
        content = f"# {self.writes}\n{self._content(docs)}"
        lines = content.splitlines(keepends=True)
        half = "".join(lines[: int(len(lines) * share)])  # at the end of a line, it can often be read
        self.world.write(path, half)
        self._glance(path if half != content else "")
        self.world.write(path, content)
        self.files[path] = docs

    @rule(path=paths, docs=contents)
    def saved_by_vim(self, path: str, docs: dict[str, Fields]) -> None:
        folder = self._path(path).parent
        folder.mkdir(mode=0o755, exist_ok=True)
        (folder / "4913").touch()
        (folder / "4913").unlink()
        if self._path(path).exists():
            self._path(path).rename(f"{self._path(path)}~")
            self._glance()
        self.world.write(f"{path}.swp", b"\x00" * 64)
        self.world.write(path, self._content(docs))
        self.files[path] = docs
        Path(f"{self._path(path)}~").unlink(missing_ok=True)
        self._path(f"{path}.swp").unlink()

    @rule(path=paths, docs=contents)
    def saved_by_emacs(self, path: str, docs: dict[str, Fields]) -> None:
        name = self._path(path).name
        folder = self._path(path).parent
        folder.mkdir(mode=0o755, exist_ok=True)
        lock = folder / f".#{name}"
        lock.symlink_to("somebody@somewhere.1")
        (folder / f"#{name}#").write_text("half of it")
        self._glance()
        self.world.write(path, self._content(docs))
        self.files[path] = docs
        lock.unlink()
        (folder / f"#{name}#").unlink()

    @rule(path=paths, docs=contents)
    def deleted_and_written_anew(self, path: str, docs: dict[str, Fields]) -> None:
        self._path(path).unlink(missing_ok=True)
        self._glance()
        self.saved_by_rename(path, docs)

    @rule(path=paths, how=st.sampled_from(["[", "", "kind: Instance\n", "\x00", "{" * 60, "link", "mode", "huge"]))
    def broken(self, path: str, how: str) -> None:
        target = self._path(path)
        if how == "mode" and target.is_file() and not target.is_symlink():
            target.chmod(0o666)
        elif how == "link":
            target.parent.mkdir(mode=0o755, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(self.temporary / "elsewhere.yaml")
        else:
            target.unlink(missing_ok=True)
            self.world.write(path, "#" * ((4 << 20) + 1) if how == "huge" else how)
        self.files[path] = None

    @rule(path=paths)
    def removed(self, path: str) -> None:
        self._path(path).unlink(missing_ok=True)
        self.files.pop(path, None)

    @rule(one=paths, other=paths)
    def renamed(self, one: str, other: str) -> None:
        if one in self.files and one != other:
            self._path(other).parent.mkdir(mode=0o755, exist_ok=True)
            self._path(one).rename(self._path(other))
            self.files[other] = self.files.pop(one)

    @rule(one=paths, other=paths)
    def copied(self, one: str, other: str) -> None:
        if self.files.get(one) is not None and one != other:
            self.saved_by_rename(other, dict(self.files[one] or {}))

    @rule()
    def wiped(self) -> None:
        for path in list(self.files):
            self.removed(path)

    @rule()
    def taken_away_for_a_while(self) -> None:
        aside = self.temporary / "aside"
        self.world.folder.rename(aside)
        before = self._seen()
        for _ in range(3):
            self.does(self.world.desired.look())
        assert self._seen() == before, "a directory that is not there changes nothing"
        aside.rename(self.world.folder)

    @rule(docs=st.dictionaries(paths, contents, max_size=3))
    def exchanged_for_another(self, docs: dict[str, dict[str, Fields]]) -> None:
        """As a deployment does: the new directory is made beside it and takes its name."""
        old = self.temporary / "old"
        self.world.folder.rename(old)
        self.world.folder.mkdir(mode=0o755)
        for path, some in docs.items():
            self._careful(path, self._content(some))
        shutil.rmtree(old)
        self.files = dict(docs)

    @rule()
    def clocks_jump(self) -> None:
        for path in self.files:
            if not self._path(path).is_symlink():
                os.utime(self._path(path), (0, 0))

    # --- what the server does ---

    @rule()
    def restarted(self) -> None:
        self._anew(Desired)

    def _anew(self, keeper: type[Desired]) -> None:
        here = self.world
        here.desired = keeper(
            here.store, here.writer, here.folder, lambda: ADMIN, lambda: NOW, user="admin", prune=self.prune, settle=0.0
        )

    @rule()
    def crashed_before_it_had_noted(self) -> None:
        self._anew(Crashing)
        try:
            for _ in range(2):
                self.does(self.world.desired.look())
        except* Crash:
            pass
        self._anew(Desired)
        self._learn()
        self._settle()

    @rule(name=names, edit=edits, after=st.integers(0, 6))
    def edited_while_it_applies(self, name: str, edit: tuple[str, Any], after: int) -> None:
        field, value = edit
        if name not in self.live or self.live[name][field] == value or name in self.owned_names():
            return
        self._look()

        async def race() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.world.desired.look())
                for _ in range(after):
                    await asyncio.sleep(0.0005)
                if self.world.store.peek(web(name)) is not None:
                    await self.world.edit(name, **{field: value})

        before = self.world.spec(name)[field]
        self.does(race())
        entry = self.world.store.peek(web(name))
        if entry is not None and not entry.deleting and before != value:
            assert load(entry.raw)["spec"][field] == value, "what was written while it applied is lost"
        self._learn()
        if self.live.get(name, {}).get(field) == value:
            self.owned[name, field] = value
        self._settle()

    def owned_names(self) -> set[str]:
        return {name for name, _ in self.owned}

    def _learn(self) -> None:
        """Go on from what the store says has been applied; nothing of the API side may be lost by then."""
        self.does(self._let_go())
        self.live = self._seen()
        self.owned = {key: value for key, value in self.owned.items() if key[0] in self.live}
        self._nothing_lost(self.live)
        self.base, self.home, self.touched, self.strangers = {}, {}, set(), set()
        for key, entry in self.world.store.list("applied"):
            spec = load(entry.raw)["spec"]
            one = key.name.rpartition("/")[2]
            said = {tuple(path): found for path, found in spec["fields"]}
            self.base[one] = {word: said["f:spec", f"f:{word}"] for word in DEFAULTS if ("f:spec", f"f:{word}") in said}
            self.home[one] = spec["file"]
            there = self.world.store.peek(web(one))
            if there is not None and there.uid != spec["uid"]:
                self.strangers.add(one)
            elif there is not None and there.generation != spec["generation"]:
                self.touched.add(one)

    async def _let_go(self) -> None:
        for key, entry in self.world.store.list("instances"):
            if entry.deleting:
                await self.world.let_go(key.name)

    @rule()
    def looked_at(self) -> None:
        self._settle()

    @precondition(lambda self: self.base)
    @rule(force=st.booleans(), data=st.data())
    def pruned_by_a_person(self, *, force: bool, data: st.DataObject) -> None:
        self._settle()
        wishes, doubt = self._wishes()
        left = [
            one for one in sorted(self.base) if one not in wishes and one in self.live and one not in self.strangers
        ]
        asked = set(data.draw(st.sets(st.sampled_from(left)))) if left else set()
        before = self._seen()
        pruned = self.does(self.world.desired.prune([web(one) for one in asked], force=force))
        assert {key.name for key in pruned} <= asked | (set(left) if self.prune else set())
        if force and not doubt and asked and not self.prune:
            assert {key.name for key in pruned} == asked, "what a person asks for by force is done"
        for key in pruned:
            self.does(self.world.let_go(key.name))
            self._gone(key.name)
            self.base.pop(key.name)
        assert set(before) - set(self._seen()) == {key.name for key in pruned}

    # --- what has to hold ---

    def _seen(self) -> dict[str, Fields]:
        found: dict[str, Fields] = {}
        for key, entry in self.world.store.list("instances"):
            if not entry.deleting:
                spec = load(entry.raw)["spec"]
                found[key.name] = {field: spec[field] for field in DEFAULTS}
        return found

    def _glance(self, half: str = "") -> None:
        """One look in the middle of things: nothing of the file `half` counts, and nothing is deleted."""
        concerned = set(self.files.get(half) or ()) | {one for one, home in self.home.items() if home == half}
        before = self._seen()
        self._look()
        after = self._seen()
        for name in concerned & before.keys():
            elsewhere = any(name in (docs or ()) for other, docs in self.files.items() if other != half)
            assert elsewhere or after[name] == before[name], "half a file counts"
        self._learn()

    def _look(self) -> None:
        """Look, and see that nothing goes that stood in a file now or the time before."""
        self._agree()
        before, standing = self._seen(), self._standing()
        self.does(self.world.desired.look())
        assert not (before.keys() - self._seen().keys()) & (standing | self.stood), "unasked"
        self.stood = standing

    def _standing(self) -> set[str]:
        """The names in all files, read as plain text."""
        files = [one for one in self.world.folder.rglob("*") if one.suffix in SUFFIXES and not one.is_symlink()]
        return {name.decode() for one in files for name in NAME.findall(one.read_bytes())}

    def _look_once(self) -> None:
        """What has been seen once before counts now, and a file that is new does not yet."""
        wishes, doubt = self._wishes()
        before, known, touched = self._seen(), len(self.base), set(self.touched)
        self._look()
        after = self._seen()
        deleted = before.keys() - after.keys()
        assert not deleted or (self.prune and not doubt), "unasked"
        assert not deleted & (wishes.keys() | touched), "unasked"
        assert len(deleted) <= max(LEAST, known // SHARE), "too many at once"
        self._learn()

    def _nothing_lost(self, after: dict[str, Fields]) -> None:
        for (name, field), value in self.owned.items():
            if name in after:
                assert after[name][field] == value, f"{name}.{field}: {value} of the API side is lost"

    def _wishes(self) -> tuple[dict[str, tuple[str, Fields]], bool]:
        """What counts once everything has settled: name -> file and fields; and whether anything is in doubt."""
        places: dict[str, list[str]] = {}
        for path, docs in self.files.items():
            for name in docs or ():
                places.setdefault(name, []).append(path)
        doubt = None in self.files.values()
        twice = {path for some in places.values() if len(some) > 1 for path in some}
        found: dict[str, tuple[str, Fields]] = {}
        for path, docs in self.files.items():
            for name, said in (docs or {}).items() if path not in twice else ():
                home = self.home.get(name) if name in self.base else None
                if home is not None and home != path and home in self.files and self.files[home] is None:
                    doubt = True
                else:
                    found[name] = (path, said)
        return found, doubt or bool(twice)

    def _settle(self) -> None:
        """Look until everything counts; then the store is what the model says, and another look writes nothing."""
        self._look_once()
        wishes, doubt = self._wishes()
        known = len(self.base)
        applied = {name: one for name, one in wishes.items() if self._applied(name, *one)}
        self._vanished(wishes, known, doubt=doubt)
        self._look()
        self._look()
        self.does(self._let_go())
        seen = self._seen()
        assert seen == self.live, (seen, self.live, applied)
        self._nothing_lost(seen)
        before = self.world.store.committed
        self.does(self.world.see())
        assert self.world.store.committed == before, "it writes again and again"

    def _agree(self) -> None:
        """What a file says, too, is the API side's alone no more."""
        for docs in self.files.values():
            for name, said in (docs or {}).items():
                for field, value in said.items():
                    if self.owned.get((name, field)) == value and name not in self.strangers:
                        del self.owned[name, field]

    def _applied(self, name: str, path: str, said: Fields) -> bool:
        """Bring one wish into the model."""
        if name in self.strangers or (name not in self.live and name in self.base):
            return False
        fresh = name not in self.live
        live = self.live.setdefault(name, dict(DEFAULTS))
        adopted = name not in self.base and not fresh
        base = self.base.setdefault(name, {})
        before = dict(base)
        agreed = True
        for field, value in said.items():
            free = live[field] == (before[field] if field in before else DEFAULTS[field])
            if fresh or free or live[field] == value:
                live[field] = base[field] = value
            else:
                agreed = False
        for field in before.keys() - said.keys():
            if live[field] == before[field]:
                live[field] = DEFAULTS[field]
            elif live[field] != DEFAULTS[field]:
                agreed = False
            del base[field]
        agreed = agreed and all(field in said or live[field] == DEFAULTS[field] for field in DEFAULTS)
        if agreed:
            self.touched.discard(name)
        elif adopted:
            self.touched.add(name)
        self.home[name] = path
        return True

    def _vanished(self, wishes: dict[str, tuple[str, Fields]], known: int, *, doubt: bool) -> None:
        if doubt:
            return
        left = {one for one in self.base if one not in wishes}
        for name in [one for one in left if one not in self.live or one in self.strangers]:
            left.discard(name)
            self.strangers.discard(name)
            del self.base[name]
        if self.prune and len(left) <= max(LEAST, known // SHARE):
            for name in left - self.touched:
                self._gone(name)
                del self.base[name]


def _run(examples: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
def test_nothing_is_lost_looped_or_deleted_unasked() -> None:
    _run(150)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_lost_looped_or_deleted_unasked_in_5000_histories() -> None:
    _run(5000)


def test_the_model_knows_the_names_of_the_store() -> None:
    assert Key("instances", "default", "web-1") == web("web-1")
    docs: list[JSON] = [machine("web-1", cpus=2)]
    assert "cpus: 2" in text(*docs)
