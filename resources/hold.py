"""A restored store is not to be acted on yet: as long as this object is there nothing is started, revoked or freed.

No route serves this kind. A restore writes it, and its deletion (a write like any other) lets go.
"""

from __future__ import annotations

from typing import Protocol

from nanovirt.resources.errors import Unavailable
from nanovirt.resources.fields import Time
from nanovirt.resources.kind import CLUSTER, Key, Nothing, Resource, Spec
from nanovirt.resources.store import Entry

HOLD = Key("holds", "", "restore")
"""There is one at most."""


class HoldSpec(Spec):
    """The backup's `revision`, when its newest record was made, and when it was restored."""

    revision: int
    at: Time | None = None
    restored: Time


class Hold(Resource[HoldSpec, Nothing], plural="holds", scope=CLUSTER, categories=(), internal=True):
    """Named `restore`."""

    spec: HoldSpec
    status: Nothing = Nothing()


class Source(Protocol):
    """What can be asked for it; see Store."""

    def peek(self, key: Key) -> Entry | None: ...


class Held(Unavailable):
    """The store was restored, and nobody is told yet what to do."""

    reason = "RestoreHeld"

    def __init__(self) -> None:
        super().__init__(
            "the store was restored from a backup; Placements are told when every host has said what it holds, "
            "or after `nanoctl restore --confirm`"
        )


def held(store: Source) -> str:
    """The uid of the hold, "" when there is none."""
    entry = store.peek(HOLD)
    return entry.uid if entry else ""
