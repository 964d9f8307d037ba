"""Touching one machine: libvirt, disks, DHCP, the guest agent, what a host reports."""
