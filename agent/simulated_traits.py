"""How a simulated machine behaves: its traits, and what goes wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Traits:
    """How a simulated machine behaves; seconds. `verify`: images are really fetched and hashed."""

    define_seconds: float = 0.0
    start_seconds: float = 0.0
    boot_seconds: tuple[float, float] = (0.0, 0.0)
    """From start to the lease, at random between the two."""
    end_seconds: float = 0.0
    """From being asked to end to the end."""
    image_seconds: float = 0.0
    verify: bool = False
    bridges: tuple[str, ...] = ("nano0",)


QUICK = Traits()
"""Everything happens at once."""


@dataclass(slots=True)
class Faults:
    """What goes wrong now; tests and demonstrations set it as they like."""

    refuse: Counter[str] = field(default_factory=Counter)
    """How often the next calls so named (`define`, `start`, ...) are refused."""
    full: bool = False
    away: bool = False
    """The hypervisor does not answer; its machines run on."""
    deaf: set[str] = field(default_factory=set)
    """Guests that do not listen when they are asked to end, by uuid."""
