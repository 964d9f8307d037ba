"""The controller of Host.status: what the reports say, and what their silence means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from ipaddress import IPv4Address

from nanovirt.controllers.actions import Action, LookAgain, Transact, set_status
from nanovirt.controllers.news import turned
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import Condition, condition, find, settle
from nanovirt.resources.hold import HOLD, Hold
from nanovirt.resources.host import ACCOUNTED, Amounts, Host, HostStatus
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import Holding, HostFacts, HostReport, Unclaimed, lost_after
from nanovirt.resources.reports import Heard

NAME = "hosts"
READS = ("hosts", "placements", "volumes", "reports", "events", "holds")
WRITES = ("hosts/status", "events")

UNCLAIMED_SHOWN = 100
UNCLAIMED_NAMED = 10


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
        status = host.status.model_copy(update={"conditions": (*_kept(host), *_accounted(host, None, world))})
    else:
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
        others = (one for one in _kept(host) if one.type != "Ready")
        return counted.model_copy(update={"conditions": (unheard, *others, *_accounted(host, None, world))})
    facts = heard.report.facts
    ready = _silence(host, seconds) if silent else _answers(host, facts)
    strangers = _strangers(heard.report, world)
    addresses = {nic.ip for one in strangers for nic in one.nics if nic.ip}
    described = {
        "address": facts.address,
        "architecture": facts.architecture,
        "accelerator": facts.accelerator,
        "capacity": facts.capacity,
        "versions": facts.versions,
        "boot_id": facts.boot_id,
        "unclaimed": tuple(sorted(one.name for one in strangers))[:UNCLAIMED_SHOWN],
        "unclaimed_addresses": tuple(sorted(IPv4Address(one) for one in addresses)),
        "conditions": (
            ready,
            condition("Joined", "True", Reason.Joined, host.metadata.generation),
            _storage(host, facts),
            *_accounted(host, heard.report.holdings, world),
        ),
    }
    return counted.model_copy(update=described)


def _kept(host: Host) -> Iterator[Condition]:
    """What stands as long as nothing is heard."""
    return (one for one in host.status.conditions if one.type != ACCOUNTED)


def _strangers(report: HostReport, world: World) -> Iterable[Unclaimed]:
    """Domains that no Placement asks for. An agent that was not told its Placements yet may think that one does."""
    if report.holdings is None:
        return report.unclaimed
    return [one for one in report.holdings if one.state and not world.owners.asked_for(one.uuid)]


def _accounted(host: Host, holdings: tuple[Holding, ...] | None, world: World) -> Iterator[Condition]:
    """Once a restored store is held: whether this host has said what it holds, and that nothing of it is another's."""
    hold = world.read(Hold, HOLD.name)
    if hold is None:
        return
    generation, uid = host.metadata.generation, hold.metadata.uid
    before = find(host.status.conditions, ACCOUNTED)
    mine = world.loads.placements.get(host.metadata.name, set())
    if holdings is not None:
        placed = ((one, world.owners.asked_for(one.uuid)) for one in holdings if one.state)
        others = sorted(one.name for one, keys in placed if keys and not keys & mine)
        if others:
            named = ", ".join(others[:UNCLAIMED_NAMED])
            yield condition(ACCOUNTED, "False", Reason.HoldsElsewhere, generation, hold=uid, instances=named)
        else:
            yield condition(ACCOUNTED, "True", Reason.Accounted, generation, hold=uid)
    elif before is not None and before.params.get("hold") == uid:
        yield before
    else:
        yield condition(ACCOUNTED, "False", Reason.NotAccounted, generation, hold=uid)


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
