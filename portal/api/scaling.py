"""PLURAL/NAME/scale: how many are wished, read and written by clients that know nothing else of the kind."""

from __future__ import annotations

from typing import Any

from nanovirt.portal.api import strictness
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.secrets import public
from nanovirt.portal.api.writing import Transform
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.errors import Malformed, NotAllowed
from nanovirt.resources.kind import Facts, Scaling
from nanovirt.resources.scale import GROUP, HEAD, KIND, SUBRESOURCE, VERSION, Scale, scale_of, scaled


def scalable(target: Target) -> bool:
    """Whether that is the Scale of something."""
    return target.subresource == SUBRESOURCE and target.facts.scaling is not None


def shown(target: Target, raw: bytes) -> bytes:
    """The bytes of an object, or of its Scale, as replies show them."""
    if target.subresource != SUBRESOURCE:
        return public(target.facts, raw)
    return dump(scale_of(_scaling(target.facts), load(raw)))


def through(target: Target, transform: Transform, validation: str) -> Transform:
    """What becomes of the object when `transform` is about its Scale; metadata say which object, and in which state."""
    scaling = _scaling(target.facts)

    def changed(raw: bytes) -> JSON:
        doc = load(raw)
        wanted = transform(dump(scale_of(scaling, doc)))
        metadata = wanted.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise Malformed("metadata must be an object")
        _check_kind(wanted)
        scale, _ = strictness.read(Scale, {**wanted, "metadata": dict(metadata)}, validation)
        kept = {name: value for name, value in doc["metadata"].items() if name not in HEAD}
        said: dict[str, Any] = {name: metadata[name] for name in HEAD if name in metadata}
        return scaled(scaling, {**doc, "metadata": kept | said}, scale.spec.replicas)

    return changed


def _check_kind(wanted: JSON) -> None:
    for field, value in (("apiVersion", f"{GROUP}/{VERSION}"), ("kind", KIND)):
        if wanted.setdefault(field, value) != value:
            raise Malformed(f"the body says {field} {str(wanted[field])[:80]!r}; a Scale has {value!r}")


def _scaling(facts: Facts) -> Scaling:
    if facts.scaling is None:
        raise NotAllowed(f"{facts.plural} have no scale")
    return facts.scaling
