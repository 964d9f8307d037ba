"""What the agent remembers of each machine on its own disk, so that a kill neither loses nor repeats an order."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from nanovirt.agent.drift import Defined
from nanovirt.agent.unheard import Told
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import Placement

log = logging.getLogger(__name__)

Intent = Literal["Off", "Starting", "Started", "Suspended", "Held"]


@dataclass(frozen=True, slots=True)
class Memory:
    """One machine; written *before* the step that it is about.

    `intent` is what the agent was about to do, or did: Off (not started, or stopped by the agent: it starts whenever
    it is wished), Starting (between the decision and the hypervisor's answer), Started (an end from now on is the
    machine's own), Suspended (it was told to stand still; its memory is to be kept), Held (it ended by itself and stays
    off until wished anew; `ended` and `detail` say how).
    """

    epoch: int = 0
    """The highest ever seen; a lower one is never obeyed."""
    intent: Intent = "Off"
    started: int = 0
    """How often the agent has started it."""
    restart_at: datetime | None = None
    """The `at` of the newest restart that was carried out."""
    ended: str = ""
    detail: str = ""
    restarts: tuple[float, ...] = ()
    """When it was started again after an end of its own (seconds since 1970), the recent ones."""
    asked: float | None = None
    """When the agent first asked the guest to end; None unless it is to end."""
    pressed: float | None = None
    """When it last did so."""
    boot_id: str = ""
    """The boot of the host in which it was started."""
    volumes: tuple[str, ...] = ()
    """The files that it was started with: if one is missing, it is not made anew."""
    told: Told | None = None
    """What its seed said when it was started; None: nobody knows."""
    defined: Defined | None = None
    """What the hypervisor had made of our definition."""
    placement: Placement | None = None
    """The newest order, without its status: obeyed after a boot as long as the server is away."""


_FORM = TypeAdapter(Memory)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Memories(Protocol):
    """Where memories are kept, by the uuid of the domain. HypervisorError when the disk refuses."""

    async def load(self) -> Mapping[str, Memory]:
        """All of them; once, at start."""
        ...

    async def keep(self, uuid: str, memory: Memory) -> None:
        """Make it durable; on return it is."""
        ...

    async def forget(self, uuid: str) -> None:
        """Nothing is known of that machine any more."""
        ...


class KeptMemories:
    """In a dictionary, for simulated hosts: it lives as long as the simulated disk does."""

    def __init__(self) -> None:
        self.kept: dict[str, Memory] = {}

    async def load(self) -> Mapping[str, Memory]:
        """See Memories."""
        return dict(self.kept)

    async def keep(self, uuid: str, memory: Memory) -> None:
        """See Memories."""
        self.kept[uuid] = memory

    async def forget(self, uuid: str) -> None:
        """See Memories."""
        self.kept.pop(uuid, None)


class FileMemories:
    """One JSON file per machine in `folder`, replaced as a whole: temporary, fsync, rename, fsync of the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def load(self) -> Mapping[str, Memory]:
        """See Memories. A file that cannot be read is put aside and said in the log: its machine counts as unknown."""
        return await asyncio.to_thread(self._load)

    async def keep(self, uuid: str, memory: Memory) -> None:
        """See Memories."""
        content = _FORM.dump_json(memory, by_alias=True, exclude_defaults=True)
        await asyncio.to_thread(self._write, uuid, content)

    async def forget(self, uuid: str) -> None:
        """See Memories."""
        await asyncio.to_thread(self._remove, uuid)

    def _load(self) -> Mapping[str, Memory]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.folder.glob("*.new"):
            left.unlink()
        ours = [file for file in sorted(self.folder.glob("*.json")) if _UUID.fullmatch(file.stem)]
        found = ((file.stem, _read(file)) for file in ours)
        return {uuid: memory for uuid, memory in found if memory is not None}

    def _write(self, uuid: str, content: bytes) -> None:
        new = self.folder / f"{uuid}.new"
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.folder / f"{uuid}.json")
            self._sync()
        except OSError as error:
            raise HypervisorError(f"cannot write {new}: {error.strerror}; nothing is done that is not noted") from error

    def _remove(self, uuid: str) -> None:
        try:
            (self.folder / f"{uuid}.json").unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise HypervisorError(f"cannot remove {uuid}.json from {self.folder}: {error.strerror}") from error

    def _sync(self) -> None:
        opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _read(file: Path) -> Memory | None:
    try:
        return _FORM.validate_json(file.read_bytes())
    except ValidationError:
        file.replace(file.with_suffix(".unreadable"))
        log.exception("memory of a machine is unreadable; put aside", extra={"file": str(file)})
        return None
