"""Names under `nano/` that are not for whoever writes: labels, finalizers, and the annotation that accepts a loss."""

from __future__ import annotations

from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Invalid
from nanovirt.resources.instance_disruption import ACCEPTED
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.metadata import LABEL_KEY, LABEL_KEY_RULE, OWNER_LABEL, RESERVED_PREFIX


def take_acceptance(doc: JSON, said: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a write accepts to lose: as its query `said`, and in an annotation, taken out since it holds once."""
    annotations = doc["metadata"].get("annotations")
    if not annotations or ACCEPTED not in annotations:
        return said
    words = annotations.pop(ACCEPTED)
    return said | {one.strip() for one in words.split(",") if one.strip()}


def without_acceptance(doc: JSON) -> JSON:
    """The document as asked for, without that annotation: nobody comes to own it."""
    metadata = doc.get("metadata") or {}
    if ACCEPTED not in (metadata.get("annotations") or {}):
        return doc
    kept = {name: text for name, text in metadata["annotations"].items() if name != ACCEPTED}
    return {**doc, "metadata": {**metadata, "annotations": kept}}


def stamp_reserved(doc: JSON, old: JSON | None, owner: str) -> None:
    """Labels and finalizers under `nano/` are the server's: kept from `old`; a new object gets its owner.

    Invalid: a new label, also of what a set makes, has a name that no selector can name. One that is there stays.
    """
    metadata = doc["metadata"]
    labels = {name: text for name, text in metadata.get("labels", {}).items() if not name.startswith(RESERVED_PREFIX)}
    ours = old["metadata"].get("labels", {}) if old else {}
    _refuse_unnamable("metadata.labels", labels, ours)
    if (template := _template_labels(doc)) is not None:
        _refuse_unnamable("spec.template.metadata.labels", template, (old and _template_labels(old)) or {})
    if old is None:
        labels[OWNER_LABEL] = owner
    else:
        labels |= {name: text for name, text in ours.items() if name.startswith(RESERVED_PREFIX)}
    metadata["labels"] = labels
    given, held = metadata.get("finalizers", ()), old["metadata"].get("finalizers", ()) if old else ()
    if given or held:
        theirs = [one for one in given if not one.startswith(RESERVED_PREFIX)]
        metadata["finalizers"] = [*(one for one in held if one.startswith(RESERVED_PREFIX)), *theirs]


def _template_labels(doc: JSON) -> JSON | None:
    """The labels of what a set makes; None for everything else."""
    if doc["kind"] != InstanceSet.facts.kind:
        return None
    found: JSON = doc["spec"].get("template", {}).get("metadata", {}).get("labels", {})
    return found


def _refuse_unnamable(field: str, labels: JSON, old: JSON) -> None:
    for name in labels:
        if name not in old and not LABEL_KEY.fullmatch(name):
            raise Invalid(field, f"label {name[:60]!r}: {LABEL_KEY_RULE}")
