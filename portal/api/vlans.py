"""What a write must respect about VLANs: what the host of a machine carries, and who else has the same addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any

from nanovirt.portal.api.index import Index, View
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import JSON, load, trusted
from nanovirt.resources.devices import Nic, network_of, vlan_of
from nanovirt.resources.errors import Cause
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.vlans import spoken

PLACE = ("vlan", "network", "addressPool")
"""Fields of a card that say where it is."""


# --- network cards --------------------------------------------------------------------------------------


def bad_vlans(store: View, ask: Callable[[], Index], old: JSON | None, instance: Instance) -> Iterator[Cause]:
    """Cards that are to go where they cannot; one that stays where it was is accepted as it was."""
    before = {nic["name"]: nic for nic in ((old or {}).get("spec") or {}).get("nics") or ()}
    for at, nic in enumerate(instance.spec.nics or ()):
        had, now = before.get(nic.name), nic.to_json()
        if had is not None and all((had.get(field) or None) == (now.get(field) or None) for field in PLACE):
            continue
        field, pool = f"spec.nics[{at}].vlan", _pool(store, nic)
        yield from _uncarried(store, (old or {}).get("status") or {}, field, nic, pool)
        if pool is not None and nic.vlan not in (0, pool.spec.vlan):
            for other in twins(ask(), pool):
                params = {"pool": pool.metadata.name, "other": other, "vlan": spoken(pool.spec.vlan)}
                yield Cause.of(field, Reason.VlanOfPoolOnly, **params)
                break


def _pool(store: View, nic: Nic) -> AddressPool | None:
    entry = store.peek(Key("addresspools", "", nic.address_pool)) if nic.address_pool else None
    return trusted(AddressPool, entry.raw) if entry is not None else None


def _uncarried(store: View, status: JSON, field: str, nic: Nic, pool: AddressPool | None) -> Iterator[Cause]:
    """What its host does not carry, once it has one: another host is not looked for."""
    entry = store.peek(Key("hosts", "", status["host"])) if status.get("placement") and status.get("host") else None
    if entry is None or (nic.address_pool is not None and pool is None):
        return
    network, vlan = network_of(nic, pool), vlan_of(nic, pool)
    if trusted(Host, entry.raw).withholds(network, vlan):
        lacks = f"the bridge of its host {status['host']} for network {network} does not carry {spoken(vlan)}"
        yield Cause.of(field, Reason.ChangeRefused, detail=f"{lacks}; name one of spec.bridges[].vlans of that Host")


# --- address pools --------------------------------------------------------------------------------------


def overlaps(store: View, index: Index, pool: AddressPool) -> Iterator[Cause]:
    """Two pools of one VLAN must not share addresses; those of two may, as long as no card leaves its pool's VLAN."""
    spec, shared = pool.spec, False
    for name, row in _sharing(index, pool):
        params = {"subnet": str(spec.subnet), "other": row.subnet, "pool": name}
        if (row.vlan or 0) == spec.vlan:
            yield Cause.of("spec.subnet", Reason.SubnetOverlaps, **params, network=spec.network, vlan=spoken(spec.vlan))
            continue
        shared = True
        if found := next(_strays(store, name, row.vlan or 0, ("placements", "instances")), ""):
            yield Cause.of("spec.subnet", Reason.SubnetOverlapsStray, **params, instance=found, stray=name)
    own = pool.metadata.name
    if shared and (found := next(_strays(store, own, spec.vlan, ("instances",)), "")):
        name, row = next(_sharing(index, pool))
        params = {"subnet": str(spec.subnet), "other": row.subnet, "pool": name}
        yield Cause.of("spec.subnet", Reason.SubnetOverlapsStray, **params, instance=found, stray=own)


def twins(index: Index, pool: AddressPool) -> Iterator[str]:
    """Other pools of the network with addresses of this one."""
    return (name for name, _ in _sharing(index, pool))


def _sharing(index: Index, pool: AddressPool) -> Iterator[tuple[str, Any]]:
    for name, row in index.pools.items():
        if name == pool.metadata.name or row.network != pool.spec.network:
            continue
        if IPv4Network(row.subnet).overlaps(pool.spec.subnet):
            yield name, row


def _strays(store: View, pool: str, vlan: int, kinds: tuple[str, ...]) -> Iterator[str]:
    """NAMESPACE/NAME of instances with a card that has its address of that pool and is in another VLAN than its.

    What is wished stands in the instances, and what is so in their Placements: a host may not carry what is wished.
    """
    needle = f'"addressPool":"{pool}"'.encode()
    for kind in kinds:
        for key, entry in store.peek_all(kind):
            if needle not in entry.raw:
                continue
            spec, own = load(entry.raw)["spec"], (vlan, 0) if kind == "instances" else (vlan,)
            for nic in spec.get("nics") or ():
                if nic.get("addressPool") == pool and nic.get("vlan", 0) not in own:
                    yield f"{key.namespace}/{spec.get('instance', key.name)}"
