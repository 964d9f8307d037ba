"""The loop of one machine: observe, decide, act, tell; woken by events and by time, never told what happened."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from nanovirt.agent import telling
from nanovirt.agent.boot_order import boots
from nanovirt.agent.changes import Change
from nanovirt.agent.filtering import cards_of
from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed, Trouble
from nanovirt.agent.plan import Decision, decide
from nanovirt.agent.segments import segments_of
from nanovirt.agent.steps import Act, LookAgain, Remember, Step
from nanovirt.agent.surroundings import Surroundings, disks_of, images_of
from nanovirt.agent.wish import Wish
from nanovirt.resources.errors import Conflict, NanoError, NotFound, Rejected, Unavailable
from nanovirt.resources.guest import GuestReport
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement, PlacementStatus

log = logging.getLogger(__name__)

ROUNDS = 20
"""So many rounds of steps in a row, and the machine is left alone for a while: something undoes what is done."""
SLOW_SECONDS = 0.2
"""When something takes longer, the status says so before it is done."""
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 60.0
CONFESSED = 3
"""After so many looks that failed in a row the status says so."""


@dataclass(slots=True)
class Order:
    """A Placement as it is wished, and the status that was last told of it."""

    wish: Wish
    told: PlacementStatus = field(default_factory=PlacementStatus)


def backoff(tries: int) -> float:
    """Seconds to wait after that many failures in a row (from 1)."""
    return min(BACKOFF_LAST, BACKOFF_FIRST * 2.0 ** min(tries - 1, 10))


class Worker:
    """One machine of a host, by the uuid of its domain: one task for each, so nothing happens to it twice at once.

    It may have several Placements for a while (back on a host that it left): the highest epoch rules.
    """

    def __init__(self, uuid: str, around: Surroundings, memory: Memory) -> None:
        self.uuid = uuid
        self.memory = memory
        self.orders: dict[Key, Order] = {}
        self.leased: frozenset[str] = frozenset()
        self._around = around
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: Trouble | None = None
        self._refused: dict[Change, Trouble] = {}
        self._failures = 0
        self._state = ("", 0.0)
        self._guarded: Placement | None = None
        self._wake.set()

    # --- what wakes it ---

    def wake(self) -> None:
        """Look at the machine soon."""
        self._wake.set()

    def order(self, placement: Placement, *, listed: bool = False) -> None:
        """The Placement is so now. Of a known one the status is ours to know, unless the server listed it anew."""
        held = self.orders.get(placement.key)
        known = held is not None and held.wish.placement.metadata.uid == placement.metadata.uid and not listed
        told = held.told if held is not None and known else placement.status
        if held is not None and self._around.guests and held.wish.placement.spec.hostname != placement.spec.hostname:
            self._around.guests.rename(self.uuid, placement.spec.hostname)
        if known and held is not None and held.wish.placement.spec != placement.spec:
            self._trouble = None  # what failed may not, as it is wished now: who mends it does not wait
        self.orders[placement.key] = Order(Wish.of(placement), told)
        self._note_boot(placement, on=False)  # before anybody looks: those that start first are known from the first
        self.wake()

    def drop(self, key: Key, uid: str = "") -> None:
        """The Placement is gone (that one, if `uid` is given)."""
        held = self.orders.get(key)
        if held is not None and uid in ("", held.wish.placement.metadata.uid):
            del self.orders[key]
            self._around.boot_order.through(self.uuid)
            self.wake()

    def _look_again(self, after: float) -> None:
        """Wake at that time at the latest."""
        loop = asyncio.get_running_loop()
        at, held = loop.time() + after, self._timer
        if held is None or at < held.when():
            if held is not None:
                held.cancel()
            self._timer = loop.call_at(at, self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._wake.set()

    # --- the loop ---

    async def run(self) -> None:
        """Work until the Placement is gone and nothing is left of it. Only cancellation ends it otherwise."""
        try:
            while not await self._turn():
                await self._wake.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _turn(self) -> bool:
        """Do what is to be done; True when the machine is none of ours any more."""
        self._wake.clear()
        try:
            finished = await self._work()
            self._failures = 0
            return finished
        except Unavailable as error:
            log.warning("machine cannot be looked at; will retry", extra=self._named(detail=str(error)))
            await self._confess(str(error))
        except Exception:  # the one place where a bug is caught: the other machines of this host go on
            log.exception("bug; will retry", extra=self._named())
        self._failures += 1
        self._look_again(backoff(self._failures))
        return False

    async def _confess(self, detail: str) -> None:
        """Say that the machine cannot be looked at, once it has failed a few times in a row."""
        if self._failures < CONFESSED:
            return
        for order in tuple(self.orders.values()):
            await self._write(order, telling.unseen(order.told, self._around.host, detail))

    async def _work(self) -> bool:
        if not self.orders:
            return await self._without_order()
        for order in sorted(self.orders.values(), key=lambda one: -one.wish.placement.spec.epoch):
            await self._settle(order)
        return False

    async def _without_order(self) -> bool:
        """Nobody says what is to be: it is left as it is, and forgotten once it is certain that nothing is there."""
        seen = await self._observe(None)
        await self._act(decide(None, seen, self.memory, self._around.clock()).steps, None)
        if seen.domain is not None or not self._around.listed or self.orders:
            return False
        placement = self.memory.placement
        if placement is None or placement.spec.role != "Revoked":
            await self._around.memories.forget(self.uuid)
            self.memory = Memory()
        return True

    async def _settle(self, order: Order) -> None:
        """Act until there is nothing to do but wait, and tell; breaks off when something newer came."""
        for _ in range(ROUNDS):
            if len(self.orders) == 1:
                self._wake.clear()  # whatever woke it is seen now
            seen = await self._observe(order)
            decision = decide(order.wish, seen, self.memory, self._around.clock())
            self._guard(decision.memory.placement)
            if decision.missing_bridge or decision.lost_volume:
                self._around.boot_order.through(self.uuid)
            wished = {one.change for one in decision.live}
            self._refused = {change: failed for change, failed in self._refused.items() if change in wished}
            if decision.waits:
                await self._tell(order, seen, decision)
            await self._act_and_say(order, seen, decision)
            if decision.waits or self.orders.get(order.wish.placement.key) is not order:
                return
        log.warning("machine does not settle; left alone for a while", extra=self._named())
        self._look_again(BACKOFF_LAST)

    def _guard(self, placement: Placement | None) -> None:
        """The cards of the newest order that is obeyed are those that may send, and those whose segments stay."""
        if placement is not None and placement is not self._guarded:
            self._guarded = placement
            self._around.filters.expect(self.uuid, cards_of(placement.spec))
            self._around.segments.expect(self.uuid, segments_of(placement.spec))

    # --- observe ---

    async def _observe(self, order: Order | None) -> Observed:
        around, now = self._around, self._around.clock()
        placement = order.wish.placement if order else self.memory.placement
        domain = await around.machine.domain(self.uuid)
        state = domain.state if domain else ""
        if self._state[0] != state:
            self._state = (state, now)
        if order is not None:
            self._note_boot(order.wish.placement, on=domain is not None and domain.state != "Off")
        form = await around.machine.form(self.uuid) if order is not None and domain is not None else None
        volumes = await disks_of(around.machine, placement.spec) if order and placement else {}
        images = await images_of(around.machine, placement.spec, volumes) if order and placement else frozenset()
        self.leased = around.leases.leased(self.uuid)
        return Observed(
            domain=domain,
            since=self._state[1],
            form=form,
            volumes=volumes,
            images=images,
            bridges=around.bridges,
            segments=around.segments.there(segments_of(placement.spec)) if order and placement else frozenset(),
            served=around.leases.served(self.uuid),
            leased=self.leased,
            boot_id=around.boot_id,
            ahead=around.boot_order.ahead(self.uuid, now),
            guest=self._guest(domain),
            told=order.told if order else PlacementStatus(),
            trouble=self._trouble,
            refused=dict(self._refused),
        )

    def _guest(self, domain: SeenDomain | None) -> GuestReport | None:
        """What the guest says; asked of whatever runs here, by the task that asks them all."""
        guests = self._around.guests
        if guests is None:
            return None
        if domain is None or domain.state == "Off":
            guests.leave(self.uuid)
            return None
        guests.follow(self.uuid, self.wake)
        return guests.report(self.uuid)

    def _note_boot(self, placement: Placement, *, on: bool) -> None:
        """Say whether it is still to be started because of a boot; what has failed once keeps no others waiting."""
        around, spec = self._around, placement.spec
        began = around.boot_order.began(self.uuid)
        if self._trouble is None and boots(placement, self.memory, around.boot_id, on=on, began=began):
            around.boot_order.note(self.uuid, spec.instance, spec.start_priority, around.clock(), self.wake)
        else:
            around.boot_order.through(self.uuid)

    # --- act ---

    async def _act(self, steps: tuple[Step, ...], order: Order | None) -> None:
        """Carry the steps out in order, up to the first that fails: that one is retried later."""
        hands = self._around.hands(self.uuid, order.wish.placement if order else None)
        for step in steps:
            if isinstance(step, LookAgain):
                self._look_again(step.after)
                continue
            try:
                await hands.carry_out(step)
            except NanoError as error:
                self._failed(step, error)
                if isinstance(step, Change):
                    continue  # it holds up nothing else
                return
            if isinstance(step, Change):
                self._refused.pop(step, None)
            if isinstance(step, Remember):
                self.memory = step.memory
            if self._trouble is not None and self._trouble.step == step:
                self._trouble = None
            log.info("step done", extra=self._named(step=type(step).__name__))

    async def _act_and_say(self, order: Order, seen: Observed, decision: Decision) -> None:
        """Carry the steps out; if that takes long, tell meanwhile what is being done."""
        if not decision.steps:
            return
        async with asyncio.TaskGroup() as group:

            def say() -> None:
                group.create_task(self._tell(order, seen, decision))

            slow = asyncio.get_running_loop().call_later(SLOW_SECONDS, say)
            try:
                await self._act(decision.steps, order)
            finally:
                slow.cancel()

    def _failed(self, step: Act, error: NanoError) -> None:
        before = self._refused.get(step) if isinstance(step, Change) else self._trouble
        tries = before.tries + 1 if before is not None and before.step == step else 1
        reason, params = telling.why(step, error, self._around.host)
        trouble = Trouble(step, reason, params, tries, self._around.clock() + backoff(tries))
        if isinstance(step, Change):
            self._refused[step] = trouble
        else:
            self._trouble = trouble
        named = self._named(step=type(step).__name__, detail=str(error), tries=tries)
        log.warning("step failed; will retry", extra=named)

    # --- tell ---

    async def _tell(self, order: Order, seen: Observed, decision: Decision) -> None:
        """Write the status if it says something new; a server that is away is told later."""
        status = telling.tell(order.wish, seen, decision)
        if status is not None:
            await self._write(order, status)

    async def _write(self, order: Order, status: PlacementStatus) -> None:
        if status == order.told:
            return
        try:
            await self._around.server.write_status(order.wish.placement, status)
        except Unavailable as error:
            log.debug("status not told; will retry", extra=self._named(detail=str(error)))
            self._look_again(backoff(self._failures + 1) * 2)
        except (NotFound, Conflict):
            order.told = status  # it is gone, or another bears its name: the watch says so soon
        except Rejected as error:
            log.warning("server refuses our status", extra=self._named(detail=str(error)))
            self._look_again(BACKOFF_LAST)
        else:
            order.told = status

    def _named(self, **more: object) -> dict[str, object]:
        placement = self.memory.placement
        return {"machine": placement.spec.domain.name if placement else self.uuid, "host": self._around.host, **more}
