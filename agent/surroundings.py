"""What all workers of a host share, and what of it one machine needs: hands, disk files, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nanovirt.agent import orders, seed
from nanovirt.agent.boot_order import BootOrder
from nanovirt.agent.domain_disks import seeded
from nanovirt.agent.firewall import Filters
from nanovirt.agent.guests import Guests
from nanovirt.agent.leases import Leases
from nanovirt.agent.machine import Machine, SeenVolume
from nanovirt.agent.memory import Memories
from nanovirt.agent.segments import NoSegments, Segments
from nanovirt.agent.server import Server
from nanovirt.agent.steps import Hands
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.placement import Placement, PlacementSpec


@dataclass(slots=True)
class Surroundings:
    """What all workers of a host share. `bridges` and `boot_id` are as the host's facts last said."""

    host: str
    machine: Machine
    leases: Leases
    memories: Memories
    server: Server
    clock: Callable[[], float]
    filters: Filters
    guests: Guests | None = None
    """Who asks the guest agents; simulated guests have none."""
    bridges: frozenset[str] = frozenset()
    boot_id: str = ""
    segments: Segments = field(default_factory=NoSegments)
    listed: bool = False
    """Whether the server has said which Placements there are: until then absence means nothing."""
    boot_order: BootOrder = field(default_factory=BootOrder)

    def hands(self, uuid: str, placement: Placement | None) -> Hands:
        """What carries out the steps of that machine, as that Placement wishes it; without one nothing is fetched."""

        async def fetch(volume: str, path: Path) -> None:
            if placement is not None:
                await self.server.fetch_image(placement.key, volume, path)

        async def make_seed() -> None:
            if placement is not None and seeded(placement.spec):
                await self._make_seed(uuid, placement)

        return Hands(uuid, self.machine, self.leases, self.memories, fetch, make_seed, self.segments)

    async def _make_seed(self, uuid: str, placement: Placement) -> None:
        """A seed that says what it should is not made again: the server need not answer for a start."""
        digest = seed.digest(placement.spec)
        if await self.machine.seed(uuid) == digest:
            return
        asked = placement.spec.guest.password or placement.spec.guest.user_data
        secrets = await self.server.fetch_secrets(placement.key) if asked else GuestSecrets()
        await self.machine.make_seed(uuid, digest, lambda: seed.files(placement.spec, secrets))


async def disks_of(machine: Machine, spec: PlacementSpec) -> dict[str, SeenVolume]:
    """The disk files that a Placement names, those of its operations too, as far as they are there; by file."""
    found = [await machine.volume(one.file, adopted=one.adopted) for one in spec.volumes]
    held = {one.file for one in spec.volumes}
    found += [await machine.volume(file) for file in orders.files(spec.operations) if file not in held]
    return {volume.file: volume for volume in found if volume is not None}


async def images_of(machine: Machine, spec: PlacementSpec, volumes: Mapping[str, SeenVolume]) -> frozenset[str]:
    """The hashes of the images that a Placement still needs and the cache has; `volumes` are the disks made already."""
    needed = {one.source.sha256 for one in spec.volumes if one.source and one.file not in volumes}
    needed |= {medium.image.sha256 for medium in spec.media if medium.image}
    return frozenset([sha256 for sha256 in needed if await machine.has_image(sha256)])
