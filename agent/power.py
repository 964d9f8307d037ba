"""Deciding whether a machine is to run: the wish, a restart asked for once, and what to do when it ended by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.memory import Memory
from nanovirt.agent.steps import Destroy, LookAgain, Remember, Resume, ShutDown, Start, Step, Suspend
from nanovirt.agent.unheard import told_by
from nanovirt.resources.instance import Restart
from nanovirt.resources.placement import PlacementSpec

BUDGET, BUDGET_SECONDS = 3, 600.0
"""So many restarts by itself within so many seconds."""
PRESS_SECONDS = 5.0
"""How often a guest that is to end is asked: one that still boots hears nothing."""
LINGER_SECONDS = 5.0
"""How long after its grace a guest may still end because it was once asked to."""
PAUSED_SECONDS = 30.0
"""How long a paused machine is left before it is let go on: a full disk pauses it again at once."""
SPENT = "BudgetSpent"
LOST = "MemoryLost"
"""What has become of a machine that ended while it was suspended."""

Verdict = tuple[Memory, tuple[Step, ...]]
"""The memory to begin with, and the steps after it. Before `Start` all that the machine needs is made."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The domain, since when it is in its state, and the boot of the host."""

    domain: SeenDomain | None
    since: float
    boot_id: str

    @property
    def on(self) -> bool:
        """Whether there is a machine that is not off."""
        return self.domain is not None and self.domain.state != "Off"


def decide(spec: PlacementSpec, seen: Seen, memory: Memory, now: float) -> Verdict:
    """What to do so that it runs, or does not."""
    match spec.power_state:
        case "Running" if seen.on:
            return _running(spec, seen, memory, now)
        case "Running":
            return _off(spec, seen, memory, now)
        case "Stopped" if seen.on:
            return _stopping(spec, seen, memory, now, hard=_cut(spec, memory))
        case "Stopped":
            done = spec.restart.at if spec.restart is not None and _cut(spec, memory) else memory.restart_at
            return _with(memory, intent="Off", asked=None, ended="", detail="", restart_at=done), ()
        case "Suspended" if seen.on:
            return _suspending(seen, memory)
        case "Suspended":
            return _nothing_suspended(seen, memory), ()


def due(restart: Restart | None, memory: Memory) -> bool:
    """Whether a restart is asked for that was not carried out yet."""
    return restart is not None and (memory.restart_at is None or restart.at > memory.restart_at)


def _cut(spec: PlacementSpec, memory: Memory) -> bool:
    """Whether it is to end without being asked, this once: a hard restart of which only the ending is wished now."""
    return (
        spec.restart is not None and spec.restart.mode == "Hard" and due(spec.restart, memory) and not _adopted(memory)
    )


def _with(memory: Memory, **changes: Any) -> Memory:
    if all(getattr(memory, name) == value for name, value in changes.items()):
        return memory
    return replace(memory, **changes)


def _files(spec: PlacementSpec) -> tuple[str, ...]:
    return tuple(volume.file for volume in spec.volumes)


# --- it is on ---


def _running(spec: PlacementSpec, seen: Seen, memory: Memory, now: float) -> Verdict:
    if spec.restart is not None and due(spec.restart, memory) and not _adopted(memory):
        return _stopping(spec, seen, memory, now, hard=spec.restart.mode == "Hard")
    if seen.domain is not None and seen.domain.state == "Paused":
        if memory.intent == "Suspended":  # by us: a guest that was asked to end before goes on ending
            return _with(memory, asked=None if memory.asked is None else now), (Resume(),)
        left = seen.since + PAUSED_SECONDS - now
        return memory, (LookAgain(left),) if left > 0 else (Resume(),)
    if memory.intent == "Started":
        return memory, ()
    if memory.asked is not None and 0 <= now - memory.asked < spec.stop_grace_seconds + LINGER_SECONDS:
        return memory, (LookAgain(memory.asked + spec.stop_grace_seconds + LINGER_SECONDS - now),)
    taken = _with(_taken_over(spec, memory), intent="Started", asked=None, ended="", detail="", boot_id=seen.boot_id)
    return _with(taken, started=max(1, taken.started), volumes=_files(spec), told=taken.told or told_by(spec)), ()


