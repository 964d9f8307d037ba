"""`nanoctl disk`, `nic` and `media`: what belongs to one instance, added, changed and taken away."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.completion import instance_names
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire
from nanovirt.resources.disruption import Effect, changes, worst
from nanovirt.resources.errors import Conflict
from nanovirt.resources.instance_disruption import DEFAULT_NIC
from nanovirt.resources.quantities import Bytes

JSON = dict[str, Any]
Items = list[JSON]
Change = Callable[[JSON], None]
"""Changes the spec in place."""
ATTEMPTS = 10
"""So often a change is made anew of what somebody else has changed meanwhile: several may be at it at once."""
WARNED = re.compile(r"spec\.(disks|nics|media)\[(\d+)\]")
WHEN = {
    Effect.Live: "at once",
    Effect.NextStart: "when it starts next",
    Effect.Restart: "after a restart: nanoctl restart {name}",
    Effect.DataLoss: "and its data are gone",
}

_instance = click.argument("instance", metavar="INSTANCE", shell_complete=instance_names)
_lossy = click.option("--accept-data-loss", "accepted", is_flag=True, help="Let the data go that this takes away.")


@click.group(
    epilog=examples("""
        disk add web-1 data --size 100Gi
        disk grow web-1 data 200Gi
        disk remove web-1 data --accept-data-loss
    """)
)
def disk() -> None:
    """Add, grow, rebuild and remove the disks of an instance."""


@disk.command(
    "add",
    epilog=examples("""
        disk add web-1 data --size 100Gi
        disk add web-1 data --size 100Gi --retain
        disk add web-2 data --volume web-1.data
    """),
)
@_instance
@click.argument("name", metavar="DISK")
@click.option("--size", metavar="SIZE", help="Such as 20Gi.  [default: the image's, or the Volume's]")
@click.option("--image", metavar="IMAGE", help="Begin as this image: NAME or shared/NAME.")
@click.option("--volume", metavar="VOLUME", help="Take this Volume, which nobody has.")
@click.option("--retain", is_flag=True, help="Keep it as a Volume when the disk or the instance goes.")
@connected
def add_disk(
    session: Session, *, instance: str, name: str, size: str | None, image: str | None, volume: str | None, retain: bool
) -> None:
    """Add a disk."""
    source = {"image": image} if image else {"volume": volume} if volume else None
    made: JSON = {"name": name} | ({"size": size} if size else {}) | ({"source": source} if source else {})
    made |= {"reclaim": "Retain"} if retain else {}
    _change(session, instance, lambda spec: _add(spec, "disks", made), f"disk {name} added")


@disk.command(
    "grow",
    epilog=examples("""
        disk grow web-1 data 200Gi
        disk grow web-1 data 50Gi --accept-data-loss
    """),
)
@_instance
@click.argument("name", metavar="DISK")
@click.argument("size")
@_lossy
@connected
def grow_disk(session: Session, *, instance: str, name: str, size: str, accepted: bool) -> None:
    """Give a disk another size.

    Smaller only while the instance is stopped; what lies beyond the new end is lost.
    """
    try:
        Bytes(size)
    except ValueError as error:
        raise Misused(f"SIZE: {error}") from error

    def resize(spec: JSON) -> None:
        _item(spec, "disks", name)["size"] = size

    _change(session, instance, resize, f"disk {name} has {size}", accepted=accepted)


@disk.command(
    "rebuild",
    epilog=examples("""
        disk rebuild web-1 system --accept-data-loss
        disk rebuild web-1 system --image shared/debian-13 --accept-data-loss
    """),
)
@_instance
@click.argument("name", metavar="DISK")
@click.option("--image", metavar="IMAGE", help="Begin as this image from now on.")
@_lossy
@connected
def rebuild_disk(session: Session, *, instance: str, name: str, image: str | None, accepted: bool) -> None:
    """Make a disk anew from its image.

    Other disks are kept.
    """

    def rebuild(spec: JSON) -> None:
        one = _item(spec, "disks", name)
        one["rebuild"] = int(one.get("rebuild") or 0) + 1
        if image:
            one["source"] = {"image": image}

    done = f"disk {name} will be made anew, when it starts next at the latest: its data go then"
    _change(session, instance, rebuild, done, accepted=accepted, told=True)


@disk.command(
    "remove",
    epilog=examples("""
        disk remove web-1 data --accept-data-loss
    """),
)
@_instance
@click.argument("name", metavar="DISK")
@_lossy
@connected
def remove_disk(session: Session, *, instance: str, name: str, accepted: bool) -> None:
    """Remove a disk.

    One with `reclaim: Retain` stays as a Volume: nanoctl get volumes.
    """
    _change(session, instance, lambda spec: _remove(spec, "disks", name), f"disk {name} removed", accepted=accepted)


@click.group(
    epilog=examples("""
        nic add web-1 backup --pool backup
        nic remove web-1 backup
    """)
)
def nic() -> None:
    """Add and remove the network cards of an instance."""


@nic.command(
    "add",
    epilog=examples("""
        nic add web-1 backup --pool backup
        nic add web-1 lan2 --pool lan --ip 10.20.0.70
        nic add web-1 outside --network default
        nic add web-1 storage --network default --vlan 40
    """),
)
@_instance
@click.argument("name", metavar="NIC")
@click.option("--pool", metavar="POOL", help="With an address of that AddressPool.")
@click.option("--network", metavar="NETWORK", help="With an address from the physical network.")
@click.option("--ip", metavar="ADDRESS", help="This address of the pool.")
@click.option("--mac", metavar="MAC", help="This MAC.")
@click.option("--vlan", type=click.IntRange(1, 4094), metavar="VLAN", help="In that VLAN of it.")
@click.option("--mtu", type=int, metavar="BYTES", help="Another MTU.")
@click.option("--model", type=click.Choice(["Virtio", "E1000", "Rtl8139"]), help="Instead of the template's.")
@connected
def add_nic(session: Session, *, instance: str, name: str, **fields: Any) -> None:
    """Add a network card."""
    pool = fields.pop("pool")
    if (pool is None) == (fields["network"] is None):
        raise Misused("say where the card is: --pool POOL or --network NETWORK, one of them")
    made = {"name": name} | ({"addressPool": pool} if pool else {})
    made |= {field: value for field, value in fields.items() if value is not None}

    def add(spec: JSON) -> None:
        _spell_out(session, spec)
        _add(spec, "nics", made)

    _change(session, instance, add, f"nic {name} added")


@nic.command(
    "remove",
    epilog=examples("""
        nic remove web-1 backup
    """),
)
@_instance
@click.argument("name", metavar="NIC")
@connected
def remove_nic(session: Session, *, instance: str, name: str) -> None:
    """Remove a network card.

    Its address is free once the host has let it go.
    """

    def remove(spec: JSON) -> None:
        _spell_out(session, spec)
        _remove(spec, "nics", name)

    _change(session, instance, remove, f"nic {name} removed")


@click.group(
    epilog=examples("""
        media insert web-1 shared/rescue
        media eject web-1
    """)
)
def media() -> None:
    """Insert and eject the media of an instance."""


@media.command(
    "insert",
    epilog=examples("""
        media insert web-1 shared/rescue
        media insert web-1 shared/drivers --drive cd1
    """),
)
@_instance
@click.argument("image", metavar="IMAGE")
@click.option(
    "--drive", default="cd0", show_default=True, metavar="DRIVE", help="Which drive; made if it is not there."
)
@connected
def insert(session: Session, *, instance: str, image: str, drive: str) -> None:
    """Put an image of type Media into a drive."""
    awaited = _awaited(session, image)

    def put(spec: JSON) -> None:
        found = [one for one in spec.setdefault("media", []) if one["name"] == drive]
        if found:
            found[0]["image"] = image
        else:
            spec["media"].append({"name": drive, "image": image})

    done = f"{image} inserted into {drive}"
    _change(session, instance, put, f"{done}, as soon as {awaited}" if awaited else done, told=bool(awaited))


def _awaited(session: Session, image: str) -> str:
    """What a drive waits for before that image is in it; "" for nothing. Raises Misused for what is no medium."""
    space, _, name = image.rpartition("/")
    found = session.find("images", name, space)
    if found is None:
        return f"there is an Image {image}: nanoctl get images -n {space or session.namespace}"
    if (kind := found["spec"]["type"]) != "Media":
        raise Misused(f"{image} is an image of type {kind}; a drive takes those of type Media: nanoctl get images -A")
    ready = (found.get("status") or {}).get("phase") == "Ready"
    return "" if ready else f"that image is ready: nanoctl why image/{name} -n {space or session.namespace}"


@media.command(
    "eject",
    epilog=examples("""
        media eject web-1
        media eject web-1 --drive cd1 --remove
    """),
)
@_instance
@click.option("--drive", default="cd0", show_default=True, metavar="DRIVE", help="Which drive.")
@click.option("--remove", "removing", is_flag=True, help="Take the drive away, too.")
@connected
def eject(session: Session, *, instance: str, drive: str, removing: bool) -> None:
    """Empty a drive."""

    def empty(spec: JSON) -> None:
        if removing:
            _remove(spec, "media", drive)
        else:
            _item(spec, "media", drive).pop("image", None)

    _change(
        session, instance, empty, f"{drive} {'removed' if removing else 'emptied'}", same=f"{drive} is empty already"
    )


# --- the change itself ----------------------------------------------------------------------------------


def _change(
    session: Session,
    name: str,
    change: Change,
    done: str,
    *,
    same: str = "",
    accepted: bool = False,
    told: bool = False,
) -> None:
    """Change the spec of an instance as it is now, and say when that takes effect, unless `done` has told it.

    `same` is said instead when nothing differs.
    """
    target = Target(session.catalogue.named("instances"), name.removeprefix("instance/"))
    warnings: list[str] = []
    session.connection.warn = warnings.append
    for attempt in range(ATTEMPTS):
        warnings.clear()
        before = session.get(target)
        after = deepcopy(before)
        change(after["spec"])
        found = changes("Instance", before, after)
        losses = [one.accept for one in found if one.accept]
        if losses and not accepted:
            raise Misused(f"data would be lost ({', '.join(losses)}); add --accept-data-loss if that is meant")
        try:
            _send(session, target, before, after, losses)
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if same and not found:
            click.echo(f"{target} {same}")
            return
        effect = worst(found)
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
        if not told and any(_new(before, after, warning) for warning in warnings):
            click.echo(f"{target} {done}, as soon as that is there: nanoctl why {target}")
            return
        when = f", {WHEN[effect].format(name=target.name)}" if effect in WHEN and found and not told else ""
        click.echo(f"{target} {done}{when}")
        return


def _new(before: JSON, after: JSON, warning: str) -> bool:
    """Whether a warning is of a device that was not there under that name: what it names is not there."""
    where = WARNED.match(warning)
    if where is None:
        return False
    device = after["spec"][where[1]][int(where[2])]
    return all(one["name"] != device["name"] for one in before["spec"].get(where[1]) or [{"name": DEFAULT_NIC}])


def _send(session: Session, target: Target, before: JSON, after: JSON, losses: list[str]) -> None:
    """Lists are replaced as a whole, so the patch holds for the revision that was read."""
    old, new = before["spec"], after["spec"]
    spec = {name: new.get(name) for name in ("disks", "nics", "media", "bootOrder") if new.get(name) != old.get(name)}
    if not spec:
        return
    body = {"metadata": {"resourceVersion": before["metadata"]["resourceVersion"]}, "spec": spec}
    path = target.kind.path(session.namespace, target.name) + wire.query(acceptDataLoss=",".join(losses))
    session.connection.write("PATCH", path, body, content_type=wire.PATCH_TYPES["merge"])


def _add(spec: JSON, listed: str, made: JSON) -> None:
    items: Items = spec.setdefault(listed, [])
    if any(one["name"] == made["name"] for one in items):
        raise Misused(f"{made['name']} is there already among its {listed}")
    items.append(made)


def _item(spec: JSON, listed: str, name: str) -> JSON:
    items: Items = spec.get(listed) or []
    for one in items:
        if one["name"] == name:
            return one
    known = ", ".join(one["name"] for one in items) or "none"
    raise Misused(f"there is no {name} among its {listed}; there are: {known}")


def _remove(spec: JSON, listed: str, name: str) -> None:
    spec[listed].remove(_item(spec, listed, name))
    if name in (spec.get("bootOrder") or ()):
        spec["bootOrder"] = [one for one in spec["bootOrder"] if one != name]


def _spell_out(session: Session, spec: JSON) -> None:
    """The one card of an instance of which nothing is said about cards, as its pool gives it."""
    if spec.get("nics") is None:
        pool = session.find("computepools", spec.get("computePool", "default")) or {}
        address = (pool.get("spec") or {}).get("addressPool")
        spec["nics"] = [{"name": DEFAULT_NIC, **({"addressPool": address} if address else {"network": "default"})}]
