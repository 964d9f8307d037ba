"""What is seen of one machine, and what of it failed last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanovirt.agent.boot_order import NOBODY, Ahead
from nanovirt.agent.changes import Change
from nanovirt.agent.drift import Form
from nanovirt.agent.leases import Served
from nanovirt.agent.machine import SeenDomain, SeenVolume
from nanovirt.agent.segments import Segment
from nanovirt.agent.steps import Act
from nanovirt.resources.guest import GuestReport
from nanovirt.resources.placement import PlacementStatus


@dataclass(frozen=True, slots=True)
class Trouble:
    """The step that failed last, why (a word of reasons.py with its parameters), and when to try it again."""

    step: Act
    reason: str
    params: Mapping[str, Any]
    tries: int
    until: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What is seen of one machine now, and what the server was told of it last."""

    domain: SeenDomain | None = None
    since: float = 0.0
    """When the domain was first seen in this state."""
    form: Form | None = None
    """The definition; None if there is none."""
    volumes: Mapping[str, SeenVolume] = field(default_factory=dict)
    """Those of the Placement's files that are there."""
    images: frozenset[str] = frozenset()
    """Hashes of the images in the cache, of those that its volumes need."""
    bridges: frozenset[str] = frozenset()
    segments: frozenset[Segment] = frozenset()
    """Those of its cards that are there."""
    served: tuple[Served, ...] = ()
    leased: frozenset[str] = frozenset()
    boot_id: str = ""
    ahead: Ahead = NOBODY
    """Whom it waits for, since the host was booted anew."""
    guest: GuestReport | None = None
    """What the guest agent said last; None when it was not heard since the agent of the host began."""
    told: PlacementStatus = field(default_factory=PlacementStatus)
    trouble: Trouble | None = None
    refused: Mapping[Change, Trouble] = field(default_factory=dict)
    """Changes of the running machine that failed; they hold up nothing else."""

    @property
    def on(self) -> bool:
        """Whether there is a machine that is not off."""
        return self.domain is not None and self.domain.state != "Off"
