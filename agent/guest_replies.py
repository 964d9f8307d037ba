"""What a guest's agent answers, read as the hostile input that it is: bounded, typed, cleaned, or not at all.

The words are those of the QEMU guest agent (qemu.readthedocs.io, interop/qemu-ga-ref). Nothing of a reply is ever a
path, a command or an address that this host would use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, TypeVar

from nanovirt.resources.codec import parse
from nanovirt.resources.errors import Rejected
from nanovirt.resources.guest import GuestAddress, GuestDetails, GuestFileSystem, GuestReport

REPLY_MAX = 64 * 1024
"""Bytes of one reply; a longer one is no reply."""
ITEMS_MAX = 32
"""Cards, addresses of all cards, file systems: what comes after is left out."""
TEXT_MAX = 128
NUMBER_MAX = 2**63
LOOKED = 256
"""Items of a list that are looked at at all."""
COMMANDS = (
    "guest-get-osinfo", "guest-get-host-name", "guest-network-get-interfaces", "guest-get-fsinfo", "guest-get-timezone",
    "guest-get-users", "guest-fsfreeze-status",
)  # fmt: skip
T = TypeVar("T")


def read(replies: Mapping[str, str | None]) -> GuestDetails:
    """What the replies to COMMANDS say, each by itself: nonsense is as a reply that did not come. Never raises."""
    returned = {command: _returned(raw) for command, raw in replies.items()}
    system = _object(returned.get("guest-get-osinfo"))
    name = _object(returned.get("guest-get-host-name"))
    users = returned.get("guest-get-users")
    return GuestDetails(
        report=GuestReport(
            agent="Connected",
            os=text(system.get("pretty-name")) or text(system.get("name")),
            kernel=text(system.get("kernel-release")),
            hostname=text(name.get("host-name"), 253),
            time_zone=text(_object(returned.get("guest-get-timezone")).get("zone"), 64),
            addresses=tuple(_first(_addresses(returned.get("guest-network-get-interfaces")))),
        ),
        file_systems=tuple(_first(_file_systems(returned.get("guest-get-fsinfo")))),
        frozen=returned.get("guest-fsfreeze-status") == "frozen",
        users=min(len(users), ITEMS_MAX) if isinstance(users, list) else 0,
    )


def _returned(raw: str | None) -> Any:
    """The `return` of a reply; None for what is none."""
    if raw is None or len(raw) > REPLY_MAX:
        return None
    try:
        return parse(raw.encode(errors="surrogatepass"), REPLY_MAX).get("return")
    except (Rejected, UnicodeError):
        return None


def text(value: Any, most: int = TEXT_MAX) -> str:
    """A text on one line without anything that would drive a terminal or turn letters round; "" for what is none."""
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value[:most]).strip()


def number(value: Any) -> int:
    """A count of bytes; 0 for what is none."""
    return value if type(value) is int and 0 <= value < NUMBER_MAX else 0


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (_object(one) for one in (value[:LOOKED] if isinstance(value, list) else ()))


def _first(found: Iterable[T]) -> Iterator[T]:
    yield from (one for one, _ in zip(found, range(ITEMS_MAX), strict=False))


def _addresses(value: Any) -> Iterator[GuestAddress]:
    """Those by which somebody else could reach a card: no loopback, no link-local ones."""
    for card in _items(value):
        mac = text(card.get("hardware-address"), 17).lower()
        for one in _items(card.get("ip-addresses")):
            ip = _ip(one.get("ip-address"))
            if ip and _is_mac(mac):
                yield GuestAddress(mac=mac, ip=ip)


def _is_mac(said: str) -> bool:
    parts = said.split(":")
    return len(parts) == 6 and all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts)


def _ip(value: Any) -> str:
    try:
        found = ip_address(text(value, 45))
    except ValueError:
        return ""
    useless = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    return "" if useless or getattr(found, "scope_id", None) else str(found)


def _file_systems(value: Any) -> Iterator[GuestFileSystem]:
    for one in _items(value):
        mounted = text(one.get("mountpoint"))
        if mounted:
            total, used = number(one.get("total-bytes")), number(one.get("used-bytes"))
            yield GuestFileSystem(mounted=mounted, type=text(one.get("type"), 32), total=total, used=min(used, total))
