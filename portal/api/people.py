"""The sub-resources by which users get at the system and objects get to users, in one table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from nanovirt.portal.api.dispatch import HookTable
from nanovirt.portal.api.ownership import Ownership
from nanovirt.portal.api.tokens import TokenDesk
from nanovirt.portal.identity import now_utc
from nanovirt.resources.store import Store


def people(store: Store, clock: Callable[[], datetime] = now_utc) -> HookTable:
    """Who answers below users/NAME/token and PLURAL/NAME/owner."""
    return {**TokenDesk(store, clock).hooks, **Ownership(store).hooks}
