"""The bed and the mini guest themselves: what every other end-to-end test takes for granted."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import defusedxml.ElementTree
import pytest

from tests.testbed import Bed, Host, leftovers
from tests.testbed.guests import answer, wait_for_answer
from tests.testbed.sweep import members

ROOT = Path(__file__).resolve().parents[2]
MINI_GUEST = ROOT / "scripts/mini-guest"

OVMF = (
    "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"
    "<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{nvram}</nvram>"
)
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{firmware}<boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <source bridge='{bridge}'/><mac address='{mac}'/><model type='virtio'/><rom enabled='no'/>
    </interface>
    <serial type='pty'><log file='{console}' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <video><model type='vga'/></video>
    {more}
  </devices>
</domain>
"""


class Guest:
    """A domain made by hand on one host, with an overlay of the mini guest; `more` is XML for its devices."""

    def __init__(self, host: Host, image: Path, *, number: int = 1, uefi: bool = False, more: str = "") -> None:
        self.host, self.name = host, f"{host.name}-guest"
        self.mac, self.ip = f"52:54:00:00:02:{number:02x}", f"10.77.2.{number}"
        self.disk, self.console = host.dir / f"{self.name}.qcow2", host.dir / "log" / f"{self.name}.console"
        overlay: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", self.disk]
        subprocess.run(overlay, check=True)
        firmware = OVMF.format(nvram=host.dir / f"{self.name}.nvram") if uefi else ""
        self.xml = DOMAIN.format(
            name=self.name,
            memory=512 if uefi else 256,
            firmware=firmware,
            disk=self.disk,
            bridge=host.bridge,
            mac=self.mac,
            console=self.console,
            more=more,
        )

    def start(self) -> None:
        file = self.host.dir / f"{self.name}.xml"
        file.write_text(self.xml)
        self.virsh("create", str(file))

    def virsh(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(["virsh", "-q", "-c", self.host.uri, *words], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_until_ready(self, *, starts: int = 1, seconds: float = 180) -> None:
        """Returns when all its drivers are there, the power button's too, after so many starts."""
        deadline = time.monotonic() + seconds
        while self.console.read_text().count("nano-guest: ready") < starts:
            assert time.monotonic() < deadline, f"{self.name} is not ready"
            time.sleep(0.1)

    def wait_until_heard(self, seconds: float = 90) -> None:
        """Returns when libvirt has been told that the guest's agent is there, and it answers."""
        deadline = time.monotonic() + seconds
        while "return" not in self.virsh("qemu-agent-command", self.name, '{"execute": "guest-ping"}', check=False):
            assert time.monotonic() < deadline, f"the agent of {self.name} does not answer"
            time.sleep(0.1)

    def wait_until_gone(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while self.virsh("list", "--name"):
            assert time.monotonic() < deadline, f"{self.name} is still there"
            time.sleep(0.1)


def give_addresses(bed: Bed, *guests: Guest) -> None:
    """A dnsmasq in the fabric, for as long as the bed lives."""
    hosts = [f"--dhcp-host={guest.mac},{guest.ip},{guest.name},10m" for guest in guests]
    fixed = ["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=sw0", "--bind-interfaces"]
    leases = bed.fabric.dir / "leases"
    ranges = ["--dhcp-range=10.77.2.0,static", "--dhcp-option=6,10.77.0.1", f"--dhcp-leasefile={leases}", "--user=root"]
    bed.fabric.start(["dnsmasq", *fixed, *ranges, *hosts])


@pytest.mark.timeout(600)
def test_guests_on_two_hosts_get_an_address_and_answer_on_it(two_hosts: Bed, mini_guest: Path) -> None:
    guests = [Guest(host, mini_guest, number=number) for number, host in enumerate(two_hosts.hosts, start=1)]
    give_addresses(two_hosts, *guests)
    for guest in guests:
        guest.start()
    answers = [wait_for_answer(two_hosts.client, guest.ip) for guest in guests]
    assert [got.hostname for got in answers] == ["h1-guest", "h2-guest"]
    assert len({got.boot_id for got in answers}) == 2
    for guest in guests:
        two_hosts.client.run(["ping", "-c", "1", "-w", "20", guest.ip])
        line = f"nano-guest: eth0 {guest.ip}/16 gw 10.77.0.1 dns 10.77.0.1 hostname {guest.name} lease 600 bound"
        assert line in guest.console.read_text()


@pytest.mark.timeout(600)
def test_guest_runs_on_without_libvirtd_and_without_cable(two_hosts: Bed, mini_guest: Path) -> None:
    host = two_hosts.hosts[0]
    guest = Guest(host, mini_guest)
    give_addresses(two_hosts, guest)
    guest.start()
    before = wait_for_answer(two_hosts.client, guest.ip)

    for disturb in (host.libvirtd.restart, host.libvirtd.kill, host.libvirtd.start):
        disturb()
        assert wait_for_answer(two_hosts.client, guest.ip).boot_id == before.boot_id
    assert guest.virsh("domstate", guest.name) == "running"

    host.link_down()
    assert answer(two_hosts.client, guest.ip, timeout=1) is None
    assert wait_for_answer(host, guest.ip).boot_id == before.boot_id
    host.link_up()
    assert wait_for_answer(two_hosts.client, guest.ip).boot_id == before.boot_id

    host.reboot()
    assert guest.virsh("list", "--all", "--name") == ""
    assert not [pid for pid in members(host.place) if Path(f"/proc/{pid}/comm").read_text().startswith("qemu")]
    assert guest.disk.exists()
    guest.start()
    assert wait_for_answer(two_hosts.client, guest.ip).boot_id != before.boot_id


@pytest.mark.timeout(600)
def test_guest_obeys_its_agent_and_its_power_button(two_hosts: Bed, mini_guest: Path) -> None:
    guest = Guest(two_hosts.hosts[0], mini_guest)
    give_addresses(two_hosts, guest)
    guest.start()
    first = wait_for_answer(two_hosts.client, guest.ip)
    guest.wait_until_ready()
    guest.wait_until_heard()
    assert "Nano mini guest" in guest.virsh("qemu-agent-command", guest.name, '{"execute": "guest-get-osinfo"}')

    guest.virsh("set-user-password", guest.name, "root", "secret")
    guest.virsh("reboot", guest.name, "--mode", "agent")
    deadline = time.monotonic() + 180
    while (again := wait_for_answer(two_hosts.client, guest.ip)).boot_id == first.boot_id:
        assert time.monotonic() < deadline, "the guest was not started again"
        time.sleep(0.5)
    assert again.hostname == guest.name

    guest.wait_until_ready(starts=2)
    guest.virsh("shutdown", guest.name, "--mode", "acpi")
    guest.wait_until_gone()


@pytest.mark.timeout(600)
def test_guest_boots_with_uefi_and_takes_its_name_from_a_seed(two_hosts: Bed, mini_guest: Path) -> None:
    host = two_hosts.hosts[0]
    seed, iso = host.dir / "seed", host.dir / "seed.iso"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: 1\nlocal-hostname: from-meta-data\n")
    (seed / "user-data").write_text("#cloud-config\nhostname: 'from-seed'\npassword: secret\n")
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o", iso, seed], check=True)
    drive = (
        "<controller type='scsi' model='virtio-scsi'/>"
        f"<disk type='file' device='cdrom'><source file='{iso}'/><target dev='sda' bus='scsi'/><readonly/></disk>"
    )
    guest = Guest(host, mini_guest, uefi=True, more=drive)
    give_addresses(two_hosts, guest)
    guest.start()
    assert wait_for_answer(two_hosts.client, guest.ip).hostname == "from-seed"


def test_two_hosts_differ_in_name_uuid_and_files(two_hosts: Bed) -> None:
    def ask(host: Host, *words: str) -> str:
        return host.run(["virsh", "-q", "-c", host.uri, *words]).stdout

    one, two = two_hosts.hosts
    assert [ask(host, "hostname").strip() for host in two_hosts.hosts] == ["h1", "h2"]
    uuids = [
        defusedxml.ElementTree.fromstring(ask(host, "capabilities")).findtext("host/uuid") for host in two_hosts.hosts
    ]
    assert len(set(uuids)) == 2
    one.run(["touch", "/run/here", "/var/lib/libvirt/here"])
    assert two.run(["ls", "/run/here", "/var/lib/libvirt/here"], check=False).returncode != 0
    assert not Path("/run/here").exists()


def test_node_runs_programs_by_their_own_pid(two_hosts: Bed) -> None:
    process = two_hosts.server.start(["sleep", "60"])
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_failing_bed_leaves_nothing() -> None:
    class Trouble(Exception):
        pass

    def fail() -> None:
        with Bed(hosts=1) as bed:
            bed.hosts[0].start(["sleep", "600"])
            raise Trouble

    with pytest.raises(Trouble):
        fail()
    assert leftovers() == []


@pytest.mark.parametrize("with_undertaker", [False, True], ids=["the test run alone", "and its undertaker"])
def test_killed_test_run_leaves_nothing(with_undertaker: bool) -> None:
    code = """
from tests.testbed import Bed
with Bed(hosts=1) as bed:
    bed.hosts[0].run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"])
    print(bed._undertaker.pid, bed.dir.name, flush=True)
    input()
"""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        undertaker, name = run.stdout.readline().split()
        assert members(name)
        if with_undertaker:
            os.kill(int(undertaker), signal.SIGKILL)
        run.kill()
    if with_undertaker:
        assert members(name)
        with Bed(hosts=0):  # the next one clears up
            pass
    deadline = time.monotonic() + 40
    while leftovers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers() == []


def test_second_build_of_the_image_takes_less_than_a_second(mini_guest: Path, tmp_path: Path) -> None:
    """Of a processor: what others do meanwhile does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([MINI_GUEST, "--output", tmp_path / "again.qcow2"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert (tmp_path / "again.qcow2").read_bytes() == mini_guest.read_bytes()


def test_missing_tool_is_named_with_its_package(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("python3", "apt-get", "apt-cache", "dpkg-deb", "sfdisk", "syslinux", "mke2fs", "qemu-img"):
        found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (tools / tool).symlink_to(found)
    env = {"PATH": str(tools), "NANO_CACHE": str(tmp_path / "cache")}
    argv: list[str | Path] = [sys.executable, MINI_GUEST, "--output", tmp_path / "x.qcow2"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tools are missing: apt-get install mtools" in done.stderr
    assert not (tmp_path / "x.qcow2").exists()
