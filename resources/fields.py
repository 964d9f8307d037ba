"""The types of single fields that several kinds share: names, references, MACs, uids, times, texts."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
DNS_LABEL = re.compile(LABEL)
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SHAPES: dict[str, str] = {}
"""What to write where a pattern is asked for, by the pattern: a refusal says it as `'x' is not ...`."""


def shaped(pattern: str, rule: str) -> Any:
    """A field whose text has that pattern, which nobody wants to read; `rule` says what to write."""
    SHAPES[pattern] = rule
    return Field(pattern=pattern)


def straight(value: str) -> str:
    """Check that a path goes nowhere but down."""
    if {".", ".."} & set(value.split("/")):
        raise ValueError(f"{value[:60]!r} has a step '.' or '..'; write the path as it is in the end")
    return value


def name(value: str) -> str:
    """Check an object name (RFC 1123 subdomain, at most 253 characters)."""
    if len(value) > 253 or not SUBDOMAIN.fullmatch(value):
        rule = "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"
        raise ValueError(f"{value[:60]!r} is not a name: {rule}")
    return value


def name_or_nothing(value: str) -> str:
    """Check a name that may be left empty."""
    return value and name(value)


def label(value: str) -> str:
    """Check a short name (RFC 1123 label, at most 63 characters), such as that of a disk or a network card."""
    if not DNS_LABEL.fullmatch(value):
        raise ValueError(f"{value[:60]!r} is not a short name: at most 63 lower-case letters, digits and '-'")
    return value


def reference(value: str) -> str:
    """Check `NAME` or `shared/NAME`."""
    space, slash, last = value.rpartition("/")
    if slash and space != "shared":
        raise ValueError(f"{value[:60]!r} is not a reference: write NAME or shared/NAME")
    name(last)
    return value


def owner_path(value: str) -> str:
    """Check `NAMESPACE/NAME`, the only form that a cluster-scoped Address uses."""
    space, slash, last = value.partition("/")
    if not slash:
        raise ValueError(f"{value[:60]!r} is not NAMESPACE/NAME")
    label(space)
    name(last)
    return value


def mac(value: str) -> str:
    """Check a unicast MAC and give it in lower case with colons."""
    value = value.lower().replace("-", ":")
    if not MAC.fullmatch(value):
        raise ValueError(f"{value[:40]!r} is not a MAC address like 52:54:00:1a:2b:3c")
    if int(value[:2], 16) & 1:
        raise ValueError(f"{value} is a multicast MAC; a network card needs a unicast one such as 52:54:00:...")
    return value


def line(value: str) -> str:
    """Check a text of one line for characters that no form shows and that terminals obey."""
    return _readable(value, value)


def text(value: str) -> str:
    """Check a text of several lines in the same way."""
    return _readable(value, value.replace("\n", "").replace("\t", ""))


def _readable(value: str, without_breaks: str) -> str:
    found = CONTROL.search(without_breaks)
    if found is not None:
        raise ValueError(f"the text holds a control character (U+{ord(found[0]):04X}); leave it out")
    return value


def quad(value: object) -> object:
    """IPv4 only as dotted text: numbers would be taken for addresses otherwise."""
    if isinstance(value, str):
        try:
            return _address(value)
        except ValueError:
            return value  # for the type to refuse
    if not isinstance(value, IPv4Address):
        raise ValueError("write the address as text like 10.20.0.50")  # noqa: TRY004 - pydantic wants ValueError
    return value


def net(value: object) -> object:
    """IPv4 networks in the same way."""
    if isinstance(value, str):
        try:
            return _network(value)
        except ValueError:
            return value
    if not isinstance(value, IPv4Network):
        raise ValueError("write the subnet as text like 10.20.0.0/24")  # noqa: TRY004 - pydantic wants ValueError
    return value


@lru_cache(maxsize=16_384)
def _address(value: str) -> IPv4Address:
    """The same few addresses are read again and again; what is none is not remembered."""
    return IPv4Address(value)


@lru_cache(maxsize=1024)
def _network(value: str) -> IPv4Network:
    return IPv4Network(value)


def utc(value: datetime) -> datetime:
    """Times carry a zone and are kept in UTC."""
    if value.tzinfo is UTC:
        return value
    if value.tzinfo is None:
        raise ValueError("the time needs a zone, for example 2026-11-22T06:00:00Z")
    return value.astimezone(UTC)


def rfc3339(value: datetime) -> str:
    """`2026-11-22T06:00:00Z`; microseconds only when there are some."""
    return _written(value if value.tzinfo is UTC else value.astimezone(UTC))


@lru_cache(maxsize=1024)
def _written(value: datetime) -> str:
    """Most times are among a few: those at which a second began."""
    text = value.isoformat(timespec="microseconds" if value.microsecond else "seconds")
    return text.replace("+00:00", "Z")


Name = Annotated[str, AfterValidator(name)]
ShortName = Annotated[str, AfterValidator(lru_cache(maxsize=1024)(label))]  # most are called alike
Reference = Annotated[str, AfterValidator(reference)]
OwnerPath = Annotated[str, AfterValidator(owner_path)]
Mac = Annotated[str, AfterValidator(mac)]
Ip = Annotated[IPv4Address, BeforeValidator(quad)]
Subnet = Annotated[IPv4Network, BeforeValidator(net)]
Time = Annotated[datetime, AfterValidator(utc), PlainSerializer(rfc3339, return_type=str)]
NameOrNothing = Annotated[str, AfterValidator(name_or_nothing)]
Uid = Annotated[str, shaped(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "a uid in lower-case hexadecimal digits")]
Title = Annotated[str, Field(max_length=120), AfterValidator(line)]
Text = Annotated[str, Field(max_length=4000), AfterValidator(text)]
AbsolutePath = Annotated[
    str,
    shaped(r"^/[A-Za-z0-9._/@+-]{0,400}$", "an absolute path such as /var/lib/nano, of letters, digits and ._@+-"),
    AfterValidator(straight),
]


def resolve(value: str, namespace: str) -> tuple[str, str]:
    """The (namespace, name) that a reference means when it stands in an object of `namespace`."""
    space, slash, last = value.rpartition("/")
    return (space if slash else namespace), last
