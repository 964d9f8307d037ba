"""Requests that take effect once: the key that a client gives one, and what the store remembers under it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Change, Entry, Known, Once, Op, Result, told

KEPT_FOR = timedelta(hours=24)
KEPT_MAX, KEPT_EACH = 50_000, 10_000
"""Keys of all users together, and of one; beyond, the oldest of whoever has the most go first."""


class Ledger:
    """What is known of keys, bounded by age and number; in the order of revisions."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Known] = {}
        self._keys: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """The same by user, so that nobody's keys make room for those of another who has more."""

    def __len__(self) -> int:
        return len(self._known)

    def add(self, by: str, once: Once, rev: int, at: str) -> None:
        """Remember a request at its revision, which is above all others here; `at` is RFC 3339."""
        now = datetime.fromisoformat(at)
        self._drop(by, once.key)
        self._known[by, once.key] = Known(once.digest, rev, now)
        self._keys[by][once.key] = None
        while _old(next(iter(self._known.values())), now):
            self._drop(*next(iter(self._known)))
        if len(self._keys[by]) > KEPT_EACH:
            self._drop(by, next(iter(self._keys[by])))
        if len(self._known) > KEPT_MAX:
            most = max(self._keys, key=lambda user: len(self._keys[user]))
            self._drop(most, next(iter(self._keys[most])))

    def say(self) -> Iterator[JSON]:
        """What is known, for `add_said` of another ledger, oldest first."""
        for (by, key), known in self._known.items():
            yield {"by": by, "name": key, "digest": known.digest, "rev": known.rev, "at": known.at.isoformat()}

    def add_said(self, said: JSON) -> None:
        """Remember what another ledger said."""
        self.add(said["by"], Once(said["name"], said["digest"]), said["rev"], said["at"])

    def find(self, by: str, key: str, now: datetime) -> Known | None:
        """What is known of that user's key; None when it was never seen, or too long ago."""
        found = self._known.get((by, key))
        return None if found is None or _old(found, now) else found

    def forget_after(self, rev: int) -> None:
        """Drop what was staged above `rev` and never became durable."""
        while self._known and next(reversed(self._known.values())).rev > rev:
            self._drop(*next(reversed(self._known)))

    def _drop(self, by: str, key: str) -> None:
        if self._known.pop((by, key), None) is None:
            return
        del self._keys[by][key]
        if not self._keys[by]:
            del self._keys[by]


def _old(known: Known, now: datetime) -> bool:
    return now.astimezone(UTC) - known.at > KEPT_FOR


def receipt(
    once: Once, ops: Sequence[Op], results: Sequence[Entry | None], changes: Mapping[Key, Change], rev: int
) -> JSON:
    """What a record says of its request, so that its answer can be given again.

    `apart` names the results that the record's own writes do not show, by their place: `[3, plural, namespace, name,
    revision, uid]`; revision 0 is an object that is gone. A write shows the first of the operations that led to it.
    """
    untold = {key for key, change in changes.items() if change.after is not None}
    apart: list[list[object]] = []
    for at, (op, entry) in enumerate(zip(ops, map(told, ops, results), strict=True)):
        if entry is not None and entry.rev == rev and op.key in untold:
            untold.remove(op.key)
        else:
            apart.append([at, *op.key, _kept_at(entry, rev, changes.get(op.key)), _uid(entry, changes.get(op.key))])
    return {"name": once.key, "digest": once.digest} | ({"apart": apart} if apart else {})


def _kept_at(entry: Entry | None, rev: int, change: Change | None) -> int:
    """The revision at which a log has the object; 0: it is gone, be it by a later operation of the same record."""
    if entry is None or (entry.rev == rev and change is not None and change.after is None):
        return 0
    return entry.rev


def _uid(entry: Entry | None, change: Change | None) -> str:
    found = entry or (change.before if change else None)
    return found.uid if found else ""


def results_of(record: JSON, look: Callable[[Key, int], bytes]) -> list[Result]:
    """The results of the operations behind a record with a receipt; `look` gives an object at another revision."""
    apart = _apart(record)
    put = iter([write for write in record["writes"] if write["verb"] == "put"])
    count = len(apart) + sum(write["verb"] == "put" for write in record["writes"])
    found: list[Result] = []
    for at in range(count):
        if at in apart:
            key, rev, uid = apart[at]
            found.append(Result(key, look(key, rev) if rev else None, uid))
        else:
            found.append(_shown(next(put)))
    return found


def kept_elsewhere(record: JSON) -> Iterator[tuple[Key, int]]:
    """What `results_of` will look for: objects, and the revisions at which they stood."""
    return ((key, rev) for key, rev, _ in _apart(record).values() if rev)


def _apart(record: JSON) -> dict[int, tuple[Key, int, str]]:
    return {at: (Key(*key), rev, uid) for at, *key, rev, uid in record["key"].get("apart", ())}


def _shown(write: JSON) -> Result:
    key = Key(write["kind"], write["namespace"], write["name"])
    return Result(key, dump(write["object"]), write["object"]["metadata"]["uid"])


def objects_in(record: JSON) -> dict[Key, JSON]:
    """What a record put, by key."""
    puts = (write for write in record["writes"] if write["verb"] == "put")
    return {Key(write["kind"], write["namespace"], write["name"]): write["object"] for write in puts}
