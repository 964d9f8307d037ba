"""VLANs as people write them on switches: "10", "20-29", and "0" for frames without a tag."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

from pydantic import BeforeValidator

from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import shaped

VLAN_MAX = 4094
SPANS_MAX = 256
"""Entries of a list of VLANs."""


def _written(value: object) -> object:
    """A YAML file has 10 for "10"."""
    return str(value) if type(value) is int else value


VlanSpan = Annotated[
    str,
    BeforeValidator(_written),
    shaped(
        r"^[0-9]{1,4}(-[0-9]{1,4})?$",
        'a VLAN such as "10", a range of them such as "20-29", or "0" for frames without a tag',
    ),
]


def span(written: str) -> tuple[int, int]:
    """The first and the last VLAN of `10` or `20-29`."""
    first, _, last = written.partition("-")
    return int(first), int(last or first)


def problems(field: str, written: Collection[str] | None) -> Iterator[Cause]:
    """Entries that are no VLANs: what is beyond the last, reversed, or takes 0 for one among others."""
    if written is not None and not written:
        say = 'an empty list would carry nothing; leave it out for all VLANs, or write "0" for frames without a tag'
        yield Cause.of(field, say)
    for index, one in enumerate(written or ()):
        first, last = span(one)
        say = ""
        if last > VLAN_MAX or first > VLAN_MAX:
            say = f"{one}: VLANs go from 1 to {VLAN_MAX}"
        elif last < first:
            say = f"{one}: the lower one comes first; write {last}-{first}"
        elif first == 0 and "-" in one:
            say = f'{one}: 0 stands for frames without a tag, which are no VLAN; write "0", and the range from 1'
        if say:
            yield Cause.of(f"{field}[{index}]", say)


def among(written: Iterable[str], vlan: int) -> bool:
    """Whether that VLAN is one of them; 0: frames without a tag."""
    return any(first <= vlan <= last for first, last in map(span, written))


def spoken(vlan: int) -> str:
    """The VLAN in a sentence after "carry"."""
    return f"VLAN {vlan}" if vlan else "frames without a tag (VLAN 0)"
