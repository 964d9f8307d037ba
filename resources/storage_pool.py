"""Where volumes are kept: a directory on each host (Local), or a shared file system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import AbsolutePath, Text, Title
from nanovirt.resources.kind import CLUSTER, LATER, Column, Later, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason


class LocalStorage(Model):
    """A directory that each host has for itself; `Host.spec.storagePaths` may name another one for a host."""

    path: AbsolutePath = "/var/lib/nano/volumes"


class StoragePoolSpec(Spec):
    """What an administrator decides about a storage pool."""

    display_name: Title = ""
    description: Text = ""
    type: Annotated[Literal["Local", "NFS", "Directory"], Later("NFS", "Directory")] = "Local"
    local: LocalStorage | None = None
    nfs: Annotated[dict[str, Any] | None, LATER] = None
    directory: Annotated[dict[str, Any] | None, LATER] = None
    warn_free_percent: Annotated[int, Field(ge=0, le=90)] = 15


class StoragePoolStatus(Status):
    """Totals over the hosts; `allocated` is what volumes may grow to."""

    observed_generation: int = 0
    capacity: Bytes = Bytes(0)
    allocated: Bytes = Bytes(0)
    volumes: int = 0
    conditions: tuple[Condition, ...] = ()


class StoragePool(
    Resource[StoragePoolSpec, StoragePoolStatus],
    plural="storagepools",
    short="spool",
    scope=CLUSTER,
    columns=(
        Column("Type", ".spec.type"),
        Column("Volumes", ".status.volumes", "integer"),
        Column("Allocated", ".status.allocated"),
        Column("Capacity", ".status.capacity"),
    ),
    immutable=("spec.type",),
):
    """A union: `type` names the member that is given."""

    spec: StoragePoolSpec = Field(default_factory=StoragePoolSpec)
    status: StoragePoolStatus = Field(default_factory=StoragePoolStatus)

    def problems(self) -> Iterator[Cause]:
        """The member that `type` names must be there."""
        if self.spec.type == "Local" and self.spec.local is None:
            yield Cause("spec.local", Reason.FieldValueRequired.name, "type Local wants local: {path: /...}", {})
