"""For `why`: who holds a volume or an address, who uses an image, a template or a pool, and what of those is not there.

Lines about other objects say only what is seen: who asks may not see all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanovirt.portal.api.index import mentions
from nanovirt.portal.cli.rights import few
from nanovirt.portal.cli.session import Session
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import by_kind, kinds
from nanovirt.resources.volume import made_by_nano

JSON = dict[str, Any]


def of_volume(volume: JSON) -> Iterator[str]:
    """Whose it is, which machine has it, and what its deletion would take with it."""
    spec, name = volume["spec"], volume["metadata"]["name"]
    host = f"host {spec['host']}" if spec.get("host") else "no host yet"
    yield f"It is the file {spec['file']} on {host}, in StoragePool {spec['storagePool']}."
    if source := spec.get("source"):
        yield f"It holds what differs from image {source['image']}, which has to stay as long as it does."
    owners = [f"{one['kind'].lower()}/{one['name']}" for one in volume["metadata"].get("ownerReferences") or ()]
    kept = spec.get("reclaim") == "Retain"
    if owners:
        fate = (
            "stays, with its file, when that goes (reclaim: Retain)" if kept else "goes with it, and so does its file"
        )
        yield f"It belongs to {few(owners)} and {fate}."
    else:
        fate = "its file goes, too" if made_by_nano(spec["file"]) else "its file stays, since it was there before Nano"
        yield f"It belongs to nobody: a disk with source: {{volume: {name}}} takes it; when it is deleted {fate}."
    holder = (volume.get("status") or {}).get("inUseBy")
    if holder:
        yield f"Placement {holder} has it."
    elif owners:
        yield "No placement has it now."


def of_address(address: JSON, instance: JSON | None) -> Iterator[str]:
    """Which card has it, whether somebody asked for it, and when it is free again. `instance`: as far as it is seen."""
    spec = address["spec"]
    card, pool = f"{spec['nic']} ({spec['mac']})", spec["addressPool"]
    yield f"Card {card} of instance {spec['instance']} has it, of AddressPool {pool}."
    if instance is None:
        yield "It is free again when that instance, or that card of it, is gone from its host."
        return
    if instance["metadata"].get("uid") != spec["instanceUid"]:
        yield "That was an earlier instance of that name; Nano is about to let go of it."
        return
    nics = {one["name"]: one for one in instance["spec"].get("nics") or ()}
    wished = nics.get(spec["nic"])
    if wished is None:
        yield "The card is no longer in the instance's spec; it is free again when the host has taken the card out."
    elif wished.get("ip") == spec["ip"]:
        yield f"spec.nics[{spec['nic']}].ip asks for it; it is free again when the card or the instance is deleted."
    else:
        yield "It was the next free one of the pool; it is free again when the card or the instance is deleted."
    if host := (instance.get("status") or {}).get("host"):
        yield f"The DHCP server of host {host} gives it to the card."


def of_image(image: JSON, waiting: list[JSON]) -> Iterator[str]:
    """Which instances wait for it."""
    metadata = image["metadata"]
    mine = {f"{metadata['namespace']}/{metadata['name']}", metadata["name"]}
    names = [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in waiting if _awaited(one) in mine]
    if names:
        yield f"Waiting for it: instance {few(names)}."


def _awaited(instance: JSON) -> str:
    for one in (instance.get("status") or {}).get("conditions") or ():
        if (one.get("type"), one.get("reason")) == ("Scheduled", "ImageNotReady"):
            return str((one.get("params") or {}).get("image", ""))
    return ""


def named_by(session: Session, doc: JSON) -> list[str]:
    """The objects that name this one, as far as they are seen; those of another namespace with that."""
    cls = by_kind(doc["kind"])
    if cls is None:
        return []
    space, name = doc["metadata"].get("namespace", ""), doc["metadata"]["name"]
    target = Key(cls.facts.plural, space, name)
    found = []
    for plural, other in kinds().items():
        if not any(refers.plural == target.plural for refers in other.facts.refers):
            continue
        for one in session.every(plural):
            home, called = one["metadata"].get("namespace", ""), one["metadata"]["name"]
            if any(mention.target == target for mention in mentions(other.facts, Key(plural, home, called), one)):
                aside = f" ({home})" if home and home != space else ""
                found.append(f"{other.facts.singular}/{called}{aside}")
    return found


def of_named(found: list[str]) -> Iterator[str]:
    """What those mean for the object."""
    if found:
        yield f"It is named by {few(found)}, and cannot be deleted as long as that is so."


def of_storage_pool(pool: JSON, users: list[str]) -> Iterator[str]:
    """How full it is by what was promised, and whether it is on any host."""
    status, name = pool.get("status") or {}, pool["metadata"]["name"]
    given, room = status.get("allocated") or 0, status.get("capacity") or 0
    yield f"Its {status.get('volumes', 0)} volumes may grow to {given}; its hosts have {room}."
    if not any(one.startswith("computepool/") for one in users):
        yield f"No ComputePool names it, so no new disk comes here: storagePool: {name} of a ComputePool."
