"""What a card may send and receive, as text for nft: nothing here touches the host.

A card has a chain for each direction, named after the card and the hash of all its rules, so that the names alone tell
what stands. Cards with SecurityGroups have sets beside them, in which accepted packets leave who talks with whom: what
answers is found there. They are filled by the kernel, and need neither its connection tracking nor `br_netfilter`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, collapse_addresses
from typing import Final

from nanovirt.agent.dhcp.link import MARK
from nanovirt.agent.taps import tap
from nanovirt.resources.placement import PlacedRule, PlacementSpec
from nanovirt.resources.security_group import span

TABLE: Final = "bridge nano"
FLOWS_MAX, PIECES_MAX = 32768, 1024
"""Connections that a card can have in each direction of opening, and fragmented packets under way."""
TCP_SECONDS, CUT_SECONDS, UDP_SECONDS, SHORTLY = 10_800, 600, 180, 60
"""How long the next packet of a connection is awaited; the last for one that begins, or ends, or is neither."""
SETS: Final = ("out", "in", "cutout", "cutin", "ends", "pings", "peers", "pieces")
"""Connections by who opened them, and those that an edit has ended; those that end; echoes; others; fragments."""

_SENT: Final = "ip saddr . ip daddr . ip protocol . th sport . th dport"
_RECEIVED: Final = "ip daddr . ip saddr . ip protocol . th dport . th sport"
_SENT_TO: Final = "ip saddr . ip daddr . ip protocol"
_RECEIVED_FROM: Final = "ip daddr . ip saddr . ip protocol"
_ASKED: Final = "ip saddr . ip daddr . icmp id"
_ANSWERED: Final = "ip daddr . ip saddr . icmp id"
_PIECE: Final = "ip saddr . ip daddr . ip protocol . ip id"
_OUTBOUND: Final = ("a", _SENT, _ASKED, _SENT_TO)
_INBOUND: Final = ("b", _RECEIVED, _ANSWERED, _RECEIVED_FROM)
_ERRORS: Final = "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept"


@dataclass(frozen=True, slots=True)
class Card:
    """A card as the filter knows it; `ip` None: any address. `rules` are those of its SecurityGroups, none: all."""

    tap: str
    mac: str
    ip: IPv4Address | None = None
    rules: tuple[PlacedRule, ...] = ()

    @property
    def key(self) -> str:
        """Its mark in the names of what it has in the table."""
        return self.mac.replace(":", "")

    @property
    def version(self) -> str:
        """Names exactly these rules of exactly this card."""
        rules = [rule for _, chain in _chains(self, "") for rule in chain]
        return hashlib.sha256("\n".join((self.tap, *rules)).encode()).hexdigest()[:12]

    @property
    def chains(self) -> dict[str, int]:
        """The names of its chains, and how many rules each has."""
        return {name: len(chain) for name, chain in _chains(self, self.version)}


def cards_of(spec: PlacementSpec) -> tuple[Card, ...]:
    """The cards of a machine."""
    found = ((nic, nic.ip if nic.lease is not None else None) for nic in spec.nics)
    return tuple(Card(tap(nic), nic.mac, ip, nic.rules) for nic, ip in found)


def added(card: Card) -> Iterator[str]:
    """The commands that put a card there. What the sets hold stays, if they were there before."""
    if card.rules:
        yield from _sets(card.key)
    chains = tuple(_chains(card, card.version))
    yield from (f"add chain {TABLE} {name}" for name, _ in chains)
    yield from (f"add rule {TABLE} {name} {rule}" for name, chain in chains for rule in chain)
    yield f'add element {TABLE} senders {{ "{card.tap}" : goto {chains[0][0]} }}'
    yield f'add element {TABLE} receivers {{ "{card.tap}" : goto {chains[1][0]} }}'


def _sets(key: str) -> Iterator[str]:
    seconds = {"out": TCP_SECONDS, "in": TCP_SECONDS, "cutout": CUT_SECONDS, "cutin": CUT_SECONDS}
    shapes = {"pings": _ASKED, "peers": _SENT_TO, "pieces": _PIECE}
    for name in SETS:
        size = PIECES_MAX if name == "pieces" else FLOWS_MAX
        shape, timeout = shapes.get(name, _SENT), seconds.get(name, SHORTLY)
        options = f"typeof {shape}; flags dynamic,timeout; size {size}; timeout {timeout}s;"
        yield f"add set {TABLE} {name}_{key} {{ {options} }}"


def _chains(card: Card, version: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Sending and receiving, and for a card with rules what an accepted packet of each direction leaves behind."""
    key = card.key
    yield f"s_{key}_{version}", (*_sending(card), *_judging(card, "Outbound", version))
    yield f"r_{key}_{version}", (*_receiving(card), *_judging(card, "Inbound", version))
    if card.rules:
        passing = f"goto p_{key}_{version}"
        yield f"a_{key}_{version}", tuple(_accepting(key, "out", _OUTBOUND, passing))
        yield f"b_{key}_{version}", tuple(_accepting(key, "in", _INBOUND, passing))
        yield f"p_{key}_{version}", (f"ip frag-off & 0x2000 != 0 update @pieces_{key} {{ {_PIECE} }}", "accept")


