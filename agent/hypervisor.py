"""The only door to libvirt: a connection that survives libvirtd, calls in threads with deadlines, errors translated."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt
import libvirt_qemu

from nanovirt.agent import hypervisor_changes
from nanovirt.agent.changes import Change
from nanovirt.agent.domain import NAMESPACE, PREFIX, Mark, mark_text, read_mark, screen_trouble
from nanovirt.agent.hardware import Hardware, read
from nanovirt.agent.machine import Counters, DomainState, Ending, GuestRefused, SeenDomain
from nanovirt.agent.strangers import files_of
from nanovirt.resources.errors import Conflict, HypervisorError

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
NO_TPM: Final = "TPM version"
"""What libvirt complains of when it finds no emulator: it does not know what versions there are."""
SCREENSHOT_MAX: Final = 32 << 20
"""Bytes: 8K in noise is less, as PNG."""

STATES: Final[Mapping[int, DomainState]] = {
    libvirt.VIR_DOMAIN_RUNNING: "Running",
    libvirt.VIR_DOMAIN_BLOCKED: "Running",
    libvirt.VIR_DOMAIN_PAUSED: "Paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "Paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "Stopping",
}
ENDINGS: Final[Mapping[int, tuple[Ending, str]]] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: ("Shutdown", "shutdown"),
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: ("Destroyed", "destroyed"),
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: ("Crashed", "crashed"),
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: ("Failed", "failed to start"),
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: ("Unknown", "migrated"),
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: ("Unknown", "saved"),
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: ("Unknown", "from a snapshot"),
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: ("Unknown", "ended by libvirtd"),
}
PAUSES: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "by a user",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migrating",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "saving",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "dumping",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting down",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "making a snapshot",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "the guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting",
}
UNDEFINE: Final = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
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
    """Our error with the message and the number of libvirt's."""
    return HypervisorError(f"libvirt: {error.get_error_message() or error}", error.get_error_code() or 0)


class Described(NamedTuple):
    """A definition as XML, the virtual sizes of its files, and whether it outlives the machine."""

    xml: str
    sizes: Mapping[str, int]
    persistent: bool


class Qemu(NamedTuple):
    """The QEMU that libvirt starts."""

    version: str
    kvm: bool


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
        return await self.call(lambda connection: _all(connection, self.pids))

    async def domain(self, uuid: str) -> SeenDomain | None:
        """One domain, or None."""
        return await self.call(lambda connection: _one(connection, uuid, self.pids))

    async def counters(self) -> Mapping[str, Counters]:
        """Of every machine that runs."""
        return await self.call(_counters)

    async def ask_guest(self, uuid: str, commands: Sequence[str], seconds: int) -> Mapping[str, str | None]:
        """See Channel of agent/guests.py; a command is a name, or JSON with arguments."""
        return await self.call(lambda connection: _asked(connection, uuid, commands, seconds), seconds + QUICK_SECONDS)

    async def set_password(self, uuid: str, user: str, password: str) -> None:
        """Through the guest agent."""
        with obeyed():
            await self.call(lambda connection: _through_agent(connection, uuid).setUserPassword(user, password, 0))

    async def freeze(self, uuid: str) -> int:
        """Let the guest's file systems stand still; how many. Doing it again is refused."""
        with obeyed():
            count = await self.call(lambda connection: _through_agent(connection, uuid).fsFreeze(None, 0))
        return int(count)

    async def thaw(self, uuid: str) -> int:
        """Let them go on; how many."""
        with obeyed():
            count = await self.call(lambda connection: _through_agent(connection, uuid).fsThaw(None, 0))
        return int(count)

    async def definition(self, uuid: str) -> tuple[str, Mark, str]:
        """What would be started next, as XML, its mark, and what runs ("": nothing); ("", ...) if there is none."""
        return await self.call(lambda connection: _definition(connection, uuid))

    async def described(self, uuid: str) -> Described | None:
        """What is known of any domain; None if there is none."""
        return await self.call(lambda connection: _described(connection, uuid))

    async def inactive(self, uuid: str) -> str | None:
        """The definition that would be started next, as XML; None if there is none, though the machine may run."""
        return await self.call(lambda connection: _inactive(connection, uuid))

    async def version(self) -> str:
        """Of libvirt; answered at once, whatever else it is asked for at the moment."""
        return await self._ask(lambda connection: dotted(connection.getLibVersion()), QUICK_SECONDS)

    async def qemu(self) -> Qemu:
        """What libvirt knows of QEMU: seconds after an upgrade, since it examines it anew, else at once."""
        connection = await self._connected()
        if self._qemu is None or (self._qemu.done() and self._qemu.exception()):
            self._qemu = _in_thread(lambda: _examined(connection))
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
            await self.call(lambda connection: _define(connection, xml), LONG_SECONDS)
        except HypervisorError as error:
            if NO_TPM not in str(error):
                raise
            why = f"this host has no emulator of a TPM; install the packages swtpm and swtpm-tools ({error})"
            raise HypervisorError(why, error.code) from error

    async def undefine(self, uuid: str) -> None:
        """Forget the definition and its NVRAM; refused while it runs."""
        await self.call(lambda connection: _undefine(connection, uuid))

    async def start(self, uuid: str) -> None:
        """Start it, unless it runs."""
        await self.call(lambda connection: _start(connection, uuid), LONG_SECONDS)

    async def suspend(self, uuid: str) -> None:
        """Let it stand still, unless it does."""
        await self.call(lambda connection: _suspend(connection, uuid))

    async def change(self, uuid: str, change: Change) -> None:
        """Change the running machine."""
        await self.call(lambda connection: _change(connection, uuid, change), CHANGE_SECONDS)

    async def resume(self, uuid: str) -> None:
        """Let it go on, unless it does."""
        await self.call(lambda connection: _resume(connection, uuid))

    async def shut_down(self, uuid: str) -> None:
        """Press its power button, if it is on."""
        await self.call(lambda connection: _shut_down(connection, uuid))

    async def destroy(self, uuid: str) -> None:
        """Cut its power, if it is on."""
        await self.call(lambda connection: _destroy(connection, uuid), LONG_SECONDS)

    async def screen(self, uuid: str) -> socket:
        """A new connection to its display. Conflict when it is off, has none, or one that others can reach."""
        return await self.call(lambda connection: _screen(connection, uuid))

    async def screenshot(self, uuid: str) -> bytes:
        """Its screen as PNG. Conflict when it is off or has none."""
        return await self.call(lambda connection: _screenshot(connection, uuid))


