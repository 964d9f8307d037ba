"""The parser takes what real clients send and gives None, never an exception, for everything else."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.agent.dhcp.packet import BOOTP, Message, Request, parse_bootp, parse_frame
from tests.agent.dhcp_client import MAC, XID, asking

RAW_MAC = bytes.fromhex(MAC.replace(":", ""))
MUTATIONS = 100_000

DISCOVER = asking(
    ("message-type", "discover"),
    ("requested_addr", "10.20.0.77"),
    ("server_id", "10.20.0.1"),
    ("hostname", b"web-1"),
    ("client_id", b"\x01" + RAW_MAC),
    ("param_req_list", [1, 3, 6]),
    flags=0x8000,
)
IP_AT, UDP_AT, BOOTP_AT, OPTIONS_AT = 14, 34, 42, 42 + BOOTP.size


def bootp(options: bytes, *, op: int = 1, htype: int = 1, hlen: int = 6, cookie: bytes = b"\x63\x82\x53\x63",
          file: bytes = b"", sname: bytes = b"") -> bytes:  # fmt: skip
    return BOOTP.pack(op, htype, hlen, 0, XID, 0, 0, *[bytes(4)] * 4, RAW_MAC, sname, file, cookie) + options


def patched(at: int, value: bytes, frame: bytes = DISCOVER) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def test_every_field_of_a_request_is_read() -> None:
    assert parse_frame(DISCOVER) == Request(
        op=1,
        xid=XID,
        flags=0x8000,
        ciaddr=bytes(4),
        giaddr=bytes(4),
        chaddr=RAW_MAC,
        message=Message.DISCOVER,
        requested_ip=bytes((10, 20, 0, 77)),
        server_id=bytes((10, 20, 0, 1)),
        hostname=b"web-1",
        client_id=b"\x01" + RAW_MAC,
        parameters=bytes((1, 3, 6)),
        ethernet_source=RAW_MAC,
    )


@pytest.mark.parametrize("message", list(Message))
def test_every_message_type_is_read(message: Message) -> None:
    request = parse_frame(asking(("message-type", int(message))))
    assert request is not None
    assert request.message is message


def test_what_was_not_sent_is_none_or_empty() -> None:
    request = parse_frame(asking(("message-type", "discover")))
    assert request is not None
    assert (request.requested_ip, request.server_id, request.hostname, request.client_id) == (None,) * 4
    assert request.parameters == b""
    assert not request.broadcast


def test_padding_after_the_datagram_is_tolerated() -> None:
    assert parse_frame(DISCOVER + bytes(50)) == parse_frame(DISCOVER)


def test_a_half_computed_udp_checksum_is_tolerated() -> None:
    assert parse_frame(patched(UDP_AT + 6, b"\xde\xad")) == parse_frame(DISCOVER)


def test_ip_options_are_skipped() -> None:
    header = bytearray(DISCOVER[IP_AT:UDP_AT])
    header[0] = 0x46
    header[2:4] = struct.pack("!H", len(DISCOVER) - IP_AT + 4)
    frame = DISCOVER[:IP_AT] + bytes(header) + b"\x01\x01\x01\x00" + DISCOVER[UDP_AT:]
    assert parse_frame(frame) == parse_frame(DISCOVER)


UNREADABLE_FRAMES = {
    "another ethertype": patched(12, b"\x86\xdd"),
    "a VLAN tag": DISCOVER[:12] + b"\x81\x00\x00\x28" + DISCOVER[12:],
    "IP version 6": patched(IP_AT, b"\x65"),
    "an IP header of 16 bytes": patched(IP_AT, b"\x44"),
    "an IP header that leaves no room": patched(IP_AT, b"\x4f\x00\x00\x44"),
    "a total length beyond the frame": patched(IP_AT + 2, struct.pack("!H", len(DISCOVER))),
    "a total length of the header alone": patched(IP_AT + 2, b"\x00\x14"),
    "more fragments": patched(IP_AT + 6, b"\x20\x00"),
    "a later fragment": patched(IP_AT + 6, b"\x00\x10"),
    "TCP": patched(IP_AT + 9, b"\x06"),
    "the client's port": asking(("message-type", "discover"), port=68),
    "a UDP length beyond the datagram": patched(UDP_AT + 4, struct.pack("!H", len(DISCOVER))),
    "a UDP length below its header": patched(UDP_AT + 4, b"\x00\x07"),
    "a UDP length without a BOOTP message": patched(UDP_AT + 4, b"\x00\x40"),
    "nothing": b"",
}


@pytest.mark.parametrize("frame", UNREADABLE_FRAMES.values(), ids=UNREADABLE_FRAMES.keys())
def test_other_frames_are_none(frame: bytes) -> None:
    assert parse_frame(frame) is None


UNREADABLE_MESSAGES = {
    "an answer": bootp(b"\x35\x01\x01\xff", op=2),
    "other hardware": bootp(b"\x35\x01\x01\xff", htype=6),
    "a hardware address of 16 bytes": bootp(b"\x35\x01\x01\xff", hlen=16),
    "no cookie": bootp(b"\x35\x01\x01\xff", cookie=bytes(4)),
    "plain BOOTP": bootp(b"\xff"),
    "no options at all": bootp(b""),
    "message type 0": bootp(b"\x35\x01\x00\xff"),
    "message type 9": bootp(b"\x35\x01\x09\xff"),
    "a message type of two bytes": bootp(b"\x35\x02\x01\x01\xff"),
    "two message types": bootp(b"\x35\x01\x01\x35\x01\x03\xff"),
    "a requested address of three bytes": bootp(b"\x35\x01\x01\x32\x03\x0a\x14\x00\xff"),
    "a server id of five bytes": bootp(b"\x35\x01\x01\x36\x05\x0a\x14\x00\x00\x00\xff"),
    "an option over the end": bootp(b"\x35\x01\x01\x0c\x20web"),
    "an option without a length": bootp(b"\x35\x01\x01\x0c"),
    "an overload of 4": bootp(b"\x35\x01\x01\x34\x01\x04\xff"),
    "an overload of two bytes": bootp(b"\x35\x01\x01\x34\x02\x01\x01\xff"),
    "an overloaded file with an option over the end": bootp(b"\x35\x01\x01\x34\x01\x01\xff", file=b"\x0c\xff"),
}


@pytest.mark.parametrize("message", UNREADABLE_MESSAGES.values(), ids=UNREADABLE_MESSAGES.keys())
def test_other_messages_are_none(message: bytes) -> None:
    assert parse_bootp(message, RAW_MAC) is None


def test_pads_and_a_missing_end_are_tolerated() -> None:
    request = parse_bootp(bootp(b"\x00\x00\x35\x01\x01\x00\x0c\x01a"), RAW_MAC)
    assert request is not None
    assert request.hostname == b"a"


def test_what_follows_the_end_is_not_read() -> None:
    request = parse_bootp(bootp(b"\x35\x01\x01\xff\x0c\x01a"), RAW_MAC)
    assert request is not None
    assert request.hostname is None


def test_parts_of_one_option_are_joined() -> None:
    """RFC 3396: an option that comes several times is one long value."""
    request = parse_bootp(bootp(b"\x35\x01\x01\x0c\x02we\x00\x0c\x03b-1\xff"), RAW_MAC)
    assert request is not None
    assert request.hostname == b"web-1"


@pytest.mark.parametrize(("overload", "expected"), [(1, b"main-file"), (2, b"main-sname"), (3, b"main-file-sname")])
def test_overloaded_fields_are_read_in_order(overload: int, expected: bytes) -> None:
    """RFC 3396, section 5: first the options field, then file, then sname."""
    request = parse_bootp(
        bootp(b"\x35\x01\x01\x34\x01" + bytes((overload,)) + b"\x0c\x04main\xff", file=b"\x0c\x05-file\xff",
              sname=b"\x0c\x06-sname\xff"),
        RAW_MAC,
    )  # fmt: skip
    assert request is not None
    assert request.hostname == expected


def test_a_message_type_may_stand_in_an_overloaded_field() -> None:
    request = parse_bootp(bootp(b"\x34\x01\x01\xff", file=b"\x35\x01\x03\xff"), RAW_MAC)
    assert request is not None
    assert request.message is Message.REQUEST


def test_every_truncation_is_none() -> None:
    assert [length for length in range(len(DISCOVER)) if parse_frame(DISCOVER[:length]) is not None] == []


def test_no_mutation_makes_the_parser_fail() -> None:
    """Seeded, so that a failure can be seen again; some mutants must still be read, or the test would prove nothing."""
    dice = random.Random(67)
    read = 0
    for _ in range(MUTATIONS):
        read += parse_frame(_mutated(DISCOVER, dice)) is not None
    assert MUTATIONS // 20 < read < MUTATIONS


def _mutated(frame: bytes, dice: random.Random) -> bytes:
    """One to four wounds, where they hurt: in headers, lengths and options, and seldom a cut."""
    mutant = bytearray(frame)
    for _ in range(dice.randint(1, 4)):
        spot = dice.choice((dice.randrange(12, BOOTP_AT + 8), dice.randrange(OPTIONS_AT, len(mutant))))
        mutant[spot] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256), mutant[spot] ^ (1 << dice.randrange(8))))
    if dice.random() < 0.1:
        del mutant[dice.randrange(len(mutant)) :]
    return bytes(mutant)


@given(st.binary(max_size=2048))
def test_no_frame_makes_the_parser_fail(frame: bytes) -> None:
    assert parse_frame(frame) is None or isinstance(parse_frame(frame), Request)


@given(
    st.binary(max_size=600), st.binary(max_size=128), st.binary(max_size=64), st.sampled_from((b"", b"\x34\x01\x03"))
)
def test_no_options_make_the_parser_fail(options: bytes, file: bytes, sname: bytes, overload: bytes) -> None:
    request = parse_bootp(bootp(b"\x35\x01\x01" + overload + options, file=file, sname=sname), RAW_MAC)
    assert request is None or request.message is Message.DISCOVER
