"""The host's filter for guests, the one table `bridge nano`: the door to nft, and who is to stand in it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final, Protocol

from nanovirt.agent.commands import Ended, ended
from nanovirt.agent.filter_table import Standing, settled
from nanovirt.agent.filtering import TABLE, Card
from nanovirt.agent.flows import Flow, allowed
from nanovirt.agent.taps import LEASED, PHYSICAL
from nanovirt.resources.errors import HypervisorError

log = logging.getLogger(__name__)

_SECONDS: Final = 10.0
_LINES: Final = 1000
_REMOVE: Final = f"add table {TABLE}\ndelete table {TABLE}\n"


class Filters(Protocol):
    """What each card of this host may send and receive. A card that nobody named does neither."""

    def expect(self, uuid: str, cards: tuple[Card, ...]) -> None:
        """These are the cards of a machine from now on, in the place of those it had; they are in force shortly."""
        ...


class NoFilters:
    """Filters of simulated hosts, whose guests send nothing."""

    def expect(self, uuid: str, cards: tuple[Card, ...]) -> None:
        """See Filters."""


class Firewall:
    """Filters in the kernel. Everything is changed in whole transactions, so that no moment is without rules.

    What stands there is read again at each `settle`, and after every failure. Restarts of the agent or of libvirtd
    touch nothing: cards of guests that nobody has named yet stay as long as their taps are there.
    """

    def __init__(self) -> None:
        self._wished: dict[str, tuple[Card, ...]] = {}
        self._standing: Standing | None = None
        self._news = asyncio.Event()

    def expect(self, uuid: str, cards: tuple[Card, ...]) -> None:
        """See Filters."""
        if self._wished.get(uuid, ()) == cards:
            return
        self._wished[uuid] = cards
        if not cards:
            del self._wished[uuid]
        self._news.set()

    async def settle(self) -> bool:
        """Look at what the kernel has, and mend it. Whether there was anything to mend. HypervisorError: not done."""
        self._standing = None
        return await self._put()

    async def follow(self, seconds: float) -> None:
        """Put in force what is expected, as soon as it is, for so many seconds. HypervisorError: not done."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds) as limit:
                while True:
                    await self._news.wait()
                    when = limit.when()
                    limit.reschedule(None)  # what has begun is not broken off
                    await self._put()
                    limit.reschedule(when)

    async def _put(self) -> bool:
        self._news.clear()
        before = self._standing or await standing()
        cards = [card for held in self._wished.values() for card in held]
        commands = settled(before, cards, _taps())
        self._standing = None
        if commands:
            await _feed(commands)
        self._standing = await standing() if commands else before
        if commands and before is not None and before.sound:
            await self._cut(card for card in cards if card.rules and not before.holds(card))
        return bool(commands)

    async def _cut(self, cards: Iterable[Card]) -> None:
        """End the connections that the new rules would not let be opened; all others go on."""
        for card in cards:
            for name, opened in (("out", "Outbound"), ("in", "Inbound")):
                await _sift(f"{name}_{card.key}", f"cut{name}_{card.key}", opened, card)


async def _sift(known: str, cut: str, opened: str, card: Card) -> None:
    """Connections change over between the sets of those that go on and of those that do not, where neither passes."""
    doomed = [flow for flow in await _flows(known, opened) if not allowed(card.rules, flow)]
    spared = [flow for flow in await _flows(cut, opened) if allowed(card.rules, flow)]
    # What has ended meanwhile cannot be deleted, but added first.
    commands = [*_elements("add", cut, doomed), *_elements("add", cut, spared), *_elements("delete", cut, spared)]
    commands += [*_elements("add", known, doomed), *_elements("delete", known, doomed)]
    if commands:
        await _feed(commands)
    if doomed:
        log.info("connections cut", extra={"card": card.tap, "count": len(doomed)})


def _elements(verb: str, name: str, flows: Sequence[Flow]) -> Iterator[str]:
    for at in range(0, len(flows), _LINES):
        yield f"{verb} element {TABLE} {name} {{ {', '.join(flow.element for flow in flows[at : at + _LINES])} }}"


async def standing() -> Standing | None:
    """What the kernel has of the table; None without one. HypervisorError if nft is missing or does not answer."""
    status, listing, _ = await _nft("-t", "-j", "list", "table", *TABLE.split())
    if status:
        return None
    senders, receivers = [await _verdicts(name) for name in ("senders", "receivers")]
    return read(listing, senders, receivers)


def read(listing: str, senders: dict[str, str], receivers: dict[str, str]) -> Standing:
    """The table from nft's JSON."""
    entries: list[dict[str, Any]] = json.loads(listing)["nftables"]
    chains = Counter({entry["chain"]["name"]: 0 for entry in entries if "chain" in entry})
    chains.update(entry["rule"]["chain"] for entry in entries if "rule" in entry)
    sets = frozenset(entry["set"]["name"] for entry in entries if "set" in entry)
    return Standing(chains, senders, receivers, sets)


async def _verdicts(name: str) -> dict[str, str]:
    status, listing, _ = await _nft("-j", "list", "map", *TABLE.split(), name)
    if status:
        return {}
    found = next(entry["map"] for entry in json.loads(listing)["nftables"] if "map" in entry)
    return {tap: verdict.get("goto", {}).get("target", "") for tap, verdict in found.get("elem", ())}


async def _flows(name: str, opened: str) -> list[Flow]:
    status, listing, _ = await _nft("-j", "list", "set", *TABLE.split(), name)
    if status:
        return []
    found = next(entry["set"] for entry in json.loads(listing)["nftables"] if "set" in entry)
    parts = [one["elem"]["val"]["concat"] for one in found.get("elem", ())]
    return [
        Flow(opened, IPv4Address(ip), IPv4Address(remote), str(protocol), int(port), int(remote_port))
        for ip, remote, protocol, port, remote_port in parts
    ]


def _taps() -> frozenset[str]:
    """The devices of guests that are there."""
    return frozenset(name for _, name in socket.if_nameindex() if name.startswith((LEASED, PHYSICAL)))


async def remove() -> None:
    """Take the table away; nothing happens if there is none. Raises HypervisorError if nft is missing or refuses."""
    status, _, complaint = await _nft("-f", "-", feed=_REMOVE)
    if status:
        raise HypervisorError(f"nft refused to remove the filter: {complaint}")


async def _feed(commands: Iterable[str]) -> None:
    status, _, complaint = await _nft("-f", "-", feed="\n".join(commands) + "\n")
    if status:
        first = complaint.partition("\n")[0]
        raise HypervisorError(f"nft refused the filter of the guests: {first}; has the kernel nf_tables for bridges?")


async def _nft(*arguments: str, feed: str = "") -> Ended:
    return await ended(("nft", *arguments), "nftables", _SECONDS, feed=feed)
