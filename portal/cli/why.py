"""`nanoctl why`: the reasons for which an object is as it is, in plain words, and what can be done about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.ages import age
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.describing import event_lines, events_of
from nanovirt.portal.cli.output import lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.surroundings import around
from nanovirt.portal.cli.waiting import wrong

JSON = dict[str, Any]
ADVICE = {
    "NoHostFits": "free some room, enable or add a host (nanoctl get hosts -o wide), or ask for less",
    "PoolNotFound": "create it, or name another: nanoctl get computepools",
    "PoolDisabled": "enable it: spec.enabled: true of the ComputePool",
    "PoolHasNoHosts": "add a host to the pool: nanoctl host add NAME",
    "StoragePoolNotFound": "create it, or let the ComputePool name another: nanoctl get storagepools",
    "AddressPoolNotFound": "create it, or name another: nanoctl get addresspools",
    "AddressPoolFull": "give the AddressPool another range, or delete what is not needed: nanoctl get addresses",
    "ImageNotFound": "create the Image, or name another: nanoctl get images -A",
    "ImageNotReady": "see what it waits for: nanoctl why image/NAME",
    "HostHasNoRoom": "ask for less, or make room on that host: nanoctl describe host/{host}",
    "HostLacksNetwork": "add the bridge to spec.bridges of the Host, or name another network",
    "HostLacksVlan": "name a VLAN of vlans in spec.bridges of the Host, or let an administrator add it there",
    "VlanOfPoolOnly": "leave vlan of that card out, or name a pool of that VLAN",
    "VlanWithdrawn": "name another VLAN, or let an administrator add this one to vlans in spec.bridges of the Host",
    "ShrinkNeedsStop": "stop it first: nanoctl stop {name}",
    "OperationFailed": "see to that host; a wish that cannot be is taken back by writing the former one",
    "ImageOfOtherType": "name one of that type: nanoctl get images -A",
    "VolumeNotFound": "name one that is there: nanoctl get volumes",
    "VolumeTaken": "remove the disk that has it, or name another: nanoctl get volumes",
    "VolumesApart": "use Volumes of one host: nanoctl get volumes",
    "VolumeElsewhere": "use a Volume of that host: nanoctl get volumes",
    "VolumeHostSilent": "see to the host and its agent; if it is gone for good: nanoctl delete host/{host}",
    "VolumeNotRemoved": "see to that file on the host; it tries again by itself",
    "SecurityGroupNotFound": "name one that is there: nanoctl get securitygroups",
    "SystemTemplateNotFound": "name one that is there: nanoctl get systemtemplates",
    "GuestShutdown": "start it again: nanoctl start {name}",
    "Crashed": "look at the events, then start it again: nanoctl start {name}",
    "RestartBudgetSpent": "look at the guest's own log, then start it again: nanoctl start {name}",
    "HostUnreachable": "see to the host and its agent; nothing is freed until it reports: nanoctl describe host/{host}",
    "BridgeMissing": "make the bridge on the host, or correct spec.bridges of the Host",
    "DiskFull": "make room in that folder of the host",
    "WaitingForUpload": "send the bytes: nanoctl upload image/{name} FILE -n {namespace}",
    "WaitingForFile": "put it into images/incoming below the server's data folder (scripts/up makes mini.qcow2)",
    "ImageRejected": "put a sound file in its place",
    "NeverReported": "start its agent: nanoctl agent --server URL --credentials FILE",
    "LeaseExpired": "see whether the host runs and its agent reaches the server",
    "NotAccounted": "see to the host and its agent; who else is waited for: nanoctl restore --status",
    "HoldsElsewhere": "see which: nanoctl verify; then end one of the two by hand",
    "HypervisorDown": "see to libvirt on that host: systemctl status libvirtd",
    "RestartNeeded": "restart it when that suits: nanoctl restart {name}",
    "NoReadyHosts": "add a host, or see why those there are do not report: nanoctl get hosts",
    "StoragePathUnusable": "see to that folder on the host: it has to be there, and be writable",
    "StorageNearlyFull": "make room on its hosts, or add one, before it is full",
    "AddressesExhausted": "give it another range, or delete what is not needed: nanoctl get addresses",
    "ImageFetchFailed": "see whether the host reaches the server; it tries again by itself",
    "MachinePaused": "nothing, unless it is paused again at once: then see to the disks of that host",
    "HypervisorRefused": "see to libvirt and QEMU on that host; it tries again by itself",
    "DiskSmallerThanImage": "ask for a larger disk, or leave its size out",
    "MacInUse": "choose another MAC, or leave it out",
    "AddressInUse": "choose another address, or leave it out",
    "AddressReserved": "choose another address, or leave it out",
    "NotInRanges": "choose an address of the pool, or leave it out",
    "MembersNotReady": "see which: nanoctl tree instanceset/{name} -n {namespace}; then nanoctl why instance/NAME",
    "MembersMissing": "they are being made; one that is being deleted gives its name free when it has gone",
    "MembersProtected": "set spec.deletionProtection of those to false, or wish for more: nanoctl scale",
    "NamesTaken": "nothing has to be done; other members have the names that follow",
    "TemplateOlder": "delete them one by one when that suits; they are made again from the template as it is now",
    "DeletionProtected": "set spec.deletionProtection to false first",
}

WARNINGS = ("StorageNearlyFull",)
"""Reasons to do something although the condition is as it should be."""
READINESS = {"True": "is ready", "False": "is not ready", "Unknown": "is out of sight"}


@click.command(
    epilog=examples("""
        why instance/web-1
        why image/debian-12 -n shared
        why host/node-1
        why addresspool/lan
    """)
)
@click.argument("what", nargs=-1, metavar="KIND/NAME", shell_complete=kind_words)
@connected
def why(session: Session, *, what: tuple[str, ...]) -> None:
    """Say in plain words why something is as it is."""
    targets = session.targets(what)
    if any(not target.name for target in targets):
        raise Misused("say which one: nanoctl why KIND/NAME")
    for target in targets:
        doc = session.get(target) | {"kind": target.kind.kind}
        about = list(around(session, doc))
        lines(reasons(doc, alone=not about))
        for said in about:
            lines(paragraph(tables.printable(said.strip()), "  "))
        lines(event_lines(events_of(session, doc)))


def reasons(doc: JSON, *, alone: bool = True) -> Iterator[str]:
    """The summary and every condition that is not as it should be, each with what can be done.

    `alone`: nothing else will be said of it.
    """
    conditions = (doc.get("status") or {}).get("conditions") or []
    yield click.style(summary(doc), bold=True)
    bad = [one for one in conditions if wrong(one) or one.get("reason") in WARNINGS]
    same: dict[tuple[str, str], list[JSON]] = {}
    for one in bad:
        same.setdefault((one.get("reason", ""), one.get("message", "")), []).append(one)
    for alike in same.values():
        yield from _told(alike, doc)
    if conditions and not bad:
        yield "  Everything is as desired."
    if not conditions and (doc.get("status") or {}).get("phase") == "Pending":
        yield "  No controller has looked at it yet."
    elif not conditions and alone:
        yield f"  It has no conditions that could say more. What it holds: nanoctl describe {_title(doc)}"


def _told(alike: list[JSON], doc: JSON) -> Iterator[str]:
    """Conditions that say the same, in one paragraph."""
    one = alike[0]
    refused = hosts_refused(one)
    since = age(one.get("lastTransitionTime", ""))
    titles = " and ".join(condition["type"] for condition in alike)
    lead = f"{titles}: {one['status']}" + (f" for {since}. " if since != "-" else ". ")
    yield from paragraph(lead + _said(one, listed=bool(refused)), "  ")
    yield from (f"    {line}" for line in refused)
    if said := advice(one, doc):
        yield from paragraph(f"What to do: {said}.", "    ")


def paragraph(said: str, indent: str) -> list[str]:
    """A text on as many lines as the terminal needs; on one line for a pipe."""
    room = tables.columns_of_terminal()
    if not room:
        return [indent + said]
    return click.wrap_text(said, room, indent, indent + "  ").splitlines()


def summary(doc: JSON) -> str:
    """`instance/web-1 is Pending; it should be Running.`"""
    metadata, status, spec = doc["metadata"], doc.get("status") or {}, doc.get("spec") or {}
    title = _title(doc)
    if metadata.get("deletionTimestamp"):
        left = ", ".join(metadata.get("finalizers") or ()) or "nothing"
        return f"{title} has been going away for {age(metadata['deletionTimestamp'])}; it waits for {left}."
    phase, wish = status.get("phase"), spec.get("powerState")
    place = f" on {status['host']}" if status.get("host") else ""
    if not phase:
        ready = next((one["status"] for one in status.get("conditions") or () if one["type"] == "Ready"), "")
        return f"{title} {READINESS[ready]}." if ready in READINESS else f"{title}:"
    return f"{title} is {phase}{place}" + (f"; it should be {wish}." if wish and wish != phase else ".")


def _title(doc: JSON) -> str:
    return f"{doc['kind'].lower()}/{doc['metadata']['name']}"


def _said(condition: JSON, *, listed: bool) -> str:
    """The message; without its list of hosts when that follows as a table."""
    said = tables.printable(str(condition.get("message") or condition.get("reason")))
    return said.partition(": ")[0] + ":" if listed else said


def hosts_refused(condition: JSON) -> list[str]:
    """The hosts that were looked at, those with the same lack on one line (`NoHostFits` has them as one text)."""
    told = (condition.get("params") or {}).get("hosts")
    if condition.get("reason") != "NoHostFits" or not isinstance(told, str):
        return []
    lacks: dict[str, list[str]] = {}
    for part in told.split("; "):
        host, _, lack = part.partition(": ")
        lacks.setdefault(lack, []).append(host)
    rows = [[lack or "-", _few(hosts)] for lack, hosts in lacks.items()]
    return tables.render(tables.Grid(["WHY NOT", "HOSTS"], rows), room=0)


def _few(hosts: list[str]) -> str:
    return ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")


def advice(condition: JSON, doc: JSON) -> str:
    """What can be done about a condition, or ""."""
    known = {"name": doc["metadata"]["name"], "namespace": doc["metadata"].get("namespace", "default"), "host": "NAME"}
    known |= {name: str(value) for name, value in (condition.get("params") or {}).items()}
    said = ADVICE.get(condition.get("reason", ""), "")
    if condition.get("reason") == "ImageNotReady" and isinstance(known.get("image"), str):
        space, _, name = known["image"].rpartition("/")
        said = f"see what it waits for: nanoctl why image/{name} -n {space or known['namespace']}"
    if condition.get("reason") == "ImageRejected" and "upload" in ((doc.get("spec") or {}).get("source") or {}):
        said = "send a sound one: nanoctl upload image/{name} FILE -n {namespace}"
    return said.format_map(known)
