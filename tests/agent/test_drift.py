"""What is said and done about definitions that somebody changed: tables, a simulated host, and libvirt itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt
import pytest

from nanovirt.agent import live as live_changes
from nanovirt.agent.drift import TOLD_MAX, Defined, Form, beyond, differences, flattened, judge
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed
from nanovirt.agent.wish import digest
from nanovirt.resources.instance import Drift
from tests.agent.placements import placement, uuid
from tests.agent.planning import DIGEST, OFF, ON, RUNNING, decided, knowing, names
from tests.agent.real_machine import volumes_of
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import run_virtually
from tests.testbed import Host

OURS = {"vcpu": "2", "devices/disk[vda]@type": "file", "devices/disk[vda]/source@file": "/v/a"}
FORM = Form("9/7", OURS)
EDITED = Form("9/7", OURS | {"vcpu": "4"})
DEFINED = Defined(DIGEST, "9/7", OURS)
FOUR = Drift(path="vcpu", current="4", desired="2")

# --- what is judged ---


def test_definition_right_after_our_own_is_what_is_compared_from_then_on() -> None:
    assert judge("Report", DIGEST, FORM, None).defined == DEFINED
    assert judge("Report", "other", EDITED, DEFINED).defined == Defined("other", "9/7", EDITED.fields)


def test_definition_as_it_was_is_left_as_it_is() -> None:
    assert judge("Revert", DIGEST, FORM, DEFINED) == (DEFINED, (), 0, False, False)


def test_edit_that_keeps_our_mark_is_reported_and_left_alone() -> None:
    judged = judge("Report", DIGEST, EDITED, DEFINED)
    assert (judged.drift, judged.total, judged.hold, judged.redefine) == ((FOUR,), 1, True, False)
    assert judged.defined == replace(DEFINED, drifted=True)


def test_edit_is_reverted_where_that_is_the_policy() -> None:
    judged = judge("Revert", DIGEST, EDITED, DEFINED)
    assert (judged.drift, judged.hold, judged.redefine) == ((FOUR,), False, True)


def test_edit_that_loses_our_mark_is_told_by_what_it_changed() -> None:
    assert judge("Report", "", EDITED, DEFINED).hold
    assert not judge("Report", "", FORM, DEFINED).hold  # only the mark is gone: it is put back


def test_edit_that_is_undone_is_forgotten() -> None:
    judged = judge("Report", DIGEST, FORM, replace(DEFINED, drifted=True))
    assert (judged.drift, judged.defined) == ((), DEFINED)


def test_new_libvirt_that_writes_otherwise_is_no_drift() -> None:
    newer = Form("10/8", OURS | {"features/acpi": ""})
    judged = judge("Report", DIGEST, newer, DEFINED)
    assert (judged.drift, judged.defined) == ((), Defined(DIGEST, "10/8", newer.fields))


def test_drift_that_is_known_outlives_an_upgrade() -> None:
    newer = Form("10/8", EDITED.fields)
    assert judge("Report", DIGEST, newer, replace(DEFINED, drifted=True)).drift == (FOUR,)


def test_machine_that_was_undefined_while_it_runs_is_none() -> None:
    assert judge("Report", "", None, DEFINED) == (DEFINED, (), 0, False, False)


def test_adopted_definition_is_left_alone_until_that_is_asked_for() -> None:
    form = Form("9/7", OURS | {"devices/hostdev@mode": "subsystem"})
    judged = judge("Report", "", form, None)
    assert (judged.hold, [one.path for one in judged.drift]) == (True, ["devices/hostdev"])
    assert not judge("Revert", "", form, judged.defined).hold


def test_edit_of_an_adopted_definition_is_told_beside_what_it_always_had() -> None:
    form = Form("9/7", OURS | {"devices/hostdev@mode": "subsystem"})
    taken = judge("Report", "", form, None).defined
    edited = replace(form, fields={**form.fields, "vcpu": "4", "cputune/shares": "512"})
    judged = judge("Report", "", edited, taken)
    shares = Drift(path="cputune/shares", current="512")
    assert [one.path for one in judged.drift] == ["cputune/shares", "vcpu", "devices/hostdev"]
    assert judged.drift[:2] == (shares, FOUR)
    assert judged.hold
    assert [one.path for one in judge("Report", "", form, judged.defined).drift] == ["devices/hostdev"], "it is undone"
    newer = replace(edited, version="10/8")
    assert judge("Report", "", newer, taken).total == 2, "an upgrade may write the same thing otherwise"
    assert judge("Report", "", newer, judged.defined).total == 3, "what is known outlives it"
    ours = judge("Revert", DIGEST, FORM, judged.defined)
    assert (ours.drift, ours.defined) == ((), DEFINED)


# --- what differs ---


def test_device_that_came_or_went_is_one_difference() -> None:
    more = OURS | {"devices/disk[vdb]@type": "file", "devices/disk[vdb]/source@file": "/v/b"}
    came = Drift(path="devices/disk[vdb]", current="source@file=/v/b, type=file")
    assert differences(OURS, more) == [came]
    assert differences(more, OURS) == [Drift(path=came.path, desired=came.current)]


def test_what_is_told_is_bounded() -> None:
    many = Form("9/7", OURS | {f"x{number:04}": "y" * 10_000 for number in range(1000)})
    judged = judge("Report", DIGEST, many, DEFINED)
    assert (len(judged.drift), judged.total) == (TOLD_MAX, 1000)
    assert all(len(one.current or "") <= 200 for one in judged.drift)


def test_hostile_definitions_are_flattened_within_bounds() -> None:
    assert [*flattened("<domain>" + "<a/>" * 10 + "x" * 300_000 + "</domain>")] == ["sha256"]
    assert [*flattened("no xml")] == ["sha256"]
    assert len(flattened("<domain>" + "<a b='c'/>" * 10_000 + "</domain>")) == 4000
    long = flattened(f"<domain><name>{'n' * 9000}</name></domain>")["name"]
    assert len(long) < 200
    assert long != flattened(f"<domain><name>{'n' * 8999}m</name></domain>")["name"]


def test_order_of_devices_and_what_libvirt_fills_in_make_no_difference() -> None:
    one = "<disk type='file'><target dev='vda'/><address type='pci' slot='3'/></disk>"
    two = "<disk type='file'><target dev='vdb'/></disk><controller type='sata' index='4'/>"
    first = flattened(f"<domain><devices>{one}{two}</devices></domain>")
    assert flattened(f"<domain><metadata><x/></metadata><devices>{two}{one}</devices></domain>") == first


def test_what_the_model_cannot_say_is_listed_by_device() -> None:
    fields = flattened(
        "<domain type='kvm'><name>old</name><cputune><shares>5</shares></cputune><features><acpi/><hyperv/></features>"
        "<cpu mode='host-passthrough'/><devices><disk type='block' device='disk'><target dev='sda'/></disk>"
        "<disk type='file' device='disk'><target dev='vda'/></disk>"
        "<interface type='network'><mac address='52:54:00:1:2:3'/></interface>"
        "<graphics type='spice'/><sound model='ich9'/><hostdev mode='subsystem'/></devices></domain>"
    )
    assert [one.path for one in beyond(fields)] == [
        "cpu", "cputune", "devices/disk[sda]", "devices/graphics[spice]", "devices/hostdev",
        "devices/interface[52:54:00:1:2:3]", "devices/sound", "features/hyperv",
    ]  # fmt: skip


# --- what is done ---


def at_rest(form: Form | None, **changes: Any) -> Observed:
    return replace(ON, form=form, **changes)


def test_reported_edit_changes_nothing_and_waits_for_nothing() -> None:
    made = placement()
    decision = decided(made, at_rest(EDITED), knowing(made, defined=replace(DEFINED, drifted=True)))
    assert decision.steps == ()


def test_new_wish_does_not_replace_a_definition_that_somebody_changed() -> None:
    made = placement(cpu=3, generation=2)
    memory = knowing(made, defined=replace(DEFINED, drifted=True))
    assert "Define" not in names(decided(made, at_rest(EDITED), memory))
    assert "Define" in names(decided(made, at_rest(FORM), memory))


def test_reverted_edit_is_defined_anew_and_the_guest_runs_on() -> None:
    made = placement(drift="Revert")
    decision = decided(made, at_rest(EDITED), knowing(made, defined=DEFINED))
    assert names(decision) == ["Remember", "Define", "Remember"]
    assert decision.steps[-1].memory.defined is None  # type: ignore[union-attr]


def test_machine_undefined_while_it_runs_is_defined_anew() -> None:
    made = placement()
    seen = at_rest(None, domain=replace(RUNNING, definition=""))
    assert names(decided(made, seen, knowing(made, defined=DEFINED))) == ["Define"]


def test_adopted_machine_is_taken_as_it_runs() -> None:
    made = placement()
    foreign = at_rest(Form("9/7", OURS), domain=replace(RUNNING, definition="", live=""), served=())
    decision = decided(made, foreign, Memory())
    assert names(decision) == ["Remember", "Serve"]
    assert (decision.memory.intent, decision.memory.defined) == ("Started", Defined("", "9/7", OURS))
    off = replace(foreign, domain=replace(OFF, definition=""))
    assert "Define" not in names(decided(made, off, Memory()))
    assert "Start" in names(decided(made, off, Memory()))


# --- a simulated host ---


def test_agent_tells_of_an_edit_and_reverts_it_when_it_may() -> None:
    async def told() -> None:
        async with cluster() as made:
            await story(made)

    async def story(made: Cluster) -> None:
        made.agent()
        held = await made.put(placement())
        await made.until_state(held.key, "Running")
        machine = made.host().machine
        machine.edit_behind(uuid(1), vcpu="64")
        await asyncio.sleep(40)
        status = made.read(held.key).status
        assert (status.drift, status.drift_count) == ((Drift(path="vcpu", current="64", desired="2"),), 1)
        await made.kill()
        made.agent()
        await asyncio.sleep(40)
        assert made.read(held.key).status.drift_count == 1
        await made.put(placement(drift="Revert"))
        await asyncio.sleep(40)
        assert made.read(held.key).status.drift == ()
        machine.edit_behind(uuid(1), vcpu="65")
        await asyncio.sleep(40)
        form = await machine.form(uuid(1))
        assert form is not None
        assert form.fields["vcpu"] == "2"
        machine.undefine_running(uuid(1))
        await asyncio.sleep(40)
        assert await machine.form(uuid(1)) is not None
        assert machine.starts.total() == 1

    run_virtually(told())


# --- libvirt ---


class Bench:
    """A machine of libvirt's, defined and running, and the connection of somebody who meddles with it."""

    def __init__(self, machine: LibvirtMachine, host: Host) -> None:
        self.machine, self.host = machine, host
        file = str(volumes_of(machine) / "a.qcow2")
        disk = {"name": "system", "file": file, "size": "64Mi"}
        nic = {"name": "nic0", "mac": "52:54:00:00:00:01", "bridge": host.bridge}
        self.placement = placement(cpu=1, max_cpu=2, memory="64Mi", max_memory="64Mi", volumes=[disk], nics=[nic])
        self.digest = digest(self.placement.spec)
        self.defined: Defined | None = None

    async def define(self) -> None:
        await self.machine.define(self.placement.spec, self.digest)
        self.defined = None

    async def start(self) -> None:
        await self.machine.make_volume(self.placement.spec.volumes[0])
        await self.define()
        assert (await self.judged()).drift == ()
        await self.machine.start(uuid(1))

    async def judged(self, policy: str = "Report") -> Any:
        seen = await self.machine.domain(uuid(1))
        assert seen is not None
        judged = judge(policy, seen.definition, await self.machine.form(uuid(1)), self.defined)
        self.defined = judged.defined
        return judged

    async def meddle(self, how: Callable[[Any], Any]) -> None:
        def meddling() -> None:
            with contextlib.closing(libvirt.open(self.host.uri)) as connection:
                how(connection.lookupByUUIDString(uuid(1)))

        await asyncio.to_thread(meddling)

    async def run(self) -> str:
        seen = await self.machine.domain(uuid(1))
        assert seen is not None
        return seen.run


