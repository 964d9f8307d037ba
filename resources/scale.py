"""The Scale of an object (Kubernetes autoscaling/v1): how many of something it wishes and has, whatever its kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Document, Scaling, Spec, Status

GROUP, VERSION, KIND = "autoscaling", "v1", "Scale"
SUBRESOURCE = "scale"
HEAD = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


class ScaleSpec(Spec):
    """The wish."""

    replicas: Annotated[int, Field(ge=0)] = 0


class ScaleStatus(Status):
    """What there is, and the label selector of that."""

    replicas: int = 0
    selector: str = ""


class Scale(Document):
    """What `kubectl scale` reads and writes instead of the object."""

    model_config = ConfigDict(title=KIND)

    spec: ScaleSpec
    status: ScaleStatus = Field(default_factory=ScaleStatus)


def scale_of(scaling: Scaling, doc: JSON) -> JSON:
    """The Scale of an object."""
    metadata = {name: doc["metadata"][name] for name in HEAD if name in doc["metadata"]}
    status = {"replicas": _at(doc, scaling.present) or 0, "selector": _at(doc, scaling.selector) or ""}
    spec = {"replicas": _at(doc, scaling.wished) or 0}
    return {"kind": KIND, "apiVersion": f"{GROUP}/{VERSION}", "metadata": metadata, "spec": spec, "status": status}


def scaled(scaling: Scaling, doc: JSON, replicas: int) -> JSON:
    """The object with another wish."""
    return _put(doc, scaling.wished.split("."), replicas)


def _at(doc: Any, path: str) -> Any:
    for step in path.split("."):
        doc = doc.get(step) if isinstance(doc, dict) else None
    return doc


def _put(doc: JSON, steps: list[str], value: int) -> JSON:
    first, *rest = steps
    return {**doc, first: _put(doc.get(first) or {}, rest, value) if rest else value}
