"""The filter's text; that it works stands in tests/e2e/test_dhcp_clients.py."""

import json
from typing import Any

from nanovirt.agent import firewall
from tests.conftest import Golden


def listing(rules: int, *chains: str) -> str:
    entries: list[dict[str, Any]] = [{"metainfo": {}}, {"table": {"name": "nano"}}]
    entries += [{"chain": {"name": name}} for name in chains]
    return json.dumps({"nftables": entries + [{"rule": {}}] * rules})


def test_ruleset_is_the_golden_one(golden: Golden) -> None:
    golden("dhcp/firewall.nft", firewall.ruleset())


def test_cards_without_a_lease_are_not_named() -> None:
    assert firewall.PHYSICAL not in firewall.ruleset()


def test_whole_table_of_this_version_is_complete() -> None:
    assert firewall.complete(listing(3, "forward", "output", firewall.version()))


def test_table_of_another_version_is_not_complete() -> None:
    assert not firewall.complete(listing(3, "forward", "output", "rules_000000000000"))


def test_table_without_one_rule_is_not_complete() -> None:
    assert not firewall.complete(listing(2, "forward", "output", firewall.version()))
