"""Tokens that open one console once: kept as digests, in memory, for seconds. Pure: the clock is the caller's."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal

from nanovirt.portal.identity import Subject
from nanovirt.portal.pki import TOKEN_PREFIX, digest
from nanovirt.portal.sessions import Session
from nanovirt.resources.errors import Unavailable
from nanovirt.resources.kind import Key

KindOfConsole = Literal["vnc", "serial", "viewer"]
LIFE_SECONDS = {"vnc": 30.0, "serial": 30.0, "viewer": 120.0}
"""A viewer's token passes through the hands of a person."""
OF_ONE_USER, ALL = 64, 10_000
"""Unused tokens: of one user the oldest gives way to a new one."""


@dataclass(frozen=True, eq=False)
class Grant:
    """What a token opens: the console of that instance (by uid) for that subject, in that browser's session."""

    subject: Subject
    instance: Key
    uid: str
    kind: KindOfConsole
    force: bool = False
    session: Session | None = None
    expires: float = field(default=0.0)
    """Seconds of the clock that `issue` was called with."""


class ConsoleTokens:
    """Unused tokens; each is taken at most once, whoever races for it."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def issue(self, grant: Grant, now: float) -> str:
        """A new token of 256 random bits, good until `grant.expires`. Raises Unavailable when too many are open."""
        self._sweep(now)
        mine = [known for known, one in self._grants.items() if one.subject.name == grant.subject.name]
        for known in mine[: max(0, len(mine) - OF_ONE_USER + 1)]:
            del self._grants[known]
        if len(self._grants) >= ALL:
            raise Unavailable(f"{ALL} tokens for consoles are unused; try again in half a minute")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._grants[digest(token)] = grant
        return token

    def take(self, known_by: str, now: float) -> Grant | None:
        """What the token with that SHA-256 (hex) opens, this once; None for one that is wrong, used or over.

        `known_by` is ASCII, as every digest is.
        """
        found = next((known for known in tuple(self._grants) if hmac.compare_digest(known, known_by)), "")
        grant = self._grants.pop(found, None)  # one step of the interpreter: of many who race, one wins
        return grant if grant is not None and grant.expires > now else None

    def revoke(self, uid: str) -> None:
        """No unused token opens that instance any more."""
        for known in [known for known, one in self._grants.items() if one.uid == uid]:
            self._grants.pop(known, None)

    def __len__(self) -> int:
        return len(self._grants)

    def _sweep(self, now: float) -> None:
        for known in [known for known, one in self._grants.items() if one.expires <= now]:
            self._grants.pop(known, None)
