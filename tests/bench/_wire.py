"""Bare clients for the benchmarks: HTTP/1.1 for Nano, HTTP/2 with gRPC for etcd; as little Python as can be."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

Frame = Callable[[bytes], None]


class Http:
    """One keep-alive connection; requests one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Http:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=64 << 20))

    async def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(answer[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


class Lines(asyncio.Protocol):
    """A watch on a raw connection; calls `seen` with each piece that arrives."""

    def __init__(self, path: str, seen: Callable[[bytes], None]) -> None:
        self._path, self._seen = path, seen
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._seen(data)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113 section 4.1)."""
    return struct.pack("!IBI", len(payload), kind, 0)[1:4] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _headers(path: str) -> bytes:
    fixed = b"\x83\x86"  # :method POST, :scheme http
    named = (
        (b":path", path.encode()),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    return fixed + b"".join(_literal(*one) for one in named)


class Grpc(asyncio.Protocol):
    """One HTTP/2 connection to etcd: unary calls one after the other, or one stream."""

    def __init__(self, seen: Callable[[bytes], None] | None = None) -> None:
        self._buffer = b""
        self._stream = -1
        self._seen = seen
        self._done: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int, seen: Callable[[bytes], None] | None = None) -> Grpc:
        _, made = await asyncio.get_running_loop().create_connection(lambda: cls(seen), "127.0.0.1", port)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        settings = struct.pack("!HI", 4, WINDOW)
        self.transport.write(PREFACE + frame(4, 0, 0, settings) + frame(8, 0, 0, struct.pack("!I", WINDOW - 65535)))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            payload, self._buffer = self._buffer[9 : 9 + size], self._buffer[9 + size :]
            self._frame(kind, flags, payload)

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        assert self.transport is not None
        if kind == 4 and not flags & 1:
            self.transport.write(frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            self.transport.write(frame(6, 1, 0, payload))
        elif kind == 0 and self._seen is not None:
            self._seen(payload)
        elif kind == 1 and flags & 1 and self._done is not None:
            self._done.set_result(None)

    async def call(self, path: str, message: bytes) -> None:
        """One unary call."""
        self._done = asyncio.get_running_loop().create_future()
        self.send(path, message, end=True)
        await self._done

    def send(self, path: str, message: bytes, *, end: bool) -> None:
        """Begin a stream with one message."""
        assert self.transport is not None
        self._stream += 2
        body = b"\x00" + struct.pack("!I", len(message)) + message
        head = frame(1, 4, self._stream, _headers(path))
        self.transport.write(head + frame(0, int(end), self._stream, body))

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


def field(number: int, value: bytes | int) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return bytes((number << 3,)) + _varint(value)
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes((number & 127 | 128,))
        number >>= 7
    return out + bytes((number,))


PUT, RANGE, WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"


def put(key: bytes, value: bytes) -> bytes:
    """A PutRequest."""
    return field(1, key) + field(2, value)


def watch(prefix: bytes) -> bytes:
    """A WatchRequest for all keys with that prefix."""
    return field(1, field(1, prefix) + field(2, prefix[:-1] + bytes((prefix[-1] + 1,))))
