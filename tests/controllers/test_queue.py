"""The work queue: order, one worker per key, coalescing, back-off. Time is a number here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanovirt.controllers.queue import FIRST_BACKOFF, LONGEST_BACKOFF, Queue


def test_key_is_ready_once_however_often_it_is_added() -> None:
    queue: Queue[str] = Queue()
    for _ in range(3):
        queue.add("a", 0.0)
    assert queue.ready(0.0) == ["a"]
    assert queue.ready(10.0) == []


def test_key_that_is_worked_on_comes_again_afterwards() -> None:
    queue: Queue[str] = Queue()
    queue.add("a", 0.0)
    queue.ready(0.0)
    queue.add("a", 1.0)
    assert queue.ready(1.0) == []
    queue.done("a")
    assert queue.ready(1.0) == ["a"]


def test_earlier_time_wins() -> None:
    queue: Queue[str] = Queue()
    queue.add("a", 0.0, delay=10)
    queue.add("a", 0.0, delay=1)
    queue.add("a", 0.0, delay=5)
    assert queue.next_wake() == 1.0
    assert queue.ready(1.0) == ["a"]
    queue.done("a")
    assert queue.next_wake() is None


def test_failures_back_off_and_success_forgets_them() -> None:
    queue: Queue[str] = Queue()
    queue.add("a", 0.0)
    pauses = []
    now = 0.0
    for _ in range(14):
        assert queue.ready(now) == ["a"]
        pauses.append(queue.failed("a", now))
        now += pauses[-1]
    assert pauses[:3] == [FIRST_BACKOFF, FIRST_BACKOFF * 2, FIRST_BACKOFF * 4]
    assert pauses[-1] == LONGEST_BACKOFF
    queue.ready(now)
    queue.done("a")
    queue.add("a", now)
    queue.ready(now)
    assert queue.failed("a", now) == FIRST_BACKOFF


def test_number_of_keys_taken_is_bounded() -> None:
    queue: Queue[int] = Queue()
    for number in range(5):
        queue.add(number, 0.0)
    assert queue.ready(0.0, most=2) == [0, 1]
    assert (queue.busy, len(queue)) == (2, 5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "ready", "done", "failed"]))))
def test_no_key_is_ever_worked_on_twice_at_once_or_lost(moves: list[tuple[str, str]]) -> None:
    queue: Queue[str] = Queue()
    busy: set[str] = set()
    owed: set[str] = set()
    now = 0.0
    for key, move in moves:
        now += 1.0
        if move == "add":
            queue.add(key, now)
            owed.add(key)
        elif move == "ready":
            taken = queue.ready(now)
            assert not busy & set(taken)
            busy |= set(taken)
            owed -= set(taken)
        elif key in busy:
            busy.discard(key)
            queue.done(key) if move == "done" else queue.failed(key, now)
            owed |= {key} if move == "failed" else set()
    for key in busy:
        queue.done(key)
    assert owed <= set(queue.ready(now + LONGEST_BACKOFF))
