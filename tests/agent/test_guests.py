"""The task that asks the guest agents: when, how many at a time, and that a bad one costs the others nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from nanovirt.agent.guests import AT_ONCE, FIRST, PERIOD, SILENT_PERIOD, Guests
from nanovirt.agent.machine import GuestRefused
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.guest import FROZEN_MAX
from tests.simulation.virtual_time import now, run_virtually


class Wire:
    """A channel to guests of which each behaves as its name says."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.names: dict[str, str] = {}
        self.open = self.most = 0
        self.frozen: set[str] = set()
        self.thawed: list[str] = []
        self.passwords: list[tuple[str, str, str]] = []
        self.orders: list[str] = []

    async def set_password(self, uuid: str, user: str, password: str) -> None:
        self.passwords.append((uuid, user, password))

    async def freeze(self, uuid: str) -> int:
        if uuid in self.frozen:
            raise GuestRefused("it is frozen already", 1)
        self.frozen.add(uuid)
        return 1

    async def thaw(self, uuid: str) -> int:
        self.thawed.append(uuid)
        self.frozen.discard(uuid)
        return 1

    async def ask_guest(self, uuid: str, commands: Sequence[str], seconds: int) -> Mapping[str, str | None]:
        self.asked.append((now(), uuid))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            if uuid.startswith("slow"):
                await asyncio.sleep(seconds)
            if uuid.startswith(("slow", "silent")):
                raise HypervisorError("QEMU guest agent is not connected", 86)
            if uuid.startswith("liar"):
                return dict.fromkeys(commands, "x" * 4_000_000)
            if commands[0].startswith("{"):
                self.orders += commands
                return dict.fromkeys(commands, "{}")
            if uuid in self.frozen:
                return dict.fromkeys(commands) | {"guest-fsfreeze-status": '{"return": "frozen"}'}
            name = json.dumps({"return": {"host-name": self.names.get(uuid, uuid)}})
            return {command: name if "host-name" in command else None for command in commands}
        finally:
            self.open -= 1

    def times(self, uuid: str) -> list[float]:
        return [at for at, one in self.asked if one == uuid]


def in_time(story: Coroutine[Any, Any, None], guests: Guests) -> None:
    async def told() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(guests.run())
            await story
            running.cancel()

    run_virtually(told())


def made() -> tuple[Wire, Guests, list[str]]:
    wire = Wire()
    return wire, Guests(wire, random.Random(1)), []


def test_guest_is_asked_every_half_minute_and_told_of_once() -> None:
    wire, guests, told = made()

    async def story() -> None:
        began = now()
        guests.follow("a", lambda: told.append("a"))
        guests.follow("a", lambda: told.append("again"))
        await asyncio.sleep(10 * PERIOD)
        times = wire.times("a")
        assert FIRST <= times[0] - began < FIRST + 1
        apart = [after - before for before, after in pairwise(times)]
        assert all(0.79 * PERIOD <= one <= 1.21 * PERIOD + 0.1 for one in apart)
        assert told == ["a"]
        wire.names["a"] = "renamed"
        await asyncio.sleep(2 * PERIOD)
        assert told == ["a", "a"]
        report = guests.report("a")
        assert report is not None
        assert (report.agent, report.hostname) == ("Connected", "renamed")

    in_time(story(), guests)


def test_open_channel_is_asked_at_once() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        guests.follow("a", lambda: None)
        await asyncio.sleep(FIRST + 1)
        guests.heard("a")
        guests.heard("nobody")
        await asyncio.sleep(1)
        assert len(wire.times("a")) == 2

    in_time(story(), guests)


def test_silent_guest_is_asked_less_often_and_keeps_what_it_said() -> None:
    wire, guests, told = made()

    async def story() -> None:
        guests.follow("silent", lambda: told.append("silent"))
        await asyncio.sleep(10 * SILENT_PERIOD)
        assert 8 <= len(wire.times("silent")) <= 14
        assert told == []
        assert guests.report("silent") is None

    in_time(story(), guests)


