"""Segments as the agent makes them, on a kernel with VLAN devices: says `ok NAME` for all that is as it should be."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from nanovirt.agent.iproute import KernelSegments, links
from nanovirt.agent.segments import Segment
from nanovirt.resources.errors import HypervisorError

SEGMENT = Segment("br0", 40)
SWITCH = """
link add br0 type bridge
link add eth9 mtu 1400 type veth peer name far mtu 1400
link set eth9 master br0
link set br0 up
link set eth9 up
netns add switch
link set far netns switch
"""
FAR = """
link set far up
link add link far name far.40 type vlan id 40
link set far.40 up
address add 10.9.0.2/24 dev far.40
address add 10.9.1.2/24 dev far
"""


def ip(lines: str, *words: str) -> None:
    subprocess.run(["ip", *words, "-batch", "-"], input=lines, text=True, check=True)


def guest(name: str, port: str, bridge: str, address: str) -> None:
    ip(f"netns add {name}\nlink add {port} type veth peer name eth0 netns {name}\nlink set {port} master {bridge} up\n")
    ip(f"link set eth0 up\naddress add {address}/24 dev eth0\n", "-n", name)


def reaches(name: str, address: str) -> bool:
    words = ["ip", "netns", "exec", name, "python3", "/try/ping.py", address]
    return subprocess.run(words, check=False).returncode == 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ok(name: str, met: object) -> None:
    say(f"ok {name}" if met else f"NOT {name}")


async def main() -> None:
    ip(SWITCH)
    ip(FAR, "-n", "switch")
    door = KernelSegments()
    await door.make(SEGMENT)
    found = await links()
    ok("made", door.there([SEGMENT]) and found["eth9.40"].master == "br0.40" and found["eth9.40"].below == "eth9")
    ok("as long as the bridge's", found["br0.40"].mtu == found["eth9.40"].mtu == 1400)
    door.expect("machine", (SEGMENT,))
    ok("nothing left to do", not await door.settle())

    guest("tagged", "nvl525400000001", "br0.40", "10.9.0.1")
    guest("plain", "nvx525400000002", "br0", "10.9.1.1")
    guest("curious", "nvx525400000003", "br0", "10.9.0.3")
    ok("reaches its VLAN", reaches("tagged", "10.9.0.2"))
    ok("reaches what is untagged", reaches("plain", "10.9.1.2"))
    ok("does not reach a VLAN from outside", not (reaches("curious", "10.9.0.2") or reaches("curious", "10.9.0.1")))
    await trouble(door)
    await ending(door)


async def trouble(door: KernelSegments) -> None:
    ip("link set eth9 down\n")
    await door.settle()
    ok("down with its cable", not (await links())["eth9.40"].up)
    ip("link set eth9 up\n")
    await door.settle()
    ok("up with its cable", reaches("tagged", "10.9.0.2"))
    ip("link set eth9 nomaster\n")
    await door.settle()
    ok("gone with its cable", "eth9.40" not in await links())
    ip("link set eth9 master br0\n")
    await door.settle()
    ok("back with its cable", reaches("tagged", "10.9.0.2"))


async def ending(door: KernelSegments) -> None:
    door.expect("machine", ())
    await door.settle()
    ok("kept for a guest", door.there([SEGMENT]))
    ip("netns del tagged\n")
    while "nvl525400000001" in await links():
        await asyncio.sleep(0.1)
    await door.settle()
    ok("gone with the last guest", not {"br0.40", "eth9.40"} & set(await links()))
    ip("link add link eth9 name mine type vlan id 40\n")
    try:
        await door.make(SEGMENT)
    except HypervisorError as error:
        ok("refused where another has the VLAN", "mine already" in str(error))


try:
    asyncio.run(main())
finally:
    say("END")
