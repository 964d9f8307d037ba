"""The door to `ip`: the host's network devices, and the segments of this host as the kernel has them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nanovirt.agent.commands import ended
from nanovirt.agent.segments import Link, Segment, Work, segment_of, settled, unwished
from nanovirt.resources.errors import HypervisorError

log = logging.getLogger(__name__)

_SECONDS: Final = 10.0
_UP: Final = 1  # IFF_UP
SYSTEM, SETTINGS = Path("/sys/class/net"), Path("/proc/sys/net")
_CLOSED: Final = {"ipv6/conf/{}/disable_ipv6": "1", "ipv4/conf/{}/arp_ignore": "8", "ipv4/conf/{}/rp_filter": "1"}
"""The host takes no part in a VLAN of its guests: no IPv6 address, no answer to ARP, no packet taken in for itself."""


class KernelSegments:
    """Segments made of Linux bridges and VLAN devices. What the kernel has is read again at each `settle`.

    Restarts of the agent touch nothing: what nobody has named yet stays as long as guests are plugged into it.
    """

    def __init__(self, system: Path = SYSTEM, settings: Path = SETTINGS) -> None:
        self._system, self._settings = system, settings
        self._wished: dict[str, tuple[Segment, ...]] = {}
        self._any = True
        """Whether there may be devices of Nano's."""
        self._refused: dict[Segment, str] = {}
        self._one = asyncio.Lock()
        self._news = asyncio.Event()

    def expect(self, uuid: str, segments: tuple[Segment, ...]) -> None:
        """See Segments."""
        if self._wished.get(uuid, ()) == segments:
            return
        self._wished[uuid] = segments
        if not segments:
            del self._wished[uuid]
        self._news.set()

    def there(self, segments: Iterable[Segment]) -> frozenset[Segment]:
        """See Segments."""
        return frozenset(one for one in segments if self._is_up(one))

    def _is_up(self, segment: Segment) -> bool:
        folder = self._system / segment.name
        try:
            alias = (folder / "ifalias").read_text().strip()
            return alias == segment.alias and bool(int((folder / "flags").read_text(), 16) & _UP)
        except (OSError, ValueError):
            return False

    async def make(self, segment: Segment) -> None:
        """See Segments."""
        async with self._one:
            work = settled(await links(), [segment], spare=True)
            if segment in work.refused:
                raise HypervisorError(f"{segment.name} cannot be made: {work.refused[segment]}")
            self._any = True
            await self._do(work)

    async def settle(self) -> bool:
        """Look at what the kernel has, and mend it. Whether there was anything to mend.

        HypervisorError: some of it was not done, and the first reason; what one segment is refused stops no other.
        """
        async with self._one:
            self._news.clear()
            wished = {one for held in self._wished.values() for one in held}
            if not wished and not self._any:
                return False
            found = await links()
            works = [settled(found, [one], spare=True) for one in sorted(wished)]
            self._any = bool(wished) or any(segment_of(link) for link in found.values())
            self._say({segment: why for work in works for segment, why in work.refused.items()})
            works += unwished(found, wished)
            complaints = [error for work in works if (error := await self._tried(work)) is not None]
            if complaints:
                raise complaints[0]
            return not all(work.done for work in works)

    def _say(self, refused: dict[Segment, str]) -> None:
        """What cannot be made, once."""
        for segment in refused.keys() - self._refused.keys():
            log.warning("segment cannot be made", extra={"device": segment.name, "detail": refused[segment]})
        self._refused = refused

    async def _tried(self, work: Work) -> HypervisorError | None:
        """Do it; what stopped it."""
        try:
            await self._do(work)
        except HypervisorError as error:
            return error
        return None

    async def follow(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as something else is expected."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _do(self, work: Work) -> None:
        await _feed(work.create)
        for name in work.kept:
            self._close(name)
        await _feed(work.finish)
        await _feed(work.remove)

    def _close(self, name: str) -> None:
        """Keep the host's own protocols out of a device; what the kernel was built without needs no closing."""
        for path, wanted in _CLOSED.items():
            file = self._settings / path.format(name)
            try:
                if file.read_text().strip() != wanted:
                    file.write_text(wanted)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise HypervisorError(f"{file} cannot be set to {wanted}: {error.strerror}") from error


async def links() -> dict[str, Link]:
    """All network devices by name. HypervisorError if ip is missing, does not answer, or says what nobody can read."""
    listing = await _ip("-j", "-d", "link", "show")
    try:
        return read(listing)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HypervisorError("ip answers what cannot be read") from error


def read(listing: str) -> dict[str, Link]:
    """The devices from ip's JSON. ValueError, KeyError, TypeError or AttributeError if it is something else."""
    found: list[dict[str, Any]] = json.loads(listing or "[]")
    return {link.name: link for link in map(_link, found)}


def _link(found: dict[str, Any]) -> Link:
    about = found.get("linkinfo", {})
    kind, more = about.get("info_kind", ""), about.get("info_data", {})
    tagged = kind == "vlan" and more.get("protocol", "802.1Q") == "802.1Q"
    return Link(
        name=str(found["ifname"]),
        kind=str(kind),
        master=str(found.get("master", "")),
        alias=str(found.get("ifalias", "")),
        mtu=int(found.get("mtu", 1500)),
        up="UP" in found.get("flags", ()),
        below=str(found.get("link", "")) if tagged else "",
        vlan=int(more.get("id", 0)) if tagged else 0,
        stp=kind == "bridge" and bool(more.get("stp_state", 0)),
    )


async def _feed(lines: Sequence[str]) -> None:
    if lines:
        await _ip("-batch", "-", feed="\n".join(lines) + "\n")


async def _ip(*arguments: str, feed: str = "") -> str:
    """Its output. HypervisorError with its complaint."""
    status, output, complaint = await ended(("ip", *arguments), "iproute2", _SECONDS, feed=feed)
    if status:
        raise HypervisorError(f"ip refused: {_said(complaint, feed.splitlines())}")
    return output


def _said(complaint: str, lines: Sequence[str]) -> str:
    """Its complaint, with the line that it could not do."""
    text = " ".join(complaint.split())
    if "Unknown device type" in text:
        return "the kernel has no devices for VLANs; load its module 8021q (modprobe 8021q)"
    number = text.rpartition("Command failed -:")[2]
    if number.isdecimal() and 0 < int(number) <= len(lines):
        return f"{text.partition(' Command failed')[0]} (ip {lines[int(number) - 1]})"
    return text
