"""What server, agents and clients say to each other about consoles: kinds, limits, and how a websocket closes."""

from __future__ import annotations

from typing import Final

PROTOCOL: Final = "binary"
TOKEN_PROTOCOL: Final = "nano.token."  # noqa: S105 - what stands before a token
"""The second subprotocol that a client offers is this and its token: addresses end up in logs, this does not."""
USER_HEADER: Final = "Nano-User"
FRAME_MAX: Final = 4 << 20
"""Bytes of one websocket message."""

DENIED: Final = 4403
"""Whoever looked may not do so any more, or the console was reset."""
IDLE: Final = 4408
"""Nobody typed for too long, or it went on for too long."""
MOVED: Final = 4409
"""The instance is on another host, or on none: ask for a new token."""
TAKEN: Final = 4410
"""Somebody else took the serial line."""
WORDS: Final = {
    DENIED: "you may not use this console any more, or it was reset",
    IDLE: "the console was idle, or open, for too long",
    MOVED: "the instance has moved to another host, or is on none",
    TAKEN: "somebody else has taken the serial line",
}
