"""What a look at the directory leads to, as tables: no disk, no store, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.portal.desired.looking import Look, Sight
from nanovirt.portal.desired.plan import Known, Plan, Pruning, Read, Seen, counted, memory_of, plan, settled
from nanovirt.portal.desired.wishes import Wish, wishes
from nanovirt.resources.codec import JSON, decode
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import Entry
from tests.portal.desired_world import machine, text, web

UID = "00000000-0000-4000-8000-0000000000{:02}"


def read(*docs: JSON) -> Read:
    found, problems = wishes("web.yaml", text(*docs).encode())
    assert not problems
    return Read(tuple(found))


def stored(number: int, generation: int = 1, **spec: Any) -> Entry:
    doc = decode(Instance, machine(f"web-{number}", **spec)).to_json()
    doc["metadata"] |= {"namespace": "default", "uid": UID.format(number), "generation": generation}
    return entry_of("instances", doc, 7)


def known(number: int, generation: int = 1, **spec: Any) -> Known:
    wish: Wish = read(machine(f"web-{number}", **spec)).wishes[0]
    fields = [[list(path), value] for path, value in wish.values.items()]
    kept = {"metadata": {"name": str(wish.key), "uid": UID.format(99)}, "spec": {"fields": fields}}
    entry = entry_of("applied", kept, 7)
    return Known(wish.key, UID.format(number), generation, "web.yaml", wish.digest, (), entry)


def planned(
    file: Read | None, memory: list[Known], there: dict[Key, Entry], pruning: Pruning, *, calm: bool = True
) -> Plan:
    return plan(Seen("/desired", {"web.yaml": file}, calm=calm), {one.key: one for one in memory}, there, pruning)


def test_settled_directory_plans_nothing() -> None:
    done = planned(read(machine("web-1", cpus=2)), [known(1, cpus=2)], {web("web-1"): stored(1, cpus=2)}, Pruning(True))
    assert (done.writes, done.notes, done.forgotten) == ([], [], [])
    assert (done.directory.reason, done.pruning.reason) == (Reason.DirectoryApplied, Reason.NothingVanished)


def test_what_the_api_side_has_changed_plans_nothing_either() -> None:
    there = {web("web-1"): stored(1, 2, cpus=4)}
    done = planned(read(machine("web-1", cpus=2)), [known(1, cpus=2)], there, Pruning(True))
    assert (done.writes, done.notes) == ([], [])
    assert done.files["web.yaml"][0].reason is Reason.ApiSideAhead


@pytest.mark.parametrize(
    ("pruning", "total", "gone", "deleted", "reason"),
    [
        (Pruning(), 9, 1, 0, Reason.PruneOff),
        (Pruning(always=True), 9, 3, 3, Reason.NothingVanished),
        (Pruning(always=True), 9, 4, 0, Reason.PruneHeld),
        (Pruning(always=True), 40, 4, 4, Reason.NothingVanished),
        (Pruning(always=True), 40, 5, 0, Reason.PruneHeld),
        (Pruning(always=True), 40, 40, 0, Reason.PruneHeld),
        (Pruning(asked=frozenset({web("web-0")})), 9, 9, 1, Reason.PruneOff),
        (Pruning(asked=frozenset({web("web-0")}), force=True), 9, 9, 1, Reason.PruneOff),
        (Pruning(always=True, asked=frozenset({web("web-0")}), force=True), 9, 9, 1, Reason.PruneOff),
        (Pruning(asked=frozenset(web(f"web-{nr}") for nr in range(9)), force=True), 9, 9, 9, Reason.NothingVanished),
    ],
)
def test_so_many_may_go(pruning: Pruning, total: int, gone: int, deleted: int, reason: Reason) -> None:
    names = [machine(f"web-{number}") for number in range(gone, total)]
    there = {web(f"web-{number}"): stored(number) for number in range(total)}
    file = read(*names) if names else read(machine("other"))
    done = planned(file, [known(number) for number in range(total)], there, pruning)
    assert sum(one.note is None for one in done.writes) == deleted
    assert done.pruning.reason is reason
    waits = planned(file, [known(number) for number in range(total)], there, pruning, calm=False)
    assert not any(one.note is None for one in waits.writes)
    assert waits.pruning.reason is Reason.PruneWaits


def test_what_stays_since_the_api_side_has_changed_it_counts_for_the_limit_all_the_same() -> None:
    """A directory that is emptied must not lose its few untouched objects."""
    there = {web(f"web-{number}"): stored(number, generation=1 if number < 2 else 2) for number in range(9)}
    done = planned(read(machine("other")), [known(number) for number in range(9)], there, Pruning(always=True))
    assert not any(one.note is None for one in done.writes)
    assert done.pruning.reason is Reason.PruneHeld


@pytest.mark.parametrize("file", [None, Read(problems=("it is broken",)), Read(unsafe="others can write it")])
def test_nothing_goes_or_is_forgotten_while_a_file_is_in_doubt(file: Read | None) -> None:
    there = {web("web-1"): stored(1)}
    done = planned(file, [known(1), known(2)], there, Pruning(always=True))
    assert (done.writes, done.forgotten) == ([], [])


@pytest.mark.parametrize(
    "wrong", [Reason.DirectoryMissing, Reason.DirectoryUnsafe, Reason.DirectoryBusy, Reason.DirectoryHeld]
)
def test_a_directory_that_does_not_count_changes_nothing(wrong: Reason) -> None:
    memory = {one.key: one for one in (known(1), known(2))}
    seen = Seen("/desired", calm=False, wrong=wrong)
    done = plan(seen, memory, {web("web-1"): stored(1)}, Pruning(True, frozenset(memory), force=True))
    assert (done.writes, done.notes, done.forgotten) == ([], [], [])
    assert done.directory.reason is wrong


def test_a_file_counts_when_two_looks_have_found_it_the_same() -> None:
    one, other = Sight("1", b"a"), Sight("2", b"b")
    now = Look({"a.yaml": one, "b.yaml": other, "c.yaml": one})
    before = Look({"a.yaml": one, "b.yaml": one})
    assert settled(now, before) == {"a.yaml"}
    assert settled(now, None) == set()
    seen = counted(now, before, {"1 a.yaml": Read()}, "/desired")
    assert (seen.files["b.yaml"], seen.files["c.yaml"], seen.calm) == (None, None, False)
    assert counted(now, now, {f"{sight.digest} {path}": Read() for path, sight in now.files.items()}, "/desired").calm


def test_another_directory_under_the_same_name_is_not_calm() -> None:
    files = {"a.yaml": Sight("1", b"a")}
    assert not counted(Look(files, inode=(1, 2)), Look(files, inode=(1, 3)), {"1 a.yaml": Read()}, "/desired").calm


def test_memories_of_all_objects_have_names_of_their_own() -> None:
    keys = [Key("hosts", "", "a"), Key("instances", "a", "b"), Key("instances", "a.b", "c"), Key("namespaces", "", "a")]
    assert len({memory_of(key) for key in keys}) == len(keys)
