"""Files of deleted Volumes: removed when no machine has them, told until nobody asks any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nanovirt.agent.removals import OLDER, UNTOLD, USED, Removals
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.report import Removal
from tests.agent.placements import uuid, volume

FILE = f"/var/lib/nano/volumes/{uuid(1)}.%s.qcow2"
ONE, TWO = (volume(name).model_copy(update={"file": FILE % name}) for name in ("data", "more"))


class Machine(SimulatedMachine):
    """One that refuses to remove a file as long as `stuck` says why."""

    stuck = ""

    async def remove_volume(self, file: str) -> None:
        if self.stuck:
            raise HypervisorError(self.stuck)
        await super().remove_volume(file)


@asynccontextmanager
async def removals(held: frozenset[str] | None = frozenset()) -> AsyncIterator[tuple[Removals, Machine, set[str]]]:
    """With two files on the host; what is added to the set is in use."""
    machine, used = Machine("node-1"), set(held or ())
    for one in (ONE, TWO):
        await machine.make_volume(one.model_copy(update={"source": None}))
    made = Removals(machine, lambda: None if held is None else frozenset(used))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        yield made, machine, used
        running.cancel()


async def asked(made: Removals, *files: str) -> tuple[Removal, ...]:
    made.ask(files)
    for _ in range(20):
        await asyncio.sleep(0)
    return made.told


async def test_file_that_no_machine_has_is_removed_and_told_until_nobody_asks() -> None:
    async with removals() as (made, machine, _):
        assert await asked(made, ONE.file) == (Removal(file=ONE.file),)
        assert await machine.volume(ONE.file) is None
        assert await machine.volume(TWO.file) is not None
        assert await asked(made, ONE.file) == (Removal(file=ONE.file),)
        assert await asked(made) == ()


async def test_file_that_is_gone_already_counts_as_removed() -> None:
    async with removals() as (made, _, _):
        gone = ONE.file.replace("data", "gone")
        assert await asked(made, gone) == (Removal(file=gone),)


async def test_file_that_nano_did_not_name_is_never_removed() -> None:
    async with removals() as (made, machine, _):
        machine.files["/srv/old.qcow2"] = machine.files[ONE.file]
        assert await asked(made, "/srv/old.qcow2") == (Removal(file="/srv/old.qcow2", detail=OLDER),)
        assert await machine.volume("/srv/old.qcow2") is not None


async def test_file_of_a_machine_stays_until_no_machine_has_it() -> None:
    async with removals(frozenset([ONE.file])) as (made, machine, used):
        assert await asked(made, ONE.file, TWO.file) == (Removal(file=ONE.file, detail=USED), Removal(file=TWO.file))
        assert await machine.volume(ONE.file) is not None
        used.clear()
        assert await asked(made, ONE.file, TWO.file) == (Removal(file=ONE.file), Removal(file=TWO.file))


async def test_nothing_is_removed_before_the_host_knows_its_machines() -> None:
    async with removals(None) as (made, machine, _):
        assert await asked(made, ONE.file) == (Removal(file=ONE.file, detail=UNTOLD),)
        assert await machine.volume(ONE.file) is not None


async def test_file_that_cannot_be_removed_is_told_and_tried_again() -> None:
    async with removals() as (made, machine, _):
        machine.stuck = "the disk is read-only"
        assert await asked(made, ONE.file) == (Removal(file=ONE.file, detail="the disk is read-only"),)
        machine.stuck = ""
        assert await asked(made, ONE.file) == (Removal(file=ONE.file),)
