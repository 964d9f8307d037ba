"""The real HTTP server without a network: its connections end in memory, at a client as slow as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from nanovirt.portal.api.serving import ApiServer, Connection

HIGH = 8 << 10
"""Bytes that wait when the server is asked to pause."""


class Wire(asyncio.Transport):
    """What the server writes waits here until the client takes it."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__()
        self.waiting = bytearray()
        self.arrived = asyncio.Event()
        self._closing = self._lost = self._paused = False
        self._protocol: Connection = server()
        self._protocol.connection_made(self)

    # --- the client's side ---

    def send(self, content: bytes) -> None:
        """Send to the server."""
        self._protocol.data_received(content)

    def take(self, most: int) -> bytes:
        """At most so many of the bytes that wait."""
        taken = bytes(self.waiting[:most])
        del self.waiting[:most]
        if self._paused and not self._lost and len(self.waiting) < HIGH:
            self._paused = False
            self._protocol.resume_writing()
        if not self.waiting and not self._closing:
            self.arrived.clear()
        self._finish()
        return taken

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self._closing and not self.waiting

    def drop(self) -> None:
        """The connection breaks; what has arrived can still be taken."""
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(ConnectionResetError("the client is gone"))
        self.arrived.set()

    # --- the server's side ---

    def write(self, data: Any) -> None:
        if self._closing:
            return
        self.waiting += data
        self.arrived.set()
        if len(self.waiting) > HIGH and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        self.arrived.set()
        self._finish()

    def abort(self) -> None:
        self.waiting.clear()
        self.close()

    def _finish(self) -> None:
        if self._closing and not self.waiting and not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Chunks:
    """The body of a chunked reply, from bytes that come in any pieces (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self._held = b""
        self._in_body = False

    def feed(self, content: bytes) -> Iterator[bytes]:
        """What of the body is whole now."""
        self._held += content
        if not self._in_body:
            head, found, rest = self._held.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 200 "), head
            self._in_body, self._held = True, rest
        while b"\r\n" in self._held:
            size, _, rest = self._held.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self._held = rest[length + 2 :]
            yield rest[:length]
