"""Every field of an instance, changed on a real machine that runs and on one that is off: as foretold, and seen."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.disruption import changes, worst
from nanovirt.resources.errors import Rejected
from nanovirt.resources.instance import InstanceSpec
from nanovirt.resources.instance_disruption import ACCEPTED
from nanovirt.resources.kind import Key
from tests.e2e.cluster import Cluster, placement_of, real_cluster
from tests.e2e.configuration_rows import LIVE, LOSS, REFUSED, RESTART, ROWS, Row, base, cards, changed, holds
from tests.e2e.looking import BOOT, is_off, is_ready, look, until
from tests.e2e.sights import OF_RUN, Machine
from tests.resources.walking import NAMED, fields
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(300)

SEEN_WITHIN = 30.0
"""Seconds in which a guest does its part of what is live, on a busy machine."""
DEVICES = re.compile(r"\b(disks|nics|media)\[[a-z0-9-]+\]")
RUNNING = [row for row in ROWS if row.running and not row.order]
STOPPED = [row for row in ROWS if row.stopped and not row.order]


def test_every_field_of_an_instance_has_a_row_for_both_states() -> None:
    for state in ("running", "stopped"):
        rows = [row for row in ROWS if getattr(row, state)]
        named = {field for row in rows for field in (*row.change, *row.covers)}
        found = {DEVICES.sub(lambda one: f"{one[1]}[{NAMED[one[1]]}]", field) for field in named}
        assert found - {"disks[data].format"} == set(fields(InstanceSpec)), state


# --- the machines -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """One host with two bridges, and two machines: one boots, the other was never started."""
    with real_cluster(mini_guest, hosts=1) as cluster:
        for command in ("ip link add br1 type bridge", "ip link set br1 up"):
            cluster.agents["h1"].host.run(command.split())
        asyncio.run(furnish(cluster))
        yield cluster
    assert leftovers() == []


async def furnish(cluster: Cluster) -> None:
    """What the rows name, and both machines."""
    async with cluster.client() as client:
        host = Key("hosts", "", "h1")
        bridges = [{"network": "default", "device": "br0"}, {"network": "other", "device": "br1"}]
        await client.patch(host, {"spec": {"bridges": bridges}})
        for name, net in (("wan", "10.78"), ("far", "10.79")):
            ranges = [{"name": "few", "first": f"{net}.2.1", "last": f"{net}.2.9"}]
            await make(client, "AddressPool", name, network="default", subnet=f"{net}.0.0/16", ranges=ranges)
        await make(client, "SystemTemplate", "bed", firmware="BIOS", clock="LocalTime", video="Vga")
        await make(client, "SecurityGroup", "closed", "default")
        secret = {"password": "correct-horse", "userData": "#cloud-config\nwrite_files: [] # nano-was-here\n"}
        await make(client, "Secret", "web", "default", data=secret)
        for label in ("rescue", "tools"):
            (cluster.data / "images/incoming" / f"{label}.iso").write_bytes(iso(label.upper()))
            await make(client, "Image", label, "shared", type="Media", source={"file": f"{label}.iso"})
            await until(client, Key("images", "shared", label), lambda doc: doc["status"]["phase"] == "Ready")
        for number, name in enumerate(("on", "off"), 1):
            power = {"powerState": "Running" if name == "on" else "Stopped"}
            await make(client, "Instance", name, "default", **base(number), **power)


async def make(client: Client, kind: str, name: str, namespace: str = "", **spec: Any) -> None:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    await client.create({"apiVersion": "nano/v1", "kind": kind, "metadata": metadata, "spec": spec})


def iso(label: str) -> bytes:
    """A small image with that label."""
    made, written = pycdlib.PyCdlib(), BytesIO()
    made.new(vol_ident=label)
    made.write_fp(written)
    made.close()
    return written.getvalue()


async def machine(cluster: Cluster, client: Client, name: str) -> Machine:
    """With the words of its rows."""
    number = {"on": 1, "off": 2}[name]
    tools = await client.get(Key("images", "shared", "tools"))
    found = Machine(cluster, client, name, cards(number) | {"number": str(number)})
    uid = (await found.doc())["metadata"]["uid"]
    console = found.agent.folder / "agent/consoles" / f"{uid}.log"
    found.words |= {"uid": uid, "tools": tools["status"]["sha256"], "console": str(console), "domain": found.domain}
    return found


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


@pytest.fixture
async def on(cluster: Cluster, client: Client) -> AsyncIterator[Machine]:
    """It runs, with nothing outstanding, and its guest goes on whatever is changed."""
    found = await machine(cluster, client, "on")
    await until_rest(found)
    await look("guest", found.console, lambda said: "nano-guest: ready" in said, BOOT)
    pid, boot = found.pid, await found.boot_id()
    yield found
    assert (found.pid, await found.boot_id()) == (pid, boot)


@pytest.fixture
async def off(cluster: Cluster, client: Client) -> AsyncIterator[Machine]:
    """It stays off."""
    found = await machine(cluster, client, "off")
    await until(client, found.key, is_off)
    yield found
    assert found.agent.starts(found.domain) == 0


def awaiting(doc: JSON) -> list[str]:
    """What the running machine has not taken."""
    return [one["path"] for one in doc["status"].get("restartAwaitingChanges") or ()]


async def until_rest(machine: Machine, seconds: float = SEEN_WITHIN) -> None:
    """Return once all that was wished is so, and nothing awaits a start."""

    async def outstanding() -> list[Any]:
        doc, placement = await machine.doc(), await placement_of(machine.client, machine.name)
        behind = placement["status"].get("appliedGeneration") != placement["metadata"]["generation"]
        return [*awaiting(doc), *(["Ready"] if not is_ready(doc) else []), *(["applied"] if behind else [])]

    await look(machine.name, outstanding, lambda found: not found, seconds)


# --- a change ---------------------------------------------------------------------------------------------------------


async def change(machine: Machine, spec: JSON, accept: str = "", *, dry_run: bool = False) -> JSON:
    """The instance as it is stored with another spec, or would be."""
    writes: list[JSON] = [{"op": "replace", "path": "/spec", "value": spec}]
    if accept:
        had = (await machine.doc())["metadata"].get("annotations") or {}
        writes.append({"op": "add", "path": "/metadata/annotations", "value": {**had, ACCEPTED: accept}})
    return await machine.client.patch(machine.key, writes, "json", dry_run=dry_run)


async def foretold(machine: Machine, row: Row, before: JSON, spec: JSON) -> str:
    """The class by which `nanoctl plan` goes: of what a dry run gives. What loses data wants its word first."""
    try:
        after = await change(machine, spec, dry_run=True)
    except Rejected as refused:
        said = str(refused)
    else:
        return worst(changes("Instance", before, after)).name
    if row.accept and row.accept in said:
        after = await change(machine, spec, row.accept, dry_run=True)
        return worst(changes("Instance", before, after)).name
    field = re.sub(r"\\\[[^.]*\\\]", r"\\[[^.]+\\]", re.escape(f"spec.{next(iter(row.change))}"))
    assert re.search(field, said), said
    return REFUSED


async def apply(machine: Machine, row: Row, expected: str) -> tuple[JSON, JSON]:
    """The wish before and after: refused, or stored and carried out as far as it can be now."""
    before = await machine.doc()
    spec = changed(before["spec"], told(machine, row))
    assert await foretold(machine, row, before, spec) == expected
    if expected == REFUSED:
        with pytest.raises(Rejected):
            await change(machine, spec, row.accept)
        assert await machine.doc() == before
        return before["spec"], before["spec"]
    assert not row.sights or await machine.misses(row.sights), f"it is so already: {row.sights}"
    await change(machine, spec, row.accept if expected == LOSS else "")
    return before["spec"], spec


def told(machine: Machine, row: Row) -> dict[str, Any]:
    """The change in the machine's own words."""
    return {field: _worded(machine, value) for field, value in row.change.items()}


