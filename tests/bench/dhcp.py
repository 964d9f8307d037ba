"""How many DHCP exchanges (DISCOVER, OFFER, REQUEST, ACK) a second Nano and dnsmasq serve, in turns on the same bridge.

This is goal 6 of performance. perfdhcp cannot be the load here: it plays a relay and asks for cards that are not its
own, which Nano never answers. So one process plays all guests from prepared frames, with a fixed number of exchanges
under way. CPU is what the kernel charges the server's process with: user and system time. Needs root.

    nice .venv/bin/python tests/bench/dhcp.py [--seconds 3] [--rounds 3]
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from nanovirt.agent.dhcp.server import DhcpServer
from tests.agent.dhcp_client import MAC, RESERVATION, asking
from tests.e2e.dhcp_fabric import BRIDGE, Fabric, fabric, running

FIRST_IP: Final = IPv4Address("10.20.1.0")
SUBNET: Final = IPv4Network("10.20.0.0/16")
UNDER_WAY: Final = 32
LOST_AFTER: Final = 0.2
CHADDR_AT: Final = 70
TICKS: Final = os.sysconf("SC_CLK_TCK")
SHORT: Final = bool(os.environ.get("NANO_BENCH_SHORT"))
RATES: Final = {200: (2.0, 1.2), 10_000: (10.0, 2.0)}
"""By number of reservations: the least ratio of exchanges a second to dnsmasq's, as a goal and as an alarm."""
CPU_GOAL: Final = 0.8
"""The most CPU of an exchange, as a ratio to dnsmasq's."""
LOST_MOST: Final = 0.01
"""The most exchanges that may stall, as a share of those begun."""


@dataclass(frozen=True)
class Figure:
    """What one round gave: exchanges a second, microseconds of server CPU for each, finished and stalled ones."""

    rate: float
    cpu: float
    done: int
    lost: int


def card(number: int) -> str:
    return f"52:54:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def frames(count: int) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Every guest's DISCOVER, and its REQUEST by its MAC."""
    discover = asking(("message-type", "discover"), ("param_req_list", [1, 3, 6, 12, 15, 26, 28]))
    request = asking(("message-type", "request"), ("server_id", "10.20.0.1"), ("requested_addr", "10.20.0.50"))
    macs = [bytes.fromhex(card(number).replace(":", "")) for number in range(count)]
    ips = [(FIRST_IP + number).packed for number in range(count)]
    asked = b"\x32\x04\x0a\x14\x00\x32"
    return (
        [_of(discover, mac) for mac in macs],
        {mac: _of(request, mac).replace(asked, asked[:2] + ip) for mac, ip in zip(macs, ips, strict=True)},
    )


def _of(frame: bytes, mac: bytes) -> bytes:
    """The frame as that card would send it, without a UDP checksum."""
    return frame[:6] + mac + frame[12:40] + b"\0\0" + frame[42:CHADDR_AT] + mac + frame[CHADDR_AT + 6 :]


def load(ear: socket.socket, discovers: list[bytes], requests: dict[bytes, bytes], seconds: float) -> tuple[int, int]:
    """Play the guests in turn; give the number of finished and of stalled exchanges."""
    turn, done, lost, message_at = 0, 0, 0, 284
    ear.settimeout(LOST_AFTER)
    end = time.monotonic() + seconds
    missing = UNDER_WAY
    while time.monotonic() < end:
        for _ in range(missing):
            ear.send(discovers[turn])
            turn = (turn + 1) % len(discovers)
        missing = 0
        try:
            frame = ear.recv(2048)
        except TimeoutError:
            lost += UNDER_WAY
            missing = UNDER_WAY
            continue
        if frame[34:38] != b"\0\x43\0\x44":
            continue
        kind = frame[message_at]
        if kind == 2:
            ear.send(requests[frame[CHADDR_AT : CHADDR_AT + 6]])
        elif kind == 5:
            done += 1
            missing = 1
    return done, lost


@asynccontextmanager
async def nano(place: Fabric, count: int) -> AsyncIterator[int]:
    command = (sys.executable, str(Path(__file__).resolve()), "--serve", str(count))
    async with running(place.host, *command) as process:
        yield process.pid


@asynccontextmanager
async def dnsmasq(place: Fabric, count: int) -> AsyncIterator[int]:
    """It answers by broadcast: for an answer to one card it notes a neighbour in the kernel, whose table is full at
    1024 (gc_thresh3), and then it would be silent rather than slow.
    """
    hosts = place.folder / "hosts"
    hosts.write_text("".join(f"{card(number)},{FIRST_IP + number}\n" for number in range(count)))
    command = (
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={BRIDGE}", "--user=root",
        "--dhcp-authoritative", "--dhcp-broadcast", "--dhcp-range=10.20.0.0,static,255.255.0.0,1d", "--no-ping",
        "--dhcp-lease-max=100000", "--quiet-dhcp", "--log-facility=/dev/null", f"--dhcp-hostsfile={hosts}",
        f"--dhcp-leasefile={place.folder}/leases", f"--pid-file={place.folder}/pid",
    )  # fmt: skip
    (place.folder / "leases").unlink(missing_ok=True)
    async with running(place.host, *command) as process:
        yield process.pid


