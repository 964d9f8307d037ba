"""What a log does with whatever it finds on disk: durability.md section 4, row by row."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanovirt.resources.errors import Invalid, NanoError, StoreCorrupt, Unavailable
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.recovery import repair, survey
from nanovirt.resources.segments import RAISED, encode, parse, segment_path, segments, walk, written
from nanovirt.resources.store_directory import read_format, read_synced, write_synced
from tests.resources.records import SMALL, record, records, write_log


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a store but LOCK, whose content is the process's."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def reopened(directory: Path) -> list[int]:
    """Opens and closes the log; the revisions in it."""
    log = FileLog.open(directory, SMALL)
    found = list(log.read())
    log.close()
    assert found == [record(rev, size=len(body) - len(record(rev).body)) for rev, body in found]
    return [rev for rev, _ in found]


def refused(directory: Path) -> StoreCorrupt:
    """The refusal to open; asserts that nothing was changed."""
    before = contents(directory)
    with pytest.raises(StoreCorrupt) as refusal:
        FileLog.open(directory, SMALL)
    assert contents(directory) == before
    folder, last_good = directory.resolve().parent, refusal.value.last_good
    assert refusal.value.command == f"nanoctl store repair --data {folder} --accept-loss-after {last_good}"
    assert refusal.value.command in str(refusal.value)
    return refusal.value


def ends(path: Path) -> list[int]:
    """Offset of the end of each line of a segment; the header's first."""
    content = written(path)
    header = parse(content, 0)
    assert header
    return [header.end, *(frame.end for frame in walk(content, header))]


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= mask
    path.write_bytes(content)


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """Five short records in one segment, all known to be synced."""
    await write_log(tmp_path / "store", 5)
    return tmp_path / "store"


@pytest.fixture
def segment(store: Path) -> Path:
    return segment_path(store / "wal", 1)


@pytest.fixture
async def three_segments(tmp_path: Path) -> Path:
    """Revisions 1-3, 4-6 and 7-8 in a segment each."""
    await write_log(tmp_path / "store", 8, size=1000)
    assert len(segments(tmp_path / "store" / "wal")) == 3
    return tmp_path / "store"


# --- torn tail: cut, kept, logged ----------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [True, False], ids=["preallocated", "short file"])
def test_last_record_torn_at_any_byte_is_cut_and_kept(store: Path, segment: Path, zeros: bool) -> None:
    write_synced(store, 4)
    begin, end = ends(segment)[-2:]
    whole = contents(store)
    for torn_at in range(begin + 1, end):
        shutil.rmtree(store / "quarantine")
        segment.write_bytes(whole["wal/" + segment.name][:torn_at] + bytes(100 if zeros else 0))
        assert reopened(store) == [1, 2, 3, 4]
        kept = list((store / "quarantine").iterdir())
        assert [path.read_bytes() for path in kept] == [whole["wal/" + segment.name][begin:torn_at]]
        assert written(segment) == whole["wal/" + segment.name][:begin]


async def test_log_goes_on_behind_a_cut(store: Path, segment: Path) -> None:
    write_synced(store, 4)
    segment.write_bytes(written(segment)[:-10])
    log = FileLog.open(store, SMALL)
    await log.append(records(5, 7))
    log.close()
    assert reopened(store) == [1, 2, 3, 4, 5, 6, 7]
    assert segment.stat().st_size == SMALL.segment


