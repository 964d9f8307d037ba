"""Deciding what to do to one machine: from its Placement, what is seen and what is remembered, to ordered steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nanovirt.agent import drift, live, orders, power
from nanovirt.agent.boot_order import NOBODY, Ahead
from nanovirt.agent.changes import AttachCard, MoveCard
from nanovirt.agent.drift import UNJUDGED, Judgement
from nanovirt.agent.leases import reservations
from nanovirt.agent.live import Live
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed
from nanovirt.agent.segments import segments_of
from nanovirt.agent.steps import (
    Act,
    Define,
    Destroy,
    FetchImage,
    GrowVolume,
    LookAgain,
    MakeSegment,
    MakeVolume,
    Remember,
    RemoveVolume,
    Resume,
    Serve,
    ShutDown,
    Start,
    Step,
    Suspend,
    Undefine,
    Withhold,
)
from nanovirt.agent.unheard import unheard
from nanovirt.agent.wish import Wish
from nanovirt.resources.instance import AwaitingChange
from nanovirt.resources.placement import Placement, PlacementSpec, PlacementStatus

UNTOLD = PlacementStatus()
BRIDGE_SECONDS = 10.0
"""How often to look for a bridge that is missing."""
TAKING_SECONDS = 2.0
"""How often to look at a guest that is taking memory."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the memory to begin with, and what keeps it from starting: a bridge or a disk, or others first."""

    steps: tuple[Step, ...]
    memory: Memory
    missing_bridge: str = ""
    lost_volume: str = ""
    ahead: Ahead = NOBODY
    drift: Judgement = UNJUDGED
    """Whether the definition is still as it was made."""
    live: tuple[Live, ...] = ()
    """What the running machine is to take now, among the steps or not yet to be tried again."""
    awaiting: tuple[AwaitingChange, ...] = ()
    """What it cannot take before its next start."""

    @property
    def settled(self) -> bool:
        """Nothing to do but wait."""
        return all(isinstance(step, LookAgain) for step in self.steps)

    @property
    def waits(self) -> bool:
        """After these steps something has to happen by itself."""
        return not self.steps or isinstance(self.steps[-1], LookAgain)


def decide(wish: Wish | None, seen: Observed, memory: Memory, now: float) -> Decision:
    """The steps that lead to what is wished; none when it is there. `now`: seconds since 1970.

    A Placement below the highest epoch that was seen is never obeyed, and absence is never an order: a machine without
    a Placement keeps running, and keeps its address.
    """
    if wish is None:
        return Decision(tuple(_left_alone(seen, memory)), memory)
    if outdated(wish, memory):
        return Decision((), memory)
    placement = wish.placement
    if placement.deleting or placement.spec.role == "Revoked":
        noted = accepted(wish, seen, memory)
        return Decision((*_note(memory, noted), *paced(_end(wish, seen), seen, now)), noted)
    if placement.spec.role == "Incoming":
        return Decision((), memory)
    return _active(wish, seen, memory, now)


def outdated(wish: Wish, memory: Memory) -> bool:
    """Whether a Placement at a higher epoch was seen on this host."""
    return wish.placement.spec.epoch < memory.epoch


def accepted(wish: Wish, seen: Observed, memory: Memory) -> Memory:
    """The memory that has taken notice of the Placement; a lost memory is filled from what the server was told."""
    placement, held = wish.placement, memory.placement
    if not memory.epoch and seen.told.epoch == placement.spec.epoch:
        memory = _recalled(memory, placement.spec, seen.told)
    known = held is not None and _version(held) == _version(placement) and memory.epoch == placement.spec.epoch
    if known:
        return memory
    kept = placement.model_copy(update={"status": UNTOLD})
    return replace(memory, epoch=placement.spec.epoch, placement=kept)


def _version(placement: Placement) -> tuple[str, int]:
    return placement.metadata.uid, placement.metadata.generation


def _recalled(memory: Memory, spec: PlacementSpec, told: PlacementStatus) -> Memory:
    """Whatever ran had its disks: when they are gone together with the notes, that is a loss, and no fresh machine."""
    there = {volume.name for volume in told.volumes} if told.started else set()
    files = tuple(volume.file for volume in spec.volumes if volume.name in there)
    memory = replace(memory, started=told.started, restart_at=told.restarted_at, volumes=files)
    shut_down = told.state == "Stopped" and told.reason == "GuestShutdown"
    return replace(memory, intent="Held", ended="Shutdown") if shut_down else memory


