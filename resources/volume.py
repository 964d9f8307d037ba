"""A disk of an instance: one qcow2 file, made by a host and never renamed."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.fields import AbsolutePath, Name, Reference
from nanovirt.resources.kind import NAMESPACED, Column, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bytes

FINALIZER = "nano/file-removed"
"""On a Volume that a person deletes, until its file is gone from its host."""
_OURS = re.compile(r"/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[^/]+\.qcow2")


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
    """The Placement that holds it; condition Removed, while a person has it deleted, says what that waits for."""

    in_use_by: str = ""
    conditions: tuple[Condition, ...] = ()


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
        Column("Reason", '.status.conditions[?(@.type=="Removed")].reason', "string", 1),
    ),
    selectable=("spec.storagePool", "spec.host"),
    refers=(Refers("spec.storagePool", "storagepools"), Refers("spec.source.image", "images")),
    system="instance",
    removable=FINALIZER,
):
    """Named `INSTANCE.DISK`; owned by the instance until that lets it go and it was to be retained.

    One that nobody owns can be deleted, and its file goes with it, unless that was there before Nano.
    """

    spec: VolumeSpec
    status: VolumeStatus = Field(default_factory=VolumeStatus)


def made_by_nano(file: str) -> bool:
    """Whether Nano gave the file its name; one that was there before is never removed."""
    return _OURS.fullmatch(file[file.rfind("/") :]) is not None
