"""One real guest through the whole chain: edits of its SecurityGroup, deaths under a flood, and standing still."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanovirt.resources.client import Client, path_of
from nanovirt.resources.errors import Conflict, Invalid
from nanovirt.resources.kind import Key
from tests.e2e.cluster import NANOCTL, Cluster, inside, instance, instance_key, placement_of, real_cluster, run
from tests.e2e.ears import EVERYTHING, Ear, ear, echoes_of, sent_by, udp_to
from tests.e2e.looking import BOOT, address, look, runs, until, until_answers
from tests.e2e.processes import Agent
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)

GROUP = Key("securitygroups", "default", "web")
GUEST = "default.web"
CLIENT, LIAR = "10.77.0.3", "10.77.9.9"
WEB, PROBED, ECHOING, FORBIDDEN = 80, 7001, 7000, 9
WITHIN = 2.0
"""Seconds in which an edit acts."""
PROBE = 0.8
"""Seconds for an answer of an emulated guest; less than until a lost SYN is sent again."""


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """One host; on it runs `web`, whose card has a group, and which is never started again."""
    with real_cluster(mini_guest, hosts=1) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator, with a guest that is the one that was started first."""
    async with cluster.client() as client:
        if not (await client.list("instances"))[0]:
            await client.create(group())
            nic = {"name": "nic0", "addressPool": "bed", "securityGroups": ["web"]}
            await client.create(instance("web", nics=[nic]))
            await until(client, instance_key("web"), runs)
        doc = await client.get(instance_key("web"))
        before = await until_answers(address(doc))
        await ready(cluster, doc["metadata"]["uid"])
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure
        assert (await until_answers(address(doc))).boot_id == before.boot_id
        assert (await placement_of(client, "web"))["status"]["started"] == 1


def group() -> dict[str, Any]:
    rules = [{"name": "served", "direction": "Inbound", "protocol": "TCP", "ports": [str(WEB), str(ECHOING)]}]
    metadata = {"name": GROUP.name, "namespace": GROUP.namespace}
    return {"apiVersion": "nano/v1", "kind": "SecurityGroup", "metadata": metadata, "spec": {"rules": rules}}


async def ready(cluster: Cluster, uid: str) -> None:
    async def said() -> str:
        return cluster.agents["h1"].console(uid)

    await look("guest", said, lambda text: "nano-guest: ready" in text, BOOT)

    async def hears() -> bool:
        try:
            await asyncio.to_thread(_agent, cluster.agents["h1"], "guest-ping")
        except AssertionError:  # libvirt has not been told yet that it listens
            return False
        return True

    await look("guest's agent", hears, bool)


def told(agent: Agent, command: str) -> str:
    """What a shell command in the guest prints."""
    words = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
    started = _agent(agent, "guest-exec", **words)
    for _ in range(600):
        got = _agent(agent, "guest-exec-status", pid=started["pid"])
        if got["exited"]:
            return base64.b64decode(got.get("out-data", "")).decode(errors="replace")
        time.sleep(0.1)
    raise AssertionError(f"{command} does not end")


def _agent(agent: Agent, command: str, **arguments: Any) -> Any:
    asked = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(agent.virsh("qemu-agent-command", GUEST, asked))["return"]


@contextmanager
def goes_on(agent: Agent, command: str) -> Iterator[None]:
    """A program that runs in the guest meanwhile."""
    pid = told(agent, f"setsid {command} >/dev/null 2>&1 </dev/null & echo $!").strip()
    assert pid.isdigit()
    try:
        yield
    finally:
        told(agent, f"kill -9 -{pid} {pid}")


def show(text: str) -> None:
    """A measured figure, for `pytest -s` and for a failure."""
    print(text)  # noqa: T201


# --- an edit, from the API to the kernel ---


