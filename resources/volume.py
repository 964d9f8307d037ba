"""A disk of an instance: one qcow2 file, made by a host and never renamed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.fields import AbsolutePath, Name, Reference
from nanovirt.resources.kind import NAMESPACED, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bytes


class VolumeSource(Model):
    """What a volume is an overlay of: an image, by the hash of its bytes."""

    image: Reference
    sha256: str


class VolumeSpec(Spec):
    """What was decided; `file` is a name that is never used twice."""

    storage_pool: Name
    host: Name | None = None
    size: Bytes
    source: VolumeSource | None = None
    purpose: Literal["Disk", "Seed", "Firmware", "Tpm"] = "Disk"
    file: AbsolutePath
    parent: str | None = None
    reclaim: Literal["Delete", "Retain"] = "Delete"


class VolumeStatus(Status):
    """The Placement that holds it."""

    in_use_by: str = ""


class VolumeRow(NamedTuple):
    """Room on hosts and in pools is counted from these."""

    storage_pool: str
    host: str | None
    size: str
    reclaim: str


class Volume(
    Resource[VolumeSpec, VolumeStatus],
    plural="volumes",
    short="vol",
    scope=NAMESPACED,
    row=VolumeRow,
    columns=(
        Column("Pool", ".spec.storagePool"),
        Column("Host", ".spec.host"),
        Column("Size", ".spec.size"),
        Column("Image", ".spec.source.image"),
        Column("In Use By", ".status.inUseBy"),
        Column("File", ".spec.file", "string", 1),
    ),
    selectable=("spec.storagePool", "spec.host"),
    refers=(Refers("spec.storagePool", "storagepools"), Refers("spec.source.image", "images")),
    system="instance",
):
    """Named `INSTANCE.DISK`; owned by the instance until that lets it go and it was to be retained."""

    spec: VolumeSpec
    status: VolumeStatus = Field(default_factory=VolumeStatus)