def _worded(machine: Machine, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _worded(machine, one) for name, one in value.items()}
    return machine.said(value) if isinstance(value, str) else value


async def until_shown(machine: Machine, row: Row) -> None:
    """Return once all of it is seen."""
    await look(row.name, lambda: machine.misses(row.sights), lambda missing: not missing, SEEN_WITHIN)


async def until_all_shown(machine: Machine, rows: list[Row]) -> None:
    """The same of many at once."""
    sights = tuple(sight for row in rows for sight in row.sights)
    await look(machine.name, lambda: machine.misses(sights), lambda missing: not missing, SEEN_WITHIN)


@pytest.mark.parametrize("row", RUNNING, ids=lambda row: row.name)
async def test_change_of_a_running_machine_is_as_foretold(on: Machine, row: Row) -> None:
    first, _ = await apply(on, row, row.running)
    if row.running == REFUSED:
        return
    try:
        await happens(on, row)
    finally:
        if not row.keep:
            await change(on, first, row.accept)
            await until_rest(on)
            if row.running != RESTART:
                await look(f"{row.name}, taken back", lambda: on.misses(row.sights), bool, SEEN_WITHIN)


async def happens(on: Machine, row: Row) -> None:
    """It is seen at once, or is told to await a restart and not seen."""
    if row.running == RESTART:
        doc = await until(on.client, on.key, lambda doc: bool(awaiting(doc)), SEEN_WITHIN)
        assert is_listed(row, awaiting(doc)), awaiting(doc)
        assert await on.misses(row.sights), "it took what awaits a restart"
    else:
        await until_shown(on, row)
        await until_rest(on)


