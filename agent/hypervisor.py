"""The only door to libvirt: a connection that survives libvirtd, calls in threads with deadlines, errors translated.

What is done in those threads stands in hypervisor_looks, hypervisor_acts, hypervisor_changes and hypervisor_guests.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt

from nanovirt.agent import hypervisor_acts as acts
from nanovirt.agent import hypervisor_changes as changes
from nanovirt.agent import hypervisor_guests as guests
from nanovirt.agent import hypervisor_looks as looks
from nanovirt.agent.changes import Change
from nanovirt.agent.hypervisor_looks import Described, Qemu
from nanovirt.agent.machine import Counters, SeenDomain
from nanovirt.agent.mark import Mark
from nanovirt.resources.errors import HypervisorError

T = TypeVar("T")

OPEN_SECONDS: Final = 5.0
QUICK_SECONDS: Final = 10.0
LONG_SECONDS: Final = 60.0
"""For starting, ending and defining; the first one after a boot waits while libvirt examines QEMU."""
CHANGE_SECONDS: Final = 40.0
"""For a change of a running machine: its guest may take its time, and be asked twice."""
TURNS: Final = 4
"""Calls at a time: libvirtd works on five of one connection, and one stays free."""
KEEPALIVE: Final = (5, 3)
"""Seconds between questions whether libvirtd lives, and how many may stay without an answer."""
RETRY_SECONDS: Final = (0.25, 4.0)
UNSHAPED: Final = ("qdisc kind is unknown", "Failed to load TC action", "TC classifier not found")
"""What `tc` says where the kernel cannot shape, when a card is plugged in, limited or started with."""
NO_TPM: Final = "TPM version"
"""What libvirt complains of when it finds no emulator: it does not know what versions there are."""

GONE: Final = (libvirt.libvirtError, RuntimeError)
"""What a connection says that has ended, and an event loop that has."""


# --- threads and libvirt's own event loop -----------------------------------------------------------------------------

_events_lock = threading.Lock()
_events_thread: list[threading.Thread] = []


def _turn_events() -> None:
    """Once in a process, before the first connection: libvirt's event loop, in a thread that ends with the process."""
    with _events_lock:
        if not _events_thread:
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # or it prints each error to stderr
            libvirt.virEventRegisterDefaultImpl()
            _events_thread.append(threading.Thread(target=_turn, name="libvirt events", daemon=True))
            _events_thread[0].start()


