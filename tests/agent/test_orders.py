"""Tables of what an agent does about orders of a living Placement, and what it tells of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanovirt.agent import orders
from nanovirt.agent.machine import SeenDomain, SeenVolume
from nanovirt.agent.observed import Observed, Trouble
from nanovirt.agent.simulated_hardware import started
from nanovirt.agent.steps import RemoveVolume, ShrinkVolume
from nanovirt.agent.wish import Wish
from nanovirt.resources.placement import Operation
from nanovirt.resources.quantities import Bytes
from tests.agent.placements import FILE, MAC, placement, spec, volume

OLD = "/var/lib/nano/volumes/old.qcow2"
GONE = "52:54:00:00:00:99"
REMOVE = Operation(uid="r", verb="RemoveVolume", volume=OLD)
RELEASE = Operation(uid="k", verb="ReleaseVolume", volume=OLD)
SHRINK = Operation(uid="s", verb="ShrinkVolume", volume=FILE, size=Bytes("512Mi"))
ADDRESS = Operation(uid="a", verb="ReleaseAddress", mac=MAC, frees="lan.10.20.0.9")
THERE = {FILE: SeenVolume(FILE, 2**30, 1), OLD: SeenVolume(OLD, 2**30, 1)}


def wish(*operations: Operation) -> Wish:
    return Wish.of(placement(operations=operations))


def seen(how: Wish, state: str, *, holds: bool = False, defined: bool = True) -> Observed:
    """A machine that runs or not, with the old disk in it or not, under the wished definition or another."""
    had = spec(volumes=[volume(), volume("old").model_copy(update={"file": OLD})]) if holds else spec()
    hardware = started(had) if state == "Running" else None
    domain = SeenDomain(
        uuid=how.placement.spec.domain.uuid,
        name="default.web-1",
        state=state,  # type: ignore[arg-type]
        definition=how.digest if defined else "another",
        hardware=hardware,
    )
    return Observed(domain=domain, volumes=THERE)


@pytest.mark.parametrize(
    ("state", "holds", "defined", "done"),
    [
        ("Running", False, True, True),
        ("Running", True, True, False),
        ("Running", False, False, False),
        ("Off", True, True, True),
        ("Off", False, False, False),
    ],
)
def test_file_goes_once_neither_machine_nor_definition_has_it(
    state: str, *, holds: bool, defined: bool, done: bool
) -> None:
    how = wish(REMOVE, RELEASE)
    now = seen(how, state, holds=holds, defined=defined)
    assert list(orders.steps(how, now)) == ([RemoveVolume(OLD)] if done else [])
    assert [one.state for one in orders.results(how, now)] == ["Running", "Succeeded" if done else "Running"]
    gone = replace(now, volumes={FILE: THERE[FILE]})
    assert orders.results(how, gone)[0].state == ("Succeeded" if done else "Running")


def test_disk_of_the_machine_is_never_removed() -> None:
    how = wish(REMOVE.model_copy(update={"volume": FILE}))
    now = seen(how, "Off")
    assert list(orders.steps(how, now)) == []
    assert orders.results(how, now)[0].state == "Failed"


def test_disk_shrinks_only_while_the_machine_is_off() -> None:
    how = wish(SHRINK)
    assert list(orders.steps(how, seen(how, "Running"))) == []
    assert list(orders.steps(how, seen(how, "Off"))) == [ShrinkVolume(FILE, 512 * 2**20)]
    small = replace(seen(how, "Off"), volumes={FILE: SeenVolume(FILE, 512 * 2**20, 1)})
    assert orders.results(how, small)[0].state == "Succeeded"


def test_disk_that_cannot_shrink_is_told_and_keeps_no_machine_from_starting() -> None:
    step = ShrinkVolume(FILE, 512 * 2**20)
    failed = Trouble(step, "HypervisorRefused", {"detail": "partition 1 ends at 1Gi"}, 1, 100.0)
    for power, tried in (("Stopped", [step]), ("Running", [])):
        how = Wish.of(placement(operations=(SHRINK,), power_state=power))
        now = replace(seen(how, "Off"), trouble=failed)
        assert list(orders.steps(how, now)) == tried
        (result,) = orders.results(how, now)
        assert (result.state, result.detail) == ("Failed", "partition 1 ends at 1Gi")


def test_address_is_free_when_its_card_is_gone_or_took_another_one() -> None:
    how = wish(ADDRESS)
    assert orders.results(how, seen(how, "Running"))[0].state == "Running"
    assert orders.results(how, replace(seen(how, "Running"), leased=frozenset({MAC})))[0].state == "Succeeded"
    assert orders.results(how, seen(how, "Off"))[0].state == "Succeeded"
    other = wish(ADDRESS.model_copy(update={"mac": GONE}))
    assert orders.results(other, seen(other, "Running"))[0].state == "Succeeded"
