"""Consoles that are open: how many may be, and what ends each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from nanovirt.portal.api.fanout import STANDING
from nanovirt.portal.authorization import authorize
from nanovirt.portal.console_tokens import Grant
from nanovirt.portal.identity import Identities
from nanovirt.portal.relaying import Placed, Relay
from nanovirt.resources.console import DENIED, IDLE, MOVED
from nanovirt.resources.errors import Forbidden, NanoError, Unauthorized, Unavailable
from nanovirt.resources.store import Commit, Store

IDLE_SECONDS, WHOLE_SECONDS = 3600.0, 12 * 3600.0
LOOK_SECONDS = 5.0
"""Between looks whether a console may go on, when no commit calls for one."""
OF_ONE_INSTANCE, OF_ONE_USER, ALL = 16, 32, 1000


class Over(Exception):
    """The end of a console, and what its websocket closes with."""

    def __init__(self, code: int = 1000) -> None:
        super().__init__(code)
        self.code = code


@dataclass(eq=False)
class Open:
    """A console that somebody looks at; `heard` is when that somebody last typed."""

    grant: Grant
    placed: Placed
    began: float
    heard: float
    look: asyncio.Event = field(default_factory=asyncio.Event)
    reset: bool = False


class OpenConsoles:
    """Each goes on as long as whoever opened it may look, and the machine is where it was."""

    def __init__(self, store: Store, relay: Relay, identities: Identities, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never jump."""
        self._store, self._relay, self._identities, self._clock = store, relay, identities, clock
        self._open: dict[Open, None] = {}
        store.subscribe(self._follow)

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, grant: Grant) -> Open:
        """Raises what it is refused with, as things stand now."""
        self._check(grant)
        placed = self._relay.placed(grant.instance)
        same = [one for one in self._open if one.grant.uid == grant.uid]
        users = [one for one in self._open if one.grant.subject.name == grant.subject.name]
        if len(same) >= OF_ONE_INSTANCE or len(users) >= OF_ONE_USER or len(self._open) >= ALL:
            most = f"{OF_ONE_INSTANCE} of an instance, {OF_ONE_USER} of a user, {ALL} in all"
            raise Unavailable(f"too many consoles are open ({most}); close some of them")
        now = self._clock()
        mine = Open(grant, placed, now, now)
        self._open[mine] = None
        return mine

    def end(self, mine: Open) -> None:
        """It is open no longer."""
        self._open.pop(mine, None)

    def reset(self, uid: str) -> int:
        """Cut off whoever looks at that instance; how many that were."""
        cut = [one for one in self._open if one.grant.uid == uid]
        for one in cut:
            one.reset = True
            one.look.set()
        return len(cut)

    def _check(self, grant: Grant) -> None:
        """Raises unless whoever was given the token may still look at that instance."""
        subject = self._identities.again(grant.subject)
        entry = self._store.peek(grant.instance)
        authorize(subject, "create", "instances", "console", grant.instance, entry)
        if entry is None or entry.uid != grant.uid:
            raise Forbidden("the instance is gone; another one bears its name")
        if grant.session is not None and not self._identities.sessions.goes_on(grant.session):
            raise Unauthorized("the session is over")

    def _follow(self, commit: Commit) -> None:
        if not self._open:
            return
        keys = {change.key for change in commit.changes}
        rights = any(key.plural in STANDING for key in keys)
        for one in self._open:
            if rights or one.grant.instance in keys or one.placed.key in keys:
                one.look.set()

    async def watch(self, mine: Open) -> None:
        """Raises Over as soon as the console may not go on."""
        while True:
            heard = mine.heard
            mine.look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await mine.look.wait()
            if mine.grant.session is not None and mine.heard != heard:
                self._identities.sessions.touch(mine.grant.session)
            now = self._clock()
            if now - mine.heard > IDLE_SECONDS or now - mine.began > WHOLE_SECONDS:
                raise Over(IDLE)
            if mine.reset:
                raise Over(DENIED)
            try:
                self._check(mine.grant)
            except NanoError:
                raise Over(DENIED) from None
            try:
                placed = self._relay.placed(mine.grant.instance)
            except NanoError:
                raise Over(MOVED) from None
            if placed != mine.placed:
                raise Over(MOVED)
