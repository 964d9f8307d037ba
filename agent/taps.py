"""What a card's device on the host is called: the filter knows by the name what it carries."""

from __future__ import annotations

from typing import Final

from nanovirt.resources.placement import PlacedNic

LEASED: Final = "nvl"
"""Taps of cards with an address from a pool begin so: they speak DHCP with Nano's server only."""

PHYSICAL: Final = "nvx"
"""Taps of all other cards begin so: what gives them their address is not ours to know."""


def tap(nic: PlacedNic) -> str:
    """The card's device on the host: one word for what it is, and its whole MAC."""
    return (LEASED if nic.lease is not None and nic.ip is not None else PHYSICAL) + nic.mac.replace(":", "")
