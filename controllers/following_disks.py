"""The disks of a placed machine as they are wished now: grown, added, made anew, let go."""

from __future__ import annotations

from nanovirt.controllers.disks import (
    file_of,
    named,
    new_volume,
    origin_of,
    placed_disk,
    taken,
    volume_key,
)
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.limits import disk_qos
from nanovirt.controllers.orders import Orders
from nanovirt.controllers.room import Room
from nanovirt.controllers.world import World
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import Disk
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.placement import Domain, PlacedVolume, Placement
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.store import Create, Op, Update
from nanovirt.resources.volume import Volume


class Disks:
    """`had`: those of the Placement by name; `others`: its volumes that are no disks; `ops`: what is written."""

    def __init__(
        self,
        placement: Placement,
        instance: Instance,
        world: World,
        pool: ComputePool,
        host: Host,
        orders: Orders,
        room: Room,
        domain: Domain,
    ) -> None:
        self._placement, self._instance, self._world, self._pool, self._host = placement, instance, world, pool, host
        self._orders, self._room, self._domain = orders, room, domain
        volumes = placement.spec.volumes
        self.had = {one.name: one for one in volumes if one.purpose == "Disk"}
        self.others = tuple([one for one in volumes if one.purpose != "Disk"])
        self.ops: list[Op] = []
        self._files: set[str] = set()

    def follow(self, disk: Disk) -> PlacedVolume:
        """The disk as it is to be. Raises Missing when that cannot be now."""
        before = self.had.get(disk.name)
        if before is None or disk.rebuild > before.rebuild:
            return self._new(disk)
        update: dict[str, object] = {}
        if disk.size is not None and disk.size != before.size:
            update["size"] = self._resized(disk, before, disk.size)
        qos = disk_qos(self._instance.spec, disk, self._pool)
        if qos != before.qos:
            update["qos"] = qos
        if before.bus != self._domain.disk_bus and not before.adopted:
            update["bus"] = self._domain.disk_bus
        if disk.format != before.file_system:
            update["file_system"] = disk.format
        placed = before.model_copy(update=update) if update else before
        self._said(disk, placed)
        return self.kept(placed)

    def kept(self, placed: PlacedVolume) -> PlacedVolume:
        """Note that this file is not to go."""
        self._files.add(placed.file)
        return placed

    def retire(self) -> None:
        """Let go of the files that are wished no longer: kept as a Volume of nobody, or removed."""
        for before in self.had.values():
            if before.file not in self._files:
                key = volume_key(self._instance, before)
                entry = self._world.peek(key)
                retain = before.adopted or (entry is not None and entry.row.reclaim == "Retain")
                self._orders.remove_volume(before.name, before.file, key.name, retain=retain)

    def _new(self, disk: Disk) -> PlacedVolume:
        """A file of a name that none ever had: the revision of the wish is part of it."""
        storage = self._world.read(StoragePool, self._pool.spec.storage_pool)
        if storage is None:
            raise Missing(Reason.StoragePoolNotFound, pool=self._pool.spec.storage_pool)
        origin, host, holder = origin_of(self._instance, disk, self._world), self._host, self._placement.metadata.name
        if origin.volume is not None and origin.volume.spec.host not in (None, host.metadata.name):
            raise Missing(
                Reason.VolumeElsewhere,
                volume=origin.volume.metadata.name,
                has=origin.volume.spec.host,
                host=host.metadata.name,
            )
        file = file_of(self._instance, disk, storage, host, f".{self._instance.metadata.resource_version}")
        qos = disk_qos(self._instance.spec, disk, self._pool)
        placed = named(self._instance, placed_disk(disk, origin, file, self._domain.disk_bus, qos), self._world)
        self._room.disk(placed.size - (origin.volume.spec.size if origin.volume is not None else 0))
        if origin.volume is not None:
            self.ops += taken(self._instance, disk, placed, origin.volume, holder)
        else:
            made = new_volume(self._instance, disk, placed, storage, host.metadata.name, holder)
            self.ops.append(Create(made.key, made.to_json()))
        return self.kept(placed)

    def _resized(self, disk: Disk, before: PlacedVolume, size: Bytes) -> Bytes:
        """Growing takes room; getting smaller, which was accepted when it was wished, has to be ordered."""
        standing = self._orders.pending("ShrinkVolume", before.file)
        if size > before.size:
            self._room.disk(size - before.size)
            if standing is not None:
                self._orders.take_back(standing)
            return size
        off = self._placement.status.state == "Stopped" and self._instance.spec.power_state == "Stopped"
        if not off:
            raise Missing(Reason.ShrinkNeedsStop, disk=disk.name)
        self._orders.shrink_volume(disk.name, before.file, volume_key(self._instance, before).name, size)
        return size

    def _said(self, disk: Disk, placed: PlacedVolume) -> None:
        """The Volume says so, too; of one that is to shrink its room is free only when the host has done it."""
        key = volume_key(self._instance, placed)
        entry = self._world.peek(key)
        if entry is None:
            return
        size = Bytes.read(entry.row.size)
        shrinks = size > placed.size and self._orders.pending("ShrinkVolume", placed.file) is not None
        if entry.row.reclaim == disk.reclaim and (size == placed.size or shrinks):
            return
        volume = self._world.read(Volume, key.name, key.namespace)
        assert volume is not None
        spec = volume.spec.model_copy(
            update={"reclaim": disk.reclaim, "size": volume.spec.size if shrinks else placed.size}
        )
        self.ops.append(Update(key, volume.model_copy(update={"spec": spec}).to_json()))