def _note(before: Memory, after: Memory) -> Iterator[Step]:
    if after != before:
        yield Remember(after)


def _left_alone(seen: Observed, memory: Memory) -> Iterator[Act]:
    """No Placement: who is there goes on being served, who is not loses the address."""
    if seen.domain is None:
        yield from (Withhold(served.reservation.mac) for served in seen.served)
    elif memory.placement is not None:
        yield from (Serve(served) for served in reservations(memory.placement.spec) if served not in seen.served)


# --- the end of a Placement ---


def _end(wish: Wish, seen: Observed) -> Iterator[Act]:
    """Machine, definition and addresses go; disks only when an operation names them, never those of a Revoked one."""
    if seen.on:
        yield Destroy()
    if seen.domain is not None:
        yield Undefine()
    yield from (Withhold(served.reservation.mac) for served in seen.served)
    yield from (RemoveVolume(file) for file in doomed(wish.placement).values() if file in seen.volumes)


def doomed(placement: Placement) -> dict[str, str]:
    """The files that a deleted Placement's operations remove, by the operation's uid: disks, and what were some."""
    if not placement.deleting or placement.spec.role == "Revoked":
        return {}
    files = {name: volume.file for volume in placement.spec.volumes for name in (volume.name, volume.file)}
    orders = [one for one in placement.spec.operations if one.verb == "RemoveVolume"]
    own = f"/{placement.spec.instance_uid}."
    files |= {one.volume: one.volume for one in orders if own in one.volume}
    return {one.uid: files[one.volume] for one in orders if one.volume in files}


# --- an active Placement ---


def _active(wish: Wish, seen: Observed, memory: Memory, now: float) -> Decision:
    spec = wish.placement.spec
    about = power.Seen(seen.domain, seen.since, seen.boot_id)
    judged = drift.judge(spec.drift, seen.domain.definition if seen.domain else "", seen.form, memory.defined)
    known = _with_form(accepted(wish, seen, memory), judged)
    noted, acts = power.decide(spec, about, known, now)
    lost = next((file for file in noted.volumes if file not in seen.volumes and _wanted(spec, file)), "")
    bridge = next((nic.bridge for nic in spec.nics if nic.bridge not in seen.bridges), "")
    if Start() in acts and (lost or bridge):
        acts = (LookAgain(BRIDGE_SECONDS),)
    else:
        lost = bridge = ""
    waits = NOBODY
    if Start() in acts and seen.ahead.others:  # nothing of the start is noted before its turn has come
        waits, noted, acts = seen.ahead, known, (LookAgain(seen.ahead.left),)
    # What ends the machine, or lets it go on, does not wait for a definition that may be refused.
    urgent = any(isinstance(act, ShutDown | Destroy | Suspend | Resume) for act in acts)
    found = _differences(spec, seen)
    noted = _attached(spec, seen, noted)
    # What is plugged in is taken from the definition, which is not ours while somebody else's stands.
    changes = () if urgent or judged.hold or not _runs(seen) else tuple(_changing(found, seen, now))
    prepared = () if urgent else (*_preparing(wish, seen, noted, judged), *_connecting(spec, seen, (*changes, *acts)))
    steps = (*_serving(wish, seen), *prepared, *changes, *acts)
    refused = tuple(one.otherwise for one in found.changes if one.change in seen.refused)
    paced_steps = (*_note(memory, noted), *paced(steps, seen, now))
    awaiting = (*found.awaiting, *refused, *_unheard(spec, seen, noted))
    return Decision(paced_steps, noted, bridge, lost, waits, judged, found.changes, awaiting)


def _unheard(spec: PlacementSpec, seen: Observed, memory: Memory) -> Iterator[AwaitingChange]:
    """What only its next start tells the guest that runs."""
    if seen.on and memory.told is not None:
        yield from unheard(spec, memory.told)


def _with_form(memory: Memory, judged: Judgement) -> Memory:
    return memory if judged.defined == memory.defined else replace(memory, defined=judged.defined)


def _runs(seen: Observed) -> bool:
    """Whether its guest can answer for what is plugged in and out."""
    return seen.domain is not None and seen.domain.state == "Running"


