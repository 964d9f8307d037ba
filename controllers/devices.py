"""What all devices of a machine come from: its template, and images that are there and ready."""

from __future__ import annotations

from typing import Literal

from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.world import World
from nanovirt.resources.devices import Medium
from nanovirt.resources.fields import resolve
from nanovirt.resources.image import Image
from nanovirt.resources.instance import Instance
from nanovirt.resources.placement import PlacedImage, PlacedMedium
from nanovirt.resources.reasons import Reason
from nanovirt.resources.system_template import SystemTemplate


def ready_image(reference: str, namespace: str, asked: Literal["Disk", "Media"], world: World) -> Image:
    """The image that is meant. Raises Missing when it is not there, not ready or of the other type."""
    space, name = resolve(reference, namespace)
    image = world.read(Image, name, space)
    if image is None:
        raise Missing(Reason.ImageNotFound, image=reference)
    if image.spec.type != asked:
        raise Missing(Reason.ImageOfOtherType, image=reference, has=image.spec.type, asked=asked)
    if image.status.phase != "Ready" or image.status.virtual_size is None:
        why = image.status.conditions[0].message if image.status.conditions else image.status.phase
        raise Missing(Reason.ImageNotReady, image=reference, why=why)
    return image


def template_of(instance: Instance, world: World) -> SystemTemplate:
    """The template that is named, else that of the first disk's image, else `linux`. Raises Missing."""
    name = instance.spec.system_template or _of_image(instance, world) or "linux"
    template = world.read(SystemTemplate, name)
    if template is None:
        raise Missing(Reason.SystemTemplateNotFound, template=name)
    return template


def _of_image(instance: Instance, world: World) -> str:
    for disk in instance.spec.disks:
        if disk.source is not None and disk.source.image is not None:
            space, name = resolve(disk.source.image, instance.metadata.namespace)
            image = world.read(Image, name, space)
            return image.spec.system_template if image is not None else ""
    return ""


def placed_medium(instance: Instance, medium: Medium, world: World) -> PlacedMedium:
    """A drive with what is in it. Raises Missing."""
    if medium.image is None:
        return PlacedMedium(name=medium.name)
    image = ready_image(medium.image, instance.metadata.namespace, "Media", world)
    return PlacedMedium(name=medium.name, image=PlacedImage(image=medium.image, sha256=image.status.sha256))
