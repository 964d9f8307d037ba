"""What the server is told of one machine: Placement.status from what is seen, decided and remembered."""

from __future__ import annotations

from typing import Any

from nanovirt.agent import orders, power
from nanovirt.agent.machine import NoRoom
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed
from nanovirt.agent.plan import Decision, doomed, outdated
from nanovirt.agent.steps import Act, Define, FetchImage, LookAgain, MakeVolume, RemoveVolume, Start
from nanovirt.agent.wish import Wish
from nanovirt.resources.errors import NanoError
from nanovirt.resources.guest import GuestReport
from nanovirt.resources.placement import (
    OperationResult,
    Placement,
    PlacementSpec,
    PlacementStatus,
    SeenNic,
    State,
    VolumeUse,
)
from nanovirt.resources.quantities import Bytes

USED_SLACK = 64 << 20
"""Bytes by which a disk may have grown, besides an eighth, without anybody being told."""

Word = tuple[State, str, dict[str, Any]]
"""State, reason (reasons.py; "" when there is nothing to say) and its parameters."""


def tell(wish: Wish, seen: Observed, decision: Decision) -> PlacementStatus | None:
    """The status as it should stand; None when there is nothing to tell (not begun)."""
    spec, memory = wish.placement.spec, decision.memory
    ending = wish.placement.deleting or spec.role == "Revoked"
    if outdated(wish, memory):
        return _superseded(wish) if ending else _ahead(seen, memory)
    if ending:
        return _ending(wish, seen)
    if spec.role == "Incoming":
        return None
    state, reason, params = _word(spec, seen, decision)
    domain = seen.domain
    ours = domain is not None and (wish.digest == domain.definition or (decision.drift.hold and not domain.definition))
    settled = ours and not decision.live and decision.settled
    generation = _generation(wish, seen)
    return PlacementStatus(
        state=state,
        reason=reason,
        params=params,
        epoch=spec.epoch,
        applied_generation=generation if settled and not decision.awaiting else seen.told.applied_generation,
        observed_generation=generation if settled else seen.told.observed_generation,
        awaiting=decision.awaiting,
        operations=orders.results(wish, seen),
        restarted_at=max(filter(None, (memory.restart_at, seen.told.restarted_at)), default=None),
        started=max(memory.started, seen.told.started),
        nics=_nics(spec, seen, memory),
        volumes=_volumes(spec, seen),
        drift=decision.drift.drift,
        drift_count=decision.drift.total,
        guest=_guest(seen),
    )


def _guest(seen: Observed) -> GuestReport | None:
    """What the guest says, or said: one that is off does not answer, and what it said may still be of use."""
    report = seen.guest or seen.told.guest
    if report is None or seen.on:
        return report
    return report.model_copy(update={"agent": "Disconnected", "addresses": ()})


def _ahead(seen: Observed, memory: Memory) -> PlacementStatus | None:
    """Not obeyed: the epoch that was, which the server has forgotten, so that it can go on from there.

    Nothing of a machine that has left this host since: it may run elsewhere.
    """
    if memory.placement is None or memory.placement.spec.role != "Active":
        return None
    return seen.told.model_copy(update={"epoch": memory.epoch})


def unseen(told: PlacementStatus, host: str, detail: str) -> PlacementStatus:
    """What was told last, and that the machine cannot be looked at any more."""
    return told.model_copy(update={"reason": "HypervisorRefused", "params": {"host": host, "detail": detail}})


def _generation(wish: Wish, seen: Observed) -> int:
    failing = seen.trouble is not None and isinstance(seen.trouble.step, Define | MakeVolume | FetchImage)
    return seen.told.applied_generation if failing else wish.placement.metadata.generation


def _nics(spec: PlacementSpec, seen: Observed, memory: Memory) -> tuple[SeenNic, ...]:
    """A card that took its address has it until the machine is started anew, whatever a restarted agent knows."""
    same_run = memory.started == seen.told.started
    took = {(nic.mac, nic.ip) for nic in seen.told.nics if nic.leased and same_run}
    return tuple(
        SeenNic(name=nic.name, mac=nic.mac, ip=ip, leased=nic.mac in seen.leased or (nic.mac, ip) in took)
        for nic, ip in ((nic, str(nic.ip or "")) for nic in spec.nics)
    )


def _volumes(spec: PlacementSpec, seen: Observed) -> tuple[VolumeUse, ...]:
    """Bytes on disk; a size that was told before stays until it is worth a word."""
    told = {use.name: use.used for use in seen.told.volumes}
    return tuple(
        VolumeUse(name=volume.name, used=_used(told.get(volume.name), seen.volumes[volume.file].used))
        for volume in spec.volumes
        if volume.file in seen.volumes
    )


def _used(told: Bytes | None, used: int) -> Bytes:
    if told is not None and abs(used - told) <= USED_SLACK + told // 8:
        return told
    return Bytes(used)


# --- state and reason ---


