"""The task that asks the guest agents: each every half minute, a few at a time, and none is waited for for long."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nanovirt.agent.guest_replies import COMMANDS, read
from nanovirt.agent.machine import GuestRefused
from nanovirt.resources.codec import dump
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.guest import FROZEN_MAX, GuestDetails, GuestReport
from nanovirt.resources.secret import SecretText

log = logging.getLogger(__name__)

PERIOD, SILENT_PERIOD = 30.0, 60.0
"""Seconds between questions, and where nobody answers; a fifth more or less, so that guests take turns."""
SOON = 0.5
"""After the channel was opened or closed."""
FIRST = 5.0
LATE = 2.0
"""How soon one that did not go on when it was to is told again."""
AT_ONCE = 4
"""Guests that are asked at a time."""
REPLY_SECONDS = 5
"""How long one answer may take; after the first that takes longer nothing else is asked."""


class Channel(Protocol):
    """The way to a guest's agent."""

    async def ask_guest(self, uuid: str, commands: Sequence[str], seconds: int) -> Mapping[str, str | None]:
        """The reply to each command (its JSON, as it came), None where it was refused or the time was up before.

        HypervisorError when nobody answers at all.
        """
        ...

    async def set_password(self, uuid: str, user: str, password: str) -> None:
        """HypervisorError when nobody answers, or the guest refuses."""
        ...

    async def freeze(self, uuid: str) -> int:
        """Let the file systems stand still; how many. HypervisorError."""
        ...

    async def thaw(self, uuid: str) -> int:
        """Let them go on; how many. HypervisorError."""
        ...


@dataclass(slots=True)
class Known:
    """What is known of one guest: None as long as its agent was never heard."""

    tell: Callable[[], None]
    details: GuestDetails | None = None
    due: float = 0.0
    asked: bool = False
    name: str = ""
    """What the guest is to be called from now on, once."""
    thaw_at: float | None = None
    """When its file systems go on at the latest."""