def serve(count: int) -> None:
    """Be the server, until a signal."""
    server = DhcpServer(BRIDGE)
    bare = replace(RESERVATION, subnet=SUBNET)
    server.set({card(n): replace(bare, mac=card(n), ip=FIRST_IP + n, hostname=f"vm-{n}") for n in range(count)})

    async def forever() -> None:
        server.open()
        await asyncio.Event().wait()

    uvloop.run(forever())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def one_round(server: object, place: Fabric, count: int, seconds: float) -> Figure:
    discovers, requests = frames(count)
    async with server(place, count) as pid:  # type: ignore[operator]
        with place.guests[0].ear() as ear:
            await wait_for(ear, discovers[0])
            before, started = cpu_seconds(pid), time.monotonic()
            done, lost = load(ear, discovers, requests, seconds)
            elapsed, used = time.monotonic() - started, cpu_seconds(pid) - before
    return Figure(done / elapsed, used / max(done, 1) * 1e6, done, lost)


async def wait_for(ear: socket.socket, discover: bytes) -> None:
    """Ask until somebody answers."""
    ear.settimeout(LOST_AFTER)
    for _ in range(100):
        ear.send(discover)
        try:
            while ear.recv(2048)[34:38] != b"\0\x43\0\x44":
                pass
        except TimeoutError:
            continue
        break
    else:
        raise SystemExit("the server does not answer")
    await asyncio.sleep(0.3)
    drain(ear)


def drain(ear: socket.socket) -> None:
    ear.settimeout(0)
    try:
        while ear.recv(2048):
            pass
    except BlockingIOError:
        return


SERVERS: Final = {"nano": nano, "dnsmasq": dnsmasq}


def rows(counts: list[int], rounds: int, seconds: float) -> Iterator[tuple[int, dict[str, list[Figure]]]]:
    """By number of reservations: the rounds of each server, taken in turns."""
    with fabric("10.20.0.1/16") as place:
        place.plug("nvl0", MAC)
        for count in counts:
            found: dict[str, list[Figure]] = {name: [] for name in SERVERS}
            for _ in range(rounds):
                for name, server in SERVERS.items():
                    found[name].append(asyncio.run(one_round(server, place, count, seconds)))
            yield count, found


def table(count: int, found: dict[str, list[Figure]]) -> Iterator[str]:
    """The lines of one number of reservations."""
    for name, figures in found.items():
        rate, cpu = (statistics.median(getattr(figure, what) for figure in figures) for what in ("rate", "cpu"))
        every = " ".join(f"{figure.rate:.0f}" for figure in figures)
        lost = sum(figure.lost for figure in figures)
        yield f"{count:12}  {name:8} {rate:12.0f} {cpu:12.0f} {lost:8}   {every}"
    goal, alarm = RATES.get(count, (None, None))
    wanted = f"goal >= {goal}, alarm {alarm}; CPU goal <= {CPU_GOAL}" if goal else "no goal"
    rate, cpu = ratio(found, "rate"), ratio(found, "cpu")
    yield f"{'':12}  {'ratio':8} {rate:12.2f} {cpu:12.2f} {'':8}   {wanted}"


def ratio(found: dict[str, list[Figure]], what: str) -> float:
    """The median of Nano's figure by dnsmasq's, each of the same round."""
    pairs = zip(found["nano"], found["dnsmasq"], strict=True)
    return float(statistics.median(getattr(ours, what) / max(getattr(theirs, what), 1e-9) for ours, theirs in pairs))


def alarms(count: int, found: dict[str, list[Figure]]) -> Iterator[str]:
    """What is beyond an alarm: the rate, or stalled exchanges; a ratio to a server that stalls says nothing."""
    if count in RATES and ratio(found, "rate") < RATES[count][1]:
        yield f"{count} reservations: rate"
    for name, figures in found.items():
        done, lost = (sum(getattr(figure, what) for figure in figures) for what in ("done", "lost"))
        if lost > LOST_MOST * (done + lost):
            yield f"{count} reservations: {lost} of {done + lost} exchanges of {name} stalled"


def main() -> None:
    """Print the table; ends with 1 beyond an alarm when the run is not a short one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1 if SHORT else 3)
    parser.add_argument("--rounds", type=int, default=1 if SHORT else 3)
    parser.add_argument("--reservations", type=int, nargs="+", default=[200, 10_000])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    print(f"load {os.getloadavg()[0]:.2f} before")
    print(f"{'reservations':>12}  {'server':8} {'exchanges/s':>12} {'CPU us each':>12} {'stalled':>8}   all rounds")
    beyond: list[str] = []
    for count, found in rows(given.reservations, given.rounds, given.seconds):
        print(*table(count, found), sep="\n", flush=True)
        beyond += alarms(count, found)
    if beyond:
        print(f"dhcp: beyond the alarm: {'; '.join(beyond)}")
        if not SHORT:
            sys.exit(1)


if __name__ == "__main__":
    main()
