"""After a boot of the host: which machines start first, and who waits for whom, and for how long at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nanovirt.agent.memory import Memory
from nanovirt.resources.placement import Placement

WAIT_SECONDS = 120.0
"""Nobody waits longer for others, whatever keeps them."""
NAMED = 3
"""So many of those that are waited for are told by name."""


class Booting(NamedTuple):
    """A machine that ran before the host was booted anew and is still to be started; `since`: seconds since 1970."""

    name: str
    priority: int
    since: float


class Ahead(NamedTuple):
    """Those that a machine waits for, the first few by name, and for how many seconds it does so at most."""

    others: int = 0
    names: tuple[str, ...] = ()
    left: float = 0.0


NOBODY = Ahead()


def boots(placement: Placement, memory: Memory, boot_id: str, *, on: bool, began: bool = False) -> bool:
    """Whether the machine is to be started because its host was booted anew; `began`: it was so, and may be starting.

    One that somebody starts for the first time, or after it was stopped, waits for nobody.
    """
    spec = placement.spec
    wished = spec.role == "Active" and not placement.deleting and spec.power_state == "Running"
    ran = memory.intent == "Starting" or (memory.intent == "Started" and spec.restart_policy != "Never")
    starting = began and memory.intent == "Starting"  # noted with this boot, and not yet done
    return wished and not on and (starting or (ran and memory.boot_id not in ("", boot_id)))


def ahead(mine: Booting, others: Iterable[Booting], now: float) -> Ahead:
    """Whom it waits for: all of higher priority, until they have been started or have failed, or its time is up."""
    left = mine.since + WAIT_SECONDS - now
    before = [one for one in others if one.priority > mine.priority]
    if not before or not 0 < left <= WAIT_SECONDS:  # a clock that was set back is no reason to wait
        return NOBODY
    names = sorted(before, key=lambda one: (-one.priority, one.name))[:NAMED]
    return Ahead(len(before), tuple(one.name for one in names), left)


class BootOrder:
    """Who is still to be started on this host; wakes the next ones when those before them are through."""

    def __init__(self) -> None:
        self._booting: dict[str, Booting] = {}
        self._wakes: dict[str, Callable[[], None]] = {}

    def note(self, uuid: str, name: str, priority: int, now: float, wake: Callable[[], None]) -> None:
        """That machine is to be started; asked again it has waited since the first time."""
        held = self._booting.get(uuid)
        self._booting[uuid] = Booting(name, priority, held.since if held is not None else now)
        self._wakes[uuid] = wake

    def through(self, uuid: str) -> None:
        """That machine has been started, has failed, or is not to be started any more."""
        gone = self._booting.pop(uuid, None)
        self._wakes.pop(uuid, None)
        if gone is None or not self._booting:
            return
        highest = max(one.priority for one in self._booting.values())
        if highest < gone.priority:
            for other, one in self._booting.items():
                if one.priority == highest:
                    self._wakes[other]()

    def began(self, uuid: str) -> bool:
        """Whether that machine is still to be started, as far as was said."""
        return uuid in self._booting

    def ahead(self, uuid: str, now: float) -> Ahead:
        """Whom that machine waits for."""
        mine = self._booting.get(uuid)
        return NOBODY if mine is None else ahead(mine, self._booting.values(), now)
