"""What a write makes of an object, purely: server-owned metadata, generations, deletion marks."""

from __future__ import annotations

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Facts

SERVER_OWNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "name", "namespace")
NUMBERS = (int, float)
METADATA_ORDER = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")


def created(facts: Facts, doc: JSON, uid: str, now: str) -> JSON:
    """A new object: uid, time, generation 1, and the finalizer of its kind."""
    given = doc["metadata"]
    metadata: JSON = {
        "name": given["name"],
        "namespace": given.get("namespace"),
        "uid": given.get("uid") or uid,
        "generation": 1,
        "creationTimestamp": now,
    }
    if not metadata["namespace"]:
        del metadata["namespace"]
    metadata |= {name: value for name, value in given.items() if value and name not in METADATA_ORDER}
    held = metadata.get("finalizers", ())
    if facts.finalizer and facts.finalizer not in held:
        metadata["finalizers"] = [*held, facts.finalizer]
    return _headed(facts, doc, metadata)


def main_replaced(facts: Facts, old: JSON, new: JSON) -> JSON:
    """`new` with the server-owned metadata and the status of `old`; a changed spec is a new generation.

    `managedFields` stay as well, unless `new` says what they are now ([]: there are none any more).
    """
    kept = {name: old["metadata"][name] for name in SERVER_OWNED if name in old["metadata"]}
    if "managedFields" in old["metadata"] and "managedFields" not in new["metadata"]:
        kept["managedFields"] = old["metadata"]["managedFields"]
    given = {name: value for name, value in _plain(new["metadata"]).items() if name not in SERVER_OWNED}
    halves = {name: half for name, half in new.items() if name != "status"}
    if "status" in old:
        halves["status"] = old["status"]
    merged = _ordered(facts, halves, kept | given)
    if merged.get("spec") != old.get("spec"):
        merged["metadata"]["generation"] = int(kept.get("generation", 1)) + 1
    return merged


def status_replaced(old: JSON, new: JSON) -> JSON:
    """`old` with the status of `new`; `old` itself when that is its status already."""
    status = new.get("status", {})
    if status == old.get("status"):
        return old
    return {**old, "metadata": _plain(old["metadata"]), "status": status}


def marked_deleted(old: JSON, now: str) -> JSON:
    """`old` with the deletion mark, which counts as a new generation."""
    metadata = _plain(old["metadata"])
    metadata |= {"deletionTimestamp": now, "generation": int(metadata.get("generation", 1)) + 1}
    return {**old, "metadata": metadata}


def same(old: JSON, new: JSON) -> bool:
    """Whether a write would change nothing but the revision."""
    return old is new or (old.get("spec") == new.get("spec") and _comparable(old) == _comparable(new))


def _comparable(doc: JSON) -> JSON:
    return {**doc, "metadata": _plain(doc["metadata"])}


def _plain(metadata: JSON) -> JSON:
    """Without the revision, and without what is empty (a text, list or object; numbers stay)."""
    return {
        name: value
        for name, value in metadata.items()
        if (value or isinstance(value, NUMBERS)) and name != "resourceVersion"
    }


def _ordered(facts: Facts, doc: JSON, metadata: JSON) -> JSON:
    return _headed(facts, doc, {name: metadata[name] for name in METADATA_ORDER if name in metadata} | metadata)


def _headed(facts: Facts, doc: JSON, metadata: JSON) -> JSON:
    """The document with what every object begins with, in its order; spec and status stand in theirs by their model."""
    made: JSON = {"apiVersion": facts.group_version, "kind": facts.kind, "metadata": metadata}
    return made | doc | made
