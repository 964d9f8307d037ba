"""`nanoctl tree`: what belongs to an object or runs on it, as branches, with the state of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from nanovirt.portal.cli import examples, tables
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.output import lines, name_of
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Malformed

JSON = dict[str, Any]


class Below(NamedTuple):
    """Objects of a kind that hang below another: those whose field `path` holds its name (NAMESPACE/NAME if `full`)."""

    plural: str
    path: str
    full: bool = False
    homeless: bool = False
    """Only those that no host has."""


BELOW: dict[str, tuple[Below, ...]] = {
    "ComputePool": (Below("hosts", "spec.computePool"), Below("instances", "spec.computePool", homeless=True)),
    "Host": (Below("instances", "status.host"),),
    "Instance": (
        Below("placements", "spec.instance"),
        Below("volumes", "metadata.ownerReferences"),
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
    """)
)
@click.argument("what", nargs=-1, metavar="[KIND/NAME]...", shell_complete=kind_words)
@connected
def tree(session: Session, *, what: tuple[str, ...]) -> None:
    """Show what hangs below objects: pools, hosts, instances, disks, addresses."""
    found: list[JSON] = []
    for target in session.targets(what or ("computepools",)):
        kind = target.kind.kind
        docs = [session.get(target)] if target.name else session.list(target.kind)[0]
        found += [doc | {"kind": kind} for doc in docs]
    if not found:
        raise Malformed("there is nothing to show")
    forest = Forest(session)
    rows = [row for doc in found for row in branches(forest, doc)]
    lines(tables.render(tables.Grid(["OBJECT", "STATE", "WHERE", "WHAT"], rows)))


class Forest:
    """Objects by kind, each kind asked for once: a tree of a thousand branches is a handful of requests."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, list[JSON]] = {}

    def below(self, doc: JSON) -> list[JSON]:
        """What hangs below an object, in the order of BELOW and of the names."""
        return [
            one | {"kind": self._session.catalogue.named(below.plural).kind}
            for below in BELOW.get(doc["kind"], ())
            for one in self._every(below.plural)
            if hangs(one, below, doc)
        ]

    def _every(self, plural: str) -> list[JSON]:
        if plural not in self._known:
            self._known[plural] = self._session.list(self._session.catalogue.named(plural), everywhere=True)[0]
        return self._known[plural]


def hangs(one: JSON, below: Below, above: JSON) -> bool:
    """Whether an object hangs below `above`; objects of a namespace only below those of their own."""
    metadata = above["metadata"]
    space = metadata.get("namespace", "")
    if below.path == "metadata.ownerReferences":
        owners = one["metadata"].get("ownerReferences") or ()
        return any(owner["uid"] == metadata["uid"] for owner in owners)
    if below.homeless and at(one, "status.host"):
        return False
    wanted = f"{space}/{metadata['name']}" if below.full else metadata["name"]
    if space and not below.full and one["metadata"].get("namespace", "") != space:
        return False
    return bool(at(one, below.path) == wanted)


def at(doc: JSON, path: str) -> Any:
    """The value at a path like `status.phase`, or None."""
    value: Any = doc
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def branches(forest: Forest, doc: JSON, lead: str = "", stem: str = "") -> Iterator[list[str]]:
    """A row for the object and for everything below it; `lead` goes before its name, `stem` before those below."""
    yield [lead + tables.text(name_of(doc)), *told(doc)]
    below = forest.below(doc)
    for number, one in enumerate(below, 1):
        last = number == len(below)
        yield from branches(forest, one, stem + (LAST if last else BRANCH), stem + (NOTHING if last else TRUNK))


def told(doc: JSON) -> list[str]:
    """State, place and size of an object."""
    spec, status = doc.get("spec") or {}, doc.get("status") or {}
    ready: JSON = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    state = (
        status.get("phase")
        or status.get("state")
        or {"True": "Ready", "False": "not ready"}.get(ready.get("status", ""), ready.get("status", ""))
    )
    place = status.get("host") or spec.get("host") or spec.get("ip") or spec.get("computePool") or ""
    cpus = spec.get("cpus") or (status.get("capacity") or {}).get("cpus")
    memory = spec.get("memory") or (status.get("capacity") or {}).get("memory")
    size = f"{cpus} cpu{'s' * (cpus != 1)}, {memory}" if cpus and memory else spec.get("size") or spec.get("mac") or ""
    return [tables.text(cell) for cell in (state, place, size)]
