"""The controller of Host.status: what the reports say, and what their silence means."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from nanovirt.controllers.actions import Action, LookAgain, Transact, set_status
from nanovirt.controllers.news import turned
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import Condition, condition, find, settle
from nanovirt.resources.host import Amounts, Host, HostStatus
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import HostFacts, lost_after
from nanovirt.resources.reports import Heard

NAME = "hosts"
READS = ("hosts", "placements", "volumes", "reports", "events")
WRITES = ("hosts/status", "events")

UNCLAIMED_SHOWN = 100


def plan(host: Host | None, world: World, now: datetime, monotonic: float) -> Iterator[Action]:
    """Host.status from the latest report; a host that is silent for a full lease with its margin is Unknown.

    `monotonic` is the server's own clock in seconds: after a start of the server nothing is known until a full lease
    with its margin has passed (failover.md 2.4), so until then the stored conditions stand.
    """
    if host is None or host.deleting:
        return
    heard = world.reports.heard(host.metadata.name)
    since = heard.at if heard is not None else world.reports.started
    left = since + lost_after() - monotonic
    if heard is None and left > 0:
        yield LookAgain(left)
        return
    status = _status(host, heard, world, silent=left <= 0, seconds=int(monotonic - since))
    status = status.model_copy(update={"conditions": settle(now, host.status.conditions, status.conditions)})
    if status != host.status:
        told = turned(host, NAME, host.status.conditions, status.conditions, world, now)
        yield Transact((set_status(host, status), *told))
    if left > 0:
        yield LookAgain(left)


def _status(host: Host, heard: Heard | None, world: World, *, silent: bool, seconds: int) -> HostStatus:
    load = world.loads.of(host.metadata.name)
    held = Amounts(cpus=load.cpus, memory=Bytes(load.memory), disk=Bytes(load.disk))
    counted = host.status.model_copy(
        update={"observed_generation": host.metadata.generation, "allocated": held, "instances": load.instances}
    )
    if heard is None:
        unheard = _ready(host, "Unknown", Reason.NeverReported)
        return counted.model_copy(update={"conditions": (unheard, *_others(host))})
    facts = heard.report.facts
    ready = _silence(host, seconds) if silent else _answers(host, facts)
    described = {
        "address": facts.address,
        "architecture": facts.architecture,
        "accelerator": facts.accelerator,
        "capacity": facts.capacity,
        "versions": facts.versions,
        "boot_id": facts.boot_id,
        "unclaimed": tuple(sorted(one.name for one in heard.report.unclaimed))[:UNCLAIMED_SHOWN],
        "conditions": (
            ready,
            condition("Joined", "True", Reason.Joined, host.metadata.generation),
            _storage(host, facts),
        ),
    }
    return counted.model_copy(update=described)


def _others(host: Host) -> Iterator[Condition]:
    return (one for one in host.status.conditions if one.type != "Ready")


def _ready(host: Host, status: str, reason: Reason, **params: object) -> Condition:
    return condition("Ready", status, reason, host.metadata.generation, **params)  # type: ignore[arg-type]


def _silence(host: Host, seconds: int) -> Condition:
    """Unknown, with the silence as it was when it was first noticed, so that it is written once."""
    before = find(host.status.conditions, "Ready")
    if before is not None and before.reason == Reason.LeaseExpired.name:
        return before
    return _ready(host, "Unknown", Reason.LeaseExpired, seconds=seconds)


def _answers(host: Host, facts: HostFacts) -> Condition:
    if facts.hypervisor_error:
        return _ready(host, "False", Reason.HypervisorDown, detail=facts.hypervisor_error)
    return _ready(host, "True", Reason.Reporting)


def _storage(host: Host, facts: HostFacts) -> Condition:
    bad = next((one for one in facts.storage if one.error), None)
    generation = host.metadata.generation
    if bad is not None:
        return condition(
            "StorageReady", "False", Reason.StoragePathUnusable, generation, path=bad.path, detail=bad.error
        )
    return condition("StorageReady", "True", Reason.StorageReady, generation)
