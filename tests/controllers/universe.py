"""A small synchronous universe: the real engine and the real planners, run to a fixpoint without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from nanovirt.controllers import garbage, holds, hosts, images, instances, pools, sets, volumes
from nanovirt.controllers.actions import Action, LookAgain, Transact
from nanovirt.controllers.world import World
from nanovirt.resources.codec import load, trusted
from nanovirt.resources.defaults import defaults, made
from nanovirt.resources.engine import Engine
from nanovirt.resources.host import Amounts
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import Holding, HostFacts, HostReport, ImageProgress
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Commit, Create, Delete, Half, Op, Update

NOW = datetime(2026, 11, 22, 6, 0, 0, tzinfo=UTC)
SMALL = Amounts(cpus=4, memory=Bytes("8Gi"), disk=Bytes("100Gi"))
IMAGE = Key("images", "shared", "mini")
D = TypeVar("D", bound=Document)


class Universe:
    """Pending state only: what is staged is seen at once, as the planners see it."""

    def __init__(self) -> None:
        self.engine = Engine(MemoryLog(), clock=lambda: NOW)
        self.reports = Reports(started=0.0)
        self.monotonic = 1.0
        self.now = NOW
        self.keys: dict[Key, None] = {}
        self.engine.subscribe(self._seen, admitted=True)
        self.world = World(self.engine, self.reports)
        for thing in defaults():
            self.create(thing)

    def _seen(self, commit: Commit) -> None:
        for change in commit.changes:
            if change.after is None:
                self.keys.pop(change.key, None)
            else:
                self.keys[change.key] = None

    def stage(self, *ops: Op) -> None:
        self.engine.stage(ops, "test")

    def create(self, thing: Document) -> None:
        self.stage(Create(thing.key, thing.to_json()))

    def instance(self, name: str = "web-1", **spec: Any) -> Key:
        spec = {"disks": [{"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}}], **spec}
        thing = made("Instance", name, "default", **spec)
        self.create(thing)
        return thing.key

    def image(self) -> None:
        self.create(made("Image", "mini", "shared", source={"file": "mini.qcow2"}))
        ready = ImageProgress(phase="Ready", size=10, virtual_size=2**30, sha256="a" * 64, format="qcow2")
        self.reports.note_image(IMAGE, ready)

    def host(self, name: str, capacity: Amounts = SMALL, **spec: Any) -> None:
        self.create(made("Host", name, bridges=[{"network": "default", "device": "br0"}], **spec))
        self.hear(name, capacity)

    def hear(
        self, name: str, capacity: Amounts = SMALL, holdings: tuple[Holding, ...] | None = None, **facts: Any
    ) -> None:
        seen = HostFacts(accelerator="simulated", capacity=capacity, **facts)
        report = HostReport(facts=seen, holdings=holdings)
        self.reports.hear(name, report, self.monotonic)

    def patch(self, key: Key, **spec: Any) -> None:
        doc = self.doc(key)
        self.stage(Update(key, {**doc, "spec": {**doc["spec"], **spec}}))

    def report(self, key: Key, **status: Any) -> None:
        """What the agent of its host writes."""
        placement = self.get(Placement, key.name, key.namespace)
        after = PlacementStatus.model_validate({**placement.status.to_json(), **status})
        self.stage(Update(key, placement.model_copy(update={"status": after}).to_json(), Half.STATUS))

    def delete(self, key: Key) -> None:
        self.stage(Delete(key))

    def doc(self, key: Key) -> dict[str, Any]:
        entry = self.engine.peek(key)
        assert entry is not None, f"{key} is not there"
        return load(entry.raw)

    def get(self, kind: type[D], name: str, namespace: str = "") -> D:
        found = self.world.read(kind, name, namespace)
        assert found is not None, f"{kind.__name__} {name} is not there"
        return found

    def web(self, name: str = "web-1") -> Instance:
        return self.get(Instance, name, "default")

    def all(self, plural: str) -> list[Key]:
        return [key for key in self.keys if key.plural == plural]

    # --- planning ---

    def planned(self, key: Key) -> Iterator[Action]:
        entry = self.engine.peek(key)
        thing: Any = trusted(KINDS[key.plural], entry.raw) if entry else None
        match key.plural:
            case "instances":
                yield from self._collected(key) or instances.plan(thing, self.world, self.now)
            case "instancesets":
                yield from self._collected(key) or sets.plan(thing, self.world, self.now)
            case "hosts":
                yield from hosts.plan(thing, self.world, self.now, self.monotonic)
            case "computepools" | "storagepools" | "addresspools":
                yield from pools.plan(thing, self.world, self.now)
            case "holds":
                yield from holds.plan(thing, self.world, self.now)
            case "volumes":
                yield from self._collected(key) or volumes.plan(thing, self.world, self.now)
            case "images":
                yield from images.plan(thing, self.world, self.now)
            case _:
                yield from garbage.plan(thing, self.world, self.now)

    def _collected(self, key: Key) -> list[Action]:
        """What garbage collection has to do with an object, before its own controller goes on."""
        entry = self.engine.peek(key)
        thing = trusted(KINDS[key.plural], entry.raw) if entry else None
        found = list(garbage.plan(thing, self.world, self.now))
        return [*found, LookAgain(0.0)] if found else []

    def writes(self) -> list[Transact]:
        return [action for key in tuple(self.keys) for action in self.planned(key) if isinstance(action, Transact)]

    def settle(self, most: int = 60) -> int:
        """Plan and stage until nothing is planned any more; how many rounds that took."""
        for turn in range(most):
            if not self._turn():
                return turn
        raise AssertionError(f"not settled after {most} rounds: {self.writes()[:2]}")

    def _turn(self) -> int:
        count = 0
        for key in tuple(self.keys):
            acted = goes_on = False
            for action in self.planned(key):
                if isinstance(action, Transact):
                    self.stage(*action.ops)
                    acted = True
                goes_on |= action == LookAgain(0.0)
            if acted and not goes_on and not self._collected(key):
                again = [action for action in self.planned(key) if isinstance(action, Transact)]
                assert not again, f"a plan says all that follows from what it saw, {key} had more to say: {again}"
            count += acted
        return count


def obeyed(universe: Universe) -> None:
    """Every agent does at once what its Placements say."""
    for key in universe.all("placements"):
        placement = universe.get(Placement, key.name, key.namespace)
        done = [{"uid": one.uid, "state": "Succeeded"} for one in placement.spec.operations]
        if placement.deleting:
            universe.report(key, state="Stopped", operations=done, released=True)
        else:
            said = {"epoch": placement.spec.epoch, "observedGeneration": placement.metadata.generation}
            universe.report(key, state=placement.spec.power_state, operations=done, **said)
