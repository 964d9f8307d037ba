"""How long ago something was, in the two largest units, as tables show it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

STEPS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def age(stamp: str, now: datetime | None = None) -> str:
    """`2026-11-22T06:00:00Z` as `3h12m`; "-" for none, or for one that is no time."""
    try:
        then = datetime.fromisoformat(stamp)
    except (ValueError, TypeError):
        return "-"
    if then.tzinfo is None:
        return "-"
    return span(((now or datetime.now(UTC)) - then).total_seconds())


def span(seconds: float) -> str:
    """Seconds as `45s`, `5m`, `3h12m`, `2d4h`."""
    rest = max(0, int(seconds))
    if rest < 120:
        return f"{rest}s"
    for (unit, size), (lower, fraction) in pairwise(STEPS):
        if rest >= size:
            whole, below = divmod(rest, size)
            part = below // fraction
            return f"{whole}{unit}" + (f"{part}{lower}" if part and whole < 10 else "")
    return f"{rest}s"
