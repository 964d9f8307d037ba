"""The simulated machine beyond the contract: faults, boot times, leases through real bytes, seeds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nanovirt.agent.dhcp.answer import prepare
from nanovirt.agent.leases import Served, reservations
from nanovirt.agent.machine import NoRoom
from nanovirt.agent.simulated_network import SERVER_MAC, take_lease
from nanovirt.agent.simulated_traits import QUICK, Traits
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.quantities import Bytes
from tests.agent.placements import MAC, SHA, UUID, placement, spec, uuid
from tests.simulation.cluster import cluster
from tests.simulation.virtual_time import now, run_virtually

SERVED = reservations(spec())[0]


async def running(traits: Traits = QUICK) -> SimulatedMachine:
    machine = SimulatedMachine("node-1", traits)
    machine.images.add(SHA)
    machine.leases.serve(UUID, SERVED)
    await machine.make_volume(spec().volumes[0])
    await machine.define(spec(), "d")
    await machine.start(UUID)
    return machine


async def test_simulated_host_has_the_promised_size() -> None:
    facts = await SimulatedMachine("node-1").facts(["/pool"])
    assert facts.capacity.cpus == 32
    assert facts.capacity.memory == Bytes("128Gi")
    assert facts.storage[0].total == Bytes("2Ti")


async def test_guest_takes_its_lease_from_the_answer_bytes() -> None:
    machine = await running()
    assert machine.leases.leased(UUID) == {MAC}


def test_guest_without_a_reservation_gets_silence() -> None:
    assert take_lease(MAC, 1, None) is None


def test_guest_whose_reservation_is_for_another_card_gets_silence() -> None:
    other = prepare(reservations(spec(2))[0].reservation, SERVED.reservation.ip, SERVER_MAC)
    assert take_lease(MAC, 1, other) is None


def test_guest_takes_the_address_that_it_is_given() -> None:
    prepared = prepare(SERVED.reservation, SERVED.reservation.ip, SERVER_MAC)
    assert take_lease(MAC, 1, prepared) == SERVED.reservation.ip


async def test_changed_reservation_is_not_leased_until_it_is_asked_for() -> None:
    machine = await running()
    machine.leases.serve(UUID, Served("nano0", replace(SERVED.reservation, hostname="other")))
    assert machine.leases.leased(UUID) == frozenset()
    assert machine.leases.ask(UUID, MAC, 3)


def test_guest_boots_in_its_time_and_asks_until_it_is_answered() -> None:
    async def story() -> None:
        machine = await running(Traits(boot_seconds=(10, 10)))
        machine.leases.withhold(UUID, MAC)
        await asyncio.sleep(15)
        machine.leases.serve(UUID, SERVED)
        assert not machine.leases.leased(UUID)
        await asyncio.sleep(5)
        assert machine.leases.leased(UUID) == {MAC}

    run_virtually(story())


def test_end_that_was_asked_for_takes_its_time() -> None:
    async def story() -> None:
        machine = await running(Traits(end_seconds=3))
        await machine.shut_down(UUID)
        await asyncio.sleep(2)
        assert _state(machine) == "Running"
        await asyncio.sleep(2)
        assert _state(machine) == "Off"

    run_virtually(story())


def test_end_of_an_earlier_run_does_not_end_the_next() -> None:
    async def story() -> None:
        machine = await running(Traits(end_seconds=3))
        await machine.shut_down(UUID)
        await machine.destroy(UUID)
        await machine.start(UUID)
        await asyncio.sleep(10)
        assert _state(machine) == "Running"

    run_virtually(story())


def _state(machine: SimulatedMachine) -> str:
    return machine._domains[UUID].seen().state


async def test_refusals_are_as_many_as_were_asked_for() -> None:
    machine = SimulatedMachine("node-1")
    machine.faults.refuse["define"] = 2
    for _ in range(2):
        with pytest.raises(HypervisorError):
            await machine.define(spec(), "d")
    await machine.define(spec(), "d")


async def test_full_disk_takes_no_volume_and_no_image() -> None:
    machine = SimulatedMachine("node-1")
    machine.faults.full = True
    with pytest.raises(NoRoom):
        await machine.make_volume(spec().volumes[0].model_copy(update={"source": None}))
    assert (await machine.facts(["/pool"])).storage[0].free == 0


async def test_boot_ends_everything_and_forgets_why() -> None:
    machine = await running()
    before = (await machine.facts()).boot_id
    machine.crash(UUID, "Shutdown")
    machine.reboot()
    seen = await machine.domain(UUID)
    assert seen is not None
    assert (seen.state, seen.ended) == ("Off", "Unknown")
    assert (await machine.facts()).boot_id != before


def test_same_seed_same_story() -> None:
    async def story() -> list[tuple[float, str, str]]:
        seen: list[tuple[float, str, str]] = []
        async with cluster(Traits(boot_seconds=(1, 30), start_seconds=0.3)) as made:
            made.agent()
            for number in range(1, 9):
                await made.put(placement(number))
            began = now()
            known: set[str] = set()
            while len(known) < 8:
                for number in range(1, 9):
                    status = made.read(placement(number).key).status
                    if status.nics and status.nics[0].leased and uuid(number) not in known:
                        known.add(uuid(number))
                        seen.append((round(now() - began, 6), uuid(number), status.state))
                await asyncio.sleep(0.05)
        return seen

    assert run_virtually(story()) == run_virtually(story())
