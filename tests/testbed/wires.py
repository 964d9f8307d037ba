"""The fabric: a switch in a namespace of its own, and the cables from it to every node."""

from tests.testbed.nodes import Node

SWITCH = "sw0"
PREFIX_LENGTH = 16


class Fabric(Node):
    """The node that holds the switch. A port is named after the node at its other end."""

    def power_on(self) -> None:
        super().power_on()
        self._make_bridge(self, SWITCH, self.address, "02:4e:00:00:00:01")

    def plug(self, node: Node, device: str) -> None:
        """Lays a cable from the switch to `device` in `node`."""
        ends = [device, "netns", str(node.pid)]
        self.run(["ip", "link", "add", node.name, "type", "veth", "peer", "name", *ends])
        self.run(["ip", "link", "set", node.name, "master", SWITCH, "up"])

    def unplug(self, node: Node) -> None:
        """Removes the cable, if it is still there."""
        self.run(["ip", "link", "delete", node.name], check=False)

    def carrier(self, node: Node, state: str) -> None:
        """Sets the switch's port to `up` or `down`; the node sees its carrier come and go."""
        self.run(["ip", "link", "set", node.name, state])

    def connect(self, node: Node) -> None:
        """Gives `node` a network card `eth0` with its address."""
        self.plug(node, "eth0")
        node.run(["ip", "address", "add", f"{node.address}/{PREFIX_LENGTH}", "dev", "eth0"])
        node.run(["ip", "link", "set", "eth0", "up"])

    def bridge(self, node: Node, bridge: str, mac: str) -> None:
        """Gives `node` a bridge with its address, and `up0`, the cable to the switch, as its port."""
        self.plug(node, "up0")
        self._make_bridge(node, bridge, node.address, mac)
        node.run(["ip", "link", "set", "up0", "master", bridge, "up"])

    @staticmethod
    def _make_bridge(node: Node, name: str, address: str, mac: str) -> None:
        """The MAC is fixed, or it would change with the ports; no spanning tree, so a new port forwards at once."""
        node.run(["ip", "link", "add", name, "address", mac, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
        node.run(["ip", "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", name])
        node.run(["ip", "link", "set", name, "up"])
