"""A disk image that instances are made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from nanovirt.resources.conditions import Condition
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Name, Text, Title, shaped
from nanovirt.resources.kind import LATER, NAMESPACED, Column, Nothing, Refers, Resource, Spec, Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason

FileName = Annotated[
    str, shaped(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$", "the name of a file without its folder, such as debian-12.qcow2")
]
Sha256 = Annotated[str, shaped(r"^[0-9a-f]{64}$", "a SHA-256: 64 hexadecimal digits in lower case")]


class ImageSource(Model):
    """Where the bytes come from: exactly one member."""

    upload: Nothing | None = None
    file: FileName | None = None
    url: Annotated[str | None, LATER] = None
    sha256: Sha256 | None = None
    instance: Annotated[str | None, LATER] = None
    disk: Annotated[str | None, LATER] = None


class ImageSpec(Spec):
    """What a person says about an image."""

    display_name: Title = ""
    description: Text = ""
    type: Literal["Disk", "Media"] = "Disk"
    system_template: Name = "linux"
    architecture: Literal["x86_64"] = "x86_64"
    source: ImageSource


class ImageStatus(Status):
    """What the bytes turned out to be; `size` in bytes of the file, `virtualSize` as the guest sees it."""

    observed_generation: int = 0
    phase: Literal["Pending", "Uploading", "Inspecting", "Ready", "Failed"] = "Pending"
    progress: int = 0
    size: Bytes | None = None
    virtual_size: Bytes | None = None
    sha256: str = ""
    format: str = ""
    conditions: tuple[Condition, ...] = ()


class ImageRow(NamedTuple):
    """Who waits for it is woken when the phase changes."""

    status_phase: str
    status_sha256: str
    status_virtual_size: str | None


class Image(
    Resource[ImageSpec, ImageStatus],
    plural="images",
    short="img",
    scope=NAMESPACED,
    row=ImageRow,
    columns=(
        Column("Type", ".spec.type"),
        Column("Phase", ".status.phase"),
        Column("Progress", ".status.progress", "integer"),
        Column("Size", ".status.virtualSize"),
        Column("Template", ".spec.systemTemplate", "string", 1),
        Column("Sha256", ".status.sha256", "string", 1),
    ),
    refers=(Refers("spec.systemTemplate", "systemtemplates"),),
    immutable=("spec.source", "spec.type", "spec.architecture"),
):
    """Readable from its own namespace, and from all when it stands in `shared`."""

    spec: ImageSpec
    status: ImageStatus = Field(default_factory=ImageStatus)

    def problems(self) -> Iterator[Cause]:
        """Exactly one source."""
        given: list[Any] = [
            self.spec.source.upload,
            self.spec.source.file,
            self.spec.source.url,
            self.spec.source.instance,
        ]
        if sum(member is not None for member in given) != 1:
            yield Cause.of("spec.source", Reason.OneMemberRequired, members="upload, file")