def edit(old: str, new: str) -> Callable[[Any], None]:
    """`virsh edit`."""

    def edited(domain: Any) -> None:
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        assert old in xml
        domain.connect().defineXML(xml.replace(old, new))

    return edited


DISK = "<disk type='file' device='cdrom'><target dev='sdy' bus='sata'/><readonly/></disk>"
CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
CARD, TUNED = "devices/interface[52:54:00:00:00:01]", {"write_iops_sec": 100}
MEDDLING: dict[str, tuple[Callable[[Any], Any], *tuple[str, ...]]] = {
    "virsh schedinfo --config": (
        lambda domain: domain.setSchedulerParametersFlags({"cpu_shares": 512}, CONFIG),
        "cputune/shares",
    ),
    "virsh setvcpus --config": (lambda domain: domain.setVcpusFlags(2, CONFIG), "vcpu@current"),
    "virsh setmaxmem --config": (
        lambda domain: domain.setMemoryFlags(48 * 1024, CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM),
        "currentMemory",
        "memory",
    ),
    "virsh blkdeviotune --config": (
        lambda domain: domain.setBlockIoTune("vda", TUNED, CONFIG),
        "devices/disk[vda]/iotune/write_iops_sec",
    ),
    "virsh domiftune --config": (
        lambda domain: domain.setInterfaceParameters("52:54:00:00:00:01", {"inbound.average": 100}, CONFIG),
        f"{CARD}/bandwidth/inbound@average",
    ),
    "virsh edit of a card": (edit("<model type='virtio'/>", "<model type='e1000'/>"), f"{CARD}/model@type"),
    "virsh edit of a disk": (edit("<target dev='vda'", "<readonly/><target dev='vda'"), "devices/disk[vda]/readonly"),
    "virsh edit": (edit("<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>"), "on_crash"),
    "virsh edit of a new device": (edit("</devices>", "<hub type='usb'/></devices>"), "devices/hub"),
    "virsh attach-device --config": (lambda domain: domain.attachDeviceFlags(DISK, CONFIG), "devices/disk[sdy]"),
    "virsh setmem --config": (lambda domain: domain.setMemoryFlags(32 * 1024, CONFIG), "currentMemory"),
    "virsh edit without our mark": (
        lambda domain: domain.connect().defineXML(
            domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            .replace("urn:nano:v1", "urn:other")
            .replace("<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>")
        ),
        "on_crash",
    ),
}


