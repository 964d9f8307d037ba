"""Where what hosts hold is not what the store says: machines that are missing, unclaimed, elsewhere or further on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from nanovirt.resources.kind import Key
from nanovirt.resources.placement import domain_uuid
from nanovirt.resources.report import Holding, HostReport
from nanovirt.resources.store import Entry

What = Literal["Silent", "Unknown", "Missing", "Unclaimed", "Elsewhere", "Ahead"]
BEGINNING = ("", "Preparing")
"""States of a machine that may not have a domain yet."""


class Difference(NamedTuple):
    """One thing that differs: `machine` is NAMESPACE/NAME of an instance, the name of a domain, or ""."""

    host: str
    what: What
    machine: str
    detail: str


def differences(
    hosts: Iterable[str], placements: Iterable[tuple[Key, Entry]], reports: Mapping[str, HostReport]
) -> Iterator[Difference]:
    """By host; one that says nothing, or not what it holds, is a difference of its own."""
    by_host: defaultdict[str, dict[str, tuple[Key, Entry]]] = defaultdict(dict)
    anywhere: defaultdict[str, set[str]] = defaultdict(set)
    for key, entry in placements:
        uuid = domain_uuid(entry)
        known = by_host[entry.row.host].get(uuid)
        if known is None or known[1].row.epoch < entry.row.epoch:
            by_host[entry.row.host][uuid] = key, entry
        anywhere[uuid].add(entry.row.host)
    for host in sorted(hosts):
        report = reports.get(host)
        if report is None:
            yield Difference(host, "Silent", "", f"does not report; the store has {len(by_host[host])} machines there")
        elif report.holdings is None:
            yield Difference(host, "Unknown", "", "reports, but has not said what it holds; its agent may be too old")
        else:
            yield from _of_host(host, report.holdings, by_host[host], anywhere)


def _of_host(
    host: str,
    holdings: tuple[Holding, ...],
    placed: Mapping[str, tuple[Key, Entry]],
    anywhere: Mapping[str, set[str]],
) -> Iterator[Difference]:
    there = {one.uuid: one for one in holdings if one.state}
    for uuid, (key, entry) in sorted(placed.items(), key=lambda item: item[1][0]):
        if uuid not in there and entry.row.status_state not in BEGINNING and not entry.deleting:
            detail = f"the store has it there ({entry.row.status_state}), the host has no domain of it"
            yield Difference(host, "Missing", f"{key.namespace}/{entry.row.instance}", detail)
    for one in holdings:
        mine = placed.get(one.uuid)
        if mine is not None and one.epoch > mine[1].row.epoch:
            machine = f"{mine[0].namespace}/{mine[1].row.instance}"
            yield Difference(
                host, "Ahead", machine, f"it is at epoch {one.epoch} there, at {mine[1].row.epoch} in the store"
            )
        elif mine is None and one.state:
            others = ", ".join(sorted(anywhere.get(one.uuid, ())))
            cards = ", ".join(f"{nic.mac} {nic.ip}".strip() for nic in one.nics) or "no known address"
            what: What = "Elsewhere" if others else "Unclaimed"
            detail = f"{one.state}, {cards}" + (f"; the store has it on {others}" if others else "")
            yield Difference(host, what, one.name, detail)