async def opens(ip: str, port: int) -> bool:
    """Whether a connection can be opened from the client's machine."""
    try:
        async with asyncio.timeout(PROBE):
            _, writer = await asyncio.open_connection(ip, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def since(begun: float, ip: str, *, open_: bool) -> float:
    """Seconds from `begun` to the start of the first of three tries that all end as wished; at most 10."""
    first, tries = 0.0, 0
    while tries < 3:
        now = time.monotonic()
        assert now < begun + 10, "the edit does not act"
        tries, first = (tries + 1, first if tries else now) if await opens(ip, PROBED) is open_ else (0, 0.0)
        await asyncio.sleep(0.02)
    return first - begun


async def test_edit_of_a_group_acts_within_two_seconds_in_both_directions(cluster: Cluster, client: Client) -> None:
    """From the write until a connection from outside opens or does not, and the guest's own packets come or do not."""
    agent, ip = cluster.agents["h1"], address(await client.get(instance_key("web")))
    figures: dict[str, list[float]] = {}
    with (
        goes_on(agent, f"nc -ll -p {PROBED} -e cat"),
        goes_on(agent, f"ping -q -i 0.05 {CLIENT}"),
        ear("eth0", echoes_of(ip)) as heard,
    ):
        await look("guest's packets", lambda: first_after(heard, 0), bool)
        assert not await opens(ip, PROBED)
        for inbound, outbound in (("Accept", "Drop"), ("Drop", "Accept")) * 2:
            begun = time.monotonic()
            await client.patch(GROUP, {"spec": {"inbound": inbound, "outbound": outbound}})
            acts = await since(begun, ip, open_=inbound == "Accept")
            figures.setdefault(f"inbound {inbound}", []).append(acts)
            await asyncio.sleep(max(0.0, begun + WITHIN + 1 - time.monotonic()))
            came = heard.after(begun)
            if outbound == "Drop":
                figures.setdefault("outbound Drop", []).append((came or [begun])[-1] - begun)
            else:
                figures.setdefault("outbound Accept", []).append((came or [begun + 10])[0] - begun)
    for what, seconds in figures.items():
        show(f"edit acts: {what}: {', '.join(f'{one:.2f}' for one in seconds)} s")
        assert max(seconds) < WITHIN, what


async def first_after(heard: Ear, moment: float) -> bool:
    return bool(heard.after(moment))


# --- deaths under a flood ---


@contextmanager
def flood(ip: str) -> Iterator[None]:
    """Packets that the guest must not receive, a thousand a second."""
    over = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:

        def send() -> None:
            while not over.wait(0.001):
                mouth.sendto(b"forbidden", (ip, FORBIDDEN))

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join()


class Talk:
    """A connection that an echo comes back on, ten times a second; `gaps` are the seconds that each took."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gaps: list[float] = []
        self._reader, self._writer = reader, writer

    async def go_on(self) -> None:
        """Until cancelled; raises OSError or EOFError when the connection ends."""
        try:
            while True:
                begun = time.monotonic()
                self._writer.write(b"x")
                async with asyncio.timeout(20):
                    await self._reader.readexactly(1)
                self.gaps.append(time.monotonic() - begun)
                await asyncio.sleep(0.1)
        finally:
            self._writer.close()


def handles(agent: Agent) -> list[str]:
    """What in the kernel makes the filter: whatever is made anew has another number."""
    listed = agent.host.run(["nft", "-t", "-a", "list", "table", "bridge", "nano"]).stdout
    return re.findall(r"(?:chain|map|set) \S+ \{ # handle \d+|# handle \d+", listed)


async def test_filter_and_connections_outlive_libvirtd_and_the_agent_without_a_gap(
    cluster: Cluster, client: Client
) -> None:
    agent, host = cluster.agents["h1"], cluster.bed.hosts[0]
    doc = await client.get(instance_key("web"))
    ip, mac = address(doc), doc["status"]["addresses"][0]["mac"]
    tap = next(one for one in agent.devices() if one.endswith(mac.replace(":", "")))
    lie = f"ip addr add {LIAR}/32 dev eth0; arp -s {CLIENT} {client_mac(cluster)}"
    lie += f"; exec ping -q -I {LIAR} -i 0.002 {CLIENT}"
    with inside(host):
        listening = ear(tap, udp_to(FORBIDDEN), EVERYTHING)
        received = listening.__enter__()
    try:
        with (
            ear("eth0", sent_by(LIAR)) as sent,
            goes_on(agent, f"nc -ll -p {ECHOING} -e cat"),
            goes_on(agent, f"sh -c '{lie}'"),
            flood(ip),
        ):
            talk = Talk(*await asyncio.open_connection(ip, ECHOING))
            async with asyncio.TaskGroup() as group:
                talking = group.create_task(talk.go_on())
                await dying(cluster, client, agent)
                talking.cancel()
            assert (len(sent.times), len(received.times)) == (0, 0)
            show(f"connection through both deaths: {len(talk.gaps)} echoes, the slowest {max(talk.gaps):.2f} s")
            assert len(talk.gaps) > 20

            host.run(["nft", "delete", "table", "bridge", "nano"])  # so that the test can fail
            begun = time.monotonic()
            await look("lies", lambda: first_after(sent, begun), bool)
            await look("forbidden packets", lambda: first_after(received, begun), bool)

            async def silent() -> bool:
                return not (sent.after(time.monotonic() - 1) or received.after(time.monotonic() - 1))

            await look("mended filter", silent, bool)
            last, came = max(*sent.times, *received.times) - begun, (len(sent.times), len(received.times))
            show(f"table deleted behind the agent's back: mended within {last:.1f} s, {came} packets passed")
    finally:
        listening.__exit__(None, None, None)
        told(agent, f"ip addr del {LIAR}/32 dev eth0")


async def dying(cluster: Cluster, client: Client, agent: Agent) -> None:
    """libvirtd, then the agent, then both; what filters is the same before and after."""
    before = handles(agent)
    assert before
    for victim in ("libvirtd", "agent", "libvirtd and agent"):
        if "agent" in victim:
            agent.kill()
        if "libvirtd" in victim:
            await asyncio.to_thread(cluster.bed.hosts[0].libvirtd.kill)
        await asyncio.sleep(1)
        if "libvirtd" in victim:
            await asyncio.to_thread(cluster.bed.hosts[0].libvirtd.start)
        if "agent" in victim:
            agent.start()
        await client.patch(instance_key("web"), {"spec": {"displayName": f"after {victim}"}})
        await until(client, instance_key("web"), runs)
        await asyncio.sleep(2)
        assert handles(agent) == before, victim


def client_mac(cluster: Cluster) -> str:
    shown = json.loads(cluster.bed.client.run(["ip", "-j", "link", "show", "eth0"]).stdout)
    return str(shown[0]["address"])


# --- standing still ---


async def written(ip: str) -> int:
    """How many lines the guest has written to its disk, as its web server says."""
    reader, writer = await asyncio.open_connection(ip, WEB)
    try:
        writer.write(b"GET /written HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(20):
            said = await reader.read()
    finally:
        writer.close()
    return int(said.rpartition(b"\r\n")[2]) if b" 200 " in said.partition(b"\r\n")[0] else 0


async def goes(ip: str, begun: float) -> float:
    """Seconds from `begun` until the guest writes again."""
    before = await written(ip)

    async def more() -> bool:
        return await written(ip) > before

    await look("writes", more, bool)
    return time.monotonic() - begun


async def stands(ip: str) -> None:
    """AssertionError if it writes."""
    await asyncio.sleep(0.5)  # what was under way
    before = await written(ip)
    await asyncio.sleep(1.0)
    assert await written(ip) == before


async def test_frozen_guest_writes_nothing_until_it_is_thawed_or_forgotten(cluster: Cluster, client: Client) -> None:
    agent, ip = cluster.agents["h1"], address(await client.get(instance_key("web")))
    step = "n=$((n+1)); echo $n >/www/new; mv /www/new /www/written; usleep 50000"
    write = f"n=0; while echo $n >>/data/written; do {step}; done"
    freeze, thaw = (path_of(instance_key("web"), word) for word in ("freeze", "thaw"))
    with goes_on(agent, f"sh -c '{write}'"):
        await goes(ip, 0)
        assert await client.post(freeze, {"seconds": 60}) == {"fileSystems": 1, "seconds": 60}
        await stands(ip)
        begun = time.monotonic()
        assert await client.post(thaw, {}) == {"fileSystems": 1}
        show(f"writes again {await goes(ip, begun):.2f} s after the order to thaw")

        begun = time.monotonic()
        done = cluster.bed.server.run([*NANOCTL, "freeze", "web", "--seconds", "6", "--kubeconfig", cluster.kubeconfig])
        assert done.stdout == "1 file system of web frozen for 6 s at most; nanoctl thaw web ends it\n"
        await stands(ip)
        forgotten = await goes(ip, begun)
        show(f"writes again {forgotten:.2f} s after it was frozen for 6 s and forgotten")
        assert 6 <= forgotten < 30

        await client.post(freeze, {"seconds": 60})
        agent.kill()
        await stands(ip)
        begun = time.monotonic()
        agent.start()
        show(f"writes again {await goes(ip, begun):.2f} s after its agent was killed and began anew")
    for seconds in (0, 61, "1", True):
        with pytest.raises(Invalid):
            await client.post(freeze, {"seconds": seconds})
    await run(client, "mute")
    with pytest.raises(Conflict):
        await client.post(path_of(instance_key("mute"), "freeze"), {})
