"""The Event of a conflict between the directory and the API side, counted when it is told again."""

from __future__ import annotations

import hashlib
from datetime import datetime

from nanovirt.portal.desired.merging import MANAGER
from nanovirt.resources.codec import JSON, trusted
from nanovirt.resources.event import Event, EventSource, InvolvedObject
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.metadata import OWNER_LABEL, ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Op, Store, Update

REASON = Reason.ApiSideWins


def tell(store: Store, about: Document, params: JSON, now: datetime) -> Op:
    """The Event, or one more on the one that says the same."""
    key, at = _key(about, params), now.replace(microsecond=0)
    there = store.peek(key)
    if there is not None:
        before = trusted(Event, there.raw)
        return Update(key, before.model_copy(update={"count": before.count + 1, "last_timestamp": at}).to_json())
    owner = about.metadata.labels.get(OWNER_LABEL)
    event = Event(
        metadata=ObjectMeta(name=key.name, namespace=key.namespace, labels={OWNER_LABEL: owner} if owner else {}),
        involved_object=InvolvedObject.of(about),
        reason=REASON.name,
        message=REASON.say(**params),
        params=params,
        type="Warning",
        source=EventSource(component=MANAGER),
        first_timestamp=at,
        last_timestamp=at,
    )
    return Create(key, event.to_json())


def _key(about: Document, params: JSON) -> Key:
    said = hashlib.blake2s(f"{about.metadata.uid} {REASON.name} {params}".encode(), digest_size=8).hexdigest()
    return Key("events", about.metadata.namespace or "default", f"{about.metadata.name[:200]}.{said}")