def test_cut_is_logged_with_the_bytes_dropped(store: Path, segment: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_synced(store, 4)
    begin, end = ends(segment)[-2:]
    segment.write_bytes(written(segment)[:-1])
    with caplog.at_level(logging.WARNING):
        reopened(store)
    (entry,) = [entry for entry in caplog.records if entry.message == "torn tail cut"]
    said = vars(entry)
    assert (said["dropped"], said["offset"], said["last_good"]) == (end - 1 - begin, begin, 4)
    assert Path(said["kept"]).parent == store / "quarantine"


def test_last_record_whose_first_page_never_arrived_is_cut(store: Path, segment: Path) -> None:
    write_synced(store, 4)
    begin, end = ends(segment)[-2:]
    content = written(segment)
    segment.write_bytes(content[:begin] + bytes(20) + content[begin + 20 : end] + bytes(50))
    assert reopened(store) == [1, 2, 3, 4]


def test_unsynced_but_whole_record_is_kept(store: Path) -> None:
    write_synced(store, 2)
    log = FileLog.open(store, SMALL)
    assert read_synced(store) == 5
    assert list(log.read()) == records(1, 5)
    log.close()


def test_dirt_in_the_zeros_behind_the_end_is_cut(store: Path, segment: Path) -> None:
    flip(segment, SMALL.segment - 5)
    assert reopened(store) == [1, 2, 3, 4, 5]
    assert len(list((store / "quarantine").iterdir())) == 1


# --- SYNCED: what was durable is never cut ---------------------------------------------------------------


def test_synced_record_torn_at_any_byte_is_refused(store: Path, segment: Path) -> None:
    begin, end = ends(segment)[-2:]
    content = written(segment)
    for torn_at in range(begin, end):
        segment.write_bytes(content[:torn_at])
        refusal = refused(store)
        assert (refusal.path, refusal.offset, refusal.last_good) == (str(segment), begin, 4)


def test_log_that_vanished_is_refused(store: Path, segment: Path) -> None:
    segment.unlink()
    assert refused(store).last_good == 0


@pytest.mark.parametrize("offset", range(16))
def test_damaged_synced_file_is_refused(store: Path, offset: int) -> None:
    flip(store / "SYNCED", offset, 1)
    assert "SYNCED" in refused(store).path


@pytest.mark.parametrize("content", [None, b"", b"x" * 15, b"x" * 17])
def test_missing_or_misshapen_synced_file_is_refused(store: Path, content: bytes | None) -> None:
    (store / "SYNCED").unlink()
    if content is not None:
        (store / "SYNCED").write_bytes(content)
    assert refused(store).last_good == 5


# --- rot: every bit counts ---------------------------------------------------------------------------------


def test_flip_of_any_bit_of_a_synced_log_is_found_where_it_is(store: Path, segment: Path) -> None:
    cluster = read_format(store / "FORMAT").cluster
    content = written(segment)
    lines = [0, *ends(segment)]
    for offset in range(len(content)):
        line = max(index for index, begin in enumerate(lines) if begin <= offset)
        for bit in range(8):
            segment.write_bytes(content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :])
            found = survey(store, cluster)
            assert found.damage, (offset, bit)
            assert (found.rev, found.end) == (max(line - 1, 0), lines[line] if line else 0), (offset, bit)


def test_flip_in_any_byte_of_a_synced_log_stops_the_start(store: Path, segment: Path) -> None:
    for offset in range(len(written(segment))):
        flip(segment, offset, 1 << offset % 8)
        refused(store)
        flip(segment, offset, 1 << offset % 8)
    assert reopened(store) == [1, 2, 3, 4, 5]


def test_flip_before_a_whole_record_is_refused_even_if_nothing_there_was_synced(store: Path, segment: Path) -> None:
    write_synced(store, 3)
    begin, end = ends(segment)[3:5]
    for offset in range(begin, end):
        flip(segment, offset, 1 << offset % 8)
        refusal = refused(store)
        assert (refusal.offset, refusal.last_good) == (begin, 3)
        assert "revision 5 whole behind it" in str(refusal)
        flip(segment, offset, 1 << offset % 8)


async def test_batch_of_which_a_later_record_reached_the_disk_before_an_earlier_one_is_cut(tmp_path: Path) -> None:
    await write_log(tmp_path, 2)
    log = FileLog.open(tmp_path, SMALL)
    await log.append(records(3, 5))
    log.close()
    path = segment_path(tmp_path / "wal", 1)
    content = path.read_bytes()
    lines = [0, *ends(path)]
    for lost in (3, 4):
        write_synced(tmp_path, 2)
        begin, end = lines[lost], lines[lost + 1]
        path.write_bytes(content[:begin] + bytes(end - begin) + content[end:])
        assert reopened(tmp_path) == list(range(1, lost))


def test_flip_in_an_unsynced_last_record_cuts_that_record_alone(store: Path, segment: Path) -> None:
    begin, end = ends(segment)[-2:]
    content = segment.read_bytes()
    for offset in range(begin, end):
        write_synced(store, 4)
        segment.write_bytes(content)
        flip(segment, offset, 1 << offset % 8)
        assert reopened(store) == [1, 2, 3, 4]


def test_lost_page_in_the_middle_is_refused(three_segments: Path) -> None:
    path = segment_path(three_segments / "wal", 4)
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes(512) + content[1512:])
    refusal = refused(three_segments)
    assert (refusal.path, refusal.last_good) == (str(path), 3)


