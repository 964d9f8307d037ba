"""The simulated disk itself: which states it gives for operations of which the answer is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.faults.simulated_disk import SECTOR, Rule, SimulatedDisk
from tests.faults.tree import ROOT, Name, Op, Picture, Rename, Resize, Said, Sync, Tree, Unname, Write

OLD, NEW = b"o" * SECTOR, b"n" * SECTOR
ZEROS = bytes(SECTOR)
FILE, OTHER, FOLDER = 1, 2, 3


def disk_with(content: bytes, rule: Rule = Rule.SUBSET) -> SimulatedDisk:
    """A disk with one durable file `f` and a durable folder `d`."""
    return SimulatedDisk(Tree({ROOT: {"f": FILE, "d": FOLDER}, FOLDER: {}}, {FILE: bytearray(content)}, 4), rule)


def states(disk: SimulatedDisk, ops: Sequence[Op]) -> list[Picture]:
    """Every state after all of them, without the folder."""
    for op in ops:
        disk.do(op)
    cut = disk.cut()
    found = [cut.state(choice) for choice in cut.choices(10_000, random.Random(0))]
    assert len(found) == cut.count
    return [{path: content for path, content in state.items() if path != "d"} for state in found]


def contents(disk: SimulatedDisk, *ops: Op) -> set[bytes | None]:
    return {state["f"] for state in states(disk, ops)}


def names(rule: Rule, *ops: Op) -> set[str]:
    """Which names are there together, in each state."""
    return {" ".join(sorted(state)) for state in states(disk_with(b"", rule), ops)}


def test_synced_write_is_there() -> None:
    assert contents(disk_with(OLD), Write(FILE, 0, NEW), Sync(FILE, 1)) == {NEW}


def test_unsynced_write_is_there_or_not() -> None:
    assert contents(disk_with(OLD), Write(FILE, 0, NEW)) == {OLD, NEW}


def test_sectors_of_one_write_arrive_each_for_itself() -> None:
    found = contents(disk_with(OLD * 2), Write(FILE, 0, NEW * 2))
    assert found == {OLD + OLD, OLD + NEW, NEW + OLD, NEW + NEW}


def test_sector_is_never_torn_within() -> None:
    half = OLD[:100] + NEW[100:200] + OLD[200:]
    assert contents(disk_with(OLD), Write(FILE, 100, NEW[100:200])) == {OLD, half}


def test_sector_may_keep_what_it_had_between_two_writes() -> None:
    between = b"b" * SECTOR
    assert contents(disk_with(OLD), Write(FILE, 0, between), Write(FILE, 0, NEW)) == {OLD, between, NEW}


def test_claimed_room_is_zeros_until_it_is_written() -> None:
    ops: list[Op] = [Resize(FILE, 2 * SECTOR), Sync(FILE, 1), Write(FILE, SECTOR, NEW)]
    assert contents(disk_with(OLD), *ops) == {OLD + ZEROS, OLD + NEW}


def test_size_and_content_are_independent() -> None:
    assert contents(disk_with(OLD), Write(FILE, SECTOR, NEW)) == {OLD, OLD + ZEROS, OLD + NEW}


def test_cut_is_there_or_not() -> None:
    assert contents(disk_with(OLD * 2), Resize(FILE, SECTOR)) == {OLD, OLD + OLD, OLD + ZEROS}
    assert contents(disk_with(OLD * 2), Resize(FILE, SECTOR), Sync(FILE, 1)) == {OLD}


def test_write_that_came_after_the_sync_began_is_not_covered_by_it() -> None:
    assert contents(disk_with(OLD), Said("begin"), Write(FILE, 0, NEW), Sync(FILE, 1)) == {OLD, NEW}


@pytest.mark.parametrize("rule", Rule)
def test_name_is_durable_when_its_folder_is_synced_and_not_before(rule: Rule) -> None:
    make: list[Op] = [Name(ROOT, "g", OTHER), Sync(OTHER, 1)]
    assert names(rule, *make) == {"f", "f g"}
    assert names(rule, *make, Sync(ROOT, 2)) == {"f g"}
    assert names(rule, *make, Sync(FOLDER, 2)) == {"f", "f g"}


@pytest.mark.parametrize("rule", Rule)
def test_rename_leaves_the_old_name_or_the_new_one(rule: Rule) -> None:
    move = Rename(Unname(ROOT, "f", FILE), Name(ROOT, "g", FILE))
    assert names(rule, move) == {"f", "g"}


def test_rename_over_another_file_leaves_either_whole() -> None:
    disk = disk_with(OLD)
    ops: list[Op] = [Name(ROOT, "t", OTHER), Write(OTHER, 0, NEW), Sync(OTHER, 2)]
    found = states(disk, [*ops, Rename(Unname(ROOT, "t", OTHER), Name(ROOT, "f", OTHER))])
    assert {state["f"] for state in found} == {OLD, NEW}


def test_rename_before_its_content_is_synced_may_leave_an_empty_file() -> None:
    disk = disk_with(OLD)
    ops: list[Op] = [
        Name(ROOT, "t", OTHER),
        Write(OTHER, 0, NEW),
        Rename(Unname(ROOT, "t", OTHER), Name(ROOT, "f", OTHER)),
    ]
    assert {state["f"] for state in states(disk, ops)} == {OLD, b"", ZEROS, NEW}


def test_journal_keeps_the_order_of_names_and_subsets_do_not() -> None:
    ops: list[Op] = [Name(ROOT, "g", OTHER), Unname(ROOT, "f", FILE)]
    assert names(Rule.JOURNAL, *ops) == {"f", "f g", "g"}
    assert names(Rule.SUBSET, *ops) == {"f", "f g", "g", ""}


def test_journal_brings_what_was_before_in_other_folders() -> None:
    ops: list[Op] = [Name(ROOT, "g", OTHER), Name(FOLDER, "h", 4), Sync(FOLDER, 2)]
    assert names(Rule.JOURNAL, *ops) == {"d/h f g"}
    assert names(Rule.SUBSET, *ops) == {"d/h f", "d/h f g"}


def test_rename_into_another_folder_is_two_operations_unless_there_is_a_journal() -> None:
    move = Rename(Unname(ROOT, "f", FILE), Name(FOLDER, "f", FILE))
    assert names(Rule.JOURNAL, move) == {"f", "d/f"}
    assert names(Rule.SUBSET, move) == {"f", "d/f", "d/f f", ""}
    assert names(Rule.SUBSET, move, Sync(ROOT, 1)) == {"", "d/f"}


def test_file_in_a_folder_whose_name_was_lost_is_lost() -> None:
    ops: list[Op] = [Name(ROOT, "e", 4, is_folder=True), Name(4, "g", OTHER), Sync(4, 2)]
    assert names(Rule.SUBSET, *ops) == {"f", "e e/g f"}
    assert names(Rule.SUBSET, *ops, Sync(ROOT, 3)) == {"e e/g f"}


def test_choice_in_a_large_set_is_that_of_the_seed_and_has_the_extremes() -> None:
    disk = disk_with(OLD * 40)
    disk.do(Write(FILE, 0, NEW * 40))
    cut = disk.cut()
    assert cut.count == 1 << 40
    first, again, other = (list(cut.choices(200, random.Random(seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 200
    assert {cut.state(choice)["f"] for choice in first} >= {OLD * 40, NEW * 40, NEW + OLD * 39, OLD + NEW * 39}
