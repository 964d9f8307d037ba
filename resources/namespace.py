"""A namespace: a drawer for the instances, images and snapshots of one group of people."""

from __future__ import annotations

from pydantic import Field

from nanovirt.resources.kind import CLUSTER, CORE, Column, Resource, Spec, Status


class NamespaceSpec(Spec):
    """What a person may say about a namespace."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Status):
    """Kubernetes clients look for the phase."""

    phase: str = "Active"


class Namespace(
    Resource[NamespaceSpec, NamespaceStatus],
    plural="namespaces",
    short="ns",
    scope=CLUSTER,
    group_version=CORE,
    columns=(Column("Status", ".status.phase"),),
    categories=(),
):
    """Named like a DNS label; a namespace that still holds objects is not deleted."""

    spec: NamespaceSpec = Field(default_factory=NamespaceSpec)
    status: NamespaceStatus = Field(default_factory=NamespaceStatus)