# --- segments and their order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 4])
def test_short_segment_that_is_not_the_last_is_refused(three_segments: Path, first: int) -> None:
    path = segment_path(three_segments / "wal", first)
    path.write_bytes(written(path)[:-30])
    refusal = refused(three_segments)
    assert (refusal.path, refusal.offset, refusal.last_good) == (str(path), ends(path)[-1], first + 1)


def test_segment_that_lost_its_last_record_to_zeros_is_refused(three_segments: Path) -> None:
    path = segment_path(three_segments / "wal", 4)
    content = written(path)[: ends(path)[-2]]
    path.write_bytes(content + bytes(SMALL.segment - len(content)))
    assert refused(three_segments).last_good == 5


@pytest.mark.parametrize(("first", "last_good"), [(1, 0), (4, 3), (7, 6)])
def test_missing_segment_is_refused(three_segments: Path, first: int, last_good: int) -> None:
    segment_path(three_segments / "wal", first).unlink()
    assert refused(three_segments).last_good == last_good


async def test_segment_of_another_store_is_refused(three_segments: Path, tmp_path: Path) -> None:
    await write_log(tmp_path / "other", 8, size=1000)
    shutil.copy(segment_path(tmp_path / "other" / "wal", 7), segment_path(three_segments / "wal", 7))
    assert "another store's" in str(refused(three_segments))


def test_segment_under_a_wrong_name_is_refused(three_segments: Path) -> None:
    segment_path(three_segments / "wal", 7).rename(segment_path(three_segments / "wal", 8))
    assert refused(three_segments).last_good == 6


@pytest.mark.parametrize(("prev", "rev"), [(0, 6), (None, 7), (None, 5), (None, 0)], ids=str)
def test_whole_record_that_does_not_follow_is_refused(store: Path, segment: Path, prev: int | None, rev: int) -> None:
    content = written(segment)
    last = survey(store, read_format(store / "FORMAT").cluster).crc
    line, _ = encode(last if prev is None else prev, rev, 5, record(rev).body)
    segment.write_bytes(content + line)
    refusal = refused(store)
    assert (refusal.offset, refusal.last_good) == (len(content), 5)
    assert f"revision {rev} does not follow revision 5" in str(refusal)


def test_record_written_twice_is_refused(store: Path, segment: Path) -> None:
    content = written(segment)
    segment.write_bytes(content + content[ends(segment)[-2] :])
    assert refused(store).last_good == 5


def test_swapped_records_are_refused(store: Path, segment: Path) -> None:
    content = written(segment)
    _, a, b, c, *_ = ends(segment)
    segment.write_bytes(content[:a] + content[b:c] + content[a:b] + content[c:])
    assert refused(store).last_good == 1


async def test_segment_with_a_header_only_is_used(tmp_path: Path) -> None:
    await write_log(tmp_path, 7, size=1000)
    path = segment_path(tmp_path / "wal", 7)
    path.write_bytes(path.read_bytes()[: ends(path)[0]])
    write_synced(tmp_path, 6)
    assert reopened(tmp_path) == [1, 2, 3, 4, 5, 6]
    log = FileLog.open(tmp_path, SMALL)
    await log.append(records(7, 12, size=1000))
    log.close()
    assert reopened(tmp_path) == list(range(1, 13))
    assert len(segments(tmp_path / "wal")) == 3


def test_segment_that_was_never_named_is_removed(store: Path) -> None:
    unborn = store / "wal" / "0000000000000006.tmp"
    unborn.write_bytes(b"half a head")
    assert reopened(store) == [1, 2, 3, 4, 5]
    assert not unborn.exists()


def test_files_of_others_are_left_alone(store: Path) -> None:
    note = store / "wal" / "0000000000000001.wal~"
    note.write_bytes(b"an editor was here")
    assert reopened(store) == [1, 2, 3, 4, 5]
    assert note.exists()


# --- FORMAT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 3, 99])
def test_unknown_format_version_is_refused(store: Path, version: int) -> None:
    fields = json.loads((store / "FORMAT").read_text())
    (store / "FORMAT").write_text(json.dumps({**fields, "version": version}))
    before = contents(store)
    with pytest.raises(NanoError, match=f"format version {version}, this Nano knows only up to 2"):
        FileLog.open(store, SMALL)
    assert contents(store) == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version":1}', '{"version":"one"}', "\0" * 80])