def pid_folder(uri: str) -> Path:
    """Where libvirt keeps the numbers of its QEMU processes: beside its socket."""
    socket = parse_qs(urlsplit(uri).query).get("socket", ["/run/libvirt/libvirt-sock"])[0]
    return Path(socket).parent / "qemu"


def dotted(number: int) -> str:
    """9.0.0 for 9000000, as libvirt counts versions."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


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
    connection.setKeepAlive(*KEEPALIVE)
    connection.registerCloseCallback(ended, None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, changed, None)
    return connection


def _close(connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


def _find(connection: Any, uuid: str) -> Any:
    """The domain, or None."""
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _all(connection: Any, pids: Path) -> Mapping[str, SeenDomain]:
    stats = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    found = [_seen(domain, record, pids) for domain, record in stats]
    return {one.uuid: one for one in found if one is not None}


COUNTED: Final = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)


def _counters(connection: Any) -> Mapping[str, Counters]:
    """One question for all; a domain that is busy with something else is not waited for."""
    active, nowait = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = connection.getAllDomainStats(COUNTED, active | nowait)
    return {domain.UUIDString(): counted(record) for domain, record in found}


def counted(record: Mapping[str, Any]) -> Counters:
    """The sums of a record of libvirt's (virConnectGetAllDomainStats). A card's rx is what its guest sends."""

    def summed(group: str, name: str) -> int:
        return sum(int(record.get(f"{group}.{at}.{name}", 0)) for at in range(int(record.get(f"{group}.count", 0))))

    available, unused = record.get("balloon.available"), record.get("balloon.unused")
    inside = (available - unused) * 1024 if available is not None and unused is not None else 0
    return Counters(
        cpu_ns=int(record.get("cpu.time", 0)),
        memory=inside if inside > 0 else int(record.get("balloon.rss", 0)) * 1024,
        disk_read=summed("block", "rd.bytes"),
        disk_write=summed("block", "wr.bytes"),
        disk_reads=summed("block", "rd.reqs"),
        disk_writes=summed("block", "wr.reqs"),
        net_in=summed("net", "rx.bytes"),
        net_out=summed("net", "tx.bytes"),
    )


REFUSED: Final = {libvirt.VIR_ERR_INTERNAL_ERROR, getattr(libvirt, "VIR_ERR_AGENT_COMMAND_FAILED", -1)}
"""What libvirt says when an agent answers that it will not, or does not know the command."""


AGENT_SECONDS: Final = 8
"""How long an order to a guest agent may take: less than a call, so that the connection is kept."""


def _through_agent(connection: Any, uuid: str) -> Any:
    domain = connection.lookupByUUIDString(uuid)
    domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
    return domain


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    """What an agent refuses becomes GuestRefused."""
    try:
        yield
    except HypervisorError as error:
        if error.code in REFUSED:
            raise GuestRefused(str(error), error.code) from error
        raise


def _asked(connection: Any, uuid: str, commands: Sequence[str], seconds: int) -> dict[str, str | None]:
    """All within `seconds`. What the agent said is given as it came; libvirt has seen that it is JSON."""
    domain = connection.lookupByUUIDString(uuid)
    replies: dict[str, str | None] = dict.fromkeys(commands)
    until = time.monotonic() + seconds
    for number, command in enumerate(commands):
        left = int(until - time.monotonic())
        if left < 1:
            break
        words = command if command.startswith("{") else f'{{"execute": "{command}"}}'
        try:
            replies[command] = libvirt_qemu.qemuAgentCommand(domain, words, left, 0)
        except (SystemError, UnicodeError) as error:  # bytes that are no text; the binding has no better word for it
            if not number:
                raise HypervisorError("the guest agent's words are no text") from error
            break
        except libvirt.libvirtError as error:
            if error.get_error_code() not in REFUSED:
                if not number:
                    raise
                break
    return replies


def _one(connection: Any, uuid: str, pids: Path) -> SeenDomain | None:
    domain = _find(connection, uuid)
    if domain is None:
        return None
    stats = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_STATE)
    found = _seen(domain, stats[0][1], pids) if stats else None
    return found and replace(found, hardware=_hardware(domain, found))


def _hardware(domain: Any, seen: SeenDomain) -> Hardware | None:
    """Of a machine of ours that runs; None if it ended meanwhile."""
    if seen.state == "Off" or not seen.live:
        return None
    try:
        return read(domain.XMLDesc(0))
    except ValueError as error:
        raise HypervisorError(str(error)) from error


def _seen(domain: Any, record: Mapping[str, int], pids: Path) -> SeenDomain | None:
    """None if it went away meanwhile."""
    try:
        return _looked_at(domain, record["state.state"], record.get("state.reason", 0), pids)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _looked_at(domain: Any, number: int, reason: int, pids: Path) -> SeenDomain:
    uuid, name, state = domain.UUIDString(), domain.name(), STATES.get(number, "Off")
    mark = _mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if state == "Off":
        ended, detail = ENDINGS.get(reason, ("Unknown" if mark.started else "", ""))
        return SeenDomain(uuid, name, state, ended, detail, definition=mark.digest)
    live = _mark(domain, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    cpu, memory = (live.cpu, live.memory) if live.cpu else _measured(domain)
    detail = PAUSES.get(reason, "") if state == "Paused" else ""
    return SeenDomain(uuid, name, state, "", detail, _run(domain, name, pids), mark.digest, live.digest, cpu, memory)


def _mark(domain: Any, where: int) -> Mark:
    """Empty for a domain that is not ours, or that is not on or not defined."""
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, where))
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_OPERATION_INVALID}:
            return Mark()
        raise
    except ValueError:
        return Mark()


def _measured(domain: Any) -> tuple[int, int]:
    """Processors and bytes of memory, for a domain whose definition does not say them to us."""
    _state, _most, kibibytes, processors, _time = domain.info()
    return processors, kibibytes * 1024


def _run(domain: Any, name: str, pids: Path) -> str:
    """Which start this is: QEMU's process and when it began; failing that, a number that may be given out again."""
    try:
        pid = int((pids / f"{name}.pid").read_text(encoding="ascii"))
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return f"id {domain.ID()}"
    return f"{pid}.{status.rpartition(')')[2].split()[19]}"


