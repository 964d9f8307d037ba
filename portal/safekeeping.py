"""What an administrator asks of the store as a whole: a backup, the hold after a restore, whether the hosts agree."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import web

from nanovirt.portal.agents import Agents
from nanovirt.portal.api.replies import SAFE, document, success
from nanovirt.portal.api.requests import truth
from nanovirt.portal.authorization import unlimited
from nanovirt.portal.identity import Subject
from nanovirt.resources import backup
from nanovirt.resources.codec import JSON, load, trusted
from nanovirt.resources.conditions import find
from nanovirt.resources.differences import differences
from nanovirt.resources.errors import Forbidden, NotFound, Unavailable
from nanovirt.resources.hold import HOLD
from nanovirt.resources.host import ACCOUNTED, Host
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Delete, Store

PIECE = 1 << 20
ANSWER_SECONDS = 6.0
"""How long hosts are waited for that were asked what they hold; they report every two seconds."""
Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Safekeeping:
    """`pages` go into the API; they are for administrators alone."""

    def __init__(
        self,
        store: Store,
        reports: Reports,
        agents: Agents,
        directory: Path,
        identify: Callable[[web.BaseRequest], Subject],
    ) -> None:
        """`directory`: the store's own, where its log is."""
        self._store, self._reports, self._agents = store, reports, agents
        self._directory, self._identify = directory, identify
        self._busy = asyncio.Lock()

    @property
    def pages(self) -> Mapping[tuple[str, str], Page]:
        """(method, path) -> who answers."""
        return {
            ("GET", "/backup"): self.backup,
            ("GET", "/restore"): self.hold,
            ("DELETE", "/restore"): self.let_go,
            ("GET", "/verify"): self.verify,
        }

    def _administrator(self, request: web.BaseRequest) -> Subject:
        subject = self._identify(request)
        if not unlimited(subject):
            raise Forbidden(f"{subject.name} may not {request.method} {request.path}; only administrators may")
        return subject

    async def backup(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /backup[?history=true]: a backup of the store, made by a process of its own beside it."""
        self._administrator(request)
        if self._busy.locked():
            raise Unavailable("another backup is being taken; try again when it is done")
        words = [str(self._directory), str(os.getpid())]
        words += ["--with-history"] if truth(request.query.get("history")) else []
        async with self._busy:
            command = [sys.executable, "-m", backup.__name__, *words]
            process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, limit=PIECE)
            try:
                return await self._passed_on(request, process)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _passed_on(self, request: web.BaseRequest, process: asyncio.subprocess.Process) -> web.StreamResponse:
        assert process.stdout is not None
        assert process.stderr is not None
        piece = await process.stdout.read(PIECE)
        if not piece:
            why = (await process.stderr.read()).decode(errors="replace").strip()
            raise Unavailable(f"no backup could be taken: {why or 'its process ended'}")
        response = web.StreamResponse(headers={**SAFE, "Content-Type": "application/x-tar"})
        await response.prepare(request)
        while piece:
            await response.write(piece)
            piece = await process.stdout.read(PIECE)
        if await process.wait() and request.transport is not None:
            request.transport.abort()  # it lacks its end, and whoever gets it must not take it for whole
        await response.write_eof()
        return response

    async def hold(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /restore: whether a restored store is still held, and which hosts have not said what they hold."""
        self._administrator(request)
        entry = self._store.peek(HOLD)
        if entry is None:
            return document({"held": False})
        hosts = [trusted(Host, one.raw) for _, one in self._store.list("hosts")]
        return document(
            {"held": True, **load(entry.raw)["spec"], "hosts": [_accounted(one, entry.uid) for one in hosts]}
        )

    async def let_go(self, request: web.BaseRequest) -> web.StreamResponse:
        """DELETE /restore: an administrator says that the restored store may act, whatever hosts have not said."""
        subject = self._administrator(request)
        if self._store.peek(HOLD) is None:
            raise NotFound("holds", HOLD.name)
        await self._store.stage([Delete(HOLD)], subject.name).durable()
        return document(success({"name": HOLD.name, "kind": HOLD.plural}))

    async def verify(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET /verify: where hosts and store differ, as the hosts say now."""
        self._administrator(request)
        hosts = [key.name for key, _ in self._store.list("hosts")]
        heard = await self._agents.holdings(hosts, ANSWER_SECONDS)
        found = differences(hosts, self._store.list("placements"), heard)
        return document({"hosts": len(hosts), "differences": [one._asdict() for one in found]})


def _accounted(host: Host, hold: str) -> JSON:
    found = find(host.status.conditions, ACCOUNTED)
    if found is None or found.params.get("hold") != hold:
        return {"name": host.metadata.name, "accounted": False, "message": "has not reported"}
    return {"name": host.metadata.name, "accounted": found.status == "True", "message": found.message}
