"""What a planner may decide: one transaction, or to look again later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from nanovirt.resources.codec import load
from nanovirt.resources.conditions import Condition, condition, settle
from nanovirt.resources.event import Event, EventSource, InvolvedObject
from nanovirt.resources.kind import Document, Key, Status
from nanovirt.resources.metadata import OWNER_LABEL, ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Entry, Half, Op, Update


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


def tell(
    about: Document,
    by: str,
    kind: Literal["Normal", "Warning"],
    reason: Reason,
    now: datetime,
    before: Event | None,
    /,
    **params: Any,
) -> Op:
    """An Event about an object; the same thing told again is counted on the Event `before`."""
    if before is not None:
        counted = before.model_copy(update={"count": before.count + 1, "last_timestamp": now.replace(microsecond=0)})
        return Update(before.key, counted.to_json())
    key = event_key(about, reason, params)
    at = now.replace(microsecond=0)
    event = Event(
        metadata=ObjectMeta(name=key.name, namespace=key.namespace, labels=owner_of(about)),
        involved_object=_involved(about),
        reason=reason.name,
        message=reason.say(**params),
        params=params,
        type=kind,
        source=EventSource(component=by),
        first_timestamp=at,
        last_timestamp=at,
    )
    return Create(key, event.to_json())


def event_key(about: Document, reason: Reason, params: dict[str, Any]) -> Key:
    """The name under which an Event is counted: object, reason and message decide it."""
    said = f"{about.metadata.uid} {reason.name} {sorted(params.items())}"
    digest = hashlib.blake2s(said.encode(), digest_size=8).hexdigest()
    return Key("events", about.metadata.namespace or "default", f"{about.metadata.name[:200]}.{digest}")


def owner_of(thing: Document) -> dict[str, str]:
    """The label that says whose a thing is, for what is made of it."""
    owner = thing.metadata.labels.get(OWNER_LABEL)
    return {OWNER_LABEL: owner} if owner else {}


def _involved(about: Document) -> InvolvedObject:
    metadata = about.metadata
    return InvolvedObject(
        api_version=about.facts.group_version,
        kind=about.facts.kind,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
    )
