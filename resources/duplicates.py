"""Items of a list that bear the same name, so that nobody could tell which of them is meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nanovirt.resources.errors import Cause
from nanovirt.resources.reasons import Reason


def twice(field: str, names: Collection[str], key: str = "name") -> Iterator[Cause]:
    """A cause for each name that was there before; `key` is where an item has it, "" when the item is the name."""
    seen: set[str] = set()
    if len(names) == len(set(names)):
        return
    for index, one in enumerate(names):
        if one in seen:
            where = f"{field}[{index}].{key}".rstrip(".")
            yield Cause.of(where, Reason.FieldDuplicate, value=one)
        seen.add(one)
