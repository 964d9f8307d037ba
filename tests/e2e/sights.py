"""What can be seen of a machine: in libvirt's definition, inside the guest, on its host, in what the agent was told."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import libvirt
from defusedxml import ElementTree

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Conflict, Unavailable
from nanovirt.resources.kind import Key
from tests.agent.live_guest import shell
from tests.e2e.cluster import Cluster, instance_key, placement_of
from tests.e2e.looking import BOOT, look

SHELL = """
blk() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo ${d##*/}; done; }
eth() { for d in /sys/class/net/*; do [ "$(cat $d/address)" = "$1" ] && echo ${d##*/}; done; }
renew() { kill -USR1 $(cat /run/udhcpc.$(eth $1).pid); sleep 1; }
seed() { mkdir -p /run/seen; mount -o ro $(findfs LABEL=cidata) /run/seen; cat /run/seen/user-data; umount /run/seen; }
"""
"""Words for commands inside: a disk by its serial, a card by its MAC, a lease asked for again, the seed."""


class Xml(NamedTuple):
    """An element of the definition, or ` @attribute` of one, has a text; None: is not there."""

    path: str
    wanted: str | None


class Inside(NamedTuple):
    """A shell command in the guest prints that; a machine that is off cannot say it."""

    command: str
    wanted: str


class OnHost(NamedTuple):
    """A shell command on the host prints that."""

    command: str
    wanted: str


class OfRun(NamedTuple):
    """A shell command on the host prints that; it tells only of a machine that runs."""

    command: str
    wanted: str


class Told(NamedTuple):
    """A field of the Placement's spec, which is all that the agent goes by: nothing of the machine shows it."""

    field: str
    wanted: Any


class Stored(NamedTuple):
    """A field of the Instance's spec, which no machine ever hears of."""

    field: str
    wanted: Any


class OfVolume(NamedTuple):
    """A field of a disk's Volume."""

    disk: str
    field: str
    wanted: Any


class Reached(NamedTuple):
    """Whether the guest's first card answers a ping from another machine."""

    wanted: bool


class Kept(NamedTuple):
    """The server refuses to delete it."""

    wanted: bool = True


class Mended(NamedTuple):
    """What somebody edits in the definition on the host is taken back."""

    wanted: bool = True


Sight = Xml | Inside | OnHost | OfRun | Told | Stored | OfVolume | Reached | Kept | Mended
OF_RUN = (Inside, OfRun, Reached)
"""What can be seen only of a machine that runs."""


class Machine:
    """A machine of the cluster, and the words by which its table tells its cards: `{nic0}` is a MAC."""

    def __init__(self, cluster: Cluster, client: Client, name: str, words: dict[str, str]) -> None:
        self.cluster, self.client, self.name = cluster, client, name
        self.key, self.domain = instance_key(name), f"default.{name}"
        self.agent = cluster.agents["h1"]
        self.words = words | {"machine": name, "volumes": str(self.agent.volumes)}

    async def doc(self) -> JSON:
        """The Instance."""
        return await self.client.get(self.key)

    @property
    def pid(self) -> int:
        """QEMU's process; 0: it is off."""
        return self.agent.runs(self.domain)

    async def inside(self, command: str) -> str:
        """What a command prints in the guest, which may be busy."""
        return await asyncio.to_thread(self._inside, SHELL + self.said(command))

    def _inside(self, command: str) -> str:
        with contextlib.closing(libvirt.open(self.agent.host.uri)) as connection:
            return shell(connection.lookupByName(self.domain), command).strip()

    async def console(self) -> str:
        """All that it has said on its serial line."""
        return self.agent.console(self.words["uid"])

    async def boot_id(self) -> str:
        """Of the guest that runs now, once its agent answers."""

        async def ask() -> str:
            with contextlib.suppress(libvirt.libvirtError):
                return await self.inside("cat /proc/sys/kernel/random/boot_id")
            return ""

        return await look(f"{self.name}'s guest", ask, bool, BOOT)

    async def xml(self) -> Element:
        """Of the running machine, else the definition that it will start with."""
        words = ["dumpxml", self.domain] + ([] if self.pid else ["--inactive"])
        found: Element = ElementTree.fromstring(await asyncio.to_thread(self.agent.virsh, *words))
        return found

    def said(self, text: str) -> str:
        """With MACs for the names of cards."""
        for name, word in self.words.items():
            text = text.replace(f"{{{name}}}", word)
        return text

    async def sees(self, sight: Sight) -> Any:
        """What is there now; None: nothing."""
        match sight:
            case Xml(path):
                return _text(await self.xml(), self.said(path))
            case Inside(command):
                return await self.inside(command)
            case OnHost(command) | OfRun(command):
                done = await asyncio.to_thread(self.agent.host.run, ["sh", "-c", self.said(command)], check=False)
                return done.stdout.strip()
            case Told(field):
                return (await placement_of(self.client, self.name))["spec"].get(field)
            case Stored(field):
                return (await self.doc())["spec"].get(field)
            case OfVolume(disk, field):
                return (await self.client.get(Key("volumes", "default", f"{self.name}.{disk}")))["spec"].get(field)
            case Reached():
                return await self._answers_ping()
            case Kept():
                return await self._is_kept()
            case Mended():
                return await self._is_mended()

    async def misses(self, sights: tuple[Sight, ...]) -> list[str]:
        """What is not so, and how it is instead; a guest that does not answer misses all that is inside."""
        found = []
        for sight in sights:
            wanted = self.said(sight.wanted) if isinstance(sight.wanted, str) else sight.wanted
            try:
                seen = await self.sees(sight)
            except (libvirt.libvirtError, Unavailable) as error:
                seen = error
            if not (_is(seen, wanted) if isinstance(wanted, str) else seen == wanted):
                found.append(f"{sight}: {seen!r}")
        return found

    async def _answers_ping(self) -> bool:
        ip = (await self.doc())["status"]["addresses"][0]["ip"]
        ping = ["ping", "-c", "1", "-W", "1", ip]
        done = await asyncio.to_thread(self.cluster.bed.client.run, ping, check=False)
        return done.returncode == 0

    async def _is_kept(self) -> bool:
        try:
            await self.client.delete(self.key, dry_run=True)
        except Conflict as refused:
            return "deletionProtection" in str(refused)
        return False

    async def _is_mended(self) -> bool:
        """Edited the first time that somebody looks."""
        name, file = self.domain, self.agent.folder / f"{self.name}.edited.xml"
        xml = await asyncio.to_thread(self.agent.virsh, "dumpxml", name, "--inactive")
        if not file.exists():
            file.write_text(xml.replace("<on_crash>destroy<", "<on_crash>restart<"))
            await asyncio.to_thread(self.agent.virsh, "define", str(file))
            return False
        return "<on_crash>destroy<" in xml


def _is(seen: Any, wanted: str) -> bool:
    return isinstance(seen, str) and re.fullmatch(wanted, seen, re.DOTALL) is not None


def _text(root: Element, path: str) -> str | None:
    where, _, attribute = path.partition(" @")
    found = root.find(where)
    if found is None:
        return None
    return found.get(attribute) if attribute else (found.text or "")
