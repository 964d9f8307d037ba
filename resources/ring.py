"""The recent commits that a watch may resume from."""

from __future__ import annotations

from collections import deque

from nanovirt.resources.errors import Expired
from nanovirt.resources.store import Commit

RING_CHANGES, RING_BYTES, RING_SECONDS = 100_000, 32 * 1024 * 1024, 300


class Ring:
    """Commits in order, bounded by count, bytes and age, whichever is least."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, int, Commit]] = deque()
        self._changes = self._bytes = 0
        self.oldest = 0
        """Everything after this revision is here."""

    def add(self, commit: Commit, now: float) -> None:
        """Keep a commit; drops what is over the bounds."""
        size = sum(len(entry.raw) for change in commit.changes for entry in change[1:] if entry is not None)
        self._kept.append((now, size, commit))
        self._changes += len(commit.changes)
        self._bytes += size
        while self._over(now):
            _, size, dropped = self._kept.popleft()
            self._changes -= len(dropped.changes)
            self._bytes -= size
            self.oldest = dropped.rev

    def _over(self, now: float) -> bool:
        if len(self._kept) < 2:
            return False
        old = now - self._kept[0][0] > RING_SECONDS
        return self._changes > RING_CHANGES or self._bytes > RING_BYTES or old

    def after(self, rev: int) -> list[Commit]:
        """The kept commits above `rev`. Raises Expired."""
        if rev < self.oldest:
            raise Expired(rev, self.oldest)
        found: list[Commit] = []
        for _, _, commit in reversed(self._kept):
            if commit.rev <= rev:
                break
            found.append(commit)
        return found[::-1]
