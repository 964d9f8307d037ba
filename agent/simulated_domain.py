"""A domain of a simulated machine: its definition, and what runs of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nanovirt.agent.hardware import Hardware
from nanovirt.agent.machine import Counters, Ending, SeenDomain
from nanovirt.agent.segments import device_of
from nanovirt.resources.placement import PlacementSpec


@dataclass(slots=True)
class SimulatedDomain:
    """What was defined (`spec`, `digest`), what runs (`running`, `live`), and how it ended last."""

    spec: PlacementSpec
    digest: str
    running: PlacementSpec | None = None
    hardware: Hardware | None = None
    live: str = ""
    run: str = ""
    paused: str = ""
    ended: Ending = ""
    detail: str = ""
    edits: dict[str, str] = field(default_factory=dict)
    """What somebody changed in the definition."""
    persistent: bool = True

    def form(self) -> dict[str, str]:
        """The definition as paths and texts."""
        spec = self.spec
        fields = {"name": spec.domain.name, "vcpu": str(spec.cpu), "memory": str(int(spec.memory))}
        fields |= {f"devices/disk[{one.name}]/source@file": one.file for one in spec.volumes}
        fields |= {f"devices/interface[{one.mac}]/source@bridge": device_of(one) for one in spec.nics}
        return fields | self.edits

    def seen(self) -> SeenDomain:
        """As the door shows it."""
        spec, live = self.spec, self.running
        return SeenDomain(
            uuid=spec.domain.uuid,
            name=spec.domain.name,
            state="Off" if live is None else "Paused" if self.paused else "Running",
            ended=self.ended if live is None else "",
            detail=self.paused or self.detail,
            run=self.run,
            definition=self.digest if self.persistent else "",
            live=self.live,
            cpu=live.cpu if live else 0,
            memory=int(live.memory) if live else 0,
            hardware=self.hardware,
        )

    def stop(self, ended: Ending, detail: str) -> None:
        """It runs no more; why is remembered."""
        self.running, self.hardware, self.live, self.run, self.paused = None, None, "", "", ""
        self.ended, self.detail = ended, detail

    def counters(self, now: float) -> Counters:
        """Of one that runs: each processor is busy for a tenth of the time (`now`: seconds), and a little goes by."""
        live = self.running or self.spec
        return Counters(
            cpu_ns=int(now * 1e8) * live.cpu,
            memory=int(live.memory) // 2,
            disk_read=int(now * 65_536),
            disk_write=int(now * 16_384),
            disk_reads=int(now * 16),
            disk_writes=int(now * 4),
            net_in=int(now * 8_192),
            net_out=int(now * 4_096),
        )