def _turn() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` in a thread of its own. A daemon, since one that libvirt never answers must not keep the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def answer(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # None is a T when work gave None

    def run() -> None:
        result, trouble = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
            trouble = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(answer, result, trouble)

    threading.Thread(target=run, name="libvirt call", daemon=True).start()
    return done


def translated(error: libvirt.libvirtError) -> HypervisorError:
    """Our error with the message, on one line, and the number of libvirt's."""
    said = " ".join((error.get_error_message() or str(error)).split())
    if any(words in said for words in UNSHAPED):
        said = f"this host's kernel cannot limit a network card; it needs sch_sfq, cls_fw and act_police ({said})"
    else:
        said = f"libvirt: {said}"
    return HypervisorError(said, error.get_error_code() or 0)


# --- the connection ---------------------------------------------------------------------------------------------------


class Hypervisor:
    """libvirt at `uri`, opened when it is first needed and again whenever it was lost, at most every few seconds.

    Every method raises HypervisorError when libvirt refuses, is away, or lets the deadline pass; in the last case the
    connection is given up, and what hangs in it is left behind.
    """

    def __init__(self, uri: str = "qemu:///system") -> None:
        self.uri = uri
        self.pids = pid_folder(uri)
        self.heard: Callable[[str], None] = lambda _uuid: None
        """Called in the event loop's thread with the uuid of a domain that changed, or "" for any."""
        self._turns = asyncio.Semaphore(TURNS)
        self._connection: Any = None
        self._opening: asyncio.Future[Any] | None = None
        self._qemu: asyncio.Future[Qemu] | None = None
        self._opened_at = self._retry_at = 0.0
        self._pause = RETRY_SECONDS[0]
        self._why = ""

    async def call(self, work: Callable[[Any], T], seconds: float = QUICK_SECONDS) -> T:
        """Run `work(connection)` in a thread when it is its turn."""
        async with self._turns:
            return await self._ask(work, seconds)

    async def _ask(self, work: Callable[[Any], T], seconds: float) -> T:
        connection = await self._connected()
        try:
            async with asyncio.timeout(seconds):
                return await _in_thread(lambda: work(connection))
        except TimeoutError as error:
            self._drop(connection)
            why = f"libvirt at {self.uri} did not answer within {seconds:g} s; is libvirtd stuck?"
            raise HypervisorError(why) from error
        except libvirt.libvirtError as error:
            if not connection.isAlive():
                self._drop(connection)
            raise translated(error) from error

    async def close(self) -> None:
        """End the connection; a call after this opens it again."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPEN_SECONDS):
                    await _in_thread(lambda: _close(connection))

    async def _connected(self) -> Any:
        if self._connection is not None and self._connection.isAlive():
            return self._connection
        loop = asyncio.get_running_loop()
        if self._connection is not None:
            self._drop(self._connection)
        if self._opening is None:
            if loop.time() < self._retry_at:
                raise HypervisorError(self._why)
            self._opened_at = loop.time()
            self._opening = _in_thread(lambda: _open(self.uri, loop, self._hear))
            self._opening.add_done_callback(self._opened)
        try:
            async with asyncio.timeout_at(self._opened_at + OPEN_SECONDS):
                return await asyncio.shield(self._opening)
        except TimeoutError as error:
            raise HypervisorError(f"libvirt at {self.uri} does not answer; is libvirtd stuck?") from error
        except libvirt.libvirtError as error:
            raise HypervisorError(self._why, error.get_error_code() or 0) from error

    def _opened(self, opening: asyncio.Future[Any]) -> None:
        self._opening = None
        if opening.cancelled():
            return
        error = opening.exception()
        if error is None:
            self._connection, self._qemu, self._pause = opening.result(), None, RETRY_SECONDS[0]
            self.heard("")
            return
        self._why = f"libvirt at {self.uri} cannot be reached: {error}"
        self._retry_at = asyncio.get_running_loop().time() + self._pause
        self._pause = min(2 * self._pause, RETRY_SECONDS[1])

    def _hear(self, uuid: str) -> None:
        self.heard(uuid)

    def _drop(self, connection: Any) -> None:
        if connection is self._connection:
            self._connection = None
        threading.Thread(target=_close, args=(connection,), name="libvirt close", daemon=True).start()

    # --- what there is ---

    async def domains(self) -> Mapping[str, SeenDomain]:
        """Every domain by its uuid."""
        return await self.call(lambda connection: looks.all_domains(connection, self.pids))

    async def domain(self, uuid: str) -> SeenDomain | None:
        """One domain, or None."""
        return await self.call(lambda connection: looks.one_domain(connection, uuid, self.pids))

    async def counters(self) -> Mapping[str, Counters]:
        """Of every machine that runs."""
        return await self.call(looks.counters)

    async def ask_guest(self, uuid: str, commands: Sequence[str], seconds: int) -> Mapping[str, str | None]:
        """See Channel of agent/guests.py; a command is a name, or JSON with arguments."""
        return await self.call(
            lambda connection: guests.asked(connection, uuid, commands, seconds), seconds + QUICK_SECONDS
        )

    async def set_password(self, uuid: str, user: str, password: str) -> None:
        """Through the guest agent."""
        with guests.obeyed():
            await self.call(
                lambda connection: guests.through_agent(connection, uuid).setUserPassword(user, password, 0)
            )

    async def freeze(self, uuid: str) -> int:
        """Let the guest's file systems stand still; how many. Doing it again is refused."""
        with guests.obeyed():
            count = await self.call(lambda connection: guests.through_agent(connection, uuid).fsFreeze(None, 0))
        return int(count)

    async def thaw(self, uuid: str) -> int:
        """Let them go on; how many."""
        with guests.obeyed():
            count = await self.call(lambda connection: guests.through_agent(connection, uuid).fsThaw(None, 0))
        return int(count)

    async def definition(self, uuid: str) -> tuple[str, Mark, str]:
        """What would be started next, as XML, its mark, and what runs ("": nothing); ("", ...) if there is none."""
        return await self.call(lambda connection: looks.definition(connection, uuid))

    async def described(self, uuid: str) -> Described | None:
        """What is known of any domain; None if there is none."""
        return await self.call(lambda connection: looks.described(connection, uuid))

    async def inactive(self, uuid: str) -> str | None:
        """The definition that would be started next, as XML; None if there is none, though the machine may run."""
        return await self.call(lambda connection: looks.inactive(connection, uuid))

    async def version(self) -> str:
        """Of libvirt; answered at once, whatever else it is asked for at the moment."""
        return await self._ask(lambda connection: looks.dotted(connection.getLibVersion()), QUICK_SECONDS)

    async def qemu(self) -> Qemu:
        """What libvirt knows of QEMU: seconds after an upgrade, since it examines it anew, else at once."""
        connection = await self._connected()
        if self._qemu is None or (self._qemu.done() and self._qemu.exception()):
            self._qemu = _in_thread(lambda: looks.examined(connection))
        try:
            async with asyncio.timeout(LONG_SECONDS):
                return await asyncio.shield(self._qemu)
        except TimeoutError as error:
            raise HypervisorError(f"libvirt at {self.uri} does not say what its QEMU can do") from error
        except libvirt.libvirtError as error:
            raise translated(error) from error

    # --- what can be done ---

    async def define(self, xml: str) -> None:
        """Put the definition there, or in the place of the one with its uuid; it never starts by itself."""
        try:
            await self.call(lambda connection: acts.define(connection, xml), LONG_SECONDS)
        except HypervisorError as error:
            if NO_TPM not in str(error):
                raise
            why = f"this host has no emulator of a TPM; install the packages swtpm and swtpm-tools ({error})"
            raise HypervisorError(why, error.code) from error

    async def undefine(self, uuid: str) -> None:
        """Forget the definition and its NVRAM; refused while it runs."""
        await self.call(lambda connection: acts.undefine(connection, uuid))

    async def start(self, uuid: str) -> None:
        """Start it, unless it runs."""
        await self.call(lambda connection: acts.start(connection, uuid), LONG_SECONDS)

    async def suspend(self, uuid: str) -> None:
        """Let it stand still, unless it does."""
        await self.call(lambda connection: acts.suspend(connection, uuid))

    async def change(self, uuid: str, change: Change) -> None:
        """Change the running machine."""
        await self.call(lambda connection: changes.apply(connection.lookupByUUIDString(uuid), change), CHANGE_SECONDS)

    async def resume(self, uuid: str) -> None:
        """Let it go on, unless it does."""
        await self.call(lambda connection: acts.resume(connection, uuid))

    async def shut_down(self, uuid: str) -> None:
        """Press its power button, if it is on."""
        await self.call(lambda connection: acts.shut_down(connection, uuid))

    async def destroy(self, uuid: str) -> None:
        """Cut its power, if it is on."""
        await self.call(lambda connection: acts.destroy(connection, uuid), LONG_SECONDS)

    async def screen(self, uuid: str) -> socket:
        """A new connection to its display. Conflict when it is off, has none, or one that others can reach."""
        return await self.call(lambda connection: acts.screen(connection, uuid))

    async def screenshot(self, uuid: str) -> bytes:
        """Its screen as PNG. Conflict when it is off or has none."""
        return await self.call(lambda connection: acts.screenshot(connection, uuid))


def pid_folder(uri: str) -> Path:
    """Where libvirt keeps the numbers of its QEMU processes: beside its socket."""
    socket = parse_qs(urlsplit(uri).query).get("socket", ["/run/libvirt/libvirt-sock"])[0]
    return Path(socket).parent / "qemu"


# --- in a thread, with a connection -----------------------------------------------------------------------------------


def _open(uri: str, loop: asyncio.AbstractEventLoop, hear: Callable[[str], None]) -> Any:
    def changed(_connection: Any, domain: Any, *_more: Any) -> None:
        with contextlib.suppress(*GONE):
            loop.call_soon_threadsafe(hear, domain.UUIDString())

    def ended(*_why: Any) -> None:
        with contextlib.suppress(*GONE):
            loop.call_soon_threadsafe(hear, "")

    _turn_events()
    connection = libvirt.open(uri)
    try:
        connection.setKeepAlive(*KEEPALIVE)
        connection.registerCloseCallback(ended, None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, changed, None)
    except libvirt.libvirtError:
        _close(connection)
        raise
    return connection


def _close(connection: Any) -> None:
    """End it. Whoever is still told of events holds it, and with it a socket, for as long as the process lives."""
    for callback in tuple(connection.domainEventCallbackID):
        with contextlib.suppress(libvirt.libvirtError):  # of a dead connection, each
            connection.domainEventDeregisterAny(callback)
    with contextlib.suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()
