"""Bridges for VLANs, one below each bridge and VLAN that a card is in: their names, and what is to be done about them.

A segment of bridge `br0` and VLAN 40 is the bridge `br0.40`. Each port of `br0` that leads out has a VLAN device in it,
which takes the tags away and puts them on; guests see plain frames. Nothing here touches the host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from nanovirt.agent.taps import LEASED, PHYSICAL
from nanovirt.resources.placement import PlacedNic, PlacementSpec

NAME_MAX: Final = 15
"""Letters of a network device's name (Linux: IFNAMSIZ)."""
VLAN_MAX: Final = 4094
MARK: Final = "nano"
"""How the alias of a device begins that is Nano's; the bridge and the VLAN follow. Names of devices have no colon."""
_WORD: Final = re.compile(r"""[^\s#"'\\]+""")
"""What `ip -batch` takes for one word, and for nothing else."""


class Segment(NamedTuple):
    """A VLAN (1 to 4094) of a bridge of the host."""

    bridge: str
    vlan: int

    @property
    def name(self) -> str:
        """Its own bridge."""
        return named(self.bridge, self.vlan)

    @property
    def alias(self) -> str:
        """What its bridge and its VLAN devices are marked with."""
        return f"{MARK}:{self.bridge}:{self.vlan}"


def named(device: str, vlan: int) -> str:
    """What a device is called in a VLAN; VLAN 0 is the device itself, whatever it is called.

    A name that would be too long is cut, and carries the hash of the whole; should two ever meet, the alias tells.
    """
    if not vlan:
        return device
    whole = f"{device}.{vlan}"
    if len(whole) <= NAME_MAX:
        return whole
    mark = _mark(whole)
    return whole[: NAME_MAX - len(mark)] + mark


def _mark(whole: str) -> str:
    return f"~{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def is_within(device: str, bridge: str) -> bool:
    """Whether a device is called as that bridge, or as one of its VLANs."""
    # Each of those names begins with what is left of the bridge's when it is cut.
    near = device.startswith(bridge[: NAME_MAX - len(_mark(""))])
    return near and any(device == named(bridge, vlan) for vlan in range(VLAN_MAX + 1))


def device_of(nic: PlacedNic) -> str:
    """The bridge that the card is plugged into."""
    return named(nic.bridge, nic.vlan)


def segments_of(spec: PlacementSpec) -> tuple[Segment, ...]:
    """Those that the cards of a machine are in."""
    return tuple(dict.fromkeys(Segment(nic.bridge, nic.vlan) for nic in spec.nics if nic.vlan))


def read_alias(alias: str) -> Segment | None:
    """The segment that an alias names; None for one that is not as Nano's."""
    mark, _, rest = alias.partition(":")
    bridge, _, vlan = rest.rpartition(":")
    if mark != MARK or not bridge or not vlan.isdecimal() or not vlan.isascii() or len(vlan) > 4:
        return None
    return Segment(bridge, int(vlan)) if 0 < int(vlan) <= VLAN_MAX else None


class Segments(Protocol):
    """The segments of this host. They are made before a machine needs them, and go when none does."""

    def expect(self, uuid: str, segments: tuple[Segment, ...]) -> None:
        """These are what the cards of a machine are in from now on, in the place of those that were."""
        ...

    def there(self, segments: Iterable[Segment]) -> frozenset[Segment]:
        """Those of them that cards can be plugged into now; cheap."""
        ...

    async def make(self, segment: Segment) -> None:
        """See to it that it is there, whole. HypervisorError: it is not, and why."""
        ...


class NoSegments:
    """Where nothing is plugged into anything: every segment is there."""

    def expect(self, uuid: str, segments: tuple[Segment, ...]) -> None:
        """See Segments."""

    def there(self, segments: Iterable[Segment]) -> frozenset[Segment]:
        """See Segments."""
        return frozenset(segments)

    async def make(self, segment: Segment) -> None:
        """See Segments."""


# --- what stands, and what is to be done about it ---


@dataclass(frozen=True, slots=True)
class Link:
    """A network device as the kernel has it; `below` and `vlan` are those of a VLAN device (802.1Q only)."""

    name: str
    kind: str = ""
    """`bridge`, `vlan`, `tun`, `veth`, ...; "" for hardware."""
    master: str = ""
    alias: str = ""
    mtu: int = 1500
    up: bool = False
    below: str = ""
    vlan: int = 0
    stp: bool = False


Links = Mapping[str, Link]


def segment_of(link: Link) -> Segment | None:
    """The segment that a device is of; None for one that is not Nano's. The alias alone could be anybody's."""
    segment = read_alias(link.alias)
    if segment is None or not _WORD.fullmatch(link.name):
        return None
    if link.kind == "bridge":
        return segment if link.name == segment.name else None
    ours = link.kind == "vlan" and link.vlan == segment.vlan and link.name == named(link.below, segment.vlan)
    return segment if ours else None


@dataclass(slots=True)
class Work:
    """What leads to what is wished, as lines for `ip -batch`; nothing of it is left when it is there."""

    create: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    """After the new devices were closed to the host's own protocols; a bridge is up when all else of it was done."""
    remove: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """The devices that are to stand, new ones too."""
    refused: dict[Segment, str] = field(default_factory=dict)
    """Those of which nothing is done, and why."""

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.create or self.finish or self.remove)


