"""`ping.py ADDRESS`: whether an echo comes back within three seconds."""

import socket
import struct
import sys

with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
    wire.settimeout(3)
    try:
        wire.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF - 7, 7, 0), (sys.argv[1], 0))
        while wire.recv(9000)[20]:
            pass
    except OSError:
        sys.exit(1)