def test_guest_that_runs_no_more_is_asked_no_more() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        guests.follow("a", lambda: None)
        await asyncio.sleep(FIRST + 1)
        guests.leave("a")
        await asyncio.sleep(10 * PERIOD)
        assert len(wire.times("a")) == 1
        assert guests.report("a") is None

    in_time(story(), guests)


def test_slow_and_lying_guests_cost_the_others_nothing() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        for number in range(90):
            for kind in ("good", "slow", "liar") if number < 5 else ("good",):
                guests.follow(f"{kind}-{number}", lambda: None)
        await asyncio.sleep(20 * PERIOD)
        assert wire.most <= AT_ONCE
        for number in range(90):
            assert len(wire.times(f"good-{number}")) >= 14
            report = guests.report(f"good-{number}")
            assert report is not None
            assert report.hostname == f"good-{number}"
        liar = guests.report("liar-0")
        assert liar is not None
        assert liar.hostname == ""

    in_time(story(), guests)


def test_frozen_guest_goes_on_by_itself_and_is_not_forgotten_meanwhile() -> None:
    wire, guests, told = made()

    async def story() -> None:
        guests.follow("a", lambda: told.append("a"))
        await asyncio.sleep(FIRST + 1)
        assert await guests.freeze("a", 10_000) == 1
        await asyncio.sleep(FROZEN_MAX - 5)
        assert wire.frozen == {"a"}
        report = guests.report("a")
        assert report is not None
        assert report.hostname == "a", "it says nothing while it is frozen, and what it said stands"
        await asyncio.sleep(10)
        assert wire.frozen == set()
        assert told == ["a"]

    in_time(story(), guests)


def test_guest_goes_on_in_time_whatever_is_heard_or_asked_of_it_meanwhile() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        guests.follow("a", lambda: None)
        await asyncio.sleep(FIRST + 1)
        await guests.freeze("a", 5)
        guests.heard("a")
        await asyncio.sleep(1)
        guests.rename("a", "b")
        for _ in range(3):
            await asyncio.sleep(1)
            with pytest.raises(GuestRefused):
                await guests.freeze("a", FROZEN_MAX)
        assert wire.frozen == {"a"}
        await asyncio.sleep(1.5)
        assert wire.frozen == set()

    in_time(story(), guests)


def test_freeze_that_was_refused_is_not_undone_later() -> None:
    wire, guests, _ = made()
    wire.frozen.add("a")

    async def story() -> None:
        guests.follow("b", lambda: None)
        await asyncio.sleep(FIRST + 1)
        wire.frozen.add("b")
        with pytest.raises(GuestRefused):
            await guests.freeze("b", 1)
        wire.frozen.discard("b")
        await asyncio.sleep(3)
        assert wire.frozen == {"a"}
        assert wire.thawed == []

    in_time(story(), guests)


def test_thawed_guest_is_not_thawed_again() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        guests.follow("a", lambda: None)
        await asyncio.sleep(FIRST + 1)
        await guests.freeze("a", 10)
        await guests.thaw("a")
        assert wire.frozen == set()
        wire.frozen.add("b")
        await asyncio.sleep(20)
        assert wire.frozen == {"b"}

    in_time(story(), guests)


def test_guest_that_an_agent_before_left_frozen_is_found_and_goes_on() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        wire.frozen.add("a")
        guests.follow("a", lambda: None)
        await asyncio.sleep(FIRST + 1)
        assert wire.frozen == set()

    in_time(story(), guests)


def test_name_is_told_once() -> None:
    wire, guests, _ = made()

    async def story() -> None:
        guests.follow("a", lambda: None)
        guests.rename("a", "web-2")
        guests.rename("nobody", "web-3")
        await asyncio.sleep(5 * PERIOD)
        assert len(wire.orders) == 1
        assert json.loads(wire.orders[0])["arguments"]["arg"][-1] == "web-2"

    in_time(story(), guests)
