"""What is said of the past is what was there: at each revision and time, between two, and of one object over time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanovirt.resources import snapshots
from nanovirt.resources.codec import load
from nanovirt.resources.compaction import sum_up
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Forgotten, Invalid, Unavailable
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.history import Question, answer
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.moments import resolve
from nanovirt.resources.past import AT_ONCE, WAITING, Past
from nanovirt.resources.recorded import Filed, Recorded, Source
from nanovirt.resources.registry import kinds
from nanovirt.resources.segments import LONGEST_HEADER, Segment, first_revision, segments
from nanovirt.resources.store import Commit, Create, Delete, Op, Update
from nanovirt.resources.store_directory import read_format, write_synced

TINY = Sizes(segment=1 << 11, ballast=1 << 12, room=0, snapshot=1 << 12, history=1 << 20)
ANY = Key("", "", "")
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
kinds()


class Model:
    """Every state that there ever was: revision -> key -> stored bytes."""

    def __init__(self, engine: Engine) -> None:
        self.states: dict[int, dict[Key, bytes]] = {0: {}}
        engine.subscribe(self._follow, admitted=True)

    def _follow(self, commit: Commit) -> None:
        now = dict(self.states[commit.rev - 1])
        for key, _, after in commit.changes:
            if after is None:
                now.pop(key)
            else:
                now[key] = after.raw
        self.states[commit.rev] = now


class Life:
    """A store that a test changes at random, over a log that is summed up at random."""

    def __init__(self, log: Log, chance: random.Random) -> None:
        self.log, self.chance, self.now = log, chance, BEGAN
        self.engine = Engine(log, lambda: self.now)
        self.model = Model(self.engine)

    async def go(self, count: int) -> None:
        """That many revisions."""
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.engine.run())
            for _ in range(count):
                self.now += timedelta(seconds=self.chance.choice((0, 0, 1, 60)))
                names = self.chance.sample(range(5), self.chance.randrange(1, 4))
                await self.engine.stage([self._op(number) for number in names], "alice").durable()
            running.cancel()

    def _op(self, number: int) -> Op:
        key, pad = _key(number), "x" * self.chance.randrange(300)
        if self.engine.peek(key) is None:
            return Create(key, _doc(key, pad))
        return Delete(key) if self.chance.random() < 0.3 else Update(key, _doc(key, pad))


def _key(number: int) -> Key:
    return Key("namespaces", "", f"n-{number}") if number < 3 else Key("images", f"team-{number % 2}", "n-1")


def _doc(key: Key, pad: str) -> dict[str, Any]:
    place = {"namespace": key.namespace} if key.namespace else {}
    return {"metadata": {"name": key.name, **place, "annotations": {"pad": pad}}}


def told(source: Source, view: str, at: str, to: str = "", key: Key = ANY) -> Iterator[dict[str, Any]]:
    lines = answer(source, Question(view, at, *key, to=to, word="Image"))
    return (json.loads(line) for line in lines)


def objects(source: Source, at: str, key: Key = ANY) -> tuple[int, dict[Key, bytes]]:
    """The revision that was meant, and its objects."""
    lines = answer(source, Question("objects", at, *key))
    rev = json.loads(next(lines))["rev"]
    found = {}
    for line in lines:
        said = snapshots.name_of(line)
        assert said is not None
        found[Key(**_named(json.loads(said + b"}")))] = line[len(said) + len(b',"object":') : -1]
    assert list(found) == sorted(found)
    return rev, found


def _named(said: dict[str, str]) -> dict[str, str]:
    return {"plural": said["kind"], "namespace": said["namespace"], "name": said["name"]}


async def summed_up(directory: Path, chance: random.Random, bound: int = 1 << 20) -> None:
    """As a running server does it, but at once."""
    live = first_revision(segments(directory / "wal")[-1])
    if live > 1 and chance.random() < 0.6:
        await asyncio.to_thread(sum_up, directory, live, bound)


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_revision_is_told_as_it_was(seed: int, rounds: int) -> None:
    """Over segments of 2 KiB that are summed up between any two rounds, while the log is open."""
    chance, folder = random.Random(seed), Path(tempfile.mkdtemp())
    try:
        asyncio.run(_every_revision(chance, rounds, folder / "data"))
    finally:
        shutil.rmtree(folder)


async def _every_revision(chance: random.Random, rounds: int, directory: Path) -> None:
    log = FileLog.open(directory, TINY)
    life = Life(log, chance)
    try:
        for _ in range(rounds):
            await life.go(chance.randrange(1, 25))
            await summed_up(directory, chance)
        _judge(life, Filed(directory, life.engine.committed))
        _judge(life, Recorded(log, life.engine.committed))
    finally:
        log.close()


def _judge(life: Life, source: Source) -> None:
    states = life.model.states
    for rev in life.chance.sample(list(states), min(len(states), 15)):
        expected = states[rev]
        assert objects(source, str(rev)) == (rev, expected)
        one = _key(life.chance.randrange(5))
        assert objects(source, str(rev), one)[1] == {key: raw for key, raw in expected.items() if key == one}
        of_kind = {key: raw for key, raw in expected.items() if key.plural == "images"}
        assert objects(source, str(rev), Key("images", "", ""))[1] == of_kind
    for low, high in [life.chance.sample(list(states), 2) for _ in range(10)] if len(states) > 1 else ():
        _judge_differences(source, life, low, high)
    _judge_times(source, life)
    for number in range(5):
        _judge_steps(source, life, _key(number))
    revisions = list(told(source, "revisions", str(source.head)))[1:]
    assert [one["rev"] for one in revisions] == list(range(source.head, 0, -1))


def _judge_differences(source: Source, life: Life, low: int, high: int) -> None:
    _, *found = told(source, "differences", str(low), str(high))
    before, after = life.model.states[low], life.model.states[high]
    expected = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert [Key(one["kind"], one["namespace"], one["name"]) for one in found] == sorted(expected)
    for one in found:
        key = Key(one["kind"], one["namespace"], one["name"])
        for half, states in (("before", before), ("after", after)):
            assert (one[half]["object"] if one[half] else None) == (load(states[key]) if key in states else None)


def _judge_times(source: Source, life: Life) -> None:
    made = {rev: next(told(source, "objects", str(rev)))["at"] for rev in life.model.states}
    assert made.pop(0) == ""
    for at in life.chance.sample(list(made.values()), min(len(made), 10)):
        assert resolve(source, at) == max(one for one, time in made.items() if time <= at)
        before = (datetime.fromisoformat(at) - timedelta(microseconds=1)).isoformat()
        assert resolve(source, before) == max((one for one, time in made.items() if time < at), default=0)
    assert resolve(source, "2026-10-31T23:59:59Z") == 0
    assert resolve(source, "2030-01-01T00:00:00+02:00") == source.head


def _judge_steps(source: Source, life: Life, key: Key) -> None:
    """What the steps lead to, told backwards, is every state of the object."""
    _, *found = told(source, "steps", str(source.head), key=key)
    marks = [one for one in found if "kind" not in one]
    changes = [one for one in found if "kind" in one]
    assert marks[-1] == {"rev": 0} if source.head else not marks
    revs = [one["rev"] for one in changes]
    assert revs == sorted(revs, reverse=True)
    states = life.model.states
    later = sorted(states, reverse=True)[:-1]
    assert revs == [rev for rev in later if states[rev].get(key) != states[rev - 1].get(key)]
    for one in changes:
        for half, rev in (("before", one["rev"] - 1), ("after", one["rev"])):
            assert (one[half]["object"] if one[half] else None) == (
                load(states[rev][key]) if key in states[rev] else None
            )


async def test_past_of_a_memory_log_is_whole() -> None:
    log = MemoryLog()
    life = Life(log, random.Random(1))
    await life.go(60)
    _judge(life, Recorded(log, life.engine.committed))


# --- what is not kept -----------------------------------------------------------------------------------


async def lived(directory: Path, bound: int) -> Life:
    """A closed log whose history is bounded: in the end only the last of it is kept."""
    log = FileLog.open(directory, TINY)
    life = Life(log, random.Random(3))
    for _ in range(6):
        await life.go(30)
        sum_up(directory, first_revision(segments(directory / "wal")[-1]), bound)
    log.close()
    return life


async def test_what_is_not_kept_is_refused_with_what_is(tmp_path: Path) -> None:
    life = await lived(tmp_path, 0)
    source = Filed(tmp_path, life.engine.committed)
    since = source.since()
    assert 0 < since.rev < life.engine.committed
    assert objects(source, str(since.rev))[1] == life.model.states[since.rev]
    with pytest.raises(Forgotten, match=f"revision {since.rev - 1} .*begins with revision {since.rev} .{since.at}"):
        objects(source, str(since.rev - 1))
    with pytest.raises(Forgotten, match=f"begins with revision {since.rev}"):
        resolve(source, "2026-10-01T00:00:00Z")
    with pytest.raises(Forgotten):
        list(told(source, "differences", "1", str(since.rev)))
    changes = [one for one in told(source, "steps", str(source.head), key=_key(0)) if "kind" in one]
    assert min(one["rev"] for one in changes) > since.rev
    assert [one["rev"] for one in told(source, "revisions", str(source.head))][1:] == list(
        range(source.head, since.rev, -1)
    )


async def test_revisions_may_leap(tmp_path: Path) -> None:
    """As after a restore: what was before the leap can be told, and what came after it."""
    life = await lived(tmp_path, 1 << 20)
    last, leap = life.engine.committed, life.engine.committed + 1_000_000
    sum_up(tmp_path, first_revision(segments(tmp_path / "wal")[-1]), 1 << 20)
    base = snapshots.newest(tmp_path, read_format(tmp_path / "FORMAT").cluster, last)
    assert base is not None
    raised = base._replace(path=snapshots.snapshot_path(tmp_path, leap), rev=leap)
    snapshots.write_snapshot(
        raised.path, raised, list(answer(Filed(tmp_path, last), Question("objects", str(last))))[1:]
    )
    Segment.create(tmp_path / "wal", raised.cluster, leap, raised.crc, LONGEST_HEADER)[0].close()
    write_synced(tmp_path, leap)
    log = FileLog.open(tmp_path, TINY)
    try:
        again = Life(log, random.Random(4))
        again.model.states[leap] = life.model.states[last]
        await again.go(30)
        source = Filed(tmp_path, again.engine.committed)
        for rev in (last, last + 1, leap - 1, leap):
            assert objects(source, str(rev))[1] == life.model.states[last]
        for rev in (1, last // 2):
            assert objects(source, str(rev))[1] == life.model.states[rev]
        for rev in range(leap + 1, leap + 31):
            assert objects(source, str(rev))[1] == again.model.states[rev]
        told_revs = [one["rev"] for one in told(source, "revisions", str(source.head))][1:]
        assert told_revs == [*range(leap + 30, leap, -1), *range(last, 0, -1)]
        _, *differing = told(source, "differences", "1", str(leap + 30))
        assert {Key(one["kind"], one["namespace"], one["name"]) for one in differing} == {
            key
            for key in life.model.states[1].keys() | again.model.states[leap + 30].keys()
            if life.model.states[1].get(key) != again.model.states[leap + 30].get(key)
        }
    finally:
        log.close()


async def test_segments_that_move_while_they_are_read_are_followed(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, TINY)
    try:
        await Life(log, random.Random(6)).go(60)
        reading = Filed(tmp_path, 60).read(0)
        first = next(reading).rev
        sum_up(tmp_path, first_revision(segments(tmp_path / "wal")[-1]), 1 << 20)
        assert [first, *(record.rev for record in reading)] == list(range(1, 61))
        reading = Filed(tmp_path, 60).read(0)
        next(reading)
        for path in (tmp_path / "history").iterdir():
            path.unlink()
        with pytest.raises(Forgotten):
            list(reading)
    finally:
        log.close()


async def test_damaged_sum_is_passed_over(tmp_path: Path) -> None:
    life = await lived(tmp_path, 1 << 20)
    source = Filed(tmp_path, life.engine.committed)
    spoilt = snapshots.snapshots(tmp_path)[0]
    assert spoilt.suffix == ".snap"
    spoilt.write_bytes(spoilt.read_bytes().replace(b"images", b"imagos"))
    assert objects(source, str(source.head))[1] == life.model.states[source.head]


@pytest.mark.parametrize(
    "at", ["", "x", "-1", "2026-11-01", "2026-11-01T00:00:00", "9" * 40, "0001-01-01T00:00:00+23:59"]
)
async def test_what_is_no_revision_and_no_time_is_refused(at: str) -> None:
    with pytest.raises(Invalid, match="neither a revision nor a time"):
        resolve(Recorded(MemoryLog(), 0), at)


async def test_future_is_refused() -> None:
    with pytest.raises(Invalid, match="revision 1 is not there yet; the newest is 0"):
        resolve(Recorded(MemoryLog(), 0), "1")


# --- beside the server ----------------------------------------------------------------------------------


async def everything(past: Past, question: Question) -> list[bytes]:
    async with past.ask(question) as said:
        return [line async for piece in said.pieces for line in piece]


async def test_process_beside_the_server_says_the_same(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, TINY)
    life = Life(log, random.Random(5))
    await life.go(80)
    sum_up(tmp_path, first_revision(segments(tmp_path / "wal")[-1]), 1 << 20)
    try:
        past, head = Past(log, lambda: 70), 70
        here = Recorded(log, head)
        for question in (
            Question("objects", "64"),
            Question("objects", "2030-01-01T00:00:00Z", "images"),
            Question("differences", "3", to="60"),
            Question("steps", str(head), *_key(3)),
            Question("revisions", str(head)),
        ):
            assert await everything(past, question) == list(answer(here, question))[1:]
        for at in ("71", "x"):
            with pytest.raises(Invalid):
                await everything(past, Question("objects", at))
    finally:
        log.close()


async def test_refusals_come_back_from_beside_the_server(tmp_path: Path) -> None:
    life = await lived(tmp_path, 0)
    log = FileLog.open(tmp_path, TINY)
    try:
        past = Past(log, lambda: life.engine.committed)
        with pytest.raises(Forgotten, match=r"history begins with revision \d+ \(2026-"):
            await everything(past, Question("objects", "1"))
        (tmp_path / "FORMAT").write_text("{}")
        with pytest.raises(Unavailable, match="the past cannot be read"):
            await everything(past, Question("objects", "1"))
    finally:
        log.close()


def readers() -> list[str]:
    """Processes of ours that read the past, or that nobody has buried yet."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [one for one in children if "python" in _name_of(one)]


def _name_of(process: str) -> str:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text()
    return ""


async def test_who_leaves_early_leaves_no_process_behind(tmp_path: Path) -> None:
    log = FileLog.open(tmp_path, TINY)
    await Life(log, random.Random(5)).go(200)
    others = set(readers())
    try:
        past = Past(log, lambda: 200)
        for _ in range(3):
            async with past.ask(Question("revisions", "200")) as said:
                assert await anext(said.pieces)
                assert set(readers()) - others
        async with asyncio.timeout(10):
            while set(readers()) - others:
                await asyncio.sleep(0.02)
    finally:
        log.close()


async def test_crowd_that_asks_is_refused_beyond_a_bound() -> None:
    past = Past(MemoryLog(), lambda: 0)
    refused: list[Unavailable] = []

    async def ask() -> None:
        try:
            await everything(past, Question("objects", "0"))
        except Unavailable as error:
            refused.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE + WAITING + 3):
            group.create_task(ask())
    assert len(refused) == 3
    await ask()
    assert len(refused) == 3
