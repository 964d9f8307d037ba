"""Replies of guest agents, honest and hostile: what is read of them is always small, typed and clean."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanovirt.agent.guest_replies import COMMANDS, ITEMS_MAX, REPLY_MAX, TEXT_MAX, number, read, text
from nanovirt.resources.guest import GuestAddress, GuestDetails

REPLIES = 1200
"""Hostile replies of each kind in a default run."""
HONEST: dict[str, Any] = {
    "guest-get-osinfo": {"name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 12", "kernel-release": "6.1.0"},
    "guest-get-host-name": {"host-name": "web-1"},
    "guest-network-get-interfaces": [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
        {
            "name": "eth0",
            "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [
                {"ip-address": "10.20.0.50", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "2001:db8::5", "ip-address-type": "ipv6", "prefix": 64},
            ],
        },
    ],
    "guest-get-fsinfo": [{"name": "vda1", "mountpoint": "/", "type": "ext4", "total-bytes": 1000, "used-bytes": 400}],
    "guest-get-timezone": {"zone": "CST", "offset": 28800},
    "guest-get-users": [{"user": "root", "login-time": 1.0}],
}


def replies(**changes: Any) -> dict[str, str | None]:
    said = HONEST | {name.replace("_", "-"): value for name, value in changes.items()}
    return {command: json.dumps({"return": value}) for command, value in said.items()}


def test_honest_agent_is_understood() -> None:
    found = read(replies())
    report = found.report
    assert (report.agent, report.os, report.kernel, report.hostname, report.time_zone) == (
        "Connected", "Debian GNU/Linux 12", "6.1.0", "web-1", "CST",
    )  # fmt: skip
    mac = "52:54:00:00:00:01"
    assert report.addresses == (GuestAddress(mac=mac, ip="10.20.0.50"), GuestAddress(mac=mac, ip="2001:db8::5"))
    [only] = found.file_systems
    assert (only.mounted, only.type, only.total, only.used) == ("/", "ext4", 1000, 400)
    assert found.users == 1


def test_one_reply_that_is_nonsense_costs_only_what_it_would_have_said() -> None:
    found = read(replies() | {"guest-get-fsinfo": "<xml/>", "guest-get-users": None})
    assert found.report.hostname == "web-1"
    assert (found.file_systems, found.users) == ((), 0)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[2Jb\r\nc\0", "a\ufffd[2Jb\ufffd\ufffdc\ufffd"),
        ("evil\u202egnp.exe", "evil\N{REPLACEMENT CHARACTER}gnp.exe"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("x" * 10_000, "x" * TEXT_MAX),
        ("银河", "银河"),
        (None, ""), (5, ""), (["a"], ""), ({"a": 1}, ""),
    ],
)  # fmt: skip
def test_text_is_one_short_line_that_drives_no_terminal(said: Any, shown: str) -> None:
    assert text(said) == shown


@pytest.mark.parametrize("said", [True, -1, 2**63, 10**400, 1.5, "1", None, [], float("inf")])
def test_number_that_is_none_is_nought(said: Any) -> None:
    assert number(said) == 0


def test_ten_thousand_cards_are_too_many() -> None:
    card = {"hardware-address": "52:54:00:00:00:01", "ip-addresses": [{"ip-address": "10.0.0.1"}]}
    assert read(replies(guest_network_get_interfaces=[card] * 10_000)).report.addresses == ()
    assert len(read(replies(guest_network_get_interfaces=[card] * 500)).report.addresses) == ITEMS_MAX


@pytest.mark.parametrize(
    "raw",
    [
        "", "null", "[]", "{", "{}", '{"return": ', '{"error": {"class": "x"}}', "[" * 100_000, '{"a":' * 1000,
        '{"return": ' + "[" * 200 + "]" * 200 + "}", "\0" * 100, "x" * (REPLY_MAX + 1), '{"return": 1e999}', "NaN",
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', '{"return": {"host-name": {"a": []}}}',
    ],
)  # fmt: skip
def test_malformed_reply_is_as_none_at_all(raw: str) -> None:
    found = read(dict.fromkeys(COMMANDS, raw))
    assert found.report.hostname == ""
    assert found.file_systems == ()


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30),
    st.sampled_from(["../../etc/passwd", "52:54:00:00:00:01", "10.0.0.1", "fe80::1%eth0", "\x1b]0;x\a", "::1", "%s%n"]),
)  # fmt: skip
KEYS = st.sampled_from(
    ["host-name", "pretty-name", "kernel-release", "ip-addresses", "ip-address", "hardware-address", "mountpoint",
     "type", "total-bytes", "used-bytes", "zone", "x"]
)  # fmt: skip
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=30
)


@given(st.lists(VALUES, min_size=len(COMMANDS), max_size=len(COMMANDS)))
@settings(max_examples=REPLIES // 6, suppress_health_check=list(HealthCheck))
def test_no_value_of_any_type_in_any_place_gets_through(values: list[Any]) -> None:
    bounded(read({command: json.dumps({"return": value}) for command, value in zip(COMMANDS, values, strict=True)}))


def mangle(count: int) -> None:
    """So many replies with letters changed, left out, or the whole put into itself."""
    chance = random.Random(20261126)
    for _ in range(count // len(COMMANDS)):
        mangled: dict[str, str | None] = {}
        for command, raw in replies().items():
            assert raw is not None
            letters = list(raw)
            for _ in range(chance.randint(1, 12)):
                at = chance.randrange(len(letters))
                letters[at] = chance.choice([chr(chance.randrange(0x110000)), chance.choice(string.printable), "", raw])
            mangled[command] = "".join(letters)
        bounded(read(mangled))


def test_a_thousand_mangled_replies_do_no_harm() -> None:
    mangle(REPLIES)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_mangled_replies_do_no_harm() -> None:
    mangle(100_000)


def bounded(found: GuestDetails) -> None:
    """Small, and clean enough to be stored, printed and read back."""
    written = found.model_dump_json()
    assert len(written) < 32 * 1024
    assert GuestDetails.model_validate_json(written) == found
    report = found.report
    for said in (
        report.os,
        report.kernel,
        report.hostname,
        report.time_zone,
        *(one.mounted for one in found.file_systems),
    ):
        assert said.isprintable()
        assert len(said) <= 253
    assert len(report.addresses) <= ITEMS_MAX
    assert all(0 <= one.used <= one.total < 2**63 for one in found.file_systems)
