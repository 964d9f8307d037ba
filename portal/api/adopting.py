"""hosts/NAME/unclaimed and hosts/NAME/adopt: domains that were there before, and taking one in a person's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from nanovirt.portal.api.bodies import document_of
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.replies import document, reply
from nanovirt.portal.api.requests import body, options
from nanovirt.portal.api.secrets import public
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import AlreadyExists, Invalid, NotFound
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ADOPTED_HOST_LABEL, ADOPTED_LABEL
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import DomainFacts, Unclaimed
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Store

JSON = dict[str, Any]
Hook = Callable[[web.BaseRequest, Subject, Key], Any]
FIELDS = frozenset(("apiVersion", "kind", "domain", "name", "namespace", "owner"))
WISHES = {"Running": "Running", "Paused": "Suspended"}


class Adoption:
    """For administrators alone: whoever takes a domain takes its disks."""

    def __init__(self, store: Store, reports: Reports, writer: Callable[[], Writer]) -> None:
        """`writer`: that of the API, which is made after its hooks."""
        self._store, self._reports, self._writer = store, reports, writer

    @property
    def hooks(self) -> Mapping[tuple[str, str, str], Hook]:
        """(plural, sub-resource, method) -> who answers."""
        return {("hosts", "unclaimed", "GET"): self.unclaimed, ("hosts", "adopt", "POST"): self.adopt}

    async def unclaimed(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """The domains of the host that no Placement asks for, with what is known of each."""
        del request, subject
        return document({"kind": "UnclaimedList", "items": [one.to_json() for one in self._known(key)]})

    def _known(self, key: Key) -> tuple[Unclaimed, ...]:
        self._store.get(key)
        heard = self._reports.heard(key.name)
        return heard.report.unclaimed if heard is not None else ()

    async def adopt(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST {domain, name, namespace, owner}: the Instance that it becomes. NotFound, Invalid, AlreadyExists."""
        asked = _asked(document_of(request, await body(request)))
        host = trusted(Host, self._store.get(key).raw)
        found = next((one for one in self._known(key) if asked["domain"] in (one.uuid, one.name)), None)
        if found is None:
            raise NotFound("unclaimed", f"{key.name}/{asked['domain']}")
        owner = asked["owner"] or subject.name
        if owner != ADMIN.name and self._store.peek(Key("users", "", owner)) is None:
            raise Invalid("owner", Reason.ReferenceMissing, kind="User", name=owner)
        doc = manifest(host, found, asked["name"] or _label(found.name))
        target = Target(Instance, Key("instances", asked["namespace"] or "default", ""), "")
        wishes = options(request)
        prepared = self._writer().prepare_create(subject, target, doc, wishes, owner=owner)
        creation = prepared.ops[-1]
        assert isinstance(creation, Create)
        creation.doc["metadata"]["labels"] |= {ADOPTED_LABEL: found.uuid, ADOPTED_HOST_LABEL: key.name}
        for other, entry in self._store.peek_all("instances"):  # nobody else gets a turn from here to the commit
            if entry.labels.get(ADOPTED_LABEL) == found.uuid:
                raise AlreadyExists(other.plural, other.name)
        written = await self._writer().carry_out(prepared, subject, wishes)
        assert written.entry is not None
        return reply(public(Instance.facts, written.entry.raw), 201, warnings=written.warnings)


def manifest(host: Host, found: Unclaimed, name: str) -> JSON:
    """The Instance as which a domain goes on. Raises Invalid with everything that keeps it from being one."""
    facts = found.facts
    if facts is None:
        raise Invalid("domain", f"{host.metadata.name} does not say what {found.name} is made of; try again shortly")
    networks = {one.device: one.network for one in host.spec.bridges}
    problems = list(facts.problems)
    problems += [
        f"its card {nic.mac} is on {nic.bridge}, which no network of the host names (spec.bridges)"
        for nic in facts.nics
        if nic.bridge and nic.bridge not in networks
    ]
    if problems:
        raise Invalid("domain", "; ".join(problems))
    spec = {
        "displayName": found.name[:60] if found.name != name else "",
        "computePool": host.spec.compute_pool,
        "systemTemplate": _template(facts),
        "cpus": facts.cpus,
        "memory": str(facts.memory),
        "powerState": WISHES.get(found.state, "Stopped"),
        "drift": "Report",
        "disks": [{"name": one.name, "size": str(one.size), "reclaim": "Retain"} for one in facts.disks],
        "nics": [
            {"name": f"nic{at}", "network": networks[one.bridge], "mac": one.mac, "model": one.model or "Virtio"}
            | ({"vlan": one.vlan} if one.vlan else {})
            for at, one in enumerate(facts.nics)
        ],
        "scheduling": {"host": host.metadata.name},
    }
    return {"metadata": {"name": name}, "spec": spec}


def _template(facts: DomainFacts) -> str:
    return "legacy" if facts.machine == "i440fx" else "linux"


def _asked(doc: JSON) -> dict[str, str]:
    for field, value in doc.items():
        if field not in FIELDS:
            raise Invalid(field, Reason.FieldUnknown, known=", ".join(sorted(FIELDS)))
        if not isinstance(value, str):
            raise Invalid(field, "it is a text")
    if not doc.get("domain"):
        raise Invalid("domain", Reason.FieldValueRequired)
    return {field: doc.get(field, "") for field in ("domain", "name", "namespace", "owner")}


def _label(name: str) -> str:
    """A name that an Instance may have, from that of a domain."""
    made = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return made.strip("-")[:52].rstrip("-") or "adopted"
