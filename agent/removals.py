"""Removing the files of Volumes that people have deleted, which no machine has, and telling of each how it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nanovirt.agent.machine import Machine
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.report import DETAIL_MAX, DOOMED_MAX, Removal
from nanovirt.resources.volume import made_by_nano

log = logging.getLogger(__name__)
UNTOLD = "the host does not know yet of all its machines what they have"
OLDER = "it was there before Nano, which removes only what it made"
USED = "a machine of the host has it"


class Removals:
    """`held`: the files that machines of the host have, None as long as nobody knows."""

    def __init__(self, machine: Machine, held: Callable[[], frozenset[str] | None]) -> None:
        self.told: tuple[Removal, ...] = ()
        self._machine, self._held = machine, held
        self._asked: tuple[str, ...] = ()
        self._wake = asyncio.Event()

    def ask(self, files: tuple[str, ...]) -> None:
        """These are to go, and no others any more; what is still there is tried again whenever it is asked for."""
        self._asked = files[:DOOMED_MAX]
        gone = {one.file for one in self.told if not one.detail}
        if any(one.file not in self._asked for one in self.told) or not gone.issuperset(self._asked):
            self._wake.set()

    async def run(self) -> None:
        """Remove what is asked for, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            before = {one.file: one for one in self.told}
            told = []
            for file in self._asked:
                had = before.get(file)
                told.append(had if had is not None and not had.detail else await self._removed(file, had))
            self.told = tuple(told)

    async def _removed(self, file: str, before: Removal | None) -> Removal:
        if not made_by_nano(file):
            return Removal(file=file, detail=OLDER)
        held = self._held()
        if held is None or file in held:
            return Removal(file=file, detail=UNTOLD if held is None else USED)
        try:
            await self._machine.remove_volume(file)
        except HypervisorError as error:
            failed = Removal(file=file, detail=str(error)[:DETAIL_MAX])
            if failed != before:
                log.warning("file of a deleted volume cannot be removed", extra={"file": file, "detail": failed.detail})
            return failed
        log.info("file of a deleted volume removed", extra={"file": file})
        return Removal(file=file)