def _adopted(memory: Memory) -> bool:
    """It runs, and nothing is known of how it came to: its restart may have been carried out already."""
    return not memory.started


def _taken_over(spec: PlacementSpec, memory: Memory) -> Memory:
    if not _adopted(memory) or spec.restart is None or not due(spec.restart, memory):
        return memory
    return _with(memory, restart_at=spec.restart.at)


def _suspending(seen: Seen, memory: Memory) -> Verdict:
    """Noted before, so that whatever becomes of it, it is known that its memory was to be kept."""
    assert seen.domain is not None
    if seen.domain.state == "Stopping":
        return memory, ()
    noted = _with(memory, intent="Suspended", started=max(1, memory.started), ended="", detail="", boot_id=seen.boot_id)
    return noted, () if seen.domain.state == "Paused" else (Suspend(),)


def _nothing_suspended(seen: Seen, memory: Memory) -> Memory:
    """It is off, and stays off: what a guest had in memory cannot be made up. It starts when it is to run."""
    if memory.intent != "Suspended":
        return _with(memory, intent="Off", asked=None)
    detail = "the host was booted anew" if memory.boot_id != seen.boot_id else (seen.domain and seen.domain.detail)
    return _with(memory, intent="Off", asked=None, ended=LOST, detail=detail or "for no known reason")


def _stopping(spec: PlacementSpec, seen: Seen, memory: Memory, now: float, *, hard: bool) -> Verdict:
    """Ask the guest, again and again, until its grace is over; then pull the plug. A paused one hears nothing."""
    if memory.intent != "Off" or memory.asked is None or memory.asked > now:
        memory = _with(memory, intent="Off", asked=now, pressed=None)
    left = (memory.asked or now) + spec.stop_grace_seconds - now
    if hard or left <= 0:
        return memory, (Destroy(),)
    heard = (Resume(),) if seen.domain is not None and seen.domain.state == "Paused" else ()
    rest = PRESS_SECONDS - (now - memory.pressed) if memory.pressed is not None else 0.0
    if not heard and 0 < rest <= PRESS_SECONDS:
        return memory, (LookAgain(min(rest, left)),)
    return _with(memory, pressed=now), (*heard, ShutDown(), LookAgain(min(PRESS_SECONDS, left)))


# --- it is off ---


def _off(spec: PlacementSpec, seen: Seen, memory: Memory, now: float) -> Verdict:
    if memory.intent == "Suspended":
        memory = _nothing_suspended(seen, memory)
    if due(spec.restart, memory) or memory.intent in ("Off", "Starting"):
        return _starting(spec, seen, memory)
    if memory.intent == "Held":
        return memory, ()
    ended = (seen.domain and seen.domain.ended) or "Unknown"
    detail = (seen.domain and seen.domain.detail) or ended
    if spec.restart_policy == "Never" or (spec.restart_policy == "OnFailure" and ended == "Shutdown"):
        return _with(memory, intent="Held", ended=ended, detail=detail), ()
    if memory.boot_id != seen.boot_id:
        return _starting(spec, seen, memory)
    recent = tuple(at for at in memory.restarts if 0 <= now - at < BUDGET_SECONDS)
    if len(recent) >= BUDGET:
        return _with(memory, intent="Held", ended=SPENT, detail=detail), ()
    return _starting(spec, seen, _with(memory, restarts=(*recent, now)))


def _starting(spec: PlacementSpec, seen: Seen, memory: Memory) -> Verdict:
    """Any start carries out the restart that is asked for; it is noted before, and that it was done after."""
    count = memory.started + (memory.intent != "Starting")
    at = spec.restart.at if spec.restart is not None and due(spec.restart, memory) else memory.restart_at
    noted = _with(
        memory,
        intent="Starting", started=count, restart_at=at, asked=None, ended="", detail="", boot_id=seen.boot_id,
        told=told_by(spec),
    )  # fmt: skip
    return noted, (Start(), Remember(_with(noted, intent="Started", volumes=_files(spec))))
