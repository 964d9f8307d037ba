"""The composition root: `nanoctl`, the only module that knows every room; it imports them when they are needed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanovirt.portal.cli.processes import Options
    from nanovirt.portal.exporting import Export
    from nanovirt.portal.front import Heart
    from nanovirt.resources.engine import Engine
    from nanovirt.resources.host import Host

log = logging.getLogger(__name__)

STORE_FAILED = 75
"""Exit code when the log failed (EX_TEMPFAIL): start again, and recovery decides."""
DEFAULT_BRIDGE = "nano0"
NODES = Path("/sys/class/net")


def main() -> None:
    """Run one command."""
    from nanovirt.portal.cli import compose
    from nanovirt.portal.cli.processes import Processes

    compose(Processes(up=_up, server=_server, agent=_agent))()


def _up(options: Options) -> int:
    local = options.agent and (bool(options.bridge) or not options.simulated_hosts)
    return _run(_serve(replace(options, agent=local)), options)


def _server(options: Options) -> int:
    return _run(_serve(replace(options, agent=False)), options)


def _agent(options: Options) -> int:
    return _run(_agent_alone(options), options)


def _run(work: Coroutine[Any, Any, None], options: Options) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    import uvloop

    from nanovirt.portal.logs import set_up
    from nanovirt.resources.errors import NanoError, StoreFailed

    set_up(verbose=options.verbose)
    os.umask(0o077)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told(work))
    except BaseExceptionGroup as group:
        failed, others = group.split(StoreFailed)
        if failed is not None:
            log.critical("store failed; start again", extra={"detail": _first(failed)})
            return STORE_FAILED
        assert others is not None
        refused, bugs = others.split(NanoError)
        if bugs is not None:
            raise bugs from None
        print(f"Error: {_first(refused)}", file=sys.stderr)  # noqa: T201 - the one line that a person must read
        return 1
    return 0


def _first(group: BaseException | None) -> BaseException | None:
    """The first error at the bottom of nested groups."""
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Cancel `work` when the process is told to end."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, told.set)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        waiting = group.create_task(told.wait())
        working.add_done_callback(lambda _done: waiting.cancel())
        waiting.add_done_callback(lambda _done: working.cancel())


async def _serve(options: Options) -> None:
    """The server, with the agents that run in the same process, until cancelled."""
    async with _control_plane(options) as heart, asyncio.TaskGroup() as group:
        if options.simulated_hosts:
            if not (options.agent or options.verbose):
                logging.getLogger("nanovirt.agent").setLevel(logging.WARNING)
            group.create_task(_simulated(heart, options.simulated_hosts))
        if options.agent:
            group.create_task(_agent_here(heart, options))
        await asyncio.Event().wait()


@asynccontextmanager
async def _control_plane(options: Options) -> AsyncIterator[Heart]:
    """Store, controllers and API, ready inside the block."""
    from nanovirt.controllers.forecasting import forecast
    from nanovirt.controllers.loops import Loops
    from nanovirt.portal.agents import Agents
    from nanovirt.portal.front import Heart, listening
    from nanovirt.portal.pki import Pki
    from nanovirt.portal.server import bind, port_of
    from nanovirt.portal.shipping import ship
    from nanovirt.resources.engine import Engine
    from nanovirt.resources.file_log import FileLog, Sizes
    from nanovirt.resources.registry import kinds
    from nanovirt.resources.reports import Reports

    kinds()
    began = time.monotonic()
    _make_folder(options.data)
    pki = Pki(options.data, datetime.now(UTC))
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(bind(port)) for port in (options.api_port, options.portal_port)]
        journal = FileLog.open(options.data / "data", Sizes(history=options.history))
        stack.callback(journal.close)
        store, reports = Engine(journal), Reports(time.monotonic())
        calm_collector()
        heart = Heart(options.data, store, reports, pki, Agents(store, reports), port_of(sockets[0]))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        # These end after the API: what it has accepted by then is still committed, and answered.
        committer = group.create_task(store.run())
        stack.callback(committer.cancel)
        tending = group.create_task(journal.tend())
        stack.callback(tending.cancel)
        await ship(store, datetime.now(UTC))
        loops = Loops(store, reports)
        controlling = group.create_task(loops.run())
        stack.callback(controlling.cancel)
        if export := _export(heart, options):
            exporting = group.create_task(export.run())
            stack.callback(exporting.cancel)
        foresee = partial(forecast, store, loops.world)
        await stack.enter_async_context(listening(heart, sockets, group, foresee, options))
        log.info(
            "ready",
            extra={
                "seconds": f"{time.monotonic() - began:.2f}",
                "revision": store.committed,
                "api": f"https://127.0.0.1:{heart.api_port}",
                "portal": f"https://127.0.0.1:{port_of(sockets[1])}",
            },
        )
        yield heart


def _export(heart: Heart, options: Options) -> Export | None:
    """What writes a file for each object, if somebody wants that."""
    from nanovirt.portal.exporting import Export

    own = heart.folder / "export"
    directory = options.export or (own if own.is_dir() else None)
    return Export(heart.store, directory.absolute()) if directory else None


def calm_collector() -> None:
    """What was loaded stays; most objects that come later die by their count, and a full pass costs 100 ms and more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _make_folder(folder: Path) -> None:
    """DIR can be passed through, so that QEMU's user reaches its volumes, but not read."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


async def _simulated(heart: Heart, count: int) -> None:
    """`count` hosts in memory; they are ordinary Host objects, named sim-1, sim-2 ..."""
    from nanovirt.agent.main import SimulatedHost, run_simulated_hosts
    from nanovirt.resources.access import from_host_credentials, listening_tls
    from nanovirt.resources.report import ReportReply

    names = [f"sim-{number}" for number in range(1, count + 1)]
    uids = [(await _host(heart.store, name, DEFAULT_BRIDGE, "")).metadata.uid for name in names]
    log.info("simulated hosts join", extra={"count": count})
    shown = heart.pki.host_credentials("simulated", uids[0], f"https://127.0.0.1:{heart.api_port}", uids)
    await run_simulated_hosts(
        {uid: SimulatedHost(name, seed=seed) for seed, (uid, name) in enumerate(zip(uids, names, strict=True))},
        heart.store,
        heart.reports,
        lambda host: ReportReply.model_validate_json(heart.agents.reply(host)),
        listening_tls(from_host_credentials(shown)),
    )


async def _host(store: Engine, name: str, bridge: str, volumes: str) -> Host:
    """The Host of that name, made if need be."""
    from nanovirt.resources.codec import trusted
    from nanovirt.resources.defaults import made
    from nanovirt.resources.host import Host
    from nanovirt.resources.kind import Key
    from nanovirt.resources.store import create

    entry = store.peek(Key("hosts", "", name))
    if entry is None:
        bridges = [{"network": "default", "device": bridge}] if bridge else []
        paths = [{"storagePool": "local", "path": volumes}] if volumes else []
        entry = await create(store, made("Host", name, bridges=bridges, storagePaths=paths), "system:setup")
    return trusted(Host, entry.raw)


async def _agent_here(heart: Heart, options: Options) -> None:
    """Let this machine be a host of the server in the same process: an agent as on any other host, over TLS."""
    from nanovirt.portal.pki import own_names, save_credentials

    bridge = options.bridge or (DEFAULT_BRIDGE if (NODES / DEFAULT_BRIDGE).exists() else "")
    if not bridge:
        log.warning("no bridge: machines with network cards cannot be placed here; give --bridge NAME")
    host = await _host(heart.store, _own_name(), bridge, str(options.data.resolve() / "volumes"))
    file = options.data / "agent" / "credentials.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    url = f"https://127.0.0.1:{heart.api_port}"
    names = own_names()  # viewers come by any of them
    save_credentials(heart.pki.host_credentials(host.metadata.name, host.metadata.uid, url, names), file)
    await _agent_alone(replace(options, credentials=file, bridge=bridge))


def _own_name() -> str:
    return socket.gethostname().split(".")[0].lower() or "localhost"


async def _agent_alone(options: Options) -> None:
    """The agent of this host, as its credentials file says."""
    from nanovirt.agent.libvirt_machine import LibvirtMachine
    from nanovirt.agent.main import Port, run_agent
    from nanovirt.agent.server import ApiServer
    from nanovirt.resources.access import from_credentials_file, listening_tls, named
    from nanovirt.resources.client import Client

    assert options.credentials is not None
    access = from_credentials_file(options.credentials)
    host = access.host
    if options.server:
        access = replace(access, server=options.server.rstrip("/"))
    folder = options.data.resolve()
    machine = LibvirtMachine(
        folder / "agent", options.libvirt_uri, options.accelerator, address=_address_to(access.server)
    )
    bridges = (options.bridge,) if options.bridge else ()
    log.info("agent starts", extra={"host": host, "server": access.server, "libvirt": options.libvirt_uri})
    try:
        async with Client(access) as client:
            own = _address_to(access.server)
            viewers = listening_tls(access, anybody=True)
            port = Port(options.agent_port, listening_tls(access), options.console_port, viewers, named(access, own))
            server = ApiServer(client, host)
            await run_agent(host, machine, server, server.admit, folder, port, bridges, channel=machine)
    finally:
        await machine.close()


def _address_to(server: str) -> str:
    """The address of this machine by which it reaches the server (no packet is sent), or ""."""
    from urllib.parse import urlsplit

    url = urlsplit(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((url.hostname or "", url.port or 443))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    main()
