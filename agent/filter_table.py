"""The filter of all cards as one table: what it has without any, what of it stands, and what is to be done about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nanovirt.agent.dhcp.link import MARK
from nanovirt.agent.filtering import SETS, TABLE, Card, added
from nanovirt.agent.taps import LEASED, PHYSICAL

# --- the table without any card ---


def base() -> tuple[str, ...]:
    """The commands that make the table: a tap of ours that no card is known for neither sends nor receives."""
    return (
        f"add table {TABLE}",
        f"add map {TABLE} senders {{ type ifname : verdict; }}",
        f"add map {TABLE} receivers {{ type ifname : verdict; }}",
        f"add chain {TABLE} sending",
        f"add chain {TABLE} receiving",
        f"add chain {TABLE} {base_version()}",
        *(f"add chain {TABLE} {name} {{ type filter hook {name} priority -200; policy accept; }}" for name in _HOOKS),
        *_RULES,
    )


def base_version() -> str:
    """Name the empty chain by which a table of these very rules is known again."""
    return "rules_" + hashlib.sha256("\n".join(_RULES).encode()).hexdigest()[:12]


def base_rules() -> int:
    """How many rules the table has without cards."""
    return len(_RULES)


_HOOKS: Final = ("prerouting", "forward", "output", "postrouting")
_TAGGED: Final = "ether type { 8021q, 8021ad } counter drop"
_RULES: Final = (
    *(f'add rule {TABLE} prerouting iifname "{kind}*" goto sending' for kind in (LEASED, PHYSICAL)),
    *(f'add rule {TABLE} postrouting oifname "{kind}*" goto receiving' for kind in (LEASED, PHYSICAL)),
    # Bridges talk among themselves on these, and so do Cisco's; a guest is no bridge.
    f"add rule {TABLE} sending ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop",
    f"add rule {TABLE} sending ether daddr & ff:ff:ff:ff:ff:f0 == 01:00:0c:cc:cc:c0 counter drop",
    f"add rule {TABLE} sending {_TAGGED}",
    f"add rule {TABLE} sending iifname vmap @senders",
    f"add rule {TABLE} sending counter drop",
    f"add rule {TABLE} receiving {_TAGGED}",
    f"add rule {TABLE} receiving oifname vmap @receivers",
    f"add rule {TABLE} receiving counter drop",
    # DHCP by destination, since a server may answer from any port: 67 is where servers listen, 68 where clients do.
    f'add rule {TABLE} forward iifname "{LEASED}*" udp dport 67-68 counter drop',
    f'add rule {TABLE} forward oifname "{LEASED}*" udp dport 67-68 counter drop',
    # Another server of this same machine passes here, not through the forward hook; our own answers carry the mark.
    f'add rule {TABLE} output oifname "{LEASED}*" udp dport 68 meta mark != {MARK:#x} counter drop',
)


# --- what stands, and what is to be done about it ---


@dataclass(frozen=True, slots=True)
class Standing:
    """What of the table is there: its chains with the number of their rules, where taps lead to, and its sets."""

    chains: Mapping[str, int]
    senders: Mapping[str, str]
    receivers: Mapping[str, str]
    sets: frozenset[str] = frozenset()

    @property
    def sound(self) -> bool:
        """Whether all that is of no card is there, in this very version."""
        own = sum(count for name, count in self.chains.items() if name in (*_HOOKS, "sending", "receiving"))
        return base_version() in self.chains and own == base_rules()

    def holds(self, card: Card) -> bool:
        """Whether the card stands there, whole."""
        sender, receiver, *_ = card.chains
        return (
            all(self.chains.get(name) == count for name, count in card.chains.items())
            and (self.senders.get(card.tap), self.receivers.get(card.tap)) == (sender, receiver)
            and (not card.rules or all(f"{name}_{card.key}" in self.sets for name in SETS))
        )

    def keys(self) -> frozenset[str]:
        """The cards of which anything stands there."""
        named = (name.split("_")[1] for name in (*self.chains, *self.sets) if _of_card(name))
        return frozenset((*named, *(tap[len(LEASED) :] for tap in (*self.senders, *self.receivers))))


def _of_card(name: str) -> bool:
    kind, _, rest = name.partition("_")
    return bool(rest) and kind in ("s", "r", "a", "b", "p", *SETS)


def settled(standing: Standing | None, cards: Iterable[Card], taps: frozenset[str] = frozenset()) -> list[str]:
    """The commands, for one transaction, after which exactly these cards stand; none when they do.

    What nobody wishes stays as long as its tap is one of `taps`, which are there: it holds a guest that goes on.
    """
    wished = {card.key: card for card in cards}
    if standing is None or not standing.sound:
        everything = (command for card in wished.values() for command in added(card))
        return [f"add table {TABLE}", f"delete table {TABLE}", *base(), *everything]
    commands: list[str] = []
    for key in sorted(standing.keys() - wished.keys()):
        if not any(name.endswith(key) for name in taps):
            commands += _removed(standing, key, keep_sets=False)
    for key, card in wished.items():
        if not standing.holds(card):
            commands += (*_removed(standing, key, keep_sets=bool(card.rules)), *added(card))
    return commands


def _removed(standing: Standing, key: str, *, keep_sets: bool) -> Iterator[str]:
    """First nothing leads there, then nothing holds on to it, then it goes."""
    for table, held in (("senders", standing.senders), ("receivers", standing.receivers)):
        yield from (f'delete element {TABLE} {table} {{ "{tap}" }}' for tap in held if tap[len(LEASED) :] == key)
    chains = [name for name in standing.chains if _of_card(name) and name.split("_")[1] == key]
    yield from (f"flush chain {TABLE} {name}" for name in chains)
    yield from (f"delete chain {TABLE} {name}" for name in chains)
    for name in SETS:
        if f"{name}_{key}" in standing.sets:
            if not keep_sets:
                yield f"delete set {TABLE} {name}_{key}"
            elif name in ("ends", "pings", "peers", "pieces"):  # who opened it does not stand there: it is judged anew
                yield f"flush set {TABLE} {name}_{key}"
