"""`scripts/up`: one command to a running instance, in memory for anybody and on real libvirt as root, and back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.testbed import Bed, Host, leftovers
from tests.testbed.guests import Answer, wait_for_answer
from tests.testbed.sweep import members

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
USUAL_PATH = "/usr/local/bin:/usr/bin:/bin"
ANY_PORTS = ("--api-port", "0", "--portal-port", "0", "--agent-port", "0")
INSTALL_SECONDS = 300
FIRST_SECONDS = 60
"""From the start of Nano to the guest's answer, with packages and image at hand; 23 s on an idle machine, emulated."""
QUICK_SECONDS = 30.0
"""A second run: two seconds on an idle machine."""


class Said(NamedTuple):
    """How a run of scripts/up ended."""

    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short-lived folder through which other users can pass, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="nano-up-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def server(data: Path) -> int:
    """The process that scripts/up noted."""
    return int((data / "up/pid").read_text().split()[0])


def users_of(data: Path) -> list[str]:
    """The command lines of all processes that name the folder."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if str(data) in words:
            found.append(words)
    return found


def written(data: Path) -> str:
    """A digest of all that the store has on disk."""
    segments = sorted((data / "data/wal").iterdir())
    return hashlib.sha256(b"".join(one.read_bytes() for one in segments)).hexdigest()


def settled(data: Path) -> str:
    """`written`, once it has been the same for a while."""
    deadline, last = time.monotonic() + 60, ""
    while (now := written(data)) != last:
        assert time.monotonic() < deadline, "the store does not come to rest"
        last = now
        time.sleep(3)
    return last


# --- without root, without libvirt -----------------------------------------------------------------------------------


class Stranger:
    """An ordinary user with a copy of the repository: no root, no packages, nothing of this checkout's environment."""

    def __init__(self, home: Path) -> None:
        self.home, self.copy, self.data = home, home / "nano", home / ".local/share/nano"
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            if os.path.lexists(ROOT / name):
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name, follow_symlinks=False)
        pip = Path.home() / ".config/pip"
        if pip.is_dir():  # where this machine gets packages from
            shutil.copytree(pip, home / ".config/pip")
        self._drop: list[str] = []
        if os.geteuid() == 0:
            self._drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", home], check=True)

    def run(self, argv: Sequence[str | Path], seconds: float = 60) -> Said:
        """Run a command in the copy, as that user."""
        packages = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment = {**packages, "HOME": str(self.home), "PATH": USUAL_PATH}
        begun = time.monotonic()
        done = subprocess.run(
            [*self._drop, *map(str, argv)],
            cwd=self.copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    def up(self, *options: str, seconds: float = 60) -> Said:
        """Run scripts/up --simulated."""
        return self.run(["scripts/up", "--simulated", *options], seconds)


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_simulated_needs_no_root_and_no_libvirt_and_a_second_run_changes_nothing(folder: Path) -> None:
    user = Stranger(folder / "home")
    try:
        first = user.up(*ANY_PORTS, seconds=INSTALL_SECONDS)
        assert first.code == 0, first.out + first.err
        assert "hello is Running on sim-" in first.out
        assert "Address   10.87." in first.out
        lines = map(str.strip, first.out.splitlines())
        commands = [line for line in lines if line.startswith(f"{user.copy}/.venv/bin/nanoctl ")]
        assert len(commands) == 3
        for command in commands:
            tried = user.run(command.split())
            assert tried.code == 0, f"{command}: {tried.out}{tried.err}"
        assert user.run([".venv/bin/python", "-c", "import libvirt"]).code != 0

        pid, before = server(user.data), settled(user.data)
        again = user.up(*ANY_PORTS)
        assert again.code == 0, again.out + again.err
        assert "hello is Running on sim-" in again.out
        assert (server(user.data), written(user.data)) == (pid, before)
        assert again.seconds < QUICK_SECONDS

        other = user.up("--api-port", "1")
        assert other.code == 1
        assert "Nano runs here already, with other options" in other.err
        fewer = user.run(["scripts/up", "--simulated-hosts", "2", *ANY_PORTS])
        assert (fewer.code, "with other options" in fewer.err) == (1, True), "as good as --simulated, but for its hosts"
    finally:
        undone = user.up("--undo", "--delete-data")
    assert undone.code == 0, undone.out + undone.err
    assert users_of(user.home) == []
    assert not user.data.exists()


def test_without_root_it_says_what_to_do_instead(folder: Path) -> None:
    user = Stranger(folder / "home")
    if os.geteuid() == 0:
        said = user.run(["scripts/up", "--data", folder / "data"])
        assert said.code == 1
        assert "scripts/up --simulated" in said.err
    assert not (folder / "data").exists()


# --- as root, on real libvirt ----------------------------------------------------------------------------------------


@pytest.fixture
def machine() -> Iterator[Host]:
    """A machine of its own network and libvirt settings, as Debian ships them; no libvirtd runs."""
    with Bed(hosts=1) as bed:
        host = bed.hosts[0]
        host.libvirtd.stop()
        settings = host.own("/etc/libvirt")
        for name in ("libvirtd.conf", "qemu.conf"):
            (settings / name).unlink()
        shutil.copytree("/etc/libvirt", settings, dirs_exist_ok=True)
        bed.client.run(["ip", "route", "add", "10.87.0.0/19", "via", host.address])
        yield host
    assert leftovers() == []


class Up:
    """scripts/up on a machine with a folder of its own."""

    def __init__(self, machine: Host, data: Path) -> None:
        self.machine, self.data = machine, data

    def __call__(self, *options: str, seconds: float = 200) -> Said:
        """Run it."""
        begun = time.monotonic()
        argv: list[str | Path] = [ROOT / "scripts/up", "--data", self.data, *options]
        done = self.machine.run(argv, check=False, timeout=seconds)
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    def network(self) -> tuple[str, ...]:
        """Links, addresses, routes, firewall and forwarding, without counters and without what comes and goes."""
        asked = ("ip -br address show up0", "ip -br link show type bridge", "ip route", "nft -s list ruleset")
        told = (self.machine.run(["sh", "-c", question]).stdout for question in asked)
        return (*told, self.machine.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout)

    def ip(self) -> str:
        """The address of the instance hello."""
        kubeconfig = self.data / "admin.kubeconfig"
        nanoctl = ROOT / ".venv/bin/nanoctl"
        argv: list[str | Path] = [nanoctl, "get", "instance/hello", "-o", "json", "--kubeconfig", kubeconfig]
        status = json.loads(self.machine.run(argv).stdout)["status"]
        assert status["phase"] == "Running"
        return str(status["addresses"][0]["ip"])

    def answered(self) -> Answer:
        """What hello says, now."""
        self.machine.run(["ping", "-c", "1", "-w", "20", self.ip()])
        return wait_for_answer(self.machine, self.ip())


@pytest.mark.timeout(500)
def test_real_machine_runs_and_answers_until_it_is_undone(machine: Host, folder: Path) -> None:
    up = Up(machine, folder / "nano")
    before = up.network()
    ports = ("--api-port", "15870", "--portal-port", "15850", "--agent-port", "15860")
    first = up(*ports)
    assert first.code == 0, first.out + first.err
    assert f"hello is Running on {machine.name}" in first.out
    assert "https://127.0.0.1:15850" in first.out
    took = re.search(r"Took .* (\d+) s to Running, (\d+) s for the guest to boot", first.out)
    assert took is not None
    assert sum(map(int, took.groups())) < FIRST_SECONDS
    found = up.answered()
    assert found.hostname == "hello"

    pid, network, log = server(up.data), up.network(), settled(up.data)
    again = up(*ports)
    assert again.code == 0, again.out + again.err
    assert (server(up.data), up.network(), written(up.data)) == (pid, network, log)
    assert up.answered().boot_id == found.boot_id
    assert again.seconds < QUICK_SECONDS

    undone = up("--undo")
    assert undone.code == 0, undone.out + undone.err
    assert up.network() == before
    assert members(machine.place) == [machine.pid]
    assert users_of(up.data) == []

    ip = up_again(up, found)
    assert ip.startswith("10.87.")
    undone = up("--undo", "--delete-data")
    assert undone.code == 0, undone.out + undone.err
    assert not up.data.exists()
    assert (up.network(), members(machine.place)) == (before, [machine.pid])


def up_again(up: Up, before: Answer) -> str:
    """After an --undo the data are there: the same instance with the same address, started anew."""
    said = up()
    assert said.code == 0, said.out + said.err
    ip = up.ip()
    assert wait_for_answer(up.machine, ip).boot_id != before.boot_id
    return ip


GUEST = """
ip netns add lab
ip link add lab0 type veth peer name eth0 netns lab
ip link set lab0 master nano0 up
ip -n lab link set eth0 up
ip -n lab address add 10.87.0.9/19 dev eth0
ip -n lab route add default via 10.87.0.1
"""


@pytest.mark.timeout(300)
def test_guests_reach_the_world_and_the_world_does_not_reach_them(folder: Path) -> None:
    with Bed(hosts=1) as bed:
        host = bed.hosts[0]
        up = Up(host, folder / "nano")
        # Everything but the instance: libvirt is one that scripts/up leaves alone.
        said = up("--libvirt-uri", host.uri)
        assert said.code == 0, said.out + said.err
        host.run(["sh", "-euc", GUEST])
        bed.client.run(["ip", "route", "add", "10.87.0.0/19", "via", host.address])

        reached = ["ping", "-c", "1", "-w", "20"]
        host.run(["ip", "netns", "exec", "lab", *reached, bed.client.address])
        host.run([*reached, "10.87.0.9"])
        assert bed.client.run(["ping", "-c", "1", "-W", "2", "10.87.0.9"], check=False).returncode != 0

        stays = up("--undo")
        assert stays.code == 0, stays.out + stays.err
        assert "nano0 stays, and its NAT: lab0 plugged in there" in stays.out
        host.run(["ip", "link", "delete", "lab0"])
        assert up("--undo").code == 0
        assert host.run(["ip", "link", "show", "nano0"], check=False).returncode != 0
        assert host.libvirtd.running
    assert leftovers() == []


ALIASES = """
mount -t sysfs none /sys
ip link add br0.40 type bridge
ip link set br0.40 alias nano:br0:40
ip link add first type bridge
ip link set first alias 'nano: the one below the window'
ip link add second type bridge
ip link set second alias nano:br0:40:old
eval "$(sed -n '/^remove_segments()/,/^}/p' scripts/up)"
remove_segments
ls /sys/class/net
"""


def test_undo_removes_segments_and_no_device_whose_alias_only_begins_like_theirs() -> None:
    """In a namespace of its own, which goes with its shell."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-euc", ALIASES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["first", "lo", "second"]
