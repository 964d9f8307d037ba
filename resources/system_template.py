"""The set of virtual devices that suits an operating system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Text, Title
from nanovirt.resources.kind import CLUSTER, Column, Nothing, Resource, Spec
from nanovirt.resources.metadata import Model

DiskBus = Literal["Virtio", "Scsi", "Sata", "Ide"]
NicModel = Literal["Virtio", "E1000", "Rtl8139"]


class Devices(Model):
    """The devices themselves, as a template names them and a Placement carries them."""

    family: Literal["Linux", "Windows", "Bsd", "Other"] = "Linux"
    machine: Literal["q35", "i440fx"] = "q35"
    firmware: Literal["UEFI", "BIOS"] = "UEFI"
    secure_boot: bool = False
    tpm: bool = False
    clock: Literal["Utc", "LocalTime"] = "Utc"
    disk_bus: DiskBus = "Virtio"
    nic_model: NicModel = "Virtio"
    video: Literal["Virtio", "Vga", "None"] = "Virtio"
    tablet: Literal["Usb", "None"] = "Usb"
    serial: bool = True

    @property
    def drive_bus(self) -> DiskBus:
        """Where drives for media are: where a guest looks that has none of our drivers, else where they are plugged in.

        A Windows that is being installed finds no drive on SCSI before it has read the driver from one.
        """
        if self.disk_bus in ("Ide", "Sata"):
            return self.disk_bus
        if self.family == "Windows":
            return "Sata" if self.machine == "q35" else "Ide"
        return "Scsi"


class SystemTemplateSpec(Devices, Spec):
    """Devices for a family of operating systems."""

    display_name: Title = ""
    description: Text = ""
    architecture: Literal["x86_64"] = "x86_64"


class SystemTemplate(
    Resource[SystemTemplateSpec, Nothing],
    plural="systemtemplates",
    short="tmpl",
    scope=CLUSTER,
    columns=(
        Column("Family", ".spec.family"),
        Column("Machine", ".spec.machine"),
        Column("Firmware", ".spec.firmware"),
        Column("Disk", ".spec.diskBus"),
        Column("Nic", ".spec.nicModel"),
    ),
):
    """Shipped are `linux`, `linux-bios`, `windows`, `windows-11` and `legacy`; unedited ones follow the release."""

    spec: SystemTemplateSpec = Field(default_factory=SystemTemplateSpec)
    status: Nothing = Field(default_factory=Nothing)

    def problems(self) -> Iterator[Cause]:
        """Secure Boot is the firmware's own doing, and kept safe by what only the newer machine has."""
        if self.spec.secure_boot and (self.spec.firmware, self.spec.machine) != ("UEFI", "q35"):
            yield Cause.of("spec.secureBoot", "Secure Boot needs firmware UEFI and machine q35")
