"""Something that happened to an object, told once and counted when it happens again (core v1 Event)."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from nanovirt.resources.fields import Time
from nanovirt.resources.kind import CORE, NAMESPACED, Column, Document, Key
from nanovirt.resources.metadata import OWNER_LABEL, Model, ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Op, Update

EVENT_SECONDS = 3600
"""How long an Event is kept after its last occurrence."""


class InvolvedObject(Model):
    """The object that it happened to."""

    model_config = ConfigDict(extra="ignore")

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EventSource(Model):
    """Who tells it: the name of a controller."""

    model_config = ConfigDict(extra="ignore")

    component: str = ""


class Event(
    Document,
    plural="events",
    short="ev",
    scope=NAMESPACED,
    group_version=CORE,
    columns=(
        Column("Last Seen", ".lastTimestamp", "date"),
        Column("Type", ".type"),
        Column("Reason", ".reason"),
        Column("Object", ".involvedObject.name"),
        Column("Count", ".count", "integer", 1),
        Column("Message", ".message"),
    ),
    selectable=(
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "reason",
        "type",
    ),
    categories=(),
    operation=True,
):
    """Events of cluster-scoped objects stand in namespace `default`."""

    involved_object: InvolvedObject = Field(default_factory=InvolvedObject)
    reason: str = ""
    message: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    type: Literal["Normal", "Warning"] = "Normal"
    source: EventSource = Field(default_factory=EventSource)
    first_timestamp: Time | None = None
    last_timestamp: Time | None = None
    count: int = 1


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
