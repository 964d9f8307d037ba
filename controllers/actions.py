"""What a planner may decide: one transaction, or to look again later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from nanovirt.resources.codec import load
from nanovirt.resources.conditions import Condition, condition, settle
from nanovirt.resources.kind import Document, Key, Status
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Entry, Half, Op, Update


@dataclass(frozen=True, slots=True)
class Transact:
    """Commit these writes as one revision, or none of them."""

    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Nothing now; look once more after so many seconds."""

    after: float


Action = Transact | LookAgain


def set_status(thing: Document, status: Status) -> Update:
    """Write the status half of an object."""
    return Update(thing.key, {"status": status.to_json()}, Half.STATUS)


def confess(key: Key, entry: Entry, error: Exception, now: datetime) -> Update | None:
    """Say on the object itself that a bug keeps it from being looked after; None where that is said already."""
    doc = load(entry.raw)
    status = doc.get("status", {})
    before = tuple(Condition.model_validate(one) for one in status.get("conditions", ()))
    ready = condition("Ready", "False", Reason.InternalError, detail=f"{type(error).__name__}: {error}"[:300])
    after = settle(now, before, (ready, *(one for one in before if one.type != "Ready")))
    if after == before:
        return None
    told = {**status, "conditions": [one.to_json() for one in after]}
    return Update(key, {**doc, "status": told}, Half.STATUS)


def owner_of(thing: Document) -> dict[str, str]:
    """The label that says whose a thing is, for what is made of it."""
    owner = thing.metadata.labels.get(OWNER_LABEL)
    return {OWNER_LABEL: owner} if owner else {}
