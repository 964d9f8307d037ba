"""Nano's tiny DHCP server: packet and answer are pure, server is the socket."""
