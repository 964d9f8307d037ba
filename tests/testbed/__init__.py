"""Several hosts, a client and a server on one machine, each in namespaces of its own, with real libvirt and QEMU.

    with Bed(hosts=2) as bed:
        one, two = bed.hosts
        one.run(["ip", "address"])                     # argv in the host's namespaces, CompletedProcess
        agent = one.start([...], log="agent.log")      # a long-lived process of the host, a Popen of the program itself
        server = bed.server.start([...])               # the same, in the server's namespaces
        bed.client.run(["ping", "-c1", "10.77.2.1"])   # a probe from a neighbour on the same network
        connection = libvirt.open(one.uri)             # from outside; `virsh -c URI` too
        one.libvirtd.kill(); one.libvirtd.start()      # also stop() (SIGTERM) and restart()
        one.link_down(); one.link_up()                 # a pulled cable: the host lives on, alone
        one.reboot()                                   # power cut and boot; crash() and boot() are the two halves

What there is:

- `bed.fabric` holds the switch `sw0` and answers on 10.77.0.1; `bed.server` is 10.77.0.2, `bed.client` 10.77.0.3 and
  host N (`h1`, `h2`, ...) 10.77.1.N, all in 10.77.0.0/16 (`SUBNET`). Guests may have 10.77.2.0 and up.
- A host has a bridge `br0` (`host.bridge`) with `up0`, its cable to the switch, and its own network, mount and UTS
  namespace. `/run`, `/etc/libvirt`, `/var/{lib,log,cache}/libvirt`, its CPU and block cgroups and the kernel's boot id,
  new with every boot, are its own; all other files are this machine's. `host.dir` is its own folder, under the same
  path inside and outside, and `bed.dir` is there for all of them: for disks, states, sockets and logs. Its logs are in
  `host.dir / "log"`.
- No process, mount or network device outlives the bed: `Bed.__exit__` ends what is in its namespaces, a watcher
  process (`undertaker`) does it when the test process is killed, and the next bed clears what is left if that
  was killed too. `leftovers()` lists what should not be there; assert it empty after a bed.

It needs root, iproute2, util-linux and libvirtd with the QEMU driver, not systemd, and touches nothing of the
machine's own libvirt and network.
"""

from tests.testbed.bed import SUBNET, Bed
from tests.testbed.hosts import Host
from tests.testbed.nodes import Node
from tests.testbed.sweep import leftovers

__all__ = ["SUBNET", "Bed", "Host", "Node", "leftovers"]
