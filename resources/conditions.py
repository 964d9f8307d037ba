"""Conditions: what is true of an object now, as adjectives with a reason (Kubernetes api-conventions)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from nanovirt.resources.fields import Time
from nanovirt.resources.metadata import Model
from nanovirt.resources.reasons import Reason

Truth = Literal["True", "False", "Unknown"]
REMEMBERED = 500
"""Characters of a message, at most, with which a condition is kept for the next one who says it."""


class Condition(Model):
    """One statement; `params` belong to `reason`, so that a client can say it in the reader's language."""

    type: str
    status: Truth
    reason: str
    message: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    last_transition_time: Time | None = None
    observed_generation: int | None = None


def condition(kind: str, status: Truth, reason: Reason, generation: int | None = None, /, **params: Any) -> Condition:
    """A condition without a time; `settle` keeps or stamps that."""
    return _same(kind, status, reason.name, reason.say(**params), params, generation, None)


def _same(
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    params: dict[str, Any],
    generation: int | None,
    time: datetime | None,
) -> Condition:
    """That condition: it never changes and many objects say the same, so the short ones are made once.

    What hosts report may be long, or a list, and is not remembered; `type` keeps 1 and True apart.
    """
    if len(message) > REMEMBERED:
        return _made.__wrapped__(kind, status, reason, message, _typed(params), generation, time)
    try:
        return _made(kind, status, reason, message, _typed(params), generation, time)
    except TypeError:
        return _made.__wrapped__(kind, status, reason, message, _typed(params), generation, time)


def _typed(params: dict[str, Any]) -> tuple[tuple[str, type, Any], ...]:
    return tuple([(name, type(value), value) for name, value in params.items()])


@lru_cache(maxsize=4096)
def _made(
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    params: tuple[tuple[str, type, Any], ...],
    generation: int | None,
    time: datetime | None,
) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        params={name: value for name, _, value in params},
        observed_generation=generation,
        last_transition_time=time,
    )


def settle(now: datetime, before: Iterable[Condition], after: Iterable[Condition]) -> tuple[Condition, ...]:
    """The new conditions, each with the time at which its status last changed (`before` tells since when)."""
    known = {one.type: one for one in before}
    return tuple(_since(now, known.get(one.type), one) for one in after)


def _since(now: datetime, old: Condition | None, new: Condition) -> Condition:
    kept = old.last_transition_time if old is not None and old.status == new.status else None
    since = kept or now.replace(microsecond=0)
    return _same(new.type, new.status, new.reason, new.message, new.params, new.observed_generation, since)


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((one for one in conditions if one.type == kind), None)


def holds(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"
