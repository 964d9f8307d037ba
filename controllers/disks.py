"""The disks of an instance: what each begins as, the file that it becomes on a host, and the Volume that says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from nanovirt.controllers.actions import owner_of, set_status
from nanovirt.controllers.devices import ready_image
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.world import World
from nanovirt.resources.devices import Disk
from nanovirt.resources.host import Host
from nanovirt.resources.image import Image
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ObjectMeta, OwnerReference
from nanovirt.resources.placement import PlacedImage, PlacedVolume
from nanovirt.resources.qos import DiskQos
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.store import Op, Update
from nanovirt.resources.system_template import DiskBus
from nanovirt.resources.volume import Volume, VolumeSource, VolumeSpec, VolumeStatus


class Origin(NamedTuple):
    """What a disk begins as: an image, a Volume that was there before, or nothing."""

    image: Image | None = None
    volume: Volume | None = None


EMPTY = Origin()


def origin_of(instance: Instance, disk: Disk, world: World) -> Origin:
    """What the disk begins as. Raises Missing when that is not there, not ready, taken or too large."""
    if disk.source is None:
        return EMPTY
    if disk.source.volume is not None:
        return Origin(volume=_free_volume(instance, disk.source.volume, world))
    if disk.source.image is None:
        return EMPTY
    image = ready_image(disk.source.image, instance.metadata.namespace, "Disk", world)
    assert image.status.virtual_size is not None
    if disk.size is not None and disk.size < image.status.virtual_size:
        has = str(image.status.virtual_size)
        raise Missing(
            Reason.DiskSmallerThanImage, disk=disk.name, asked=str(disk.size), image=disk.source.image, has=has
        )
    return Origin(image=image)


def _free_volume(instance: Instance, name: str, world: World) -> Volume:
    volume = world.read(Volume, name, instance.metadata.namespace)
    if volume is None or volume.deleting:
        raise Missing(Reason.VolumeNotFound, volume=name)
    if volume.metadata.owner_references:
        raise Missing(Reason.VolumeTaken, volume=name, instance=volume.metadata.owner_references[0].name)
    return volume


def size_of(disk: Disk, origin: Origin) -> Bytes:
    """How large it is made: never smaller than what it begins as."""
    if origin.volume is not None:
        return max(disk.size or Bytes(0), origin.volume.spec.size)
    if disk.size is not None:
        return disk.size
    assert origin.image is not None
    assert origin.image.status.virtual_size is not None
    return origin.image.status.virtual_size


def placed_disk(disk: Disk, origin: Origin, file: str, bus: DiskBus, qos: DiskQos) -> PlacedVolume:
    """The disk as the host is to have it; a Volume that was there before keeps its file."""
    source, volume = None, origin.volume
    if volume is not None and volume.spec.source is not None:
        source = PlacedImage(image=volume.spec.source.image, sha256=volume.spec.source.sha256)
    elif origin.image is not None and disk.source is not None and disk.source.image is not None:
        source = PlacedImage(image=disk.source.image, sha256=origin.image.status.sha256)
    return PlacedVolume(
        name=disk.name,
        file=volume.spec.file if volume is not None else file,
        size=size_of(disk, origin),
        source=source,
        bus=bus,
        rebuild=disk.rebuild,
        file_system=disk.format,
        volume=volume.metadata.name if volume is not None else "",
        qos=qos,
    )


def file_of(instance: Instance, disk: Disk, storage: StoragePool, host: Host, mark: str = "") -> str:
    """The name of a new file; `mark`: what tells it from the files that a disk of this name had before."""
    assert storage.spec.local is not None
    own = {one.storage_pool: one.path for one in host.spec.storage_paths}
    folder = own.get(storage.metadata.name, storage.spec.local.path).rstrip("/")
    return f"{folder}/{instance.metadata.uid}.{disk.name}{mark}.qcow2"


# --- Volumes ---


def volume_name(instance: str, disk: str) -> str:
    """The name of the Volume of a disk; a disk's name has no dot, so two instances never meet in one name."""
    return f"{instance}.{disk}"


def volume_key(instance: Instance, placed: PlacedVolume) -> Key:
    """Where the Volume of a disk stands."""
    name = placed.volume or volume_name(instance.metadata.name, placed.name)
    return Key("volumes", instance.metadata.namespace, name)


def named(instance: Instance, placed: PlacedVolume, world: World) -> PlacedVolume:
    """The same with a Volume of its own name when another one, of a disk that was, bears the usual one."""
    if placed.volume or not world.there(volume_key(instance, placed)):
        return placed
    name = f"{volume_name(instance.metadata.name, placed.name)}-{instance.metadata.resource_version}"
    return placed.model_copy(update={"volume": name})


def new_volume(
    instance: Instance, disk: Disk, placed: PlacedVolume, storage: StoragePool, host: str, holder: str
) -> Volume:
    """The Volume of a new disk on `host`, held by the Placement `holder`."""
    source = VolumeSource(image=placed.source.image, sha256=placed.source.sha256) if placed.source else None
    return Volume(
        metadata=owned(instance, volume_key(instance, placed).name),
        spec=VolumeSpec(
            storage_pool=storage.metadata.name,
            host=host,
            size=placed.size,
            source=source,
            file=placed.file,
            reclaim=disk.reclaim,
        ),
        status=VolumeStatus(in_use_by=holder),
    )


def taken(instance: Instance, disk: Disk, placed: PlacedVolume, volume: Volume, holder: str) -> tuple[Op, Op]:
    """A Volume that was nobody's is the instance's now."""
    spec = volume.spec.model_copy(update={"size": placed.size, "reclaim": disk.reclaim})
    mine = owned(instance, volume.metadata.name)
    metadata = volume.metadata.model_copy(update={"labels": mine.labels, "owner_references": mine.owner_references})
    ours = volume.model_copy(update={"metadata": metadata, "spec": spec})
    return Update(ours.key, ours.to_json()), set_status(ours, VolumeStatus(in_use_by=holder))


def let_go(key: Key, world: World) -> Iterator[Op]:
    """The Volume stays, and is nobody's."""
    volume = world.read(Volume, key.name, key.namespace)
    if volume is not None:
        free = volume.model_copy(update={"metadata": volume.metadata.model_copy(update={"owner_references": ()})})
        yield Update(key, free.to_json())
        yield set_status(free, VolumeStatus())


def owned(instance: Instance, name: str) -> ObjectMeta:
    """The metadata of what belongs to an instance and goes with it."""
    owner = OwnerReference(
        api_version=instance.facts.group_version,
        kind=instance.facts.kind,
        name=instance.metadata.name,
        uid=instance.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return ObjectMeta(
        name=name, namespace=instance.metadata.namespace, labels=owner_of(instance), owner_references=(owner,)
    )
