"""One machine without a loop: a simulated host, an agent that can be killed between any two steps, a clock by hand."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from nanovirt.agent import telling
from nanovirt.agent.main import SimulatedHost
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed, Trouble
from nanovirt.agent.plan import Decision, decide
from nanovirt.agent.steps import Act, Hands, LookAgain, Remember, Start, Step
from nanovirt.agent.wish import Wish
from nanovirt.resources.errors import NanoError
from nanovirt.resources.placement import Placement, PlacementStatus

T = TypeVar("T")
STEPS = 60
"""More than that and it does not converge."""


class Killed(Exception):
    """The agent's process is gone; what it did stays."""


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")


class World:
    """`placement` is what the server says now (None: nothing); `told` what it was told."""

    def __init__(self, uuid: str) -> None:
        self.host = SimulatedHost("node-1")
        self.uuid = uuid
        self.placement: Placement | None = None
        self.told = PlacementStatus()
        self.now = 1_000_000.0
        self.done: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """A new process of the agent: all it has is what is on the disk."""
        self.host.machine.leases.forget_all()
        self.memory = drive(self.host.memories.load()).get(self.uuid, Memory())
        self.trouble: Trouble | None = None
        self._state = ("", self.now)

    def kill(self) -> None:
        self._begin()

    @property
    def starts(self) -> int:
        return self.host.machine.starts[self.uuid]

    @property
    def on(self) -> bool:
        domain = drive(self.host.machine.domain(self.uuid))
        return domain is not None and domain.state != "Off"

    def observe(self) -> Observed:
        machine = self.host.machine
        domain = drive(machine.domain(self.uuid))
        state = domain.state if domain else ""
        if state != self._state[0]:
            self._state = (state, self.now)
        facts = drive(machine.facts())
        return Observed(
            domain=domain,
            since=self._state[1],
            volumes=dict(machine.files),
            images=frozenset(machine.images),
            bridges=frozenset(facts.bridges),
            segments=frozenset(machine.segments.made),
            served=machine.leases.served(self.uuid),
            leased=machine.leases.leased(self.uuid),
            boot_id=facts.boot_id,
            told=self.told,
            trouble=self.trouble,
        )

    def decide(self) -> tuple[Observed, Decision]:
        seen = self.observe()
        return seen, decide(Wish.of(self.placement) if self.placement else None, seen, self.memory, self.now)

    def settle(self, kill_after: int | None = None) -> list[str]:
        """Work until nothing is left to do; the clock goes on as far as the plan asks. Gives the steps that were done.

        Killed once `kill_after` steps are done. AssertionError when it does not come to an end.
        """
        done: list[str] = []
        for _ in range(STEPS):
            seen, decision = self.decide()
            if self.placement is not None:
                self.told = telling.tell(Wish.of(self.placement), seen, decision) or self.told
            if not decision.steps:
                self.done += done
                return done
            self._act(decision.steps, done, kill_after)
        raise AssertionError(f"does not settle: {done}")

    def _act(self, steps: tuple[Step, ...], done: list[str], kill_after: int | None) -> None:
        for step in steps:
            if kill_after is not None and len(done) >= kill_after:
                self.kill()
                raise Killed
            if isinstance(step, LookAgain):
                self.now += step.after
                return
            assert not (isinstance(step, Start) and self.on), "a running machine is not started"
            done.append(type(step).__name__)
            if not self._carry_out(step):
                return

    def _carry_out(self, step: Act) -> bool:
        host = self.host
        machine = host.machine
        hands = Hands(self.uuid, machine, machine.leases, host.memories, _no_bytes, _no_seed, machine.segments)
        try:
            drive(hands.carry_out(step))
        except NanoError as error:
            tries = self.trouble.tries + 1 if self.trouble and self.trouble.step == step else 1
            reason, params = telling.why(step, error, "node-1")
            self.trouble = Trouble(step, reason, params, tries, self.now + 2.0**tries)
            return False
        if isinstance(step, Remember):
            self.memory = step.memory
        return True


async def _no_seed() -> None:
    """Nothing is told to a guest here."""


async def _no_bytes(volume: str, path: Path) -> None:
    raise AssertionError(f"simulated machines need no bytes: {volume}, {path}")