@pytest.fixture
async def bench(machine: LibvirtMachine, host: Host) -> Bench:
    made = Bench(machine, host)
    await made.start()
    return made


@pytest.mark.parametrize("how", MEDDLING)
async def test_what_libvirt_was_told_behind_our_back_is_found_and_reverted_without_a_restart(
    bench: Bench, how: str
) -> None:
    run = await bench.run()
    assert (await bench.judged()).drift == ()  # neither its start nor libvirt's own additions are a drift
    meddle, *paths = MEDDLING[how]
    await bench.meddle(meddle)
    judged = await bench.judged()
    assert [one.path for one in judged.drift] == paths
    assert judged.hold
    assert (await bench.judged("Revert")).redefine
    await bench.define()
    assert (await bench.judged()).drift == ()
    assert await bench.run() == run


async def test_what_only_the_running_machine_was_told_is_no_drift_and_is_brought_back(bench: Bench) -> None:
    live, spec = libvirt.VIR_DOMAIN_AFFECT_LIVE, bench.placement.spec

    def meddling(domain: Any) -> None:
        domain.setBlockIoTune("vda", TUNED, live)
        domain.setVcpusFlags(2, live)

    async def found() -> live_changes.Differences:
        seen = await bench.machine.domain(uuid(1))
        assert seen is not None
        assert seen.hardware is not None
        return live_changes.differences(spec, seen.hardware, {})

    assert (await found()).changes == ()
    await bench.meddle(meddling)
    assert (await bench.judged()).drift == ()
    differing = await found()
    assert [type(one.change).__name__ for one in differing.changes] == ["LimitDisk"]
    assert [(one.path, one.current, one.desired) for one in differing.awaiting] == [("spec.cpus", 2, 1)]
    for one in differing.changes:
        await bench.machine.change(uuid(1), one.change)
    assert (await found()).changes == ()
    assert (await bench.judged()).drift == ()


async def test_undefined_machine_runs_on_and_is_defined_anew(bench: Bench) -> None:
    run = await bench.run()
    await bench.meddle(lambda domain: domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM))
    assert await bench.machine.form(uuid(1)) is None
    seen = await bench.machine.domain(uuid(1))
    assert seen is not None
    assert (seen.state, seen.definition, seen.live) == ("Running", "", bench.digest)
    await bench.define()
    assert (await bench.judged()).drift == ()
    assert await bench.run() == run


async def test_destroyed_and_shut_down_machines_are_told_apart_from_ours(bench: Bench) -> None:
    await bench.meddle(lambda domain: domain.destroy())
    seen = await bench.machine.domain(uuid(1))
    assert seen is not None
    assert (seen.state, seen.ended) == ("Off", "Destroyed")
    assert (await bench.judged()).drift == ()