def _word(spec: PlacementSpec, seen: Observed, decision: Decision) -> Word:
    if seen.on:
        return _on(spec, seen, decision)
    if decision.missing_bridge:
        params = {"host": spec.host, "device": decision.missing_bridge, "network": ""}
        return "Failed", "BridgeMissing", params
    if decision.lost_volume:
        return "Failed", "HypervisorRefused", {"host": spec.host, "detail": f"{decision.lost_volume} is gone"}
    troubled = _troubled(seen, decision)
    if troubled is not None:
        return troubled
    if decision.ahead.others:
        names = ", ".join(decision.ahead.names)
        return "Starting", "StartsAfterOthers", {"count": decision.ahead.others, "names": names}
    if Start() in decision.steps:
        return ("Preparing", "Provisioning", {}) if _unmade(decision) else ("Starting", "Starting", {})
    if decision.memory.intent == "Held":
        return _held(spec, decision.memory)
    if _unmade(decision):
        return "Preparing", "Provisioning", {}
    if spec.power_state == "Suspended":
        return _unsuspended(spec, decision.memory)
    return "Stopped", "StoppedAsDesired", {}


def _on(spec: PlacementSpec, seen: Observed, decision: Decision) -> Word:
    assert seen.domain is not None
    if decision.memory.intent == "Off" or seen.domain.state == "Stopping":
        return "Stopping", "Stopping", {}
    if seen.domain.state == "Paused" and decision.memory.intent == "Suspended":
        troubled = _troubled(seen, decision)
        return ("Suspended", *troubled[1:]) if troubled is not None else ("Suspended", "", {})
    if seen.domain.state == "Paused":
        params = {"detail": seen.domain.detail or "for no known reason", "seconds": int(power.PAUSED_SECONDS)}
        return "Failed", "MachinePaused", {"host": spec.host, **params}
    troubled = _troubled(seen, decision)
    if troubled is not None:
        return "Running", troubled[1], troubled[2]
    refused = next((seen.refused[one.change] for one in decision.live if one.change in seen.refused), None)
    return ("Running", refused.reason, dict(refused.params)) if refused else ("Running", "", {})


def _troubled(seen: Observed, decision: Decision) -> Word | None:
    """The step that failed, as long as the plan waits to try it again."""
    if seen.trouble is None or not decision.steps or not isinstance(decision.steps[-1], LookAgain):
        return None
    state: State = "Preparing" if isinstance(seen.trouble.step, FetchImage) else "Failed"
    return state, seen.trouble.reason, dict(seen.trouble.params)


def _unmade(decision: Decision) -> bool:
    return any(isinstance(step, FetchImage | MakeVolume | Define) for step in decision.steps)


def _unsuspended(spec: PlacementSpec, memory: Memory) -> Word:
    if memory.ended == power.LOST:
        return "Stopped", "SuspendedMemoryLost", {"host": spec.host, "detail": memory.detail}
    return "Stopped", "NothingToSuspend", {}


def _held(spec: PlacementSpec, memory: Memory) -> Word:
    if memory.ended == "Shutdown":
        return "Stopped", "GuestShutdown", {}
    if memory.ended == power.SPENT:
        minutes = int(power.BUDGET_SECONDS // 60)
        return "Failed", "RestartBudgetSpent", {"count": len(memory.restarts) + 1, "minutes": minutes}
    return "Stopped", "Crashed", {"detail": memory.detail, "policy": spec.restart_policy}


# --- the end of a Placement ---


def _ending(wish: Wish, seen: Observed) -> PlacementStatus:
    spec, told = wish.placement.spec, seen.told
    gone = seen.domain is None
    files = doomed(wish.placement)
    results = tuple(_result(one.uid, files, seen) for one in _operations(wish.placement))
    released = gone and all(result.state != "Running" for result in results)
    return told.model_copy(
        update={
            "state": "Stopped" if gone else "Stopping",
            "reason": "Deleting",
            "params": {},
            "epoch": spec.epoch,
            "awaiting": (),
            "nics": (),
            "operations": results,
            "released": released,
        }
    )


def _operations(placement: Placement) -> tuple[Any, ...]:
    return placement.spec.operations if placement.deleting and placement.spec.role != "Revoked" else ()


def _result(uid: str, files: dict[str, str], seen: Observed) -> OperationResult:
    if uid not in files:
        return OperationResult(uid=uid, state="Failed", detail="names no volume of this Placement")
    if seen.domain is None and files[uid] not in seen.volumes:
        return OperationResult(uid=uid, state="Succeeded")
    failed = seen.trouble if seen.trouble and seen.trouble.step == RemoveVolume(files[uid]) else None
    detail = str(failed.params.get("detail", "")) if failed else ""
    return OperationResult(uid=uid, state="Running", detail=detail)


def _superseded(wish: Wish) -> PlacementStatus:
    """A newer Placement of the same machine stands on this host: nothing of this one runs, and no disk is touched."""
    placement = wish.placement
    results = tuple(
        OperationResult(uid=one.uid, state="Failed", detail="a newer Placement of the machine holds its disks")
        for one in _operations(placement)
    )
    return PlacementStatus(
        state="Stopped", reason="Deleting", epoch=placement.spec.epoch, operations=results, released=True
    )


# --- why a step failed ---


def why(step: Act, error: NanoError, host: str) -> tuple[str, dict[str, Any]]:
    """The word of reasons.py for a step that failed, and its parameters."""
    if isinstance(error, NoRoom):
        return "DiskFull", {"host": host, "path": error.path}
    if isinstance(step, FetchImage):
        return "ImageFetchFailed", {"host": host, "image": step.image.image, "detail": str(error)}
    return "HypervisorRefused", {"host": host, "detail": str(error)}
