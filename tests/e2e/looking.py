"""Looking until something is so: at objects of a server that may be away, and at what guests answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import AlreadyExists, NotFound, Unavailable
from nanovirt.resources.kind import Key

PATIENT = 120.0
"""Seconds: what takes longer on a busy machine has failed."""
BOOT = 300.0
"""Seconds for a guest under emulation: five on an idle machine, and it is the first to suffer on a busy one."""
PAUSE = 0.1

T = TypeVar("T")
Met = Callable[[JSON], bool]


class Answer(NamedTuple):
    """What a mini guest says on port 80: `boot_id` tells whether it was started anew, `uptime` is in seconds."""

    boot_id: str
    hostname: str
    uptime: float


async def look(what: str, see: Callable[[], Awaitable[T]], met: Callable[[T], object], seconds: float = PATIENT) -> T:
    """What is seen once it is as wished; AssertionError with what was seen last. A server may be away meanwhile."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            seen = await see()
            if met(seen):
                return seen
        except Unavailable:
            pass
        await asyncio.sleep(PAUSE)
    shown = json.dumps(seen, indent=1, default=str)
    raise AssertionError(f"{what} is not as wished after {seconds:g} s: {shown}")


async def insist(order: Callable[[], Awaitable[object]], seconds: float = PATIENT) -> None:
    """Give an order until the server has taken it: one that died may have taken it before it could say so."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await order()
            return
        except (AlreadyExists, NotFound):
            return
        except Unavailable:
            assert time.monotonic() < deadline, "the server does not come back"
            await asyncio.sleep(PAUSE)


async def until(client: Client, key: Key, met: Met, seconds: float = PATIENT) -> JSON:
    """The object once it is as wished."""
    return await look(str(key), lambda: client.get(key), met, seconds)


async def until_gone(client: Client, key: Key, seconds: float = PATIENT) -> None:
    """Return once there is no such object."""

    async def there() -> JSON | None:
        try:
            return await client.get(key)
        except NotFound:
            return None

    await look(str(key), there, lambda doc: doc is None, seconds)


async def names(client: Client, plural: str) -> list[str]:
    """The names of all objects of a kind."""
    return sorted(str(one["metadata"]["name"]) for one in (await client.list(plural))[0])


# --- what an object may be wished to be ---------------------------------------------------------------------


def ready(doc: JSON, kind: str = "Ready") -> JSON:
    """The condition of that type, {} when there is none."""
    return next((dict(one) for one in doc["status"].get("conditions", ()) if one["type"] == kind), {})


def is_ready(doc: JSON) -> bool:
    """Its condition Ready is True, and speaks of its newest generation."""
    found = ready(doc)
    return found.get("status") == "True" and found.get("observedGeneration", 0) >= doc["metadata"]["generation"]


def runs(doc: JSON) -> bool:
    """An instance runs, as is wished of it."""
    return doc["status"].get("phase") == "Running" and is_ready(doc)


def is_off(doc: JSON) -> bool:
    """An instance is stopped, as is wished of it."""
    return doc["status"].get("phase") == "Stopped" and is_ready(doc)


def because(reason: str, status: str = "") -> Met:
    """Its condition Ready has that reason, and that status if one is given."""
    return lambda doc: ready(doc).get("reason") == reason and status in ("", ready(doc)["status"])


def in_phase(phase: str) -> Met:
    """An instance is in that phase."""
    return lambda doc: bool(doc["status"].get("phase") == phase)


# --- guests -------------------------------------------------------------------------------------------------


async def answer(ip: str, seconds: float = 2.0) -> Answer | None:
    """What the guest there says, None when it says nothing within that time."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(ip, 80)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                content = await reader.read()
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return None
    _, _, body = content.partition(b"\r\n\r\n")
    try:
        return Answer(**json.loads(body))
    except ValueError:  # nothing, or half of it: the guest ends
        return None


async def until_answers(ip: str, met: Callable[[Answer], bool] = lambda _: True, seconds: float = BOOT) -> Answer:
    """What the guest there says, once it says something that is as wished."""
    found = await look(f"guest at {ip}", lambda: answer(ip), lambda said: said is not None and met(said), seconds)
    assert found is not None
    return found


def address(doc: JSON, nic: int = 0) -> str:
    """The address of an instance's card."""
    return str(doc["status"]["addresses"][nic]["ip"])
