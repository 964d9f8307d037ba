"""Bridges of VLANs: what they are called, and what is done about them, applied to a host in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.agent.iproute import read
from nanovirt.agent.leases import reservations
from nanovirt.agent.segments import (
    NAME_MAX,
    Link,
    Segment,
    Work,
    device_of,
    is_within,
    named,
    read_alias,
    segments_of,
    settled,
)
from nanovirt.agent.simulated_network import SimulatedSegments
from tests.agent.placements import spec

S40, S50 = Segment("br0", 40), Segment("br0", 50)
DEVICES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", fullmatch=True)


def host(*links: Link) -> dict[str, Link]:
    """A host with the bridge br0, whose cable is in eth0, and a guest's card in it."""
    base = (
        Link("br0", "bridge", up=True, mtu=1500),
        Link("eth0", "", master="br0", up=True),
        Link("nvl525400000001", "tun", master="br0", up=True),
    )
    return {link.name: link for link in (*base, *links)}


def applied(links: dict[str, Link], work: Work) -> dict[str, Link]:
    """The host after the commands, as `ip` would do them."""
    links = dict(links)
    for line in (*work.create, *work.finish, *work.remove):
        match line.split():
            case ["link", "add", "name", name, "type", "bridge", "stp_state", stp]:
                assert name not in links
                links[name] = Link(name, "bridge", stp=stp == "1")
            case ["link", "add", "link", below, "name", name, "type", "vlan", "id", vlan]:
                assert name not in links
                assert not [one for one in links.values() if (one.below, one.vlan) == (below, int(vlan))]
                links[name] = Link(name, "vlan", below=below, vlan=int(vlan))
            case ["link", "set", "dev", name, "up"]:
                assert links[name].kind != "vlan" or links[links[name].below].up
                links[name] = replace(links[name], up=True)
            case ["link", "set", "dev", name, "type", "bridge", "stp_state", stp]:
                links[name] = replace(links[name], stp=stp == "1")
            case ["link", "set", "dev", name, "mtu", value]:
                links[name] = replace(links[name], mtu=int(value))
            case ["link", "set", "dev", name, "alias", value]:
                links[name] = replace(links[name], alias=value)
            case ["link", "set", "dev", name, "master", value]:
                links[name] = replace(links[name], master=value)
            case ["link", "del", "dev", name]:
                del links[name]
                links = {one.name: replace(one, master="") if one.master == name else one for one in links.values()}
            case _:
                raise AssertionError(line)
    return links


def settle(links: dict[str, Link], *wished: Segment) -> dict[str, Link]:
    """The host once nothing is left to do."""
    work = settled(links, wished)
    assert not work.refused
    links = applied(links, work)
    assert settled(links, wished).done
    return links


# --- names ---


@pytest.mark.parametrize(
    ("device", "vlan", "name"),
    [
        ("br0", 0, "br0"),
        ("br0", 40, "br0.40"),
        ("enp129s0f0", 4094, "enp129s0f0.4094"),
        ("enp129s0f0np0", 0, "enp129s0f0np0"),
        ("a-name-longer-than-linux-takes", 0, "a-name-longer-than-linux-takes"),
        ("enp129s0f0np0", 40, "enp129~d286fd91"),
    ],
)
def test_device_of_a_vlan_is_called(device: str, vlan: int, name: str) -> None:
    assert named(device, vlan) == name


@given(st.lists(st.tuples(DEVICES, st.integers(1, 4094)), unique=True, max_size=50))
def test_names_fit_and_do_not_meet(pairs: list[tuple[str, int]]) -> None:
    names = [named(*pair) for pair in pairs]
    assert all(len(name) <= NAME_MAX for name in names)
    assert len(set(names)) == len(names)


@given(DEVICES, DEVICES, st.integers(0, 4094))
def test_device_is_within_the_bridge_that_it_is_named_after(bridge: str, other: str, vlan: int) -> None:
    assert is_within(named(bridge, vlan), bridge)
    assert is_within(other, bridge) == (other in {named(bridge, one) for one in range(4095)})


@given(DEVICES, st.integers(1, 4094))
def test_alias_says_what_a_segment_is(bridge: str, vlan: int) -> None:
    assert read_alias(Segment(bridge, vlan).alias) == (bridge, vlan)


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "uplink",
        "nano",
        "nano:br0",
        "nano:br0:",
        "nano::40",
        "nano:br0:x",
        "no:br0:4",
        "nano:br0:0",
        "nano:br0:4095",
    ],
)
def test_alias_of_another_is_no_segment(alias: str) -> None:
    assert read_alias(alias) is None