def test_unreadable_format_is_refused(store: Path, content: str) -> None:
    (store / "FORMAT").write_text(content)
    with pytest.raises(NanoError, match="restore it from a backup"):
        FileLog.open(store, SMALL)


@pytest.mark.parametrize("lost", ["SYNCED", "wal/0000000000000001.wal"])
def test_store_that_lost_its_format_is_not_taken_for_a_new_one(store: Path, lost: str) -> None:
    (store / "FORMAT").unlink()
    (store / lost).unlink()
    with pytest.raises(NanoError, match="FORMAT is missing"):
        FileLog.open(store, SMALL)


def test_founding_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    FileLog.open(tmp_path, SMALL).close()
    (tmp_path / "FORMAT").unlink()
    segment_path(tmp_path / "wal", 1).unlink()
    assert reopened(tmp_path) == []


# --- repair --------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(three_segments: Path) -> Path:
    """Revision 5 of 8 is bad."""
    path = segment_path(three_segments / "wal", 4)
    flip(path, ends(path)[1] + 50)
    assert refused(three_segments).last_good == 4
    return three_segments


async def test_repair_gives_up_what_was_named_and_keeps_copies(damaged: Path) -> None:
    before = contents(damaged)
    bad = segment_path(damaged / "wal", 4)
    done = repair(damaged, accept_loss_after=4)
    assert done.rev == 4
    lost = [written_part(before, "4", ends(bad)[-1]), written_part(before, "7", 0)]
    assert [path.read_bytes() for path in done.kept] == lost
    assert done.dropped == sum(map(len, lost))
    assert reopened(damaged) == [1, 2, 3, 4]
    log = FileLog.open(damaged, SMALL)
    first = 4 + RAISED + 1
    assert log.head() == first - 1, "no revision names two states"
    await log.append(records(first, first + 4, size=1000))
    log.close()
    assert reopened(damaged) == [1, 2, 3, 4, *range(first, first + 5)]


def written_part(before: dict[str, bytes], first: str, offset: int) -> bytes:
    return before[f"wal/{first:0>16}.wal"].rstrip(b"\0")[offset:]


def test_repair_begins_a_new_incarnation_of_the_same_cluster(damaged: Path) -> None:
    before = read_format(damaged / "FORMAT")
    repair(damaged, accept_loss_after=4)
    after = read_format(damaged / "FORMAT")
    assert (after.cluster, after.incarnation) == (before.cluster, before.incarnation + 1)


@pytest.mark.parametrize("rev", [0, 3, 5, 8])
def test_repair_of_another_revision_is_refused(damaged: Path, rev: int) -> None:
    before = contents(damaged)
    with pytest.raises(Invalid, match="good up to revision 4"):
        repair(damaged, accept_loss_after=rev)
    assert contents(damaged) == before


def test_repair_leaves_a_whole_log_alone(store: Path) -> None:
    before = contents(store)
    assert repair(store, accept_loss_after=5).dropped == 0
    assert contents(store) == before


def test_repair_beside_a_running_server_is_refused(store: Path) -> None:
    log = FileLog.open(store, SMALL)
    with pytest.raises(Unavailable, match="in use"):
        repair(store, accept_loss_after=5)
    log.close()


@pytest.fixture(params=range(6))
def loss(request: pytest.FixtureRequest, three_segments: Path) -> Iterator[int]:
    """Each kind of damage; yields the last good revision."""
    wal = three_segments / "wal"
    match request.param:
        case 0:
            flip(segment_path(wal, 1), 30)
            yield 0
        case 1:
            segment_path(wal, 1).unlink()
            yield 0
        case 2:
            segment_path(wal, 4).unlink()
            yield 3
        case 3:
            flip(segment_path(wal, 7), 3)
            yield 6
        case 4:
            (three_segments / "SYNCED").unlink()
            yield 8
        case _:
            write_synced(three_segments, 11)
            yield 8


def test_every_damage_can_be_repaired_with_the_command_given(loss: int, three_segments: Path) -> None:
    assert refused(three_segments).last_good == loss
    repair(three_segments, accept_loss_after=loss)
    assert reopened(three_segments) == list(range(1, loss + 1))
    assert repair(three_segments, accept_loss_after=loss + RAISED).kept == (), "there is nothing left to repair"
