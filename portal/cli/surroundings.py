"""What around an object explains how it is: its host, its pools, its image, and who keeps it from going."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanovirt.portal.cli import holding, rights
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.planning import said
from nanovirt.portal.cli.session import Session
from nanovirt.portal.cli.shipped import of_shipped
from nanovirt.resources.errors import Forbidden, NotFound
from nanovirt.resources.fields import resolve
from nanovirt.resources.instance import FINALIZER as COMPOSED
from nanovirt.resources.metadata import FOREGROUND, ORPHAN
from nanovirt.resources.placement import FINALIZER as RELEASED
from nanovirt.resources.volume import FINALIZER as FILE_REMOVED

JSON = dict[str, Any]
FEW = 8
SHARED = "shared"
"""The namespace whose objects are named from all others."""
STRATEGIES = {"Spread": "the lightest that fitted", "Pack": "the fullest that fitted"}


def around(session: Session, doc: JSON) -> Iterator[str]:
    """Lines about what an object depends on, as far as that says something."""
    match doc["kind"]:
        case "Instance":
            yield from _of_instance(session, doc)
        case "InstanceSet":
            yield from held_by(doc, None)
            yield from _failed(doc)
        case "Placement":
            yield from held_by(doc, doc)
            yield from _host(session, doc["spec"]["host"])
        case "Host":
            yield from of_host(doc)
        case "ComputePool":
            yield from _lacking(session, doc)
            yield from _of_compute_pool(session, doc)
        case "AddressPool":
            yield _addresses(doc)
            yield from holding.of_named(holding.named_by(session, doc))
        case "StoragePool":
            yield from holding.of_storage_pool(doc, holding.named_by(session, doc))
            for pool in session.every("computepools"):
                if (pool.get("spec") or {}).get("storagePool", "local") == doc["metadata"]["name"]:
                    yield from _hosts(session, pool)
        case "Volume":
            yield from held_by(doc, None)
            yield from holding.of_volume(doc)
            if doc["spec"].get("host"):
                yield from _host(session, doc["spec"]["host"])
        case "Address":
            space, _, name = doc["spec"]["instance"].rpartition("/")
            yield from holding.of_address(doc, session.find("instances", name, space))
        case "Image":
            yield from held_by(doc, None)
            ready = (doc.get("status") or {}).get("phase") == "Ready"
            yield from () if ready else holding.of_image(doc, _instances(session, ""))
            yield from holding.of_named(holding.named_by(session, doc))
        case "User" | "Group" | "Role" | "Namespace":
            yield from held_by(doc, None)
            yield from _rights(session, doc)
        case "Secret":
            yield from held_by(doc, None)
            yield from holding.of_named(holding.named_by(session, doc))
        case "SecurityGroup":
            yield from held_by(doc, None)
            yield from _of_security_group(session, doc)
        case "SystemTemplate":
            yield from held_by(doc, None)
            yield from of_shipped(doc)
            yield from holding.of_named(holding.named_by(session, doc))
            yield "  Machines that have been placed keep the devices that they have when it is edited."
        case _:
            yield from held_by(doc, None)


def _rights(session: Session, doc: JSON) -> Iterator[str]:
    """What a user, group, role or namespace has to do with who may do what."""
    groups = _seen(session, "groups")
    match doc["kind"]:
        case "User":
            yield from rights.of_user(doc, groups, _seen(session, "roles"))
        case "Group":
            yield from rights.of_group(doc, *(_seen(session, kind) for kind in ("users", "roles", "namespaces")))
        case "Role":
            yield from of_shipped(doc)
            yield from rights.of_role(doc, groups, [kind.plural for kind in session.catalogue.kinds])
        case _:
            yield from rights.of_namespace(doc, groups)


def _seen(session: Session, kind: str) -> list[JSON] | None:
    """All objects of a cluster-scoped kind; None when this user may see none of them."""
    try:
        return session.list(session.catalogue.named(kind), everywhere=True)[0]
    except Forbidden:
        return None


def _lacking(session: Session, pool: JSON) -> Iterator[str]:
    """Which pools that a ComputePool names are not there."""
    for kind, field, lack in (
        ("storagepools", "storagePool", "no disk can be made"),
        ("addresspools", "addressPool", "no card that names no pool itself gets an address"),
    ):
        if not (name := (pool.get("spec") or {}).get(field)):
            continue
        named = session.catalogue.named(kind)
        try:
            session.get(Target(named, name))
        except NotFound:
            yield f"  {named.kind} {name} does not exist, so {lack}."
        except Forbidden:
            continue


def _of_instance(session: Session, instance: JSON) -> Iterator[str]:
    status, space = instance.get("status") or {}, instance["metadata"]["namespace"]
    placement = session.find("placements", status["placement"], space) if status.get("placement") else None
    yield from held_by(instance, placement)
    if placement is not None:
        yield _placed(session, instance, placement["spec"])
        seen = placement.get("status") or {}
        told = (seen.get("state") or "nothing yet") + (f" ({seen['reason']})" if seen.get("reason") else "")
        yield f"  The agent there reports: {told}."
        yield from _host(session, placement["spec"]["host"])
    yield from _awaited(session, _scheduled(instance), space)
    yield from awaiting(instance)


def _failed(doc: JSON) -> Iterator[str]:
    """The members of a set that do not get ready, those with the same reason on one line."""
    same: dict[str, list[str]] = {}
    for one in (doc.get("status") or {}).get("failed") or ():
        same.setdefault(str(one.get("message") or one["reason"]), []).append(str(one["name"]))
    for message, names in same.items():
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        yield f"  {', '.join(names[:FEW])}{more}: {message}"


def _placed(session: Session, instance: JSON, spec: JSON) -> str:
    """Where it is and why there."""
    wished = (instance["spec"].get("scheduling") or {}).get("host")
    name = str(instance["spec"].get("computePool") or "default")
    pool = None if wished else session.find("computepools", name)
    strategy = STRATEGIES.get(str(((pool or {}).get("spec") or {}).get("strategy")), "")
    why = "as spec.scheduling.host asks" if wished else f"of pool {name}: {strategy or 'one that fitted'} at the time"
    return f"  Placed on {spec['host']} {why} (epoch {spec['epoch']})."


def _host(session: Session, name: str) -> Iterator[str]:
    try:
        host = session.get(Target(session.catalogue.named("hosts"), name))
    except NotFound:
        yield f"  Host {name} does not exist any more."
        return
    except Forbidden:  # it may well be there
        return
    for one in (host.get("status") or {}).get("conditions") or ():
        if one["status"] != "True" and one["type"] in ("Ready", "StorageReady", "Accounted"):
            yield f"  Host {name}: {one.get('message')}"


def _scheduled(instance: JSON) -> JSON:
    conditions = (instance.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Scheduled" and one["status"] != "True"), {})


def _awaited(session: Session, scheduled: JSON, space: str) -> Iterator[str]:
    """How what an instance waits for stands now."""
    params = scheduled.get("params") or {}
    reason, pool = scheduled.get("reason"), str(params.get("pool", ""))
    if reason == "ImageNotReady":
        home, name = resolve(str(params.get("image", "")), space)
        image = session.find("images", name, home)
        if image is not None and str(params.get("why") or "?") not in _state(image):
            yield f"  Image {params['image']} is {_state(image)}"
    elif reason == "AddressPoolFull":
        found = session.find("addresspools", pool)
        yield from (_addresses(found),) if found is not None else ()
    elif reason in ("NoHostFits", "PoolHasNoHosts"):
        found = session.find("computepools", pool)
        yield from (_room(found),) if found is not None else ()


def _state(image: JSON) -> str:
    status = image.get("status") or {}
    told = next((one.get("message", "") for one in status.get("conditions") or () if one["type"] == "Ready"), "")
    return f"{status.get('phase') or 'Pending'}: {told}" if told else f"{status.get('phase') or 'Pending'}."


def _addresses(pool: JSON) -> str:
    status = pool.get("status") or {}
    name, used, total = pool["metadata"]["name"], status.get("used", 0), status.get("total", 0)
    return f"  AddressPool {name}: {used} of {total} addresses are held; by whom: nanoctl get addresses"


def _room(pool: JSON) -> str:
    status = pool.get("status") or {}
    held, there = status.get("allocated") or {}, status.get("capacity") or {}
    room = ", ".join(f"{held.get(what, 0)} of {there.get(what, 0)} {what}" for what in ("cpus", "memory", "disk"))
    ready = f"{status.get('readyHosts', 0)} of {status.get('hosts', 0)} hosts are ready"
    return f"  ComputePool {pool['metadata']['name']}: {ready}; asked for so far: {room}."


WAYS = (("Inbound", "comes in", "Drop"), ("Outbound", "goes out", "Accept"))
"""Direction, in words, and what happens to the rest unless the group says."""


def _of_security_group(session: Session, group: JSON) -> Iterator[str]:
    """What it does to a card, and which cards have it."""
    spec, metadata = group.get("spec") or {}, group["metadata"]
    for way, moves, usual in WAYS:
        rules = [one for one in spec.get("rules") or () if one["direction"] == way]
        rest = "dropped" if spec.get(way.lower(), usual) == "Drop" else "accepted"
        decides = f"the first of {len(rules)} rules that matches decides ({_names(rules)}); else it" if rules else "it"
        yield f"  Of what {moves}, {decides} is {rest}."
    space, name = metadata["namespace"], metadata["name"]
    users = [
        f"{one['metadata']['namespace']}/{one['metadata']['name']} ({nic['name']})"
        for one in _instances(session, "" if space == SHARED else space)
        for nic in one["spec"].get("nics") or ()
        if any(resolve(said, one["metadata"]["namespace"]) == (space, name) for said in nic.get("securityGroups") or ())
    ]
    more = f" and {len(users) - FEW} more" if len(users) > FEW else ""
    if users:
        yield f"  It guards {', '.join(users[:FEW])}{more}."
    else:
        written = f"{space}/{name}" if space == SHARED else name
        yield f"  No card names it, so it guards nothing: securityGroups: [{written}] among spec.nics of an Instance."


def _instances(session: Session, space: str) -> list[JSON]:
    """Those of a namespace, or of all, as far as this user may see any."""
    try:
        return session.list(session.catalogue.named("instances"), everywhere=not space)[0]
    except Forbidden:
        return []


def _names(rules: list[JSON]) -> str:
    return ", ".join(str(one["name"]) for one in rules[:FEW]) + (", ..." if len(rules) > FEW else "")


def _of_compute_pool(session: Session, pool: JSON) -> Iterator[str]:
    yield _room(pool)
    yield from _hosts(session, pool)


def _hosts(session: Session, pool: JSON) -> Iterator[str]:
    """What is wrong with the hosts of a ComputePool."""
    hosts = session.every("hosts", fieldSelector=f"spec.computePool={pool['metadata']['name']}")
    for host in hosts[:FEW]:
        if (host.get("spec") or {}).get("enabled") is False:
            yield f"  Host {host['metadata']['name']} is disabled: nothing new is placed on it."
        yield from _host(session, host["metadata"]["name"])
    if len(hosts) > FEW:
        yield f"  and {len(hosts) - FEW} more hosts: nanoctl get hosts"


def of_host(host: JSON) -> Iterator[str]:
    """Whether it takes instances, and what its silence means for those that it has."""
    spec, status, name = host.get("spec") or {}, host.get("status") or {}, host["metadata"]["name"]
    ready = next((one["status"] for one in status.get("conditions") or () if one["type"] == "Ready"), "")
    count = status.get("instances") or 0
    if spec.get("enabled") is False:
        yield "  It is disabled: what it has stays, and nothing new is placed on it."
    if count and ready == "Unknown":
        yield f"  Its {count} instances are Unknown meanwhile; nothing of them is freed or started elsewhere."
    elif count:
        yield f"  It has {count} instances: nanoctl tree host/{name}"


def awaiting(instance: JSON) -> Iterator[str]:
    """What the running machine does not have yet."""
    for one in (instance.get("status") or {}).get("restartAwaitingChanges") or ():
        now, then = said(one.get("current")), said(one.get("desired"))
        refused = one.get("operation") == "Refused"
        yield f"  {one['path']}: {now} now, {then} " + ("cannot be now." if refused else "after a restart.")


def held_by(doc: JSON, placement: JSON | None) -> Iterator[str]:
    """Who keeps an object that is being deleted, and what has to happen before they let go of it."""
    metadata = doc["metadata"]
    if not metadata.get("deletionTimestamp"):
        return
    title = f"{doc['kind'].lower()}/{metadata['name']}"
    for finalizer in metadata.get("finalizers") or ():
        yield f"  {finalizer} {_keeper(finalizer, placement, title)}"
    for one in ((placement or {}).get("status") or {}).get("operations") or ():
        if one["state"] != "Succeeded":
            order = one["uid"].partition(".")[2] or one["uid"]
            yield f"  Order {order} is {one['state']}" + (f": {one['detail']}" if one.get("detail") else ".")


def _keeper(finalizer: str, placement: JSON | None, title: str) -> str:
    host = placement["spec"]["host"] if placement is not None else ""
    if finalizer in (COMPOSED, RELEASED) and host:
        return f"is kept until host {host} reports that the machine is off and its disks are removed."
    if finalizer == FILE_REMOVED:
        return "is kept until its host has removed the file."
    if finalizer in (COMPOSED, RELEASED):
        return "is kept by Nano itself, which is about to let go."
    if finalizer == FOREGROUND:
        return f"is kept until what it owns is gone: nanoctl tree {title}"
    if finalizer == ORPHAN:
        return "is kept until what it owns has forgotten it."
    return "was put there by somebody else, who has to take it out when their work is done (kubectl edit)."