def test_cards_of_a_vlan_are_plugged_in_and_served_at_its_bridge() -> None:
    plain = spec().nics[0]
    tagged = plain.model_copy(update={"name": "b", "mac": "52:54:00:00:00:09", "vlan": 40})
    made = spec(nics=[plain, tagged])
    assert [device_of(nic) for nic in made.nics] == ["nano0", "nano0.40"]
    assert [served.bridge for served in reservations(made)] == ["nano0", "nano0.40"]
    assert segments_of(made) == (Segment("nano0", 40),)


# --- what is done ---


def test_segment_is_a_bridge_with_a_vlan_device_for_each_cable() -> None:
    links = settle(host(Link("eth1", "", master="br0", up=True)), S40)
    assert links["br0.40"] == Link("br0.40", "bridge", alias="nano:br0:40", up=True)
    for port in ("eth0", "eth1"):
        assert links[f"{port}.40"] == Link(f"{port}.40", "vlan", "br0.40", "nano:br0:40", up=True, below=port, vlan=40)
    assert not [name for name in links if name.startswith("nvl") and name.endswith(".40")]


def test_bridge_without_a_cable_has_segments_of_its_own() -> None:
    links = settle({"br0": Link("br0", "bridge", up=True)}, S40)
    assert set(links) == {"br0", "br0.40"}
    links["eth0"] = Link("eth0", "", master="br0", up=True)  # and the cable comes later
    assert settle(links, S40)["eth0.40"].master == "br0.40"


def test_cable_that_is_off_is_connected_once_it_is_on() -> None:
    links = settle(host(Link("eth1", "", master="br0")), S40)
    assert not links["eth1.40"].up
    links["eth1"] = replace(links["eth1"], up=True)
    assert settle(links, S40)["eth1.40"].up


def test_frames_are_as_long_as_the_bridges_own() -> None:
    links = host()
    links |= {name: replace(links[name], mtu=9000) for name in ("br0", "eth0")}
    links = settle(links, S40)
    assert (links["br0.40"].mtu, links["eth0.40"].mtu) == (9000, 9000)
    links |= {name: replace(links[name], mtu=1400) for name in ("br0", "eth0")}
    assert settle(links, S40)["br0.40"].mtu == 1400


def test_segment_has_the_spanning_tree_that_its_bridge_has() -> None:
    """Two cables to one switch would be a loop that the bridge itself breaks."""
    links = host()
    links["br0"] = replace(links["br0"], stp=True)
    links = settle(links, S40)
    assert links["br0.40"].stp
    links["br0"] = replace(links["br0"], stp=False)
    assert not settle(links, S40)["br0.40"].stp


def test_cable_that_is_pulled_takes_its_vlan_device_along() -> None:
    links = settle(host(), S40)
    links["eth0"] = replace(links["eth0"], master="")
    assert "eth0.40" not in settle(links, S40)


def test_segment_that_nobody_wishes_goes_whole() -> None:
    links = settle(host(), S40, S50)
    assert set(settle(links, S50)) == {*host(), "br0.50", "eth0.50"}
    assert set(settle(links)) == set(host())


def test_segment_with_a_guest_in_it_stays_whoever_wishes_it() -> None:
    links = settle(host(), S40)
    links["nvl525400000002"] = Link("nvl525400000002", "tun", master="br0.40", up=True)
    assert settle(links) == links


def test_segment_is_spared_when_another_one_is_made() -> None:
    links = settle(host(), S40)
    work = settled(links, [S50], spare=True)
    assert not work.remove


def test_devices_of_others_are_never_touched() -> None:
    theirs = (Link("br7.40", "bridge", up=True), Link("eth9.40", "vlan", below="eth9", vlan=40), Link("eth9"))
    assert settled(host(*theirs), [S40]).remove == []
    assert settled(host(*theirs), []).done


@pytest.mark.parametrize(
    "link",
    [
        Link("mine", "bridge", alias="nano:br0:40"),
        Link("br0.40", "dummy", alias="nano:br0:40"),
        Link("mine", "vlan", alias="nano:br0:40", below="eth0", vlan=40),
        Link("eth0.40", "vlan", alias="nano:br0:40", below="eth1", vlan=40),
        Link("eth0.40", "vlan", alias="nano:br0:40", below="eth0", vlan=41),
        Link("x#.40", "vlan", alias="nano:br0:40", below="x#", vlan=40),
    ],
)
def test_alias_of_nanos_makes_no_device_nanos(link: Link) -> None:
    assert settled(host(link), []).done
    assert settled(host(link), [S50]).remove == []


def test_device_of_another_in_a_segment_keeps_it_whatever_its_alias_is() -> None:
    links = settle(host(), S40)
    links["mine"] = Link("mine", "dummy", master="br0.40", alias="nano:br0:40")
    assert settle(links) == links


