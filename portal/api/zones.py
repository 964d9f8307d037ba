"""The warning that a guest's time zone is none that this server knows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from zoneinfo import available_timezones

from nanovirt.portal.api.admission import Wanted
from nanovirt.resources.instance import Instance, InstanceSpec
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.kind import Document


@cache
def known() -> frozenset[str]:
    """The zones of this machine's tzdata; none when it has none. They are read once."""
    return frozenset(available_timezones())


def unknown(wanted: Wanted) -> Iterator[str]:
    """What to warn of, where the zone is new: a guest may know zones that are younger than this server's list."""
    for spec, path in _specs(wanted.made):
        zone = spec.guest.time_zone
        if zone is None or not known() or zone in known() or zone == _before(wanted, path):
            continue
        yield f"{path}.guest.timeZone: {zone} is no time zone that this server knows{_meant(zone, known())}"


def _specs(made: Document) -> Iterator[tuple[InstanceSpec, str]]:
    if isinstance(made, Instance):
        yield made.spec, "spec"
    elif isinstance(made, InstanceSet):
        yield made.spec.template.spec, "spec.template.spec"


def _before(wanted: Wanted, path: str) -> str:
    found = wanted.old or {}
    for step in (*path.split("."), "guest"):
        found = found.get(step) or {}
    return str(found.get("timeZone", ""))


@lru_cache(256)  # a set of many brings one mistake many times, and to look costs milliseconds
def _meant(zone: str, among: frozenset[str]) -> str:
    import difflib  # noqa: PLC0415 - only who errs waits for it

    spelt = {one.casefold(): one for one in sorted(among)}
    near = difflib.get_close_matches(zone.casefold(), list(spelt), 3)
    if not near:
        near = [name for name in spelt if name.rpartition("/")[2] == zone.casefold()][:3]
    return f"; do you mean {' or '.join(spelt[one] for one in near)}?" if near else ""