def _definition(connection: Any, uuid: str) -> tuple[str, Mark, str]:
    domain = _find(connection, uuid)
    if domain is None:
        return "", Mark(), ""
    next_time = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    running = domain.XMLDesc(0) if domain.isActive() else ""
    return next_time, _mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG), running


def _change(connection: Any, uuid: str, change: Change) -> None:
    hypervisor_changes.apply(connection.lookupByUUIDString(uuid), change)


def _described(connection: Any, uuid: str) -> Described | None:
    domain = _find(connection, uuid)
    if domain is None:
        return None
    persistent = bool(domain.isPersistent())
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    sizes = {}
    for file in files_of(xml):
        with contextlib.suppress(libvirt.libvirtError):  # it is not there, or cannot be read
            sizes[file] = int(domain.blockInfo(file)[0])
    return Described(xml, sizes, persistent)


def _inactive(connection: Any, uuid: str) -> str | None:
    domain = _find(connection, uuid)
    if domain is None:
        return None
    try:
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else None
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _examined(connection: Any) -> Qemu:
    version = dotted(connection.getVersion())
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError:
        if not connection.isAlive():
            raise
        return Qemu(version, kvm=False)
    return Qemu(version, kvm=True)


def _define(connection: Any, xml: str) -> None:
    domain = connection.defineXML(xml)
    if domain.autostart():
        domain.setAutostart(0)


