"""The work queue without I/O: keys become ready, one worker per key, failures back off; time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 30.0
K = TypeVar("K", bound=Hashable)


class Queue(Generic[K]):
    """A key stands in it at most once; a key that is added while it is worked on becomes ready again afterwards."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._busy: set[K] = set()
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """Keys that wait or are worked on."""
        return len(self._due) + len(self._busy)

    @property
    def busy(self) -> int:
        """Keys that are worked on."""
        return len(self._busy)

    def add(self, key: K, now: float, delay: float = 0.0) -> None:
        """Make `key` ready after `delay`; an earlier time that it has already wins."""
        due = now + delay
        if key in self._busy:
            self._again[key] = min(due, self._again.get(key, due))
        elif due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, key))

    def ready(self, now: float, most: int = 1_000_000) -> list[K]:
        """Take the keys that are due, oldest first; each must end in `done` or `failed`."""
        taken: list[K] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self._busy.add(key)
                taken.append(key)
        return taken

    def done(self, key: K) -> None:
        """The work on `key` succeeded."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K, now: float) -> float:
        """The work on `key` failed: it comes again after a doubling pause, which is returned (seconds)."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(LONGEST_BACKOFF, FIRST_BACKOFF * float(2 ** (failures - 1)))
        self._again[key] = max(now + pause, self._again.get(key, 0.0))
        self._release(key)
        return pause

    def _release(self, key: K) -> None:
        self._busy.discard(key)
        due = self._again.pop(key, None)
        if due is not None:
            self.add(key, due)

    def next_wake(self) -> float | None:
        """When the next key is due, or None."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
