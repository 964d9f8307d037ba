"""VLANs as people write them, and the list of a bridge of a Host."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.defaults import made
from nanovirt.resources.errors import Invalid
from nanovirt.resources.host import Host
from nanovirt.resources.vlans import among, span, spoken


def host(*vlans: Any) -> Host:
    made_ = made("Host", "node-1", bridges=[{"network": "default", "device": "br0", "vlans": list(vlans)}])
    assert isinstance(made_, Host)
    return made_


@pytest.mark.parametrize(("written", "ends"), [("10", (10, 10)), ("20-29", (20, 29)), ("0", (0, 0))])
def test_entry_is_a_vlan_or_a_range(written: str, ends: tuple[int, int]) -> None:
    assert span(written) == ends


@pytest.mark.parametrize(
    ("vlan", "carried"), [(0, False), (9, False), (10, True), (11, False), (20, True), (29, True), (30, False)]
)
def test_list_holds_what_it_says_and_nothing_else(vlan: int, carried: bool) -> None:
    assert among(("10", "20-29"), vlan) == carried
    assert host("10", "20-29").withholds("default", vlan) != carried


def test_untagged_network_is_in_a_list_only_as_zero() -> None:
    assert host("1-4094").withholds("default", 0)
    assert not host("0").withholds("default", 0)
    assert host("0").withholds("default", 1)


def test_two_networks_may_have_one_bridge_each_with_its_vlans() -> None:
    """A trunk of several networks: what a card may be in goes by the network that it names."""
    lan = {"network": "lan", "device": "br0", "vlans": ["0"]}
    both = made("Host", "node-1", bridges=[lan, {"network": "dmz", "device": "br0", "vlans": ["20-29"]}])
    assert isinstance(both, Host)
    assert not list(both.problems())
    assert (both.bridge("lan"), both.bridge("dmz")) == ("br0", "br0")
    assert not both.withholds("lan", 0)
    assert both.withholds("lan", 20)
    assert not both.withholds("dmz", 20)
    assert both.withholds("dmz", 0)


def test_bridge_without_a_list_carries_all_and_no_bridge_withholds_nothing() -> None:
    plain = made("Host", "node-1", bridges=[{"network": "default", "device": "br0"}])
    assert isinstance(plain, Host)
    assert not any(plain.withholds("default", vlan) for vlan in (0, 1, 4094))
    assert not host("10").withholds("elsewhere", 20)


def test_number_of_a_yaml_file_is_what_its_text_is() -> None:
    assert host(10, "20-29") == host("10", "20-29")


WRONG = [
    ("4095", "spec.bridges[0].vlans[0]", "go from 1 to 4094"),
    ("10-5000", "spec.bridges[0].vlans[0]", "go from 1 to 4094"),
    ("29-20", "spec.bridges[0].vlans[0]", "write 20-29"),
    ("0-10", "spec.bridges[0].vlans[0]", 'write "0"'),
    ("10,20", "spec.bridges[0].vlans[0]", "a range of them"),
    ("office", "spec.bridges[0].vlans[0]", "a range of them"),
    ("", "spec.bridges[0].vlans[0]", "a range of them"),
    ("-1", "spec.bridges[0].vlans[0]", "a range of them"),
    (-1, "spec.bridges[0].vlans[0]", "a range of them"),
    (True, "spec.bridges[0].vlans[0]", ""),
    (1.5, "spec.bridges[0].vlans[0]", ""),
]


@pytest.mark.parametrize(("entry", "field", "says"), WRONG, ids=[str(case[0]) for case in WRONG])
def test_entry_that_is_none_is_refused_where_it_stands(entry: Any, field: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        host(entry)
    assert [cause.field for cause in refused.value.causes] == [field]
    assert says in refused.value.causes[0].message


def test_empty_list_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        host()
    assert [cause.field for cause in refused.value.causes] == ["spec.bridges[0].vlans"]


def test_vlan_in_a_sentence() -> None:
    assert (spoken(40), spoken(0)) == ("VLAN 40", "frames without a tag (VLAN 0)")
