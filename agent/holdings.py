"""What a host has of machines, its own and strange ones, as it tells the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.memory import Memory
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import DomainFacts, HeldNic, Holding, Unclaimed


def holdings(domains: Mapping[str, SeenDomain], notes: Mapping[str, Memory]) -> tuple[Holding, ...]:
    """Every machine that is here or was obeyed here, by its uuid."""
    return tuple(
        Holding(
            uuid=uuid,
            name=domains[uuid].name if uuid in domains else "",
            state=domains[uuid].state if uuid in domains else "",
            nics=_nics(notes.get(uuid)),
            epoch=notes[uuid].epoch if uuid in notes else 0,
        )
        for uuid in sorted({*domains, *(uuid for uuid, note in notes.items() if note.epoch)})
    )


def unclaimed(
    strangers: Iterable[SeenDomain], notes: Mapping[str, Memory], facts: Mapping[str, DomainFacts | None]
) -> tuple[Unclaimed, ...]:
    """Domains that no Placement claims; `facts`: what those are made of that were asked about."""
    return tuple(
        Unclaimed(
            uuid=one.uuid, name=one.name, state=one.state, nics=_nics(notes.get(one.uuid)), facts=facts.get(one.uuid)
        )
        for one in strangers
    )


def files(made: Iterable[Placement], strange: Sequence[Unclaimed]) -> frozenset[str]:
    """The disks of these machines, strange ones among them."""
    own = {volume.file for one in made for volume in one.spec.volumes}
    return frozenset(own | {disk.file for one in strange if one.facts for disk in one.facts.disks})


def folders(memories: Iterable[Memory]) -> tuple[str, ...]:
    """Where remembered machines have their disks: counts until the server says which storage paths there are."""
    placements = [memory.placement for memory in memories if memory.placement is not None]
    return tuple(sorted({str(PurePosixPath(one.file).parent) for made in placements for one in made.spec.volumes}))


def _nics(memory: Memory | None) -> tuple[HeldNic, ...]:
    """The cards of a machine as its newest order has them."""
    placement = memory.placement if memory else None
    return tuple(HeldNic(mac=nic.mac, ip=str(nic.ip or "")) for nic in placement.spec.nics) if placement else ()
