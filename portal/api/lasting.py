"""Requests whose bodies take long: each ends as soon as whoever sends it may not send it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from nanovirt.portal.api.fanout import STANDING
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Commit, Store

Reply = web.StreamResponse


@dataclass(eq=False)
class Going:
    """One request about `key`: `check` raises when it would be refused by now, and `refused` is what it raised."""

    key: Key
    check: Callable[[], None]
    limit: asyncio.Timeout
    refused: NanoError | None = None


class Lasting:
    """Asks of each such request, after every commit that may have changed it, whether it may go on."""

    def __init__(self, store: Store) -> None:
        self._going: dict[Going, None] = {}
        store.subscribe(self._hear)

    async def carry(
        self, key: Key, check: Callable[[], None], seconds: float | None, act: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """What `act` answers, or what `check` raises meanwhile; it is asked after `seconds`, too, as tokens end."""
        going = Going(key, check, asyncio.timeout(seconds))
        self._going[going] = None
        try:
            async with going.limit:
                return await act()
        except TimeoutError:
            if not going.limit.expired():
                raise
            if going.refused is not None:
                raise going.refused from None
            check()
            raise
        finally:
            self._going.pop(going, None)

    def _hear(self, commit: Commit) -> None:
        if not self._going:
            return
        keys = {change.key for change in commit.changes}
        rights = any(key.plural in STANDING for key in keys)
        for going in [one for one in self._going if rights or one.key in keys]:
            try:
                going.check()
            except NanoError as error:
                self._going.pop(going)
                going.refused = error
                if not going.limit.expired():
                    going.limit.reschedule(asyncio.get_running_loop().time())
