"""What machines and hosts use, for people: the latest figures as their agents report them, from memory only."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nanovirt.portal.api.replies import document, reply
from nanovirt.portal.authorization import authorize, visible
from nanovirt.portal.identity import Subject
from nanovirt.portal.relaying import Relay
from nanovirt.resources.codec import load
from nanovirt.resources.errors import HostUnreachable, Invalid
from nanovirt.resources.kind import Key
from nanovirt.resources.report import lost_after
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Commit, Entry, Store
from nanovirt.resources.usage import NAMES, Usage, shown, total

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
QUERY = ("from", "to", "step")


class Figures:
    """Follows which machine is whose; figures of a host that has fallen silent are not shown."""

    def __init__(
        self,
        store: Store,
        reports: Reports,
        identify: Callable[[web.BaseRequest], Subject],
        relay: Relay | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: the one that `reports` was started with."""
        self._store, self._reports, self._identify, self._relay, self._clock = store, reports, identify, relay, clock
        self._machines: defaultdict[str, dict[str, Key]] = defaultdict(dict)
        for key, entry in store.list("placements"):
            self._note(key, None, entry)
        store.subscribe(self._follow)

    @property
    def pages(self) -> Mapping[tuple[str, str], Page]:
        """(method, path) -> who answers."""
        return {("GET", "/usage/instances"): self.instances, ("GET", "/usage/hosts"): self.hosts}

    def _follow(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            if key.plural == "placements" and (before is None or after is None):
                self._note(key, before, after)

    def _note(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        if before is not None:
            self._machines[before.row.host].pop(_uuid(before), None)
        if after is not None:
            self._machines[after.row.host][_uuid(after)] = Key("instances", key.namespace, after.row.instance)

    def every(self) -> Iterator[tuple[str, Key, Usage]]:
        """Host, instance and figures of all machines that are known to run."""
        for host, known in self._machines.items():
            heard = self._reports.heard(host)
            if heard is None or self._clock() - heard.at >= lost_after():
                continue
            for uuid, usage in heard.report.usage.rows():
                if uuid in known:
                    yield host, known[uuid], usage

    def every_host(self) -> Iterator[tuple[str, Usage, float, float]]:
        """Host, its machines together, and its own processors and memory, of all that report."""
        for key, _ in self._store.list("hosts"):
            heard = self._reports.heard(key.name)
            if heard is not None and self._clock() - heard.at < lost_after():
                usage = heard.report.usage
                yield key.name, total(usage), usage.host_cpu, usage.host_memory

    # --- requests ---

    async def instances(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /usage/instances[?namespace=N]: a line for each that runs and that the caller may see."""
        subject, space = self._identify(request), request.query.get("namespace", "")
        authorize(subject, "list", "instances", "", Key("instances", space, ""))
        items = [
            {"namespace": key.namespace, "name": key.name, "host": host, **shown(usage)}
            for host, key, usage in self.every()
            if space in ("", key.namespace) and self._sees(subject, key)
        ]
        return document({"time": _now(), "items": items})

    async def hosts(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /usage/hosts: a line for each that reports."""
        authorize(self._identify(request), "list", "hosts", "", Key("hosts", "", ""))
        items = [
            {"name": host, "hostCpu": cpu, "hostMemory": memory, **shown(usage)}
            for host, usage, cpu, memory in self.every_host()
        ]
        return document({"time": _now(), "items": items})

    async def instance(self, request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """GET instances/NAME/usage: the latest figures; with from, to or step, columns of the past from its host."""
        self._store.get(key)
        asked: dict[str, Any] = {name: request.query[name] for name in QUERY if name in request.query}
        for name, value in asked.items():
            if not value.replace(".", "", 1).isdigit() or len(value) > 15:
                raise Invalid(name, "a number of seconds (from and to: since 1970)")
        if not asked:
            latest = next((usage for _, one, usage in self.every() if one == key), None)
            figures = shown(latest) if latest is not None else dict.fromkeys(NAMES.values())
            return document({"time": _now(), **figures})
        if self._relay is None:
            raise HostUnreachable("no agent can be asked here")
        return reply(await self._relay.fetch(key, "GET", "usage", **asked))

    async def host(self, _request: web.BaseRequest, _subject: Subject, key: Key) -> web.StreamResponse:
        """GET hosts/NAME/usage: the last quarter of an hour, column by column."""
        self._store.get(key)
        found, now, wall = self._reports.recent(key.name), self._clock(), time.time()
        columns: dict[str, Any] = {"time": [round(wall - (now - one.at), 1) for one in found]}
        columns |= {name: [getattr(one.machines, field) for one in found] for field, name in NAMES.items()}
        own = {"hostCpu": [one.cpu for one in found], "hostMemory": [one.memory for one in found]}
        return document(columns | own)

    def _sees(self, subject: Subject, key: Key) -> bool:
        entry = self._store.peek(key)
        return entry is not None and visible(subject, key, entry)


def _uuid(entry: Entry) -> str:
    return str(load(entry.raw)["spec"]["domain"]["uuid"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
