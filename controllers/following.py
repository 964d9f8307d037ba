"""From a changed wish to a changed Placement, while it lives: what can be followed now, and what not, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nanovirt.controllers.cards import nics_of, only_nic, pool_of
from nanovirt.controllers.composing import hostname_of
from nanovirt.controllers.devices import placed_medium, template_of
from nanovirt.controllers.following_cards import Cards
from nanovirt.controllers.following_disks import Disks
from nanovirt.controllers.guarding import check_groups, guarded
from nanovirt.controllers.guests import guest_of, missing_secret
from nanovirt.controllers.lacks import Lack, Missing
from nanovirt.controllers.limits import cpu_qos, started_with, still_most_cpus, still_most_memory
from nanovirt.controllers.orders import Orders
from nanovirt.controllers.room import Room
from nanovirt.controllers.world import World
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import DEFAULT_NIC, Nic
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.placement import Domain, PlacedMedium, PlacedNic, PlacedVolume, Placement, PlacementSpec
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.store import Op
from nanovirt.resources.system_template import Devices

T = TypeVar("T")
ON = ("Running", "Starting", "Stopping", "Suspended")
"""States in which a machine has what it was started with."""


@dataclass(frozen=True, slots=True)
class Followed:
    """The Placement as it is to be, what is written along with it, and which wishes have to wait."""

    spec: PlacementSpec
    ops: tuple[Op, ...]
    lacks: tuple[Lack, ...]


def follow(placement: Placement, instance: Instance, world: World) -> Followed:
    """All that may change while a Placement lives, as the instance, its pools and images now wish it.

    What cannot be is left as it is and said; whatever leaves the machine is freed only when the host has said so.
    """
    spec, wish = placement.spec, instance.spec
    plain = {
        "power_state": wish.power_state,
        "restart_policy": wish.restart_policy,
        "restart": wish.restart,
        "stop_grace_seconds": wish.stop_grace_seconds,
        "start_priority": wish.start_priority,
        "hostname": hostname_of(instance),
        "guest": spec.guest if missing_secret(instance, world) else guest_of(instance, world),
    }
    pool, host = world.read(ComputePool, wish.compute_pool), world.read(Host, spec.host)
    if pool is None or host is None:
        return Followed(_updated(spec, plain), (), ())
    following = _Following(placement, instance, world, pool, host)
    hardware = following.hardware()
    lacks = (*following.lacks, *following.orders.failed())
    return Followed(_updated(spec, plain | hardware), tuple(following.ops()), lacks)


def _updated(spec: PlacementSpec, fields: dict[str, Any]) -> PlacementSpec:
    """The same object when nothing differs, which is how most plans find it."""
    had = spec.__dict__
    update = {name: value for name, value in fields.items() if had[name] is not value and had[name] != value}
    return spec.model_copy(update=update) if update else spec


@dataclass(slots=True)
class _Following:
    placement: Placement
    instance: Instance
    world: World
    pool: ComputePool
    host: Host
    lacks: list[Lack] = field(default_factory=list)
    orders: Orders = field(init=False)
    room: Room = field(init=False)
    _ops: list[Op] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.orders = Orders(self.placement, self.instance, self.world)
        self.room = Room(self.host, self.pool, self.world)

    def ops(self) -> Iterator[Op]:
        """What is written beside the Placement."""
        yield from self.orders.effects
        yield from self._ops

    def hardware(self) -> dict[str, Any]:
        """The fields of the Placement that say what the machine is made of."""
        template, chosen, domain = self._domain()
        cpu, memory = self._cpus(), self._memory()
        running = self._running()
        volumes, nics, media = self._volumes(domain), self._nics(domain), self._media()
        wish, spec = self.instance.spec, self.placement.spec
        order = wish.boot_order
        if order:
            named = {name for part in (volumes, nics, media) for name in _names(part)}
            order = tuple([name for name in order if name in named])
        return {
            "template": template,
            "template_chosen": chosen,
            "domain": domain,
            "cpu": cpu,
            "max_cpu": still_most_cpus(wish, cpu, self.host, spec.max_cpu, running[0]),
            "memory": memory,
            "max_memory": still_most_memory(wish, memory, self.host, spec.max_memory, running[1]),
            "qos": cpu_qos(wish, self.pool),
            "volumes": volumes,
            "nics": nics,
            "media": media,
            "boot_order": order,
            "operations": self.orders.left(),
        }

    def _tried(self, path: str, current: Any, desired: Any, attempt: Callable[[], T]) -> T | None:
        """What comes of the attempt, or None with the reason noted."""
        try:
            return attempt()
        except Missing as missing:
            self.lacks.append(Lack(path, current, desired, missing.reason, missing.params))
            return None

    # --- template, processors, memory ---

    def _domain(self) -> tuple[str, bool, Domain]:
        """Another template gives other devices; that a template, or the image that names it, is edited does not."""
        spec, wished = self.placement.spec, self.instance.spec.system_template
        chosen = wished is not None
        if wished == spec.template or not (chosen or spec.template_chosen):
            return spec.template, chosen, spec.domain
        path, now = "spec.systemTemplate", spec.template or None
        template = self._tried(path, now, wished, lambda: template_of(self.instance, self.world))
        if template is None or template.metadata.name == spec.template:
            return spec.template, chosen if template else spec.template_chosen, spec.domain
        devices = {name: getattr(template.spec, name) for name in Devices.model_fields}
        return template.metadata.name, chosen, spec.domain.model_copy(update=devices)

    def _cpus(self) -> int:
        now, wished = self.placement.spec.cpu, self.instance.spec.cpus
        if wished <= now:
            return wished
        return self._tried("spec.cpus", now, wished, lambda: self.room.cpus(now, wished)) or now

    def _memory(self) -> Bytes:
        now, wished = self.placement.spec.memory, self.instance.spec.memory
        if wished <= now:
            return now if wished == now else wished
        fits = self._tried("spec.memory", str(now), str(wished), lambda: self.room.memory(now, wished))
        return wished if fits else now

    def _running(self) -> tuple[int | None, Bytes | None]:
        """The ceilings that the running machine was started with, where they are not those of the Placement."""
        return started_with(self.placement) if self.placement.status.state in ON else (None, None)

    # --- devices ---

    def _volumes(self, domain: Domain) -> tuple[PlacedVolume, ...]:
        disks = Disks(self.placement, self.instance, self.world, self.pool, self.host, self.orders, self.room, domain)
        found = []
        for disk in self.instance.spec.disks:
            had = disks.had.get(disk.name)
            path, now = f"spec.disks[{disk.name}]", str(had.size) if had else None
            placed = self._tried(path, now, str(disk.size or disk.name), lambda disk=disk: disks.follow(disk))  # type: ignore[misc]
            if placed is None and had is not None:
                placed = disks.kept(had)
            if placed is not None:
                found.append(placed)
        disks.retire()
        self._ops += disks.ops
        return (*found, *disks.others)

    def _nics(self, domain: Domain) -> tuple[PlacedNic, ...]:
        cards = Cards(self.placement, self.instance, self.world, self.pool, self.host, self.orders, domain)
        found = []
        for nic in self._wished_nics():
            had = cards.had.get(nic.name)
            path, now = f"spec.nics[{nic.name}]", (str(had.ip) if had.ip else had.mac) if had else None

            def attempt(nic: Any = nic) -> PlacedNic:
                space = self.instance.metadata.namespace
                check_groups(nic, space, self.world)
                return guarded(cards.follow(nic, pool_of(nic, self.world)), nic, space, self.world)

            placed = self._tried(path, now, str(nic.ip or nic.address_pool or nic.network), attempt)
            if placed is None and had is not None:
                placed = cards.kept(had)
            if placed is not None:
                found.append(placed)
        cards.retire()
        self.lacks += cards.withdrawn
        self._ops += cards.ops
        return tuple(found)

    def _wished_nics(self) -> tuple[Nic, ...]:
        """Without any word about cards the one that it was given stays, whatever pool new machines get theirs from."""
        if self.instance.spec.nics is None:
            for had in self.placement.spec.nics:
                if had.name == DEFAULT_NIC:
                    pool = had.address_pool or self.world.leases.pool_of(self.instance.metadata.uid, had.name)
                    return (only_nic(pool or None),)
        return nics_of(self.instance, self.pool)

    def _media(self) -> tuple[PlacedMedium, ...]:
        if not self.instance.spec.media:
            return ()
        had = {one.name: one for one in self.placement.spec.media}
        found = []
        for medium in self.instance.spec.media:
            now = had.get(medium.name)
            if now is not None and medium.image is None and now.image is None:
                found.append(now)
                continue

            def attempt(medium: Any = medium) -> PlacedMedium:
                return placed_medium(self.instance, medium, self.world)

            holds = now.image.image if now is not None and now.image is not None else None
            path = f"spec.media[{medium.name}]" + (".image" if now is not None else "")
            placed = self._tried(path, holds, medium.image, attempt) or now
            if placed is not None:
                found.append(placed)
        return tuple(found)


def _names(devices: tuple[PlacedVolume | PlacedNic | PlacedMedium, ...]) -> Iterator[str]:
    return (one.name for one in devices)
