"""What a SecurityGroup may say."""

from typing import Any

import pytest

from nanovirt.resources.defaults import made
from nanovirt.resources.errors import Invalid
from nanovirt.resources.security_group import ENTRIES_MAX, SecurityGroup, span


def rule(**fields: Any) -> dict[str, Any]:
    return {"name": "one", "direction": "Inbound", **fields}


def complaints(*rules: dict[str, Any]) -> list[str]:
    try:
        made("SecurityGroup", "web", "a", rules=list(rules))
    except Invalid as error:
        return [cause.field for cause in error.causes]
    return []


def test_group_that_says_nothing_lets_nothing_in_and_everything_out() -> None:
    group = made("SecurityGroup", "web", "a")
    assert isinstance(group, SecurityGroup)
    assert (group.spec.inbound, group.spec.outbound, group.spec.rules) == ("Drop", "Accept", ())


def test_example_of_the_design_is_taken() -> None:
    rules = (
        {"name": "http", "direction": "Inbound", "action": "Accept", "protocol": "TCP",
         "ports": ["80", "443", "8000-8099"], "remotes": ["0.0.0.0/0"]},
        {"name": "ping", "direction": "Inbound", "action": "Accept", "protocol": "ICMP"},
    )  # fmt: skip
    assert complaints(*rules) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ports": ["80"]}, "spec.rules[0].ports"),
        ({"protocol": "ICMP", "ports": ["80"]}, "spec.rules[0].ports"),
        ({"protocol": "TCP", "ports": ["0"]}, "spec.rules[0].ports[0]"),
        ({"protocol": "TCP", "ports": ["65536"]}, "spec.rules[0].ports[0]"),
        ({"protocol": "UDP", "ports": ["53", "90-80"]}, "spec.rules[0].ports[1]"),
    ],
)
def test_ports_that_mean_nothing_are_refused_by_their_field(fields: dict[str, Any], field: str) -> None:
    assert complaints(rule(**fields)) == [field]


def test_two_rules_of_one_name_are_refused() -> None:
    assert complaints(rule(), rule()) == ["spec.rules[1].name"]


def test_more_entries_than_a_card_should_carry_are_refused() -> None:
    remotes = [f"10.0.{at}.0/24" for at in range(64)]
    assert complaints(*(rule(name=f"r{at}", remotes=remotes) for at in range(ENTRIES_MAX // 64))) == []
    assert complaints(*(rule(name=f"r{at}", remotes=remotes) for at in range(ENTRIES_MAX // 64 + 1))) == ["spec.rules"]


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": [80], "protocol": "TCP"}, {"ports": ["80,443"], "protocol": "TCP"}, {"ports": ["http"]},
        {"remotes": ["10.0.0.1/24"]}, {"remotes": ["fe80::/10"]}, {"remotes": [1]}, {"remotes": ["web.example"]},
        {"protocol": "SCTP"}, {"action": "Reject"}, {"direction": "Forward"}, {"name": "a b"},
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(fields: dict[str, Any]) -> None:
    assert complaints(rule(**fields))


def test_single_address_counts_as_a_network_of_one() -> None:
    group = made("SecurityGroup", "web", "a", rules=[rule(remotes=["203.0.113.7"])])
    assert isinstance(group, SecurityGroup)
    assert str(group.spec.rules[0].remotes[0]) == "203.0.113.7/32"


def test_ports_are_a_span() -> None:
    assert (span("80"), span("8000-8099")) == ((80, 80), (8000, 8099))
