"""A wire between a client and a server on this machine, that can be cut and mended."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 65536


class Wire:
    """Relays TCP connections from its own port to another one; both ends of all of them are lost by a cut."""

    def __init__(self, listening: socket.socket, port: int) -> None:
        self.port: int = listening.getsockname()[1]
        self._listening, self._far = listening, port
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._whole = True

    def cut(self) -> None:
        """Lose what is open, and whatever is begun until it is mended."""
        self._whole = False
        with self._lock:
            ends, self._ends = self._ends, set()
        for one in ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Relay again."""
        self._whole = True

    def relay(self) -> None:
        """Accept until the listening socket is closed."""
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._joined, args=(near,), daemon=True).start()

    def _joined(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._far)) as far:
            with self._lock:
                if not self._whole:
                    return
                self._ends |= {near, far}
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()
            with self._lock:
                self._ends -= {near, far}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    """A wire to that port of this machine."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        made = Wire(listening, port)
        relaying = threading.Thread(target=made.relay, daemon=True)
        relaying.start()
        try:
            yield made
        finally:
            made.cut()
            listening.shutdown(socket.SHUT_RDWR)
            relaying.join()
