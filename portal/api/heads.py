"""The head of a document that is written, beside its URL: kind, namespace and name, and what in it is the server's."""

from __future__ import annotations

import secrets
from typing import Any

from nanovirt.portal.api.paths import Target
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Conflict, Invalid, Malformed, NotAllowed
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Entry

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""As Kubernetes makes names: no vowels, so no words."""

SERVERS_OWN = frozenset(("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"))
"""What nobody says of a new object."""


def new_key(target: Target, doc: JSON) -> Key:
    """Where a new object will stand; fills name, namespace, apiVersion and kind of `doc`."""
    metadata = _check_head(target, doc)
    key = target.key
    if not key.namespace and target.facts.namespaced:
        raise NotAllowed(f"create {key.plural} below their namespace: /apis/.../namespaces/NAMESPACE/{key.plural}")
    name = metadata.get("name") or ""
    if not name and metadata.get("generateName"):
        name = f"{str(metadata['generateName'])[:58]}{''.join(secrets.choice(NAME_LETTERS) for _ in range(5))}"
    if not name:
        raise Invalid("metadata.name", Reason.FieldValueRequired)
    if not isinstance(name, str):
        raise Invalid("metadata.name", "the name is a text")
    metadata["name"] = name
    if key.namespace:
        metadata["namespace"] = key.namespace
    if not SERVERS_OWN.isdisjoint(metadata):
        for owned in SERVERS_OWN & metadata.keys():
            del metadata[owned]
    return key if name == key.name else key._replace(name=name)


def _check_head(target: Target, doc: JSON) -> dict[str, Any]:
    """The metadata of `doc`, once apiVersion, kind and namespace are what the URL says. Raises Malformed."""
    facts, ours = target.cls.facts, target.key.namespace
    version, kind = facts.group_version, facts.kind
    if doc.setdefault("apiVersion", version) != version or doc.setdefault("kind", kind) != kind:
        field, wanted = ("kind", kind) if doc["apiVersion"] == version else ("apiVersion", version)
        raise Malformed(f"the body says {field} {str(doc[field])[:80]!r}, the URL {wanted!r}")
    metadata = doc.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise Malformed("metadata must be an object")
    namespace = metadata.get("namespace") or ours
    if namespace != ours:
        where = ours or "(cluster-scoped)"
        raise Malformed(f"the body says namespace {str(namespace)[:80]!r}, the URL {where!r}")
    return metadata


def same_identity(target: Target, doc: JSON, before: Entry) -> int | None:
    """The revision that the client wants to change, if it says one. Raises Malformed or Conflict."""
    metadata = _check_head(target, doc)
    key = target.key
    if metadata.setdefault("name", key.name) != key.name:
        raise Malformed(f"the body says name {str(metadata['name'])[:80]!r}, the URL {key.name!r}")
    if key.namespace:
        metadata["namespace"] = key.namespace
    if metadata.get("uid") not in (None, "", before.uid):
        raise Conflict(key.plural, key.name, f"it has uid {before.uid}, not {str(metadata['uid'])[:40]}")
    for owned in ("uid", "generation", "creationTimestamp", "deletionTimestamp"):
        metadata.pop(owned, None)
    said = metadata.get("resourceVersion")
    if said in (None, ""):
        return None
    if not isinstance(said, str) or not said.isascii() or not said.isdigit() or len(said) > 15:
        raise Malformed(f"resourceVersion {str(said)[:40]!r} is none that this server gave")
    if int(said) != before.rev:
        raise Conflict(key.plural, key.name)
    return before.rev
