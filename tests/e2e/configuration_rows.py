"""The table: every field of an instance, how it is changed, when that takes effect, and where the effect is seen."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from nanovirt.resources.codec import JSON
from tests.e2e.sights import Inside, Kept, Mended, OfRun, OfVolume, OnHost, Reached, Sight, Stored, Told, Xml

LIVE, NEXT, RESTART, LOSS, REFUSED = "Live", "NextStart", "Restart", "DataLoss", "Refused"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAx nano@bed"


class Row(NamedTuple):
    """A change of a running machine and of a stopped one; a class of "" says that the row is not for that one."""

    change: dict[str, Any]
    running: str
    stopped: str
    sights: tuple[Sight, ...] = ()
    accept: str = ""
    """The word that accepts the loss of data: by the change, or by its being taken back."""
    covers: tuple[str, ...] = ()
    """Fields below the one that is changed."""
    keep: bool = False
    """Cannot be taken back while the machine runs."""
    title: str = ""
    order: bool = False
    """Ends or begins a run, and has a test of its own."""

    @property
    def name(self) -> str:
        return self.title or next(iter(self.change))


def cards(number: int) -> dict[str, str]:
    """The MACs of a machine's cards."""
    names = ("nic0", "lan", "mov", "spare", "new", "other", "tag", "swap")
    return {name: f"52:54:00:77:{number:02x}:{at:02x}" for at, name in enumerate(names)}


def base(number: int) -> JSON:
    """The spec that changes begin with."""
    mac = cards(number)
    return {
        "systemTemplate": "linux-bios",
        "cpus": 1,
        "maxCpus": 2,
        "memory": "256Mi",
        "maxMemory": "512Mi",
        "disks": [
            {"name": "system", "source": {"image": "shared/mini"}},
            {"name": "data", "size": "64Mi"},
            {"name": "scratch", "size": "64Mi"},
            {"name": "kept", "size": "16Mi", "reclaim": "Retain"},
            {"name": "old", "size": "16Mi"},
        ],
        "nics": [
            {"name": "nic0", "addressPool": "bed", "mac": mac["nic0"]},
            {"name": "lan", "network": "default", "mac": mac["lan"]},
            {"name": "mov", "addressPool": "wan", "mac": mac["mov"]},
            {"name": "spare", "network": "default", "mac": mac["spare"]},
            {"name": "swap", "network": "default", "mac": mac["swap"]},
            {"name": "tag", "network": "other", "mac": mac["tag"]},
        ],
        "media": [{"name": "cd0", "image": "shared/rescue"}, {"name": "spare-cd", "image": "shared/rescue"}],
    }


def changed(spec: JSON, change: dict[str, Any]) -> JSON:
    """The spec with these fields as they say; None takes a field, or a named thing, away."""
    made = deepcopy(spec)
    for field, value in change.items():
        _set(made, field, value)
    return made


def _set(spec: JSON, field: str, value: Any) -> None:
    *above, last = field.split(".")
    place: Any = spec
    for name in above:
        listed, _, item = name.partition("[")
        if item:
            place = next(one for one in place[listed] if one["name"] == item.rstrip("]"))
        else:
            place[name] = place = {} if place.get(name) is None else place[name]
    listed, _, item = last.partition("[")
    if item:
        rest = [one for one in place[listed] if one["name"] != item.rstrip("]")]
        place[listed] = rest if value is None else [*rest, value]
    elif value is None:
        place.pop(last, None)
    else:
        place[last] = value


def holds(spec: JSON, change: dict[str, Any]) -> bool:
    """Whether the spec still says so, after other changes."""
    for field, value in change.items():
        listed, _, item = field.partition("[")
        if field.endswith("]"):
            if (value is not None) != any(one["name"] == item[:-1] for one in spec[listed]):
                return False
        elif changed(spec, {field: value}) != spec:
            return False
    return True


def disk(name: str, below: str) -> str:
    return f"devices/disk[serial='{name}']/{below}"


def card(name: str, below: str) -> str:
    return f"devices/interface/mac[@address='{{{name}}}']/../{below}"


def sectors(name: str, count: int | str) -> Inside:
    """A disk of that serial has so many; "": there is none."""
    return Inside(f'[ -z "$(blk {name})" ] || cat /sys/block/$(blk {name})/size', str(count))


def seed(text: str) -> Inside:
    """The seed in the guest's drive says so."""
    return Inside(f"seed | grep -c '{text}'", "[1-9]")


