"""`nanoctl tree`: what belongs to an object or runs on it, as branches, with the state of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import click

from nanovirt.portal.cli import examples, tables
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.output import lines, name_of
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Malformed

JSON = dict[str, Any]


class Below(NamedTuple):
    """Objects of a kind that hang below another: those whose field `path` names it."""

    plural: str
    path: str
    full: bool = False
    """It is named as NAMESPACE/NAME."""
    homeless: bool = False
    """Only those that no host has, or one that this user may not see."""

    def peg(self, above: JSON) -> str:
        """What an object hangs by below `above`."""
        metadata = above["metadata"]
        space = metadata.get("namespace", "")
        if self.path == OWNERS:
            return str(metadata["uid"])
        return f"{space}/{metadata['name']}" if space else str(metadata["name"])

    def pegs(self, one: JSON, hosts: Collection[str] = ()) -> list[str]:
        """The pegs that an object hangs by; `hosts` are those that are shown."""
        if self.path == OWNERS:
            return [owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()]
        name = at(one, self.path)
        if not name or (self.homeless and at(one, "status.host") in hosts):
            return []
        return [f"{one['metadata']['namespace']}/{name}" if self.local else name]

    @property
    def local(self) -> bool:
        """Whether it names an object of its own namespace."""
        return self.path == "spec.instance" and not self.full


OWNERS = "metadata.ownerReferences"
READY = {"True": "Ready", "False": "not ready", "Unknown": "Unknown"}
BELOW: dict[str, tuple[Below, ...]] = {
    "ComputePool": (Below("hosts", "spec.computePool"), Below("instances", "spec.computePool", homeless=True)),
    "Host": (Below("instances", "status.host"),),
    "InstanceSet": (Below("instances", OWNERS),),
    "Instance": (
        Below("placements", "spec.instance"),
        Below("volumes", OWNERS),
        Below("addresses", "spec.instance", full=True),
    ),
    "Namespace": (Below("instances", "metadata.namespace"), Below("images", "metadata.namespace")),
    "StoragePool": (Below("volumes", "spec.storagePool"),),
    "AddressPool": (Below("addresses", "spec.addressPool"),),
}
BRANCH, LAST, TRUNK, NOTHING = "├─ ", "└─ ", "│  ", "   "


@click.command(
    epilog=examples("""
        tree                       every pool, its hosts, what runs on them
        tree host/node-1
        tree instance/web-1        its placement, disks and addresses
        tree instanceset/web       its members
    """)
)
@click.argument("what", nargs=-1, metavar="[KIND/NAME]...", shell_complete=kind_words)
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of a kind in every namespace.")
@connected
def tree(session: Session, *, what: tuple[str, ...], all_namespaces: bool) -> None:
    """Show what hangs below pools, hosts, instances and others."""
    forest = Forest(session)
    found: list[JSON] = []
    for target in session.targets(what or ("computepools",)):
        docs = [session.get(target)] if target.name else session.list(target.kind, everywhere=all_namespaces)[0]
        found += [doc | {"kind": target.kind.kind} for doc in docs]
    if not found:
        where = "" if all_namespaces else f" in namespace {session.namespace}; -A looks in all of them"
        raise Malformed(f"there is nothing to show{where}")
    rows = [row for doc in found for row in forest.branches(doc)]
    lines(tables.render(tables.Grid(["OBJECT", "STATE", "WHERE", "WHAT"], rows)))


class Forest:
    """Objects by what they hang below; each kind is asked for once, however many branches there are."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kinds: dict[str, list[JSON]] = {}
        self._hanging: dict[Below, dict[str, list[JSON]]] = {}

    def branches(self, doc: JSON, lead: str = "", stem: str = "") -> Iterator[list[str]]:
        """A row for the object and for all below it; `lead` goes before its name, `stem` before those below."""
        yield [lead + self._named(doc), *told(doc)]
        below = [one for kind in BELOW.get(doc["kind"], ()) for one in self._below(kind).get(kind.peg(doc), ())]
        for number, one in enumerate(below, 1):
            last = number == len(below)
            yield from self.branches(one, stem + (LAST if last else BRANCH), stem + (NOTHING if last else TRUNK))

    def _named(self, doc: JSON) -> str:
        """`instance/web-1`, and where that is when it is not in the namespace that is worked in."""
        space = doc["metadata"].get("namespace") or self._session.namespace
        return tables.text(name_of(doc)) + (f" ({tables.text(space)})" if space != self._session.namespace else "")

    def _below(self, below: Below) -> dict[str, list[JSON]]:
        if below not in self._hanging:
            hanging = self._hanging[below] = {}
            hosts = {one["metadata"]["name"] for one in self._every("hosts")} if below.homeless else ()
            for one in self._every(below.plural):
                for peg in below.pegs(one, hosts):
                    hanging.setdefault(peg, []).append(one)
        return self._hanging[below]

    def _every(self, plural: str) -> list[JSON]:
        if plural not in self._kinds:
            kind = self._session.catalogue.named(plural).kind
            self._kinds[plural] = [one | {"kind": kind} for one in self._session.every(plural)]
        return self._kinds[plural]


def at(doc: JSON, path: str) -> Any:
    """The value at a path like `status.phase`, or None."""
    value: Any = doc
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def told(doc: JSON) -> list[str]:
    """State, place and size of an object."""
    ready: JSON = next((one for one in at(doc, "status.conditions") or () if one["type"] == "Ready"), {})
    state = at(doc, "status.phase") or at(doc, "status.state") or READY.get(ready.get("status", ""), "")
    places = ("status.host", "spec.host", "spec.ip", "spec.computePool", "spec.network")
    place = next((found for path in places if (found := at(doc, path))), "")
    return [tables.text(cell) for cell in (state, place, size(doc))]


def size(doc: JSON) -> str:
    """`2 cpus, 4Gi`, or as much as the object has of that."""
    cpus = at(doc, "spec.cpus") or at(doc, "status.capacity.cpus")
    memory = at(doc, "spec.memory") or at(doc, "status.capacity.memory")
    if cpus and memory:
        return f"{cpus} cpu{'s' * (cpus != 1)}, {memory}"
    if doc["kind"] == "InstanceSet":
        return f"{at(doc, 'status.readyReplicas') or 0} of {at(doc, 'spec.replicas')} ready"
    rooms = ("spec.size", "spec.mac", "status.size", "status.capacity", "spec.subnet")
    return next((found for path in rooms if isinstance(found := at(doc, path), str) and found), "")
