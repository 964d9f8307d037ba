"""The server as an agent needs it: its Placements as they change, and where it tells of them; over the API here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from nanovirt.resources import wire
from nanovirt.resources.client import Client, path_of
from nanovirt.resources.codec import JSON, decode
from nanovirt.resources.errors import Conflict, Invalid, Rejected, StoreUnreachable
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.report import HostReport, ReportReply

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """All Placements of this host: what is not among them is not there."""

    placements: tuple[Placement, ...]


class Changed(NamedTuple):
    """A Placement is new, or different."""

    placement: Placement


class Gone(NamedTuple):
    """A Placement was removed; `uid` says which one bore that name."""

    key: Key
    uid: str


News = Listed | Changed | Gone


class Server(Protocol):
    """What an agent needs of the server. StoreUnreachable when it does not answer."""

    def placements(self) -> AsyncGenerator[News, None]:
        """First a Listed, then every change; a new Listed after each gap. Goes on for ever, also without a server."""
        ...

    async def write_status(self, placement: Placement, status: PlacementStatus) -> None:
        """Replace the status; durable on return. NotFound when it is gone, Conflict when another bears its name."""
        ...

    async def report(self, report: HostReport) -> ReportReply:
        """Renew the lease and say what the host is."""
        ...

    async def fetch_secrets(self, placement: Key) -> GuestSecrets:
        """What of the machine's seed is secret. NotFound when this host does not hold the machine any more."""
        ...

    async def fetch_image(self, placement: Key, volume: str, path: Path) -> None:
        """Write the bytes of the image of that volume into a file. NotFound when the server does not have them."""
        ...


class ApiServer:
    """A Server behind the API."""

    def __init__(self, client: Client, host: str) -> None:
        self._client = client
        self._host = host

    async def placements(self) -> AsyncGenerator[News, None]:
        """See Server. A refusal (the host is not known yet, its certificate is no longer good) is asked about again."""
        refusals = 0
        while True:
            changes = self._client.follow("placements", field_selector=f"spec.host={self._host}")
            try:
                async with aclosing(changes):
                    async for event in changes:
                        refusals = 0
                        news = _news(event)
                        if news is not None:
                            yield news
            except Rejected as error:
                refusals += 1
                log.warning("server refuses to tell our placements; will ask again", extra={"detail": str(error)})
            await asyncio.sleep(wire.backoff(refusals or 1))

    async def write_status(self, placement: Placement, status: PlacementStatus) -> None:
        """See Server: a JSON patch that tests the uid, so that it never lands on a namesake."""
        patch: list[JSON] = [
            {"op": "test", "path": "/metadata/uid", "value": placement.metadata.uid},
            {"op": "add", "path": "/status", "value": status.to_json()},
        ]
        try:
            await self._client.patch(placement.key, patch, "json", "status")
        except Invalid as error:
            raise Conflict("placements", placement.metadata.name, str(error)) from error

    async def report(self, report: HostReport) -> ReportReply:
        """See Server."""
        path = path_of(Key("hosts", "", self._host), "report")
        return ReportReply.model_validate(await self._client.post(path, report.to_json()))

    async def fetch_secrets(self, placement: Key) -> GuestSecrets:
        """See Server: the sub-resource `secrets` of the Placement."""
        return GuestSecrets.model_validate(await self._client.get(placement, "secrets"))

    @asynccontextmanager
    async def admit(self, placement: Key, digest: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Ask whether a token (its SHA-256, hex) opens the screen of that machine. Forbidden when it does not.

        Gives what ends when it may not be looked at any more, or the server is gone.
        """
        async with self._client.stream(path_of(placement, "console"), {"digest": digest}) as pieces:

            async def until_over() -> None:
                with suppress(StoreUnreachable):
                    async for piece in pieces:
                        if piece.strip():
                            return

            yield until_over

    async def fetch_image(self, placement: Key, volume: str, path: Path) -> None:
        """See Server: the sub-resource `image` of the Placement, with the volume's name as a parameter."""
        url = path_of(placement, "image") + wire.query(volume=volume)
        try:
            with path.open("wb") as file:
                await self._client.fetch_into(url, file)
        except OSError as error:
            raise StoreUnreachable(f"cannot write {path}: {error.strerror}") from error


def _news(event: wire.Sync | wire.Event) -> News | None:
    match event:
        case wire.Sync(_, items, _):
            return Listed(tuple(placement for item in items if (placement := _read(item)) is not None))
        case wire.Event("DELETED", doc):
            metadata = doc["metadata"]
            return Gone(Key("placements", metadata.get("namespace", ""), metadata["name"]), metadata.get("uid", ""))
        case wire.Event(_, doc):
            placement = _read(doc)
            return None if placement is None else Changed(placement)


def _read(doc: JSON) -> Placement | None:
    """A Placement; None for one that this agent is too old to understand: its machine stays as it is."""
    try:
        return decode(Placement, doc)
    except Rejected as error:
        name = doc.get("metadata", {}).get("name", "")
        log.warning("placement not understood; machine left as it is", extra={"key": name, "detail": str(error)})
        return None
