"""The filter's text, and what is done about what stands; that it works stands in tests/e2e/test_filter.py."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from nanovirt.agent.filter_table import Standing, base, base_version, settled
from nanovirt.agent.filtering import SETS, Card, added
from nanovirt.agent.flows import Flow, allowed
from nanovirt.resources.placement import PlacedRule
from tests.conftest import Golden

HTTP = PlacedRule(direction="Inbound", action="Accept", protocol="TCP", ports=("80", "8000-8099"))
NOT_HIM = PlacedRule(direction="Inbound", action="Drop", remotes=(IPv4Network("203.0.113.7/32"),))
CLOSED = PlacedRule(direction="Inbound", action="Drop")
OPEN = PlacedRule(direction="Outbound", action="Accept")
LEASED = Card("nvl525400000001", "52:54:00:00:00:01", IPv4Address("10.20.0.50"))
PHYSICAL = Card("nvx525400000002", "52:54:00:00:00:02")
GROUPED = replace(LEASED, rules=(NOT_HIM, HTTP, CLOSED, OPEN))


def stands(*cards: Card, without: Iterable[str] = ()) -> Standing:
    """The table as the kernel would have it after these cards were put there."""
    lines = [line.split() for line in (*base(), *(line for card in cards for line in added(card)))]
    chains = {words[4]: 0 for words in lines if words[:2] == ["add", "chain"]}
    for words in lines:
        if words[:2] == ["add", "rule"]:
            chains[words[4]] += 1
    sets = {words[4] for words in lines if words[:2] == ["add", "set"]}
    goto = {
        table: {words[6].strip('"'): words[9] for words in lines if words[1] == "element" and words[4] == table}
        for table in ("senders", "receivers")
    }
    chains = {name: count for name, count in chains.items() if not name.startswith(tuple(without) or ("-",))}
    return Standing(chains, goto["senders"], goto["receivers"], frozenset(sets - set(without)))


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("leased", LEASED),
        ("physical", PHYSICAL),
        ("grouped", GROUPED),
        ("open", replace(PHYSICAL, rules=(HTTP, CLOSED, OPEN))),
    ],
)
def test_card_is_the_golden_one(golden: Golden, name: str, card: Card) -> None:
    golden(f"filter/{name}.nft", "\n".join(added(card)) + "\n")


def test_table_is_the_golden_one(golden: Golden) -> None:
    golden("filter/table.nft", "\n".join(base()) + "\n")


def test_missing_table_is_made_with_every_card_in_one_transaction() -> None:
    commands = settled(None, [LEASED, PHYSICAL])
    assert commands == [
        "add table bridge nano", "delete table bridge nano", *base(), *added(LEASED), *added(PHYSICAL)
    ]  # fmt: skip


def test_what_stands_is_left_alone() -> None:
    cards = [GROUPED, PHYSICAL]
    assert settled(stands(*cards), cards) == []


@pytest.mark.parametrize("broken", [base_version(), "sending", "prerouting"])
def test_table_of_another_version_or_without_a_rule_is_made_anew(broken: str) -> None:
    found = stands(LEASED, without=[broken])
    assert settled(found, [LEASED])[:2] == ["add table bridge nano", "delete table bridge nano"]


@pytest.mark.parametrize(
    "broken", ["s_525400000001", "r_525400000001", "a_525400000001", *(f"{one}_525400000001" for one in SETS)]
)
def test_card_of_which_something_is_missing_is_put_there_anew(broken: str) -> None:
    commands = settled(stands(GROUPED, PHYSICAL, without=[broken]), [GROUPED, PHYSICAL])
    assert [line for line in commands if line in tuple(added(GROUPED))] == list(added(GROUPED))
    assert not any("525400000002" in line for line in commands)


def test_edit_exchanges_the_chains_and_keeps_the_connections() -> None:
    edited = replace(GROUPED, rules=(CLOSED, OPEN))
    commands = settled(stands(GROUPED), [edited])
    assert f"delete chain bridge nano s_525400000001_{GROUPED.version}" in commands
    assert f'add element bridge nano senders {{ "{GROUPED.tap}" : goto s_525400000001_{edited.version} }}' in commands
    assert not any(
        line.startswith(
            ("delete set", "flush set bridge nano out", "flush set bridge nano in", "flush set bridge nano cut")
        )
        for line in commands
    )


def test_card_without_groups_leaves_no_sets() -> None:
    commands = settled(stands(GROUPED), [LEASED])
    assert [line for line in commands if line.startswith("delete set")] == [
        f"delete set bridge nano {name}_525400000001" for name in SETS
    ]


def test_card_of_a_machine_that_is_gone_is_taken_away_and_no_other() -> None:
    commands = settled(stands(GROUPED, PHYSICAL), [PHYSICAL])
    assert commands
    assert all("525400000001" in line for line in commands)


def test_card_that_nobody_names_yet_stays_as_long_as_its_tap_is_there() -> None:
    assert settled(stands(GROUPED), [], frozenset([GROUPED.tap])) == []


def test_same_address_in_two_vlans_is_held_by_each_card_for_itself() -> None:
    twin = replace(GROUPED, tap="nvl525400000003", mac="52:54:00:00:00:03")
    both = stands(GROUPED, twin)
    assert settled(both, [GROUPED, twin]) == []
    assert set(both.senders) == {GROUPED.tap, twin.tap}
    assert not set(GROUPED.chains) & set(twin.chains)
    assert len(both.sets) == 2 * len(SETS)
    leaving = settled(both, [twin])
    assert leaving
    assert not any(twin.key in line for line in leaving)


def test_version_tells_cards_and_rules_apart() -> None:
    cards = [LEASED, PHYSICAL, GROUPED, replace(GROUPED, rules=(HTTP, NOT_HIM, CLOSED, OPEN)), replace(LEASED, ip=None)]
    assert len({card.version for card in cards}) == len(cards)


def flow(opened: str, remote: str, port: int, protocol: str = "tcp") -> Flow:
    return Flow(opened, IPv4Address("10.20.0.50"), IPv4Address(remote), protocol, port, 40000)


@pytest.mark.parametrize(
    ("which", "passes"),
    [
        (flow("Inbound", "192.0.2.1", 80), True),
        (flow("Inbound", "192.0.2.1", 8050), True),
        (flow("Inbound", "192.0.2.1", 8100), False),
        (flow("Inbound", "192.0.2.1", 80, "udp"), False),
        (flow("Inbound", "203.0.113.7", 80), False),
        (flow("Outbound", "203.0.113.7", 80), True),
    ],
)
def test_first_rule_that_matches_decides_about_a_connection(which: Flow, passes: bool) -> None:
    assert allowed(GROUPED.rules, which) is passes
