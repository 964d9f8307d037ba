"""What the server counts and keeps, without a socket; tests/e2e/test_dhcp_clients.py has it on a bridge."""

import dataclasses

import pytest

from nanovirt.agent.dhcp.answer import FALLBACK_SERVER, Reply
from nanovirt.agent.dhcp.server import Answered, DhcpServer, Strangers
from tests.agent.dhcp_client import MAC, RESERVATION, STRANGER


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply.OFFER, Answered(offers=1, last_seen=7.0)),
        (Reply.ACK, Answered(acks=1, last_seen=7.0, leased=7.0)),
        (Reply.SETTINGS, Answered(settings=1, last_seen=7.0)),
        (Reply.NAK, Answered(naks=1, last_seen=7.0)),
    ],
)
def test_only_an_acknowledged_address_is_a_lease(reply: Reply, expected: Answered) -> None:
    assert Answered().after(reply, 7.0) == expected


def test_later_answers_keep_the_time_of_the_lease() -> None:
    told = Answered().after(Reply.ACK, 1.0).after(Reply.OFFER, 2.0)
    assert (told.leased, told.last_seen, told.acks, told.offers) == (1.0, 2.0, 1, 1)


def test_first_ten_strangers_of_a_second_are_worth_a_line() -> None:
    strangers = Strangers()
    assert [strangers.seen(5.0 + n / 100) for n in range(12)] == [True] * 10 + [False] * 2
    assert strangers.seen(6.0)
    assert strangers.total == 13


def test_set_holds_exactly_what_it_is_given() -> None:
    server = DhcpServer("br0")
    other = dataclasses.replace(RESERVATION, mac=STRANGER)
    server.put(other)
    server.set({MAC: RESERVATION})
    assert server.reservations == {MAC: RESERVATION}
    server.put(other)
    assert server.reservations == {MAC: RESERVATION, STRANGER: other}
    server.remove(MAC)
    server.remove(MAC)
    assert server.reservations == {STRANGER: other}


def test_unchanged_reservation_keeps_its_count() -> None:
    server = DhcpServer("br0")
    server.put(RESERVATION)
    server._answered[MAC] = Answered(acks=3)
    server.set({MAC: RESERVATION})
    server.put(RESERVATION)
    assert server.answered == {MAC: Answered(acks=3)}


def test_changed_reservation_counts_anew() -> None:
    server = DhcpServer("br0")
    server.put(RESERVATION)
    server._answered[MAC] = Answered(acks=3)
    server.put(dataclasses.replace(RESERVATION, ip=RESERVATION.ip + 1))
    assert server.answered == {}


def test_a_mac_that_is_none_is_refused_and_nothing_changes() -> None:
    server = DhcpServer("br0")
    server.put(RESERVATION)
    with pytest.raises(ValueError, match="MAC"):
        server.set({"52:54": dataclasses.replace(RESERVATION, mac="52:54")})
    assert server.reservations == {MAC: RESERVATION}


def test_server_that_is_not_open_has_the_fallback_identifier_and_closes_quietly() -> None:
    server = DhcpServer("br0")
    server.close()
    assert server.server_ip == FALLBACK_SERVER