def _differences(spec: PlacementSpec, seen: Observed) -> live.Differences:
    hardware = seen.domain.hardware if seen.domain is not None else None
    if hardware is None:
        return live.NONE
    return live.differences(spec, hardware, {file: volume.size for file, volume in seen.volumes.items()})


def _changing(found: live.Differences, seen: Observed, now: float) -> Iterator[Step]:
    """Those that are not to wait after a failure; those that do keep nothing else from being done."""
    waits = []
    for one in found.changes:
        failed = seen.refused.get(one.change)
        if failed is None or now >= failed.until:
            yield one.change
        else:
            waits.append(failed.until - now)
    if found.taking:
        waits.append(TAKING_SECONDS)
    if waits:
        yield LookAgain(min(waits))


def _attached(spec: PlacementSpec, seen: Observed, memory: Memory) -> Memory:
    """A disk that was plugged in counts as started with: should it be lost, it is not made anew."""
    hardware = seen.domain.hardware if seen.domain is not None else None
    if hardware is None or memory.intent != "Started":
        return memory
    there = {disk.file for disk in hardware.disks.values()}
    new = tuple(one.file for one in spec.volumes if one.file in there and one.file not in memory.volumes)
    return replace(memory, volumes=(*memory.volumes, *new)) if new else memory


def _wanted(spec: PlacementSpec, file: str) -> bool:
    return any(volume.file == file for volume in spec.volumes)


def _serving(wish: Wish, seen: Observed) -> Iterator[Act]:
    macs = {served.reservation.mac for served in wish.reservations}
    yield from (Withhold(mac) for served in seen.served if (mac := served.reservation.mac) not in macs)
    yield from (Serve(served) for served in wish.reservations if served not in seen.served)


def _preparing(wish: Wish, seen: Observed, memory: Memory, judged: Judgement) -> Iterator[Act]:
    """Disks that were never there, and the definition; a disk that was there and is gone is lost, not made anew."""
    spec, images = wish.placement.spec, set(seen.images)
    for volume in spec.volumes:
        if volume.file in seen.volumes or volume.file in memory.volumes or volume.adopted:
            continue
        if volume.source is not None and volume.source.sha256 not in images:
            images.add(volume.source.sha256)
            yield FetchImage(volume.name, volume.source)
        yield MakeVolume(volume)
    for medium in spec.media:
        if medium.image is not None and medium.image.sha256 not in images:
            images.add(medium.image.sha256)
            yield FetchImage(medium.name, medium.image)
    yield from _growing(spec, seen)
    yield from orders.steps(wish, seen)
    if judged.redefine:  # what the hypervisor makes of it this time is what is compared from then on
        yield Define(spec, wish.digest)
        yield Remember(replace(memory, defined=None))
    elif seen.domain is None or (seen.domain.definition != wish.digest and not judged.hold):
        yield Define(spec, wish.digest)


def _connecting(spec: PlacementSpec, seen: Observed, then: tuple[Step, ...]) -> Iterator[Act]:
    """The segments that cards are about to be plugged into."""
    if any(isinstance(step, Start | AttachCard | MoveCard) for step in then):
        missing = (one for one in segments_of(spec) if one not in seen.segments)
        yield from (MakeSegment(one) for one in missing if one.bridge in seen.bridges)


def _growing(spec: PlacementSpec, seen: Observed) -> Iterator[Act]:
    """Disks that no running machine has; the others grow with it."""
    hardware = seen.domain.hardware if seen.domain is not None else None
    if seen.on and hardware is None:
        return
    used = {disk.file for disk in hardware.disks.values()} if hardware is not None else set()
    for volume in spec.volumes:
        there = seen.volumes.get(volume.file)
        if there is not None and there.size < volume.size and volume.file not in used:
            yield GrowVolume(volume.file, int(volume.size))


def paced(steps: Iterator[Act] | tuple[Step, ...], seen: Observed, now: float) -> tuple[Step, ...]:
    """The steps up to the one that failed and is not yet to be tried again."""
    found, trouble = tuple(steps), seen.trouble
    if trouble is None or now >= trouble.until or trouble.step not in found:
        return found
    return (*found[: found.index(trouble.step)], LookAgain(trouble.until - now))
