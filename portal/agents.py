"""The server's end of the report channel: an agent tells what it sees, and hears what it should hold."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohttp import web
from pydantic import ValidationError

from nanovirt.portal.api.requests import body
from nanovirt.portal.identity import Subject
from nanovirt.resources import hold
from nanovirt.resources.codec import causes_of, dump, parse, trusted
from nanovirt.resources.conditions import find
from nanovirt.resources.errors import Invalid
from nanovirt.resources.host import Host
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import DOOMED_MAX, HeldPlacement, HostReport, ReportReply, lost_after
from nanovirt.resources.reports import Reports
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.store import Commit, Entry, Store
from nanovirt.resources.volume import Volume, made_by_nano

POLL_SECONDS = 0.2


class Doomed(NamedTuple):
    """A file that is to be removed; one that could not be removed comes after all others."""

    failed: bool
    file: str


class Agents:
    """Takes reports; knows which Placements stand on which host, and keeps an answer until something in it changes."""

    def __init__(self, store: Store, reports: Reports, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: the server's monotonic clock in seconds, the one that `reports` was started with."""
        self._store, self._reports, self._clock = store, reports, clock
        self._held: defaultdict[str, dict[Key, HeldPlacement]] = defaultdict(dict)
        self._doomed: defaultdict[str, dict[Key, Doomed]] = defaultdict(dict)
        """By host: the files of Volumes that are being deleted."""
        self._pools: dict[Key, StoragePool] = {}
        self._replies: dict[str, bytes] = {}
        self._asking = 0
        """How many wait for hosts to say what they hold."""
        for plural in ("placements", "storagepools", "volumes"):
            for key, entry in store.list(plural):
                self._note(key, None, entry)
        store.subscribe(self._follow)

    def _follow(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            self._note(key, before, after)

    def _note(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        match key.plural:
            case "placements":
                self._note_placement(key, before, after)
            case "storagepools":
                self._replies.clear()
                self._pools.pop(key, None)
                if after is not None:
                    self._pools[key] = trusted(StoragePool, after.raw)
            case "volumes":
                self._note_volume(key, before, after)
            case "holds":
                self._replies.clear()
            case "hosts":
                self._replies.pop(key.name, None)
                if after is None or (before is not None and before.uid != after.uid):
                    self._reports.forget(key)
            case _:
                pass

    def _note_placement(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        if before is not None and after is not None and _place(before) == _place(after):
            return
        if before is not None:
            self._replies.pop(before.row.host, None)
            self._held[before.row.host].pop(key, None)
        if after is not None:
            self._replies.pop(after.row.host, None)
            held = HeldPlacement(namespace=key.namespace, name=key.name, epoch=after.row.epoch, role=after.row.role)
            self._held[after.row.host][key] = held

    def _note_volume(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        if before is not None and before.deleting and key in self._doomed[before.row.host]:
            del self._doomed[before.row.host][key]
            self._replies.pop(before.row.host, None)
        if after is not None and after.deleting and after.row.host is not None:
            volume = trusted(Volume, after.raw)
            if made_by_nano(volume.spec.file):
                removed = find(volume.status.conditions, "Removed")
                failed = removed is not None and removed.reason == Reason.VolumeNotRemoved.name
                self._replies.pop(after.row.host, None)
                self._doomed[after.row.host][key] = Doomed(failed, volume.spec.file)

    async def report(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """POST hosts/NAME/report: a HostReport in, a ReportReply out. Raises NotFound, Malformed, Invalid, TooLarge."""
        del subject  # whether it may report for this host has been decided at the door
        self._store.get(key)
        report = read_report(await body(request))
        self._reports.hear(key.name, report, self._clock())
        return web.Response(body=self.reply(key.name), content_type="application/json")

    async def holdings(self, hosts: Sequence[str], seconds: float) -> dict[str, HostReport]:
        """The latest report of each host that answers, with what it holds if it says that within so many seconds."""
        asked = self._clock()
        self._asking += 1
        try:
            while True:
                known = {host: heard for host in hosts if (heard := self._reports.heard(host)) is not None}
                fresh = {host: heard for host, heard in known.items() if asked - heard.at < lost_after()}
                missing = [one for one in fresh.values() if one.report.holdings is None or one.at < asked]
                if not missing or self._clock() - asked > seconds:
                    return {host: heard.report for host, heard in fresh.items()}
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._asking -= 1

    def reply(self, host: str) -> bytes:
        """The JSON of the ReportReply for a host. Raises NotFound."""
        known = self._replies.get(host)
        if known is None or self._asking:
            entry = self._store.get(Key("hosts", "", host))
            paths = storage_paths(trusted(Host, entry.raw), self._pools)
            held = sorted(self._held[host].items()) if host in self._held else []
            answer = ReportReply(
                placements=tuple(line for _, line in held),
                storage_paths=paths,
                hold=hold.held(self._store),
                doomed=self._files(host),
                holdings=bool(self._asking),
            )
            known = dump(answer.to_json())
            if not self._asking:
                self._replies[host] = known
        return known

    def _files(self, host: str) -> tuple[str, ...]:
        """Those to remove now; none as long as a restored store does not know what is in use."""
        known = self._doomed.get(host)
        if not known or hold.held(self._store):
            return ()
        return tuple(one.file for one in sorted(known.values())[:DOOMED_MAX])


def read_report(content: bytes) -> HostReport:
    """The report in a body; fields of a newer agent are ignored. Raises TooLarge, Malformed, Invalid."""
    doc = parse(content)
    try:
        return HostReport.model_validate(doc)
    except ValidationError as error:
        raise Invalid.of(causes_of(error, most=20)) from error


def storage_paths(host: Host, pools: dict[Key, StoragePool]) -> tuple[str, ...]:
    """The directories that a host should have: one for each Local pool, its own or that of the pool."""
    own = {one.storage_pool: one.path for one in host.spec.storage_paths}
    local = [(key.name, pool.spec.local.path) for key, pool in sorted(pools.items()) if pool.spec.local is not None]
    return tuple(dict.fromkeys(own.get(name, path) for name, path in local))


def _place(entry: Entry) -> tuple[str, int, str]:
    return entry.row.host, entry.row.epoch, entry.row.role