def labelled(label: str) -> Inside:
    """In some drive of the guest is an ISO image of that label."""
    return Inside(f"for d in /dev/sr*; do dd if=$d bs=2048 skip=16 count=1 2>&1; done | grep -c {label}", "[1-9]")


MACS = "cat /sys/class/net/*/address"
WORDS = [
    Row({"displayName": "Web"}, LIVE, LIVE, (Stored("displayName", "Web"),)),
    Row({"description": "Shop"}, LIVE, LIVE, (Stored("description", "Shop"),)),
    Row({"restartPolicy": "Always"}, LIVE, LIVE, (Told("restartPolicy", "Always"),)),
    Row({"stopGraceSeconds": 0}, LIVE, LIVE, (Told("stopGraceSeconds", 0),)),
    Row({"startPriority": 900}, LIVE, LIVE, (Told("startPriority", 900),)),
    Row({"deletionProtection": True}, LIVE, LIVE, (Kept(),)),
    Row({"drift": "Revert"}, LIVE, LIVE, (Mended(),), keep=True),
    Row({"computePool": "other"}, REFUSED, REFUSED),
    Row({"scheduling.host": "h2"}, REFUSED, REFUSED),
    Row({"scheduling.affinity": {"app": "web"}}, REFUSED, REFUSED),
    Row({"scheduling.antiAffinity": {"app": "web"}}, REFUSED, REFUSED),
]
SIZE = [
    Row({"systemTemplate": "bed"}, RESTART, NEXT, (Xml("clock @offset", "localtime"), Xml("devices/video/model @type", "vga"))),
    Row({"cpus": 2}, LIVE, NEXT, (Inside("grep -c ^processor /proc/cpuinfo", "2"),), keep=True),
    Row({"cpus": 1}, RESTART, "", (Inside("grep -c ^processor /proc/cpuinfo", "1"),), title="cpus, fewer"),
    Row({"maxCpus": 4}, RESTART, NEXT, (Xml("vcpu", "4"),)),
    Row({"memory": "384Mi"}, LIVE, NEXT, (Inside("head -1 /proc/meminfo", r"MemTotal: +(2[5-9]|3)\d{4,5} kB"),)),
    Row({"maxMemory": "768Mi"}, RESTART, NEXT, (Xml("maxMemory", str(768 * 1024)),)),
    Row({"qos.cpu.priority": "High"}, LIVE, NEXT, (Xml("cputune/shares", "2048"),)),
    Row({"qos.cpu.limit": "1500m"}, LIVE, NEXT, (Xml("cputune/global_quota", "150000"),)),
]  # fmt: skip
DISKS = [
    Row({"disks[new]": {"name": "new", "size": "32Mi"}}, LIVE, NEXT, (sectors("new", 65536),), "new@removed"),
    Row({"disks[copy]": {"name": "copy", "source": {"image": "shared/mini"}}}, LIVE, NEXT, (Inside("cat /sys/block/$(blk copy)/*2/partition", "2"),), "copy@removed", title="disks[copy], of an image"),
    Row({"disks[kept]": None}, LIVE, NEXT, (Xml(disk("kept", "serial"), None), OnHost("ls {volumes} | grep -c '\\.kept\\.'", "[12]")), keep=True, title="disks[kept] goes, retained"),
    Row({"disks[back]": {"name": "back", "source": {"volume": "{machine}.kept"}}}, LIVE, NEXT, (Xml(disk("back", "source @file"), ".*\\.kept\\.qcow2"), sectors("back", 32768)), keep=True, title="disks[back], of a volume"),
    Row({"disks[old]": None}, LOSS, LOSS, (Xml(disk("old", "serial"), None), OnHost("ls {volumes} | grep -c '{uid}\\.old\\.'", "0")), "old@removed", keep=True, title="disks[old] goes"),
    Row({"disks[data].size": "96Mi"}, LIVE, NEXT, (sectors("data", 196608),), keep=True),
    Row({"disks[scratch].size": "32Mi"}, REFUSED, LOSS, (sectors("scratch", 65536),), "scratch@32Mi", title="disks[scratch].size, smaller"),
    Row({"disks[data].source.image": "shared/mini"}, REFUSED, REFUSED),
    Row({"disks[data].source.volume": "free"}, REFUSED, REFUSED),
    Row({"disks[data].source.snapshot": "{machine}/first"}, REFUSED, REFUSED),
    Row({"disks[data].source.disk": "data"}, REFUSED, REFUSED),
    Row({"disks[data].reclaim": "Retain"}, LIVE, LIVE, (OfVolume("data", "reclaim", "Retain"),)),
    Row({"disks[data].format": {"fileSystem": "Ext4", "mountPath": "/srv/data"}}, RESTART, NEXT, (Inside("grep -c ' /srv/data ext[24] ' /proc/mounts", "1"),), covers=("disks[data].format.fileSystem", "disks[data].format.mountPath")),
    Row({"disks[scratch].rebuild": 1}, LOSS, "", (Xml(disk("scratch", "source @file"), r".*\.scratch\.\d+\.qcow2"), Inside("head -c 4 /dev/$(blk scratch) | tr -d '\\000'", "")), "scratch@rebuild-1", order=True),
    Row({"disks[system].rebuild": 1}, LOSS, "", (Xml(disk("system", "source @file"), r".*\.system\.\d+\.qcow2"), Inside("cat /data/mark", "")), "system@rebuild-1", order=True),
    Row({"disks[scratch].rebuild": 1}, "", LOSS, (Xml(disk("scratch", "source @file"), r".*\.scratch\.\d+\.qcow2"), Inside("head -c 4 /dev/$(blk scratch) | tr -d '\\000'", "")), "scratch@rebuild-1"),
    Row({"disks[data].qos.readBytesPerSecond": "8Mi"}, LIVE, NEXT, (Xml(disk("data", "iotune/read_bytes_sec"), str(8 * 2**20)),)),
    Row({"disks[data].qos.writeBytesPerSecond": "4Mi"}, LIVE, NEXT, (Xml(disk("data", "iotune/write_bytes_sec"), str(4 * 2**20)),)),
    Row({"disks[data].qos.readIops": 2000}, LIVE, NEXT, (Xml(disk("data", "iotune/read_iops_sec"), "2000"),)),
    Row({"disks[data].qos.writeIops": 1000}, LIVE, NEXT, (Xml(disk("data", "iotune/write_iops_sec"), "1000"),)),
    Row({"qos.disk.readBytesPerSecond": "9Mi"}, LIVE, NEXT, (Xml(disk("system", "iotune/read_bytes_sec"), str(9 * 2**20)),)),
    Row({"qos.disk.writeBytesPerSecond": "9Mi"}, LIVE, NEXT, (Xml(disk("system", "iotune/write_bytes_sec"), str(9 * 2**20)),)),
    Row({"qos.disk.readIops": 3000}, LIVE, NEXT, (Xml(disk("system", "iotune/read_iops_sec"), "3000"),)),
    Row({"qos.disk.writeIops": 3000}, LIVE, NEXT, (Xml(disk("system", "iotune/write_iops_sec"), "3000"),)),
]  # fmt: skip
CARDS = [
    Row({"nics[new]": {"name": "new", "network": "default", "mac": "{new}"}}, LIVE, NEXT, (Xml(card("new", "mac @address"), "{new}"), Inside(MACS, ".*{new}.*"))),
    Row({"nics[spare]": None}, LIVE, NEXT, (Xml(card("spare", "mac"), None), Inside(f"{MACS} | grep -c {{spare}}", "0")), title="nics[spare] goes"),
    Row({"nics[mov].addressPool": "far"}, LIVE, NEXT, (Inside("renew {mov}; ip -4 addr show dev $(eth {mov})", ".*inet 10\\.79\\.2\\..*"),)),
    Row({"nics[lan].network": "other"}, LIVE, NEXT, (Xml(card("lan", "source @bridge"), "br1"), OfRun("ip -o link | grep -c nvx$(echo {lan} | tr -d :).*master.br1", "1"))),
    Row({"nics[tag].vlan": 40}, LIVE, NEXT, (Xml(card("tag", "source @bridge"), r"br1\.40"), OfRun("ip -o link | grep -c nvx$(echo {tag} | tr -d :).*master.br1.40", "1"))),
    Row({"nics[nic0].ip": "10.77.2.5{number}"}, LIVE, NEXT, (Inside("renew {nic0}; ip -4 addr show dev $(eth {nic0})", ".*inet 10\\.77\\.2\\.5{number}/.*"),), keep=True),
    Row({"nics[swap].mac": "{other}"}, LIVE, NEXT, (Xml(card("other", "mac @address"), "{other}"), Inside(MACS, ".*{other}.*"))),
    Row({"nics[nic0].mtu": 1400}, RESTART, NEXT, (Inside("cat /sys/class/net/$(eth {nic0})/mtu", "1400"),)),
    Row({"nics[spare].model": "E1000"}, RESTART, "", (Xml(card("spare", "model @type"), "e1000"), Inside("cat /sys/bus/pci/devices/*/device | grep -c 0x100e", "1"))),
    Row({"nics[tag].model": "E1000"}, "", NEXT, (Xml(card("tag", "model @type"), "e1000"), Inside("cat /sys/bus/pci/devices/*/device | grep -c 0x100e", "1"))),
    Row({"nics[nic0].securityGroups": ["closed"]}, LIVE, NEXT, (Reached(False),)),
    Row({"qos.network.inboundBitsPerSecond": "16M"}, LIVE, NEXT, (Xml(card("nic0", "bandwidth/inbound @average"), "2000"),)),
    Row({"qos.network.outboundBitsPerSecond": "8M"}, LIVE, NEXT, (Xml(card("nic0", "bandwidth/outbound @average"), "1000"),)),
]  # fmt: skip
MEDIA = [
    Row({"media[cd1]": {"name": "cd1", "image": "shared/tools"}}, LIVE, NEXT, (Xml("devices/disk/alias[@name='ua-medium-cd1']", ""), labelled("TOOLS"))),
    Row({"media[cd2]": {"name": "cd2"}}, RESTART, NEXT, (Xml("devices/disk/alias[@name='ua-medium-cd2']", ""),), title="media[cd2], empty"),
    Row({"media[cd0].image": "shared/tools"}, LIVE, NEXT, (Xml("devices/disk/alias[@name='ua-medium-cd0']/../source @file", ".*{tools}.*"), labelled("TOOLS"))),
    Row({"media[spare-cd].image": None}, LIVE, "", (Xml("devices/disk/alias[@name='ua-medium-spare-cd']/../source @file", None),), title="media[spare-cd].image, taken out"),
    Row({"media[spare-cd]": None}, LIVE, NEXT, (Xml("devices/disk/alias[@name='ua-medium-spare-cd']", None),), title="media[spare-cd] goes"),
    Row({"bootOrder": ["cd0", "system"]}, RESTART, NEXT, (Xml(disk("system", "boot @order"), "2"),)),
]  # fmt: skip
GUEST = [
    Row(
        {"guest.hostname": "web-9"},
        LIVE,
        LIVE,
        (Inside("renew {nic0}", ""), OfRun("grep -c 'hostname web-9 ' {console}", "[1-9].*")),
        keep=True,
    ),
    Row({"guest.timeZone": "Asia/Shanghai"}, RESTART, NEXT, (Inside("cat /etc/timezone", "Asia/Shanghai"),)),
    Row({"guest.admin.name": "ops"}, RESTART, NEXT, (seed("ops"),)),
    Row({"guest.admin.passwordSecret": "web"}, RESTART, NEXT, (seed("passw"),)),
    Row({"guest.admin.sshKeys": [KEY]}, RESTART, NEXT, (seed("ssh-ed25519"),)),
    Row({"guest.userDataSecret": "web"}, RESTART, NEXT, (seed("nano-was-here"),)),
]
FIRST, SECOND = "2026-11-25T09:00:00Z", "2026-11-25T10:00:00Z"
POWER = [
    Row({"powerState": "Suspended"}, LIVE, "", (OnHost("virsh -q domstate {domain}", "paused"),), title="powerState, suspended"),
    Row({"restart": {"at": FIRST}}, RESTART, LIVE, order=True),
    Row({"restart.mode": "Hard"}, LIVE, LIVE, (Stored("restart", {"at": FIRST, "mode": "Hard"}),), order=True),
    Row({"restart.at": SECOND}, RESTART, LIVE, order=True),
    Row({"powerState": "Stopped"}, RESTART, "", (OnHost("virsh -q domstate {domain}", "shut off"),), order=True),
    Row({"powerState": "Running"}, "", LIVE, (OnHost("virsh -q domstate {domain}", "running"),), order=True),
]  # fmt: skip
ROWS = [*WORDS, *SIZE, *DISKS, *CARDS, *MEDIA, *GUEST, *POWER]
