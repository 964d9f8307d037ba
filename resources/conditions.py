"""Conditions: what is true of an object now, as adjectives with a reason (Kubernetes api-conventions)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from nanovirt.resources.fields import Time
from nanovirt.resources.metadata import Model
from nanovirt.resources.reasons import Reason

Truth = Literal["True", "False", "Unknown"]


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
    return Condition(
        type=kind,
        status=status,
        reason=reason.name,
        message=reason.say(**params),
        params=params,
        observed_generation=generation,
    )


def settle(now: datetime, before: Iterable[Condition], after: Iterable[Condition]) -> tuple[Condition, ...]:
    """The new conditions, each with the time at which its status last changed (`before` tells since when)."""
    known = {one.type: one for one in before}
    return tuple(_since(now, known.get(one.type), one) for one in after)


def _since(now: datetime, old: Condition | None, new: Condition) -> Condition:
    if old is None or old.status != new.status or old.last_transition_time is None:
        return new.model_copy(update={"last_transition_time": now.replace(microsecond=0)})
    if _said(old) == _said(new):
        return old
    return new.model_copy(update={"last_transition_time": old.last_transition_time})


def _said(one: Condition) -> tuple[object, ...]:
    return one.reason, one.message, one.params, one.observed_generation


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((one for one in conditions if one.type == kind), None)


def holds(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"
