"""Items of a list that say the same of what each has to have for itself, such as its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from nanovirt.resources.errors import Cause
from nanovirt.resources.reasons import Reason


def twice(field: str, names: Collection[str], key: str = "name") -> Iterator[Cause]:
    """A cause for each name that was there before; `key` is where an item has it, "" when the item is the name.

    An empty name is none.
    """
    seen: set[str] = set()
    if len(names) == len(set(names)):
        return
    for index, one in enumerate(names):
        if one and one in seen:
            where = f"{field}[{index}].{key}".rstrip(".")
            yield Cause.of(where, Reason.FieldDuplicate, value=one)
        seen.add(one)