def settled(links: Links, wished: Iterable[Segment], *, spare: bool = False) -> Work:
    """What is to be done so that exactly these segments stand. `spare`: those that nobody wishes are left alone.

    A segment into which anything else than its own VLAN devices is plugged is never removed: it holds a guest that
    goes on. Nor is any device touched that is not marked and called as Nano's.
    """
    work, wanted = Work(), tuple(dict.fromkeys(wished))
    for segment in wanted:
        trouble = _trouble(links, segment)
        if trouble:
            work.refused[segment] = trouble
        else:
            _settle(links, segment, work)
    if not spare:
        for part in unwished(links, wanted):
            work.remove += part.remove
    return work


def unwished(links: Links, wished: Iterable[Segment]) -> Iterator[Work]:
    """The removal of each segment that nobody wishes, by itself: first what leads out, then the bridge."""
    wanted = frozenset(wished)
    marked = [(segment, link) for link in links.values() if (segment := segment_of(link)) is not None]
    used = {link.master for link in links.values() if link.master and segment_of(link) is None}
    for doomed in dict.fromkeys(segment for segment, _ in marked):
        if doomed not in wanted and doomed.name not in used:
            gone = [link for segment, link in marked if segment == doomed]
            gone.sort(key=lambda link: link.kind == "bridge")
            yield Work(remove=[f"link del dev {link.name}" for link in gone])


def uplinks(links: Links, bridge: str) -> Iterator[Link]:
    """Ports of a bridge that lead out: no guests, and no VLAN devices of Nano's own."""
    for link in links.values():
        if link.master == bridge and not _is_guest(link) and segment_of(link) is None:
            yield link


def _is_guest(link: Link) -> bool:
    return link.kind == "tun" or link.name.startswith((LEASED, PHYSICAL))


def _trouble(links: Links, segment: Segment) -> str:
    """Why the segment cannot be as wished, or ""."""
    bridge, own = links.get(segment.bridge), links.get(segment.name)
    if own is None and (bridge is None or bridge.kind != "bridge"):
        return f"there is no bridge {segment.bridge}"
    if own is not None and segment_of(own) != segment and not _unfinished(own):
        return f"there is a device {segment.name} already, which is not Nano's; rename or remove it"
    for port in uplinks(links, segment.bridge):
        if not _WORD.fullmatch(port.name):
            return f"{segment.bridge} has the port {port.name!r}, whose name ip would misread; rename it"
        name = named(port.name, segment.vlan)
        for link in links.values():
            taken = link.below == port.name and link.vlan == segment.vlan
            if (taken or link.name == name) and segment_of(link) != segment and not (taken and _bare(link, name)):
                return (
                    f"VLAN {segment.vlan} of {port.name} has the device {link.name} already, which is not Nano's; "
                    f"remove it, or give the host a bridge of its own for that network"
                )
    return ""


def _unfinished(link: Link) -> bool:
    """Made, and not yet marked when the making was cut off."""
    return link.kind == "bridge" and not link.alias and not link.up and not link.master


def _bare(link: Link, name: str) -> bool:
    return link.name == name and not link.alias and not link.up and not link.master


def _settle(links: Links, segment: Segment, work: Work) -> None:
    bridge, own, name = links.get(segment.bridge), links.get(segment.name), segment.name
    work.kept.append(name)
    stp = bridge is not None and bridge.stp
    if own is None:
        work.create.append(f"link add name {name} type bridge stp_state {int(stp)}")
    elif bridge is not None and own.stp != stp:
        work.finish.append(f"link set dev {name} type bridge stp_state {int(stp)}")
    if own is None or own.alias != segment.alias:
        work.create.append(f"link set dev {name} alias {segment.alias}")
    ports = {port.name: port for port in uplinks(links, segment.bridge)}
    for link in links.values():
        if link.kind == "vlan" and link.below not in ports and segment_of(link) == segment:
            work.remove.append(f"link del dev {link.name}")
    for port in ports.values():
        _connect(links, segment, port, work)
    mtu = bridge.mtu if bridge is not None else None
    if mtu is not None and (own is None or own.mtu != mtu):
        work.finish.append(f"link set dev {name} mtu {mtu}")
    if own is None or not own.up:
        work.finish.append(f"link set dev {name} up")


def _connect(links: Links, segment: Segment, port: Link, work: Work) -> None:
    """The VLAN device of one port; it can be up only while the port is."""
    name = named(port.name, segment.vlan)
    own = links.get(name)
    work.kept.append(name)
    if own is None:
        work.create.append(f"link add link {port.name} name {name} type vlan id {segment.vlan}")
    if own is None or own.alias != segment.alias:
        work.create.append(f"link set dev {name} alias {segment.alias}")
    if own is None or own.mtu != port.mtu:
        work.finish.append(f"link set dev {name} mtu {port.mtu}")
    if own is None or own.master != segment.name:
        work.finish.append(f"link set dev {name} master {segment.name}")
    if port.up and (own is None or not own.up):
        work.finish.append(f"link set dev {name} up")
