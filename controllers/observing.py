"""From what a host reports to what an instance's status says: phase, conditions, addresses, what awaits a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanovirt.controllers.drifting import drifted
from nanovirt.controllers.lacks import Lack
from nanovirt.controllers.limits import started_with
from nanovirt.resources.conditions import Condition, condition, find
from nanovirt.resources.instance import AwaitingChange, Hardware, Instance, InstanceAddress, InstanceStatus, Phase
from nanovirt.resources.placement import Placement
from nanovirt.resources.reasons import Reason

PHASES: dict[str, Phase] = {
    "": "Provisioning",
    "Preparing": "Provisioning",
    "Starting": "Starting",
    "Running": "Running",
    "Stopping": "Stopping",
    "Stopped": "Stopped",
    "Suspended": "Suspended",
    "Failed": "Failed",
    "Unknown": "Unknown",
}
AS_WISHED = {
    "Running": Reason.AsDesired,
    "Stopped": Reason.StoppedAsDesired,
    "Suspended": Reason.SuspendedAsDesired,
}
PASSING = {
    "Provisioning": Reason.Provisioning,
    "Starting": Reason.Starting,
    "Stopping": Reason.Stopping,
    "Running": Reason.Stopping,
    "Stopped": Reason.Starting,
}
WELL = {("Ready", "True"), ("RestartRequired", "False")}
"""What must not be said of a change that the host has not looked at yet."""


def waiting(instance: Instance, reason: Reason, /, **params: Any) -> InstanceStatus:
    """The status of an instance that has no place yet."""
    generation = instance.metadata.generation
    return InstanceStatus(
        observed_generation=generation,
        phase="Pending",
        placement=instance.status.placement,
        conditions=(
            condition("Ready", "False", reason, generation, **params),
            condition("Scheduled", "False", reason, generation, **params),
        ),
    )


def observed(
    instance: Instance, placement: Placement, *, reachable: bool, lacks: tuple[Lack, ...] = (), fresh: bool = False
) -> InstanceStatus:
    """The status of a placed instance; an unreachable host makes it Unknown, whatever was said before.

    `lacks`: wishes that cannot be followed now, while all else is. `fresh`: its Placement is being changed now. Until
    its host has looked at what changed, conditions that say that all is well say it of the generation before.
    """
    phase = PHASES[placement.status.state] if reachable else "Unknown"
    if instance.deleting:
        phase = "Deleting"
    awaiting = _awaiting(placement)
    refused = tuple(_refused(one) for one in lacks if one.path)
    behind = fresh or placement.status.observed_generation < placement.metadata.generation
    return InstanceStatus(
        observed_generation=instance.metadata.generation,
        phase=phase,
        host=placement.spec.host,
        placement=placement.metadata.name,
        addresses=tuple(_addresses(placement)),
        guest=placement.status.guest,
        hardware=_hardware(placement),
        restart_awaiting_changes=(*awaiting, *refused),
        drift=placement.status.drift,
        conditions=tuple(
            _not_before(instance, one) if behind and (one.type, one.status) in WELL else one
            for one in _conditions(instance, placement, phase, awaiting, lacks, reachable=reachable)
        ),
    )


def _not_before(instance: Instance, one: Condition) -> Condition:
    """Of the generation of which it was said before, or of none."""
    before = find(instance.status.conditions, one.type)
    known = before.observed_generation if before is not None and before.status == one.status else None
    return one.model_copy(update={"observed_generation": known or 0})


def _addresses(placement: Placement) -> Iterator[InstanceAddress]:
    """Of a pool, or for a card without one what the guest says."""
    guest = placement.status.guest
    said = guest.addresses if guest is not None and guest.agent == "Connected" else ()
    for nic in placement.spec.nics:
        if nic.ip is not None:
            yield InstanceAddress(nic=nic.name, ip=str(nic.ip), mac=nic.mac)
        else:
            found = (one.ip for one in said if one.mac == nic.mac)
            yield from (InstanceAddress(nic=nic.name, ip=ip, mac=nic.mac, source="Guest") for ip in found)


def _guest_agent(placement: Placement, generation: int) -> Iterator[Condition]:
    """Said of a machine that runs, once its agent was ever heard: many guests have none."""
    guest = placement.status.guest
    if guest is None or placement.status.state != "Running":
        return
    if guest.agent == "Connected":
        yield condition("GuestAgentConnected", "True", Reason.GuestAgentAnswers, generation)
    else:
        yield condition("GuestAgentConnected", "False", Reason.GuestAgentSilent, generation)


def _conditions(
    instance: Instance,
    placement: Placement,
    phase: str,
    awaiting: tuple[AwaitingChange, ...],
    lacks: tuple[Lack, ...],
    *,
    reachable: bool,
) -> Iterator[Condition]:
    generation, host = instance.metadata.generation, placement.spec.host
    yield _ready(instance, placement, phase, lacks, reachable=reachable)
    yield condition("Scheduled", "True", Reason.Scheduled, generation, host=host)
    if placement.status.volumes or placement.status.state in (
        "Running",
        "Stopping",
        "Stopped",
        "Starting",
        "Suspended",
    ):
        yield condition("VolumesReady", "True", Reason.VolumesReady, generation)
    else:
        yield condition("VolumesReady", "False", Reason.Provisioning, generation)
    if awaiting:
        yield condition("RestartRequired", "True", Reason.RestartNeeded, generation, count=len(awaiting))
    else:
        yield condition("RestartRequired", "False", Reason.NothingAwaits, generation)
    yield from _guest_agent(placement, generation)
    yield from drifted(instance, placement)


def _ready(
    instance: Instance, placement: Placement, phase: str, lacks: tuple[Lack, ...], *, reachable: bool
) -> Condition:
    generation, status = instance.metadata.generation, placement.status
    if not reachable:
        return condition("Ready", "Unknown", Reason.HostUnreachable, generation, host=placement.spec.host)
    if status.reason in Reason.__members__ and status.reason != Reason.StoppedAsDesired.name:
        return condition("Ready", "False", Reason[status.reason], generation, **status.params)
    if instance.deleting:
        return condition("Ready", "False", Reason.Deleting, generation)
    if lacks:
        return condition("Ready", "False", lacks[0].reason, generation, **lacks[0].params)
    wish, restarted = placement.spec.power_state, _restarted(placement)
    if phase == wish and restarted:
        return condition("Ready", "True", AS_WISHED[wish], generation)
    return condition("Ready", "False", _passing(phase, wish), generation)


def _passing(phase: str, wish: str) -> Reason:
    """What is being done on the way from the phase to the wish."""
    if phase == wish:
        return Reason.Starting
    if (phase, wish) == ("Running", "Suspended"):
        return Reason.Suspending
    if phase == "Suspended":
        return Reason.Resuming if wish == "Running" else Reason.Stopping
    return PASSING.get(phase, Reason.Provisioning)


def _restarted(placement: Placement) -> bool:
    """Whether the last order to restart, if there is one, has been carried out."""
    order = placement.spec.restart
    done = placement.status.restarted_at
    return order is None or (done is not None and done >= order.at) or placement.spec.power_state != "Running"


def _awaiting(placement: Placement) -> tuple[AwaitingChange, ...]:
    """What the running machine could not take, in the words of its host."""
    return placement.status.awaiting if placement.status.state in ("Running", "Stopping", "Suspended") else ()


def _refused(lack: Lack) -> AwaitingChange:
    return AwaitingChange(path=lack.path, current=lack.current, desired=lack.desired, operation="Refused")


def _hardware(placement: Placement) -> Hardware:
    """What decides when a change takes effect; the ceilings are those that the running machine was started with."""
    spec, (cpus, memory) = placement.spec, started_with(placement)
    devices = next((one.current for one in placement.status.awaiting if one.path == "spec.systemTemplate"), None)
    now = devices.get("machine") if isinstance(devices, dict) else None
    return Hardware.model_construct(
        template=spec.template,
        machine=now if now in ("q35", "i440fx") else spec.domain.machine,
        disk_bus=spec.domain.disk_bus,
        drive_bus=spec.domain.drive_bus,
        nic_model=spec.domain.nic_model,
        max_cpus=cpus or spec.max_cpu,
        max_memory=memory or spec.max_memory,
        disks={one.name: one.size for one in spec.volumes if one.purpose == "Disk"},
    )
