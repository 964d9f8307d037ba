"""A host of the bed: a node with a bridge, a cable to the fabric and a libvirtd."""

import shutil
from pathlib import Path
from uuid import uuid4

from tests.testbed.libvirtd import PRIVATE, Libvirtd
from tests.testbed.nodes import Node
from tests.testbed.sweep import CGROUPS
from tests.testbed.wires import Fabric

BRIDGE = "br0"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CONTROLLERS = ("cpu", "cpuacct", "blkio", "unified")  # of cgroup v1 and of the mixed layout


class Host(Node):
    """Like a real machine it can crash, boot, and lose its cable; its disk, without /run, outlives all that."""

    bridge = BRIDGE

    def __init__(self, number: int, folder: Path, fabric: Fabric) -> None:
        name = f"h{number}"
        present = [CGROUPS / kind for kind in CONTROLLERS if (CGROUPS / kind).is_dir()]
        own = tuple(dict.fromkeys(path.resolve() / folder.name / name for path in present))
        super().__init__(name, f"10.77.1.{number}", folder / name, PRIVATE, own)
        self._fabric = fabric
        self._mac = f"02:4e:00:00:01:{number:02x}"
        self.libvirtd = Libvirtd(self)

    @property
    def uri(self) -> str:
        """For libvirt.open and `virsh -c`, from outside as from inside."""
        return self.libvirtd.uri

    def launch(self) -> None:
        """Powers the host on with its network and starts libvirtd without waiting for it."""
        self.power_on()
        file = self.dir / "boot_id"
        file.write_text(f"{uuid4()}\n")
        self.run(["mount", "--bind", file, BOOT_ID])
        self._fabric.bridge(self, BRIDGE, self._mac)
        self.libvirtd.launch()

    def boot(self) -> None:
        """What happens at power on: network, then libvirtd. Guests and agents do not start by themselves."""
        self.launch()
        self.libvirtd.wait_until_ready()

    def crash(self) -> None:
        """Cuts the power: guests, libvirtd and agents end at once, what was in /run is gone, files stay."""
        self.power_off()
        self._fabric.unplug(self)
        shutil.rmtree(self.own("/run"))

    def reboot(self) -> None:
        self.crash()
        self.boot()

    def link_down(self) -> None:
        """Pulls the cable."""
        self._fabric.carrier(self, "down")

    def link_up(self) -> None:
        self._fabric.carrier(self, "up")
