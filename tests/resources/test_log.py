"""The contract of a log, asked of every log there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanovirt.resources.errors import StoreFailed, TooLarge
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.log import RECORD_LIMIT, Log, MemoryLog, Record, check_size
from tests.resources.records import SMALL, record, records


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Log]]:
    """Closes the log, if there is one, and opens it again as a restarted server would."""
    opened: list[Log] = []

    def again() -> Log:
        last = opened.pop() if opened else None
        if last:
            last.close()
        if request.param == "file":
            opened.append(FileLog.open(tmp_path / "store", SMALL))
        else:
            opened.append(MemoryLog(last.read() if last else ()))
        return opened[0]

    yield again
    for log in opened:
        log.close()


@pytest.fixture
def log(reopen: Callable[[], Log]) -> Log:
    return reopen()


def test_new_log_is_empty(log: Log) -> None:
    assert log.head() == 0
    assert list(log.read()) == []


async def test_appended_records_are_there_after_a_restart(log: Log, reopen: Callable[[], Log]) -> None:
    await log.append(records(1, 3))
    await log.append(records(4, 4))
    assert log.head() == 4
    log = reopen()
    assert log.head() == 4
    assert list(log.read()) == records(1, 4)


async def test_reading_begins_after_the_given_revision(log: Log, reopen: Callable[[], Log]) -> None:
    await log.append(records(1, 40, size=500))
    log = reopen()
    for after in range(42):
        assert list(log.read(after)) == records(after + 1, 40, size=500)


async def test_restarted_log_goes_on_where_it_ended(log: Log, reopen: Callable[[], Log]) -> None:
    for rev in range(1, 8):
        await log.append([record(rev, size=900)])
        log = reopen()
    assert list(log.read()) == records(1, 7, size=900)


async def test_empty_batch_changes_nothing(log: Log) -> None:
    await log.append([])
    assert log.head() == 0


@pytest.mark.parametrize("revs", [(2,), (1, 3), (1, 1), (0,), (1, 2, 4)])
async def test_gap_in_the_revisions_is_refused_whole(log: Log, revs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has to follow"):
        await log.append([record(rev) for rev in revs])
    assert log.head() == 0
    await log.append(records(1, 2))
    assert list(log.read()) == records(1, 2)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a":1}\n', b'{"a":\n1}', b"null"])
async def test_body_that_is_no_object_on_one_line_is_refused(log: Log, body: bytes) -> None:
    with pytest.raises(ValueError, match="one JSON object on one line"):
        await log.append([Record(1, body)])
    assert log.head() == 0


async def test_record_of_the_limit_is_taken_and_a_larger_one_refused(log: Log, reopen: Callable[[], Log]) -> None:
    largest = Record(1, b'{"x":"' + b"y" * (RECORD_LIMIT - 8) + b'"}')
    check_size(largest.body)
    await log.append([largest])
    larger = Record(2, largest.body[:-2] + b'y"}')
    with pytest.raises(TooLarge):
        check_size(larger.body)
    with pytest.raises(TooLarge):
        await log.append([larger])
    await log.append([record(2)])
    assert list(reopen().read()) == [largest, record(2)]


async def test_body_is_kept_byte_for_byte(log: Log, reopen: Callable[[], Log]) -> None:
    bodies = [
        '{"name":"Zürich \U0001f5a5 { 1 2 3 {"}'.encode(),
        b'{"text":"0badc0de 0badc0de 7 6 12 {\\u0000\\n"}',
        b"{}",
        b'{ "spaced" : 1 }',
    ]
    await log.append([Record(rev, body) for rev, body in enumerate(bodies, 1)])
    assert [body for _, body in reopen().read()] == bodies


async def test_closed_log_takes_nothing(log: Log) -> None:
    await log.append(records(1, 1))
    log.close()
    log.close()
    with pytest.raises(StoreFailed):
        await log.append(records(2, 2))