@pytest.mark.parametrize("name", ["et#0", 'et"0', "et'0", "et\\0", "et 0", "et\t0", "et\u00a00"])
def test_cable_whose_name_ip_would_misread_is_refused(name: str) -> None:
    work = settled(host(Link(name, "", master="br0", up=True)), [S40])
    assert work.done
    assert work.refused[S40] == f"br0 has the port {name!r}, whose name ip would misread; rename it"


@pytest.mark.parametrize(
    ("link", "says"),
    [
        (Link("br0.40", "bridge", up=True), "br0.40 already"),
        (Link("br0.40", "bridge", alias="nano:br1:40", up=True), "br0.40 already"),
        (Link("br0.40", "vlan", below="br0", vlan=40), "br0.40 already"),
        (Link("eth0.40", "vlan", below="eth0", vlan=40, up=True), "the device eth0.40 already"),
        (Link("storage", "vlan", below="eth0", vlan=40), "the device storage already"),
        (Link("eth0.40", "dummy"), "the device eth0.40 already"),
        (Link("br0.40", "dummy", alias="nano:br0:40"), "br0.40 already"),
        (Link("mine", "vlan", alias="nano:br0:40", below="eth0", vlan=40), "the device mine already"),
        (Link("eth0.40", "vlan", alias="nano:br0:40", below="eth0", vlan=41), "the device eth0.40 already"),
    ],
)
def test_device_of_another_in_the_way_is_named(link: Link, says: str) -> None:
    work = settled(host(link), [S40])
    assert not work.create
    assert says in work.refused[S40]


def test_refused_segment_keeps_no_other_from_being_made() -> None:
    work = settled(host(Link("br0.40", "bridge", up=True)), [S40, S50])
    assert set(work.refused) == {S40}
    assert "br0.50" in applied(host(), work)


def test_bridge_that_is_missing_is_named() -> None:
    assert settled({}, [S40]).refused[S40] == "there is no bridge br0"


def test_segment_whose_bridge_has_gone_stays_for_its_guests() -> None:
    links = settle(host(), S40)
    left = {name: links[name] for name in ("br0.40",)}
    assert settle(left, S40) == left


@given(st.integers(0, 20), st.booleans())
def test_making_that_was_cut_off_anywhere_is_finished(cut: int, wished: bool) -> None:
    """An `ip` that ends between two commands leaves devices without a mark, or without what comes after it."""
    links = host(Link("eth1", "", master="br0"))
    work = settled(links, [S40])
    lines = [*work.create, *work.finish][:cut]
    half = applied(links, Work(create=lines))
    whole = settle(half, S40)
    assert whole == settle(links, S40)
    assert not (wished and settled(whole, [S40]).refused)


@given(st.lists(st.tuples(st.sampled_from(["br0", "br1"]), st.integers(1, 3)), max_size=4), st.data())
def test_whatever_was_there_the_wished_segments_stand_and_no_others(
    held: list[tuple[str, int]], data: st.DataObject
) -> None:
    links = host(Link("br1", "bridge", up=True), Link("eth1", "", master="br1", up=True))
    links = settle(links, *(Segment(*one) for one in held))
    wished = data.draw(st.lists(st.builds(Segment, st.sampled_from(["br0", "br1"]), st.integers(1, 3)), max_size=4))
    after = settle(links, *wished)
    assert {one for link in after.values() if (one := read_alias(link.alias))} == set(wished)


def test_devices_are_read_from_what_ip_says() -> None:
    listing = """[
      {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "linkinfo": {}},
      {"ifname": "br0", "flags": ["BROADCAST", "UP"], "mtu": 9000,
       "linkinfo": {"info_kind": "bridge", "info_data": {"stp_state": 1}}},
      {"ifname": "eth0.40", "link": "eth0", "flags": ["BROADCAST"], "mtu": 1500, "master": "br0.40",
       "ifalias": "nano:br0:40",
       "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 40, "flags": []}}},
      {"ifname": "outer", "link": "eth0", "flags": [], "mtu": 1500,
       "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1ad", "id": 40}}},
      {"ifname": "eth0", "link": "peer", "flags": ["UP"], "mtu": 1500, "linkinfo": {"info_kind": "veth"}}
    ]"""
    assert read(listing) == {
        "lo": Link("lo", mtu=65536, up=True),
        "br0": Link("br0", "bridge", mtu=9000, up=True, stp=True),
        "eth0.40": Link("eth0.40", "vlan", "br0.40", "nano:br0:40", below="eth0", vlan=40),
        "outer": Link("outer", "vlan"),
        "eth0": Link("eth0", "veth", up=True),
    }


def test_simulated_segment_goes_with_the_last_machine() -> None:
    segments = SimulatedSegments()
    for uuid in ("one", "two"):
        segments.expect(uuid, (S40,))
    asyncio.run(segments.make(S40))
    segments.expect("one", ())
    assert segments.there([S40, S50]) == {S40}
    segments.expect("two", ())
    assert segments.there([S40]) == frozenset()
