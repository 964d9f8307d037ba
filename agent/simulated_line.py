"""The serial line or screen of a simulated machine: it says back what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import socket, socketpair


def echoing_line(greeting: bytes, runs: Callable[[], bool]) -> socket:
    """Our end of a line, non-blocking; the other greets, sends back what it is sent, and closes once nothing `runs`."""
    ours, theirs = socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    theirs.send(greeting)
    loop = asyncio.get_running_loop()
    loop.add_reader(theirs, _echo, loop, runs, theirs)
    return ours


def _echo(loop: asyncio.AbstractEventLoop, runs: Callable[[], bool], line: socket) -> None:
    """Send back what came; what does not fit is lost, as on any serial line. It ends with the machine."""
    try:
        came = line.recv(65536) if runs() else b""
        if came:
            line.send(came)
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    loop.remove_reader(line)
    line.close()
