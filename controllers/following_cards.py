"""The network cards of a placed machine as they are wished now; an address is kept unless another one is asked for."""

from __future__ import annotations

from ipaddress import IPv4Address

from nanovirt.controllers.cards import (
    address,
    as_leased,
    asked_mac,
    check_stray,
    chosen_ip,
    free_mac,
    lease_of,
    placed_card,
)
from nanovirt.controllers.lacks import Lack, Missing
from nanovirt.controllers.limits import network_qos
from nanovirt.controllers.orders import Orders
from nanovirt.controllers.world import World
from nanovirt.resources.address import Address, address_name
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import Nic, network_of, vlan_of
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.metadata import ADOPTED_LABEL
from nanovirt.resources.placement import Domain, PlacedNic, Placement
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Op, Update
from nanovirt.resources.system_template import NicModel
from nanovirt.resources.vlans import spoken


class Cards:
    """`had`: those of the Placement by name; `ops`: the Addresses that are made and changed.

    `withdrawn`: what is to be said of cards that stay where new ones may not be.
    """

    def __init__(
        self,
        placement: Placement,
        instance: Instance,
        world: World,
        pool: ComputePool,
        host: Host,
        orders: Orders,
        domain: Domain,
    ) -> None:
        self._instance, self._world, self._host = instance, world, host
        self._orders, self._domain = orders, domain
        self._qos = network_qos(instance.spec, pool)
        self.had = {one.name: one for one in placement.spec.nics}
        self.ops: list[Op] = []
        self.withdrawn: list[Lack] = []
        self._kept: list[PlacedNic] = []
        self._given: set[IPv4Address] = set()

    def follow(self, nic: Nic, pool: AddressPool | None) -> PlacedNic:
        """The card as it is to be. Raises Missing when that cannot be now."""
        before = self.had.get(nic.name)
        network = network_of(nic, pool)
        bridge = self._host.bridge(network)
        if not bridge and before is not None and ADOPTED_LABEL in self._instance.metadata.labels:
            bridge = before.bridge  # it was there before Nano had a name for it
        if not bridge:
            raise Missing(Reason.HostLacksNetwork, host=self._host.metadata.name, network=network)
        home = pool.metadata.name if pool is not None else ""
        if before is None or (before.vlan, self._pool(before)) != (vlan_of(nic, pool), home):
            check_stray(nic, pool, self._world)
        self._check_vlan(nic, network, vlan_of(nic, pool), bridge, before)
        if before is not None and nic.mac in (None, before.mac) and self._same_address(before, nic, pool):
            return self.kept(self._changed(before, nic, pool, bridge))
        mac = self._mac(nic, pool, before)
        lease = self._lease(nic, pool, mac, before) if pool is not None else mac
        return self.kept(placed_card(nic, pool, lease, self._host, self._domain.nic_model, self._qos))

    def _check_vlan(self, nic: Nic, network: str, vlan: int, bridge: str, before: PlacedNic | None) -> None:
        """A card does not go where the bridge is not to carry it; one that is there stays. Raises Missing."""
        if not self._host.withholds(network, vlan, bridge):
            return
        params = {"host": self._host.metadata.name, "network": network, "vlan": spoken(vlan)}
        if before is None or (before.bridge, before.vlan) != (bridge, vlan):
            raise Missing(Reason.HostLacksVlan, **params)
        self.withdrawn.append(Lack("", vlan, vlan, Reason.VlanWithdrawn, {"nic": nic.name, **params}))

    def kept(self, placed: PlacedNic) -> PlacedNic:
        """Note that this address is not to go."""
        self._kept.append(placed)
        return placed

    def retire(self) -> None:
        """Let go of the addresses that no card is to have any more."""
        left = [one for one in self.had.values() if one.ip is not None and not any(one is kept for kept in self._kept)]
        if not left:
            return
        names = {self._name(one) for one in self._kept if one.ip is not None}
        for before in left:
            if self._name(before) not in names:
                self._orders.release_address(before.name, self._name(before), before.mac)

    def _name(self, placed: PlacedNic) -> str:
        return address_name(self._pool(placed), str(placed.ip))

    def _pool(self, placed: PlacedNic) -> str:
        """The pool that it has its address from; Placements of former times do not say."""
        if placed.address_pool or placed.ip is None:
            return placed.address_pool
        return self._world.leases.pool_of(self._instance.metadata.uid, placed.name)

    def _same_address(self, before: PlacedNic, nic: Nic, pool: AddressPool | None) -> bool:
        if pool is None:
            return before.ip is None
        return before.ip is not None and self._pool(before) == pool.metadata.name and nic.ip in (None, before.ip)

    def _changed(self, before: PlacedNic, nic: Nic, pool: AddressPool | None, bridge: str) -> PlacedNic:
        wished = {
            "model": nic.model or self._model(before),
            "address_pool": pool.metadata.name if pool is not None else "",
            "bridge": bridge,
            "vlan": vlan_of(nic, pool),
            "mtu": nic.mtu,
            "qos": self._qos,
        }
        update: dict[str, object] = {name: value for name, value in wished.items() if getattr(before, name) != value}
        if not as_leased(before.lease, pool):
            update["lease"] = lease_of(pool) if pool is not None else None
        return before.model_copy(update=update) if update else before

    def _model(self, before: PlacedNic) -> NicModel:
        """The template's; a card of an adopted machine is as it was."""
        return before.model if ADOPTED_LABEL in self._instance.metadata.labels else self._domain.nic_model

    def _mac(self, nic: Nic, pool: AddressPool | None, before: PlacedNic | None) -> str:
        """As asked for; else the card keeps its own, and one that comes back gets its own again."""
        held = before.mac if before is not None else None
        if nic.mac is not None:
            own = nic.mac == held or any(one.mac == nic.mac for one in self._orders.released())
            return nic.mac if own else asked_mac(nic.mac, self._world)
        if held is not None:
            return held
        back = self._back(nic, pool, None) if pool is not None else None
        return back.spec.mac if back is not None else free_mac(self._instance.metadata.uid, nic.name, self._world)

    def _lease(self, nic: Nic, pool: AddressPool, mac: str, before: PlacedNic | None) -> Address:
        """Its Address: the one that it has, the one that is about to go, or a new one."""
        name = pool.metadata.name
        if before is not None and self._same_address(before, nic, pool):
            assert before.ip is not None
            made = address(self._instance, nic, name, before.ip, mac)
            self.ops.append(Update(made.key, made.to_json()))
            return made
        back = self._back(nic, pool, mac)
        if back is not None:
            order = self._orders.pending("ReleaseAddress", back.metadata.name)
            assert order is not None
            self._orders.take_back(order)
            return back
        made = address(self._instance, nic, name, chosen_ip(nic, pool, self._world, frozenset(self._given)), mac)
        self._given.add(made.spec.ip)
        self.ops.append(Create(made.key, made.to_json()))
        return made

    def _back(self, nic: Nic, pool: AddressPool, mac: str | None) -> Address | None:
        """An Address of the card that is about to become free, and is what it asks for."""
        for order in self._orders.released():
            found = self._world.read(Address, order.frees)
            if (
                found is not None
                and (found.spec.nic, found.spec.address_pool) == (nic.name, pool.metadata.name)
                and nic.ip in (None, found.spec.ip)
                and mac in (None, found.spec.mac)
            ):
                return found
        return None