class Guests:
    """Follows the guests that it is told to follow; `run` until cancelled."""

    def __init__(self, channel: Channel, chance: random.Random | None = None) -> None:
        self._channel = channel
        self._chance = chance or random.Random()
        self._known: dict[str, Known] = {}
        self._queue: list[tuple[float, str]] = []
        self._wake = asyncio.Event()
        self._busy = 0

    def follow(self, uuid: str, tell: Callable[[], None]) -> None:
        """The guest runs: ask its agent from now on, and call `tell` whenever it says something new."""
        if uuid not in self._known:
            self._known[uuid] = Known(tell)
            self._put(uuid, FIRST)

    def leave(self, uuid: str) -> None:
        """The guest runs no more."""
        self._known.pop(uuid, None)

    def heard(self, uuid: str) -> None:
        """Its channel was opened or closed, so that what is known may be wrong."""
        if uuid in self._known:
            self._put(uuid, SOON)

    def report(self, uuid: str) -> GuestReport | None:
        """What its agent said last; None when it was not heard since the guest runs here."""
        known = self._known.get(uuid)
        return known.details.report if known is not None and known.details is not None else None

    def details(self, uuid: str) -> GuestDetails | None:
        """The same with what changes all the time."""
        known = self._known.get(uuid)
        return known.details if known is not None else None

    # --- orders ---

    def rename(self, uuid: str, name: str) -> None:
        """The guest is to have another name; told once, when its agent is asked next."""
        known = self._known.get(uuid)
        if known is not None:
            known.name = name
            self._put(uuid, SOON)

    async def freeze(self, uuid: str, seconds: float) -> int:
        """Let its file systems stand still for so many seconds at most (FROZEN_MAX): then they go on by themselves."""
        known = self._known.get(uuid)
        if known is None:
            raise HypervisorError("the machine does not run")
        before, until = known.thaw_at, _now() + min(seconds, FROZEN_MAX)
        known.thaw_at = until if before is None else min(until, before)  # asked again is not for longer
        self._put(uuid, known.thaw_at - _now())
        try:
            return await self._channel.freeze(uuid)
        except GuestRefused:  # any other failure may come after the guest has obeyed
            known.thaw_at = before
            raise

    async def thaw(self, uuid: str) -> int:
        """Let them go on."""
        known = self._known.get(uuid)
        if known is not None:
            known.thaw_at = None
        return await self._channel.thaw(uuid)

    async def set_password(self, uuid: str, user: str, password: SecretText) -> None:
        """See Channel."""
        await self._channel.set_password(uuid, user, password.reveal())

    async def _carry_out(self, uuid: str, known: Known) -> None:
        """What was ordered for now; what fails is tried when the guest is asked next, but for a name."""
        try:
            if known.thaw_at is not None and known.thaw_at <= _now():
                await self.thaw(uuid)
                log.warning("guest was frozen too long; it goes on", extra={"machine": uuid})
            if known.name:
                name, known.name = known.name, ""
                await self._channel.ask_guest(uuid, [renaming(name)], REPLY_SECONDS)
        except HypervisorError as error:
            log.warning("guest agent does not obey", extra={"machine": uuid, "detail": str(error)})

    async def run(self) -> None:
        """Ask whoever is due."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                while self._busy < AT_ONCE and (uuid := self._next()) is not None:
                    self._busy += 1
                    group.create_task(self._turn(uuid))
                left = max(0.05, self._queue[0][0] - _now()) if self._queue and self._busy < AT_ONCE else None
                try:
                    async with asyncio.timeout(left):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _put(self, uuid: str, after: float) -> None:
        """Ask it so many seconds from now, or sooner if its file systems are to go on before."""
        known = self._known[uuid]
        due = _now() + after
        if known.thaw_at is not None:
            due = min(due, known.thaw_at if known.thaw_at > _now() else _now() + LATE)
        known.due = due
        heapq.heappush(self._queue, (due, uuid))
        self._wake.set()

    def _next(self) -> str | None:
        """One that is due; entries of the queue that were overtaken are passed over."""
        while self._queue and self._queue[0][0] <= _now():
            due, uuid = heapq.heappop(self._queue)
            known = self._known.get(uuid)
            if known is not None and known.due == due and not known.asked:
                known.asked = True
                return uuid
        return None

    async def _turn(self, uuid: str) -> None:
        known = self._known.get(uuid)
        details = None
        try:
            if known is not None:
                await self._carry_out(uuid, known)
                details = await self.ask(uuid)
        finally:
            self._busy -= 1
            self._wake.set()
            if known is not None:
                known.asked = False
        if known is None or self._known.get(uuid) is not known:
            return
        before = known.details
        if details is not None and details.frozen:
            await self._found_frozen(uuid, known)
            details = before
        if details is None and before is not None:
            silent = before.report.model_copy(update={"agent": "Disconnected"})
            details = before.model_copy(update={"report": silent})
        known.details = details
        answers = details is not None and details.report.agent == "Connected"
        if (details and details.report) != (before and before.report):
            known.tell()
        if known.due <= _now():
            self._put(uuid, (PERIOD if answers else SILENT_PERIOD) * self._chance.uniform(0.8, 1.2))

    async def _found_frozen(self, uuid: str, known: Known) -> None:
        """Frozen by an agent that is no more, or by somebody else: nobody else would let it go on in time."""
        if known.thaw_at is None:
            known.thaw_at = _now()
            await self._carry_out(uuid, known)

    async def ask(self, uuid: str) -> GuestDetails | None:
        """What its agent says now; None when it is silent."""
        try:
            replies = await self._channel.ask_guest(uuid, COMMANDS, REPLY_SECONDS)
        except HypervisorError as error:
            log.debug("guest agent is silent", extra={"machine": uuid, "detail": str(error)})
            return None
        return read(replies)


def renaming(name: str) -> str:
    """The command by which a guest takes another name now; it is a Hostname, so it means nothing to a shell."""
    script = 'hostnamectl set-hostname "$1" 2>/dev/null || hostname "$1"'
    arguments = {"path": "/bin/sh", "arg": ["-c", script, "sh", name]}
    return dump({"execute": "guest-exec", "arguments": arguments}).decode()


def _now() -> float:
    return asyncio.get_running_loop().time()