def is_listed(row: Row, paths: list[str]) -> bool:
    """What is changed is among the paths, as a whole or by what lies below it."""
    field = f"spec.{next(iter(row.change))}"
    return any(field.startswith(path) or path.startswith(field) for path in paths)


@pytest.mark.parametrize("row", STOPPED, ids=lambda row: row.name)
async def test_change_of_a_stopped_machine_is_as_foretold(off: Machine, row: Row) -> None:
    ours = row._replace(sights=tuple(one for one in row.sights if not isinstance(one, OF_RUN)))
    await apply(off, ours, row.stopped)
    if row.stopped != REFUSED:
        await until(off.client, off.key, is_off, SEEN_WITHIN)
        await until_shown(off, ours)


# --- what a start brings ----------------------------------------------------------------------------------------------


def of(name: str) -> Row:
    """The row of that name, of those that end or begin a run."""
    return next(row for row in ROWS if row.order and row.name == name)


async def test_all_that_awaits_a_restart_is_there_after_one(cluster: Cluster, client: Client) -> None:
    on = await machine(cluster, client, "on")
    await until_rest(on)
    pid, boot, started = on.pid, await on.boot_id(), on.agent.starts(on.domain)
    await on.inside("echo mark >/data/mark; echo mark >/dev/$(blk scratch); sync")
    anew = [of("disks[scratch].rebuild"), of("disks[system].rebuild")]
    before = await on.doc()
    spec = before["spec"]
    for row in anew:
        assert await foretold(on, row, before, changed(spec, told(on, row))) == LOSS
    rows = [*anew, *(row for row in RUNNING if row.running == RESTART and not holds(spec, told(on, row)))]
    for row in rows:
        spec = changed(spec, told(on, row))
    await change(on, spec, ",".join(row.accept for row in anew))

    async def unlisted() -> list[str]:
        paths = awaiting(await on.doc())
        return [row.name for row in rows if not is_listed(row, paths)]

    await look("what awaits", unlisted, lambda found: not found, SEEN_WITHIN)
    for row in rows:
        assert await on.misses(row.sights), row
    assert (on.pid, await on.boot_id()) == (pid, boot)

    await apply(on, of("restart"), RESTART)
    await until_rest(on, BOOT)
    assert await on.boot_id() != boot
    await until_all_shown(on, rows)
    assert on.agent.starts(on.domain) == started + 1

    pid = on.pid
    await apply(on, of("restart.mode"), LIVE)
    await until_rest(on)
    assert on.pid == pid
    await apply(on, of("restart.at"), RESTART)
    await until_rest(on)
    assert (on.pid != pid, on.agent.starts(on.domain)) == (True, started + 2)
    await client.patch(on.key, {"spec": {"stopGraceSeconds": 0}})
    await apply(on, of("powerState"), RESTART)
    await until(client, on.key, is_off, SEEN_WITHIN)
    await until_shown(on, of("powerState"))
    assert on.pid == 0


async def test_machine_starts_with_all_that_was_changed_while_it_was_off(cluster: Cluster, client: Client) -> None:
    off = await machine(cluster, client, "off")
    for name in ("restart", "restart.mode", "restart.at"):
        await apply(off, of(name), of(name).stopped)
        await until(client, off.key, is_off, SEEN_WITHIN)
    assert off.agent.starts(off.domain) == 0
    start = next(row for row in ROWS if row.change == {"powerState": "Running"})
    await apply(off, start, start.stopped)
    await until_rest(off, BOOT)
    await look("guest", off.console, lambda said: "nano-guest: ready" in said, BOOT)
    spec = (await off.doc())["spec"]
    rows = [row for row in STOPPED if row.sights and holds(spec, told(off, row))]
    assert len(rows) > len(STOPPED) / 2
    await until_all_shown(off, rows)
    assert off.agent.starts(off.domain) == 1