def _sending(card: Card) -> Iterator[str]:
    """Frames that say who they are from, and lie about nothing that others would believe."""
    source = f"{{ 0.0.0.0, {card.ip} }}" if card.ip else "0.0.0.0/0"
    yield f"ether saddr != {card.mac} counter drop"
    # Before it uses an address, a machine asks for it from 0.0.0.0 (RFC 5227).
    sender = f" arp saddr ip {source}" if card.ip else ""
    yield f"ether type arp arp saddr ether {card.mac}{sender} accept"
    yield "ether type arp counter drop"
    # QEMU tells switches with reverse ARP where a machine is now (a request, for its own MAC).
    yield f"ether type 0x8035 @nh,48,16 3 @nh,64,48 {_number(card.mac)} accept"
    # What a DHCP client says its MAC is stands in its message.
    yield f"udp dport 67 @th,288,48 != {_number(card.mac)} counter drop"
    yield "udp dport 68 counter drop"
    yield "udp sport 67 counter drop"
    if card.ip:
        yield "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept"
        yield f"ether type ip ip saddr != {card.ip} counter drop"
    if card.ip is None and not card.rules:
        yield "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } counter drop"
        yield "ether type ip6 udp sport 547 counter drop"
        yield "ether type ip6 accept"
    yield "ether type != ip counter drop"
    yield "udp sport 68 udp dport 67 accept"


def _receiving(card: Card) -> Iterator[str]:
    """The answers of the DHCP server that is meant for the card, ARP, and of IPv6 what the card may answer."""
    yield "ether type { arp, 0x8035 } accept"
    if card.ip is None and not card.rules:
        yield "ether type ip6 accept"
    yield "ether type != ip counter drop"
    yield f"udp sport 67 udp dport 68 {f'meta mark {MARK:#x} ' if card.ip else ''}accept"


def _number(mac: str) -> str:
    return f"0x{mac.replace(':', '')}"


def _judging(card: Card, direction: str, version: str) -> Iterator[str]:
    """What answers passes; then the rules, of which the first that matches decides."""
    if not card.rules:
        yield "accept"
        return
    key, passing = card.key, f"goto p_{card.key}_{version}"
    kept, flow, echo, peer = _OUTBOUND if direction == "Outbound" else _INBOUND
    yield f"ip frag-off & 0x1fff != 0 {_PIECE} @pieces_{key} accept"
    yield "ip frag-off & 0x1fff != 0 counter drop"
    for name in (f"cutout_{key}", f"cutin_{key}"):
        # A connection opened anew from the same port is judged by the rules, here and below.
        yield f"ip protocol tcp tcp flags & (syn | ack) == syn {flow} @{name} delete @{name} {{ {flow} }}"
        yield f"ip protocol tcp {flow} @{name} update @{name} {{ {flow} }} counter drop"
    for name in (f"out_{key}", f"in_{key}"):
        yield from _going_on(name, f"ends_{key}", flow, passing)
    yield f"ip protocol tcp tcp flags & syn == 0 {flow} @ends_{key} update @ends_{key} {{ {flow} }} {passing}"
    yield f"icmp type echo-reply {echo} @pings_{key} {passing}"
    yield f"ip protocol != {{ tcp, udp, icmp }} {peer} @peers_{key} update @peers_{key} {{ {peer} }} {passing}"
    if direction == "Inbound":
        yield _ERRORS
    for rule in card.rules:
        if rule.direction == direction:
            yield _matching(rule, f"goto {kept}_{key}_{version}" if rule.action == "Accept" else "counter drop")


def _going_on(name: str, ends: str, flow: str, passing: str) -> Iterator[str]:
    """A connection that is known; once one side wants to end it, it is awaited for a short time only."""
    ending = f"ip protocol tcp tcp flags & (fin | rst) != 0 {flow} @{name}"
    yield f"{ending} update @{ends} {{ {flow} }} delete @{name} {{ {flow} }} {passing}"
    yield f"ip protocol tcp tcp flags & syn != 0 {flow} @{name} {passing}"
    yield f"ip protocol tcp {flow} @{name} update @{name} {{ {flow} timeout {TCP_SECONDS}s }} {passing}"
    yield f"ip protocol udp {flow} @{name} update @{name} {{ {flow} timeout {UDP_SECONDS}s }} {passing}"


def _accepting(key: str, name: str, words: tuple[str, ...], passing: str) -> Iterator[str]:
    """A full set takes no more; the packet itself passes all the same."""
    _, flow, echo, peer = words
    opening = "ip protocol tcp tcp flags & (syn | fin | rst) != 0"
    yield f"{opening} update @{name}_{key} {{ {flow} timeout {SHORTLY}s }} {passing}"
    yield f"ip protocol tcp update @{name}_{key} {{ {flow} timeout {TCP_SECONDS}s }} {passing}"
    yield f"ip protocol udp update @{name}_{key} {{ {flow} timeout {UDP_SECONDS}s }} {passing}"
    yield f"icmp type echo-request update @pings_{key} {{ {echo} }} {passing}"
    yield f"ip protocol != {{ tcp, udp, icmp }} update @peers_{key} {{ {peer} }} {passing}"
    yield passing


def _matching(rule: PlacedRule, verdict: str) -> str:
    far = "ip saddr" if rule.direction == "Inbound" else "ip daddr"
    remotes = [str(one) for one in collapse_addresses(rule.remotes) if one.prefixlen]
    words = [f"{far} {{ {', '.join(remotes)} }}"] if remotes and all(one.prefixlen for one in rule.remotes) else []
    if rule.protocol != "Any":
        words.append(f"ip protocol {rule.protocol.lower()}")
    if rule.ports:
        words.append(f"th dport {{ {', '.join(_merged(span(one) for one in rule.ports))} }}")
    return " ".join((*words, verdict))


def _merged(spans: Iterable[tuple[int, int]]) -> list[str]:
    """The same ports as spans that neither overlap nor touch, as nft wants them."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return [str(first) if first == last else f"{first}-{last}" for first, last in found]