def _undefine(connection: Any, uuid: str) -> None:
    domain = _find(connection, uuid)
    if domain is None:
        return
    if domain.isActive():
        raise HypervisorError(f"{domain.name()} runs; end it before it is forgotten", libvirt.VIR_ERR_OPERATION_INVALID)
    domain.undefineFlags(UNDEFINE)


def _start(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    if domain.isActive():
        return
    mark = _mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if mark.digest and not mark.started:  # libvirtd forgets it when it ends; the definition does not
        kind, where = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.setMetadata(kind, mark_text(mark._replace(started=True)), PREFIX, NAMESPACE, where)
    try:
        domain.createWithFlags(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
            raise


def _suspend(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    if domain.state()[0] not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        domain.suspend()


def _resume(connection: Any, uuid: str) -> None:
    domain = connection.lookupByUUIDString(uuid)
    state, _reason = domain.state()
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        domain.pMWakeup(0)
    elif state != libvirt.VIR_DOMAIN_RUNNING:
        domain.resume()


def _shut_down(connection: Any, uuid: str) -> None:
    with _unless_off(connection, uuid):
        connection.lookupByUUIDString(uuid).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def _destroy(connection: Any, uuid: str) -> None:
    with _unless_off(connection, uuid):
        connection.lookupByUUIDString(uuid).destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)


def _screen(connection: Any, uuid: str) -> socket:
    domain = connection.lookupByUUIDString(uuid)
    if not domain.isActive():
        raise Conflict("instances", domain.name(), "it does not run, so there is nothing to be seen")
    if trouble := screen_trouble(domain.XMLDesc(0)):
        raise Conflict("instances", domain.name(), trouble)
    return socket(fileno=domain.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH))


def _screenshot(connection: Any, uuid: str) -> bytes:
    domain = connection.lookupByUUIDString(uuid)
    if not domain.isActive():
        raise Conflict("instances", domain.name(), "it does not run, so there is nothing to be seen")
    stream, shown = connection.newStream(), bytearray()
    kind = domain.screenshot(stream, 0)
    try:
        if kind != "image/png":
            raise HypervisorError(f"libvirt gives screenshots as {kind}, not as PNG; QEMU 7.1 or later is needed")
        while piece := stream.recv(65536):
            shown += piece
            if len(shown) > SCREENSHOT_MAX:
                raise HypervisorError(f"the screenshot of {domain.name()} has more than {SCREENSHOT_MAX} bytes")
        stream.finish()
    except BaseException:
        stream.abort()
        raise
    return bytes(shown)


@contextlib.contextmanager
def _unless_off(connection: Any, uuid: str) -> Any:
    """What is off, or not there at all, needs no ending; nor does what ends by itself in this very moment."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in ALREADY_OFF and not _ends(connection, uuid):
            raise


ALREADY_OFF = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN}
ENDING_LOOKS = 20


def _ends(connection: Any, uuid: str) -> bool:
    """Whether the machine is gone within two seconds: QEMU's monitor closes a moment before libvirt takes notice."""
    for _ in range(ENDING_LOOKS):
        domain = _find(connection, uuid)
        if domain is None or not domain.isActive():
            return True
        time.sleep(0.1)
    return False
