"""The words of the tables of plans: one machine as it is placed, as it is seen, and what is decided for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nanovirt.agent import telling
from nanovirt.agent.leases import reservations
from nanovirt.agent.machine import SeenDomain, SeenVolume
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed
from nanovirt.agent.plan import Decision, decide
from nanovirt.agent.simulated_hardware import started
from nanovirt.agent.unheard import told_by
from nanovirt.agent.wish import Wish, digest
from nanovirt.resources.placement import Placement, PlacementStatus
from tests.agent.placements import FILE, UUID, spec

NOW = 10_000.0
DIGEST = digest(spec())
GIB = 2**30
HARDWARE = started(spec())
RUNNING = SeenDomain(
    UUID, "default.web-1", "Running", run="r1", definition=DIGEST, live=DIGEST, cpu=2, memory=GIB, hardware=HARDWARE
)
OFF = SeenDomain(UUID, "default.web-1", "Off", definition=DIGEST)
NEVER_STARTED = OFF
THERE = {FILE: SeenVolume(FILE, GIB, 1000)}
SERVED = reservations(spec())
BRIDGES = frozenset({"nano0"})
NOTHING = Observed(bridges=BRIDGES, boot_id="b1")
ON = replace(NOTHING, domain=RUNNING, volumes=THERE, served=SERVED)
BLANK = Memory()


def ended(how: Any, **changes: Any) -> Observed:
    return replace(ON, domain=replace(OFF, ended=how, detail=how.lower()), **changes)


def knowing(made: Placement, **changes: Any) -> Memory:
    """The memory of a machine that was started as it is placed."""
    kept = made.model_copy(update={"status": PlacementStatus()})
    base: dict[str, Any] = {"intent": "Started", "started": 1, "boot_id": "b1", "volumes": (FILE,)}
    base["told"] = told_by(made.spec)
    return Memory(epoch=made.spec.epoch, placement=kept, **(base | changes))


def decided(made: Placement | None, seen: Observed, memory: Memory, now: float = NOW) -> Decision:
    return decide(Wish.of(made) if made else None, seen, memory, now)


def names(decision: Decision) -> list[str]:
    return [type(step).__name__ for step in decision.steps]


def told(made: Placement, seen: Observed, memory: Memory, now: float = NOW) -> PlacementStatus:
    status = telling.tell(Wish.of(made), seen, decided(made, seen, memory, now))
    assert status is not None
    return status


def word(made: Placement, seen: Observed, memory: Memory, now: float = NOW) -> tuple[str, str]:
    status = told(made, seen, memory, now)
    return status.state, status.reason
