"""Whether the host of a machine has room for more of it."""

from __future__ import annotations

from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.scheduler import human
from nanovirt.controllers.world import World
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.host import Host
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason


class Room:
    """What is left of one host under its pool's overcommit, counted down as disks of one plan take it."""

    def __init__(self, host: Host, pool: ComputePool, world: World) -> None:
        self._host, self._over = host, pool.spec.overcommit
        self._load = world.loads.of(host.metadata.name)
        self._disk = 0

    def cpus(self, now: int, wished: int) -> int:
        """`wished` if so many processors fit in the place of those that it has. Raises Missing."""
        free = self._host.status.capacity.cpus * self._over.cpu - self._load.cpus + now
        if wished > free:
            self._refuse(Reason.InsufficientCpus, str(max(0, free)), str(wished))
        return wished

    def memory(self, now: int, wished: int) -> bool:
        """True if so many bytes fit in the place of those that it has. Raises Missing."""
        free = self._host.status.capacity.memory * self._over.memory - self._load.memory + now
        if wished > free:
            self._refuse(Reason.InsufficientMemory, human(free), str(Bytes(wished)))
        return True

    def disk(self, more: int) -> None:
        """Take so many bytes more. Raises Missing."""
        free = self._host.status.capacity.disk * self._over.disk - self._load.disk - self._disk
        if more > free:
            self._refuse(Reason.InsufficientDisk, human(free), human(more))
        self._disk += more

    def _refuse(self, why: Reason, free: str, asked: str) -> None:
        said = why.say(free=free, asked=asked)
        raise Missing(Reason.HostHasNoRoom, host=self._host.metadata.name, why=said)
