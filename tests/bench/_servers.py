"""The two servers that the API benchmark compares, each in a process and a directory of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvloop
from aiohttp import web

from nanovirt.portal.__main__ import calm_collector
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.serving import ApiServer
from nanovirt.portal.identity import ADMIN
from nanovirt.resources import registry
from nanovirt.resources.defaults import defaults
from nanovirt.resources.engine import Engine
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.store import Create, transact

assert registry.MODULES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


async def _serve(directory: Path, port: int) -> None:
    log = FileLog.open(directory)
    store = Engine(log)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.run())
        tasks.create_task(log.tend())
        if not store.committed:
            await transact(store, [Create(thing.key, thing.to_json()) for thing in defaults()], "start")
        api = Api(store, lambda _request: ADMIN)
        runner = web.ServerRunner(ApiServer(api.handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
        calm_collector()  # as the server does
        await asyncio.Event().wait()


def _main(directory: Path, port: int) -> None:

    uvloop.run(_serve(directory, port))


@contextmanager
def nano(fill: Callable[[Path], object] = lambda _log: None) -> Iterator[int]:
    """The port of a Nano API on a file log, which may be filled before."""
    directory, port = Path(tempfile.mkdtemp(prefix="bench-nano-")), free_port()
    fill(directory / "store")
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(directory / "store", port), daemon=True)
    process.start()
    try:
        wait_for(port)
        yield port
    finally:
        process.kill()
        process.join()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def etcd() -> Iterator[int]:
    """The client port of an etcd with one member."""
    directory, port, peer = Path(tempfile.mkdtemp(prefix="bench-etcd-")), free_port(), free_port()
    client, between = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    argv = ["etcd", "--data-dir", str(directory), "--listen-client-urls", client, "--advertise-client-urls", client]
    argv += ["--listen-peer-urls", between, "--initial-advertise-peer-urls", between]
    argv += ["--initial-cluster", f"default={between}", "--log-level", "error", "--quota-backend-bytes", str(4 << 30)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            time.sleep(1)
            yield port
        finally:
            process.kill()
            shutil.rmtree(directory, ignore_errors=True)
