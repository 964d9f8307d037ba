"""Something that happened to an object, told once and counted when it happens again (core v1 Event)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from nanovirt.resources.fields import Time
from nanovirt.resources.kind import CORE, NAMESPACED, Column, Document
from nanovirt.resources.metadata import Model

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

    @classmethod
    def of(cls, about: Document) -> Self:
        """What names that object."""
        facts, metadata = about.facts, about.metadata
        return cls(
            api_version=facts.group_version,
            kind=facts.kind,
            namespace=metadata.namespace,
            name=metadata.name,
            uid=metadata.uid,
        )


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
