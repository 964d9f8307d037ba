"""Headers that are no text: bytes outside of ASCII and UTF-8 are answered like any other wrong value."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.portal.api_world import NANO
from tests.portal.people_world import ADMIN_TOKEN, People, people_world

GOOD = b"Authorization: Bearer " + ADMIN_TOKEN.encode()
BODY = b'{"metadata":{"name":"x"}}'


async def raw(p: People, *headers: bytes) -> int:
    """The code of a create with these headers, sent as they are."""
    where = urlsplit(p.base)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = [f"POST {NANO}/namespaces/default/secrets HTTP/1.1".encode(), b"Host: x", b"Connection: close", *headers]
    writer.write(b"\r\n".join([*head, b"Content-Length: %d" % len(BODY), b"", BODY]))
    answer = await reader.read()
    writer.close()
    return int(answer[9:12])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([b"Authorization: Bearer \xff\xfe"], 401),
        ([b"Authorization: \xff"], 401),
        ([GOOD, b"Idempotency-Key: \xff"], 400),
        ([GOOD, b"Idempotency-Key: k", b"Content-Type: application/json; charset=\xff"], 201),
        ([GOOD, b"Idempotency-Key: k", b"Content-Type: \xff"], 415),
        ([GOOD, b"User-Agent: \xff\xfe"], 201),
        ([GOOD, b"Accept: \xff;as=Table"], 201),
    ],
)
async def test_bytes_that_are_no_text_in_a_header_are_no_fault_of_the_server(headers: list[bytes], code: int) -> None:
    async with people_world() as p:
        assert await raw(p, *headers) == code
