"""The orders of a living Placement: what may go once the machine does not have it any more, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.agent.observed import Observed
from nanovirt.agent.steps import Act, RemoveVolume, ShrinkVolume
from nanovirt.agent.wish import Wish
from nanovirt.resources.placement import Operation, OperationResult


def files(operations: tuple[Operation, ...]) -> Iterator[str]:
    """The files that orders are about, to be looked at."""
    return (one.volume for one in operations if one.volume.startswith("/"))


def steps(wish: Wish, seen: Observed) -> Iterator[Act]:
    """What can be done now of what is ordered; nothing is done twice, since what is done is seen."""
    for order in wish.placement.spec.operations:
        there = seen.volumes.get(order.volume)
        if there is None or _refused(wish, order) or not _free_file(wish, seen, order.volume):
            continue
        if order.verb == "RemoveVolume":
            yield RemoveVolume(order.volume)
        elif order.verb == "ShrinkVolume" and not seen.on and order.size is not None and there.size > order.size:
            step = ShrinkVolume(order.volume, int(order.size))
            # One that failed keeps no machine from starting: what stands on the disk may have to be moved first.
            if wish.placement.spec.power_state != "Running" or seen.trouble is None or seen.trouble.step != step:
                yield step


def results(wish: Wish, seen: Observed) -> tuple[OperationResult, ...]:
    """How each order stands."""
    return tuple([_result(wish, seen, order) for order in wish.placement.spec.operations])


def _result(wish: Wish, seen: Observed, order: Operation) -> OperationResult:
    refused = _refused(wish, order)
    if refused:
        return OperationResult(uid=order.uid, state="Failed", detail=refused)
    if _done(wish, seen, order):
        return OperationResult(uid=order.uid, state="Succeeded")
    trouble = seen.trouble
    step = trouble.step if trouble is not None else None
    if trouble is None or not isinstance(step, RemoveVolume | ShrinkVolume) or step.file != order.volume:
        return OperationResult(uid=order.uid, state="Running")
    detail = str(trouble.params.get("detail", ""))
    # What shrinks is asked for by a person who may take it back; what is to be removed is tried for ever.
    return OperationResult(uid=order.uid, state="Failed" if order.verb == "ShrinkVolume" else "Running", detail=detail)


def _refused(wish: Wish, order: Operation) -> str:
    """Why an order is none that can be carried out, or ""."""
    held = {volume.file for volume in wish.placement.spec.volumes}
    match order.verb:
        case "RemoveVolume" | "ReleaseVolume" if order.volume in held:
            return "it is a disk of the machine"
        case "RemoveVolume" | "ReleaseVolume" if not order.volume.startswith("/"):
            return "names no file"
        case "ShrinkVolume" if order.volume not in held:
            return "names no disk of the machine"
        case _:
            return ""


def _done(wish: Wish, seen: Observed, order: Operation) -> bool:
    match order.verb:
        case "RemoveVolume":
            return _free_file(wish, seen, order.volume) and order.volume not in seen.volumes
        case "ReleaseVolume":
            return _free_file(wish, seen, order.volume)
        case "ShrinkVolume":
            there = seen.volumes.get(order.volume)
            return there is not None and order.size is not None and there.size <= order.size
        case "ReleaseAddress":
            return _free_card(wish, seen, order.mac or "")


def _defined(wish: Wish, seen: Observed) -> bool:
    """Whether the hypervisor's definition, which a start would take, is that of the wish."""
    return seen.domain is None or seen.domain.definition == wish.digest


def _free_file(wish: Wish, seen: Observed, file: str) -> bool:
    if any(volume.file == file for volume in wish.placement.spec.volumes):
        return not seen.on
    if not _defined(wish, seen):
        return False
    if seen.domain is None or not seen.on:
        return True
    hardware = seen.domain.hardware
    return hardware is not None and all(disk.file != file for disk in hardware.disks.values())


def _free_card(wish: Wish, seen: Observed, mac: str) -> bool:
    """No card has the MAC, or the one that has it took the address that it is to have now."""
    if not _defined(wish, seen):
        return False
    if seen.domain is None or not seen.on:
        return True
    hardware = seen.domain.hardware
    if hardware is None:
        return False
    return mac not in hardware.cards or mac in seen.leased
