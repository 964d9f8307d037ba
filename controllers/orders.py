"""The orders of a living Placement: what leaves the machine stays held until the host has said that it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nanovirt.controllers.disks import let_go
from nanovirt.controllers.lacks import Lack
from nanovirt.controllers.world import World
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Operation, Placement
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Delete, Op


class Orders:
    """Those that stand, those that are done (`effects` is what follows from them), and new ones."""

    def __init__(self, placement: Placement, instance: Instance, world: World) -> None:
        self._placement, self._instance, self._world = placement, instance, world
        self.effects: list[Op] = []
        self._orders: list[Operation] = []
        if not placement.spec.operations:
            return
        done = {one.uid for one in placement.status.operations if one.state == "Succeeded"}
        for order in placement.spec.operations:
            if order.uid in done:
                self.effects += self._effects(order)
            else:
                self._orders.append(order)

    def left(self) -> tuple[Operation, ...]:
        """All that are to stand in the Placement."""
        return tuple(self._orders)

    def failed(self) -> Iterator[Lack]:
        """Those that the host could not carry out."""
        said = {one.uid: one.detail for one in self._placement.status.operations if one.state == "Failed"}
        for order in self._orders:
            if order.uid in said:
                params = {
                    "host": self._placement.spec.host,
                    "verb": order.verb,
                    "what": order.volume or order.frees,
                    "detail": said[order.uid],
                }
                yield Lack("", None, None, Reason.OperationFailed, params)

    def pending(self, verb: str, subject: str) -> Operation | None:
        """The order about a file, or about an Address, that stands."""
        return next((one for one in self._orders if one.verb == verb and subject in (one.volume, one.frees)), None)

    def released(self) -> list[Operation]:
        """The Addresses that are about to become free."""
        return [one for one in self._orders if one.verb == "ReleaseAddress"]

    def take_back(self, order: Operation) -> None:
        """What it is about is wished again."""
        self._orders.remove(order)

    def remove_volume(self, disk: str, file: str, volume: str, *, retain: bool) -> None:
        """Let the file go once the machine does not have it: for good, or for somebody else."""
        verb: Literal["ReleaseVolume", "RemoveVolume"] = "ReleaseVolume" if retain else "RemoveVolume"
        self._add(Operation(uid=self._uid(disk, verb), verb=verb, volume=file, frees=volume))

    def shrink_volume(self, disk: str, file: str, volume: str, size: Bytes) -> None:
        """Let the file have less."""
        standing = self.pending("ShrinkVolume", file)
        if standing is not None and standing.size == size:
            return
        if standing is not None:
            self.take_back(standing)
        uid = self._uid(disk, "ShrinkVolume")
        self._add(Operation(uid=uid, verb="ShrinkVolume", volume=file, size=size, frees=volume))

    def release_address(self, nic: str, address: str, mac: str) -> None:
        """Let the Address go once no card uses it."""
        if self.pending("ReleaseAddress", address) is None:
            self._add(Operation(uid=self._uid(nic, "ReleaseAddress"), verb="ReleaseAddress", frees=address, mac=mac))

    def _add(self, order: Operation) -> None:
        self._orders.append(order)

    def _uid(self, name: str, verb: str) -> str:
        """Never the same twice: a revision is not given again."""
        return f"{self._placement.spec.instance_uid}.{name}.{verb}.{self._instance.metadata.resource_version}"

    def _effects(self, order: Operation) -> Iterator[Op]:
        """What is free now."""
        match order.verb:
            case "RemoveVolume":
                key = Key("volumes", self._instance.metadata.namespace, order.frees)
                if self._world.there(key):
                    yield Delete(key)
            case "ReleaseVolume":
                yield from let_go(Key("volumes", self._instance.metadata.namespace, order.frees), self._world)
            case "ReleaseAddress":
                key = Key("addresses", "", order.frees)
                if self._world.there(key):
                    yield Delete(key)
            case "ShrinkVolume":
                pass  # the Volume follows the Placement again
