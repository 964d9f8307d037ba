"""A disk whose one sector says on the serial line when it boots: the boot id of a machine without a guest."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.cluster import Cluster
from tests.e2e.looking import until

SAYS = b"booted \0"
_CODE = (
    b"\xfa\xfc\x31\xc0\x8e\xd8"  # cli; cld; xor ax, ax; mov ds, ax
    b"\x0f\x31\x66\x89\xc3"  # rdtsc; mov ebx, eax
    b"\xbe\x47\x7c"  # mov si, SAYS
    b"\xac\x84\xc0\x74\x05\xe8\x22\x00\xeb\xf6"  # next: lodsb; test al, al; jz +5; call put; jmp next
    b"\xb9\x08\x00"  # mov cx, 8
    b"\x66\xc1\xc3\x04\x88\xd8\x24\x0f"  # digit: rol ebx, 4; mov al, bl; and al, 15
    b"\x3c\x0a\x72\x02\x04\x27\x04\x30"  # cmp al, 10; jb +2; add al, 39; add al, 48
    b"\xe8\x0a\x00\xe2\xeb"  # call put; loop digit
    b"\xb0\x0a\xe8\x03\x00"  # mov al, 10; call put
    b"\xf4\xeb\xfd"  # hlt; jmp -3
    b"\x50\xba\xfd\x03\xec\xa8\x20\x74\xfb"  # put: push ax; mov dx, 0x3fd; wait: in al, dx; test al, 32; jz wait
    b"\x58\xba\xf8\x03\xee\xc3"  # pop ax; mov dx, 0x3f8; out dx, al; ret
)
_MARK = re.compile(rf"{SAYS[:-1].decode()}([0-9a-f]{{8}})\n")


def sector() -> bytes:
    """A boot sector (16 bits, at 0x7c00): prints SAYS and the low half of the processor's clock on COM1, and halts."""
    assert len(_CODE) == 0x47
    return (_CODE + SAYS).ljust(510, b"\0") + b"\x55\xaa"


def boots(console: str) -> list[str]:
    """The ids of all boots that a console's log tells of."""
    return _MARK.findall(console.replace("\r", ""))


async def bring_image(cluster: Cluster, client: Client) -> list[JSON]:
    """Make the image known to a cluster; gives the disks of a machine that boots from it."""
    with tempfile.TemporaryDirectory(dir=cluster.data) as folder:
        raw, made = Path(folder) / "mark.raw", Path(folder) / "mark.qcow2"
        raw.write_bytes(sector().ljust(1 << 20, b"\0"))
        argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
        await asyncio.to_thread(subprocess.run, argv, check=True)
        shutil.move(made, cluster.data / "images/incoming/mark.qcow2")
    image = {"systemTemplate": "linux-bios", "source": {"file": "mark.qcow2"}}
    metadata = {"name": "mark", "namespace": "shared"}
    await client.create({"apiVersion": "nano/v1", "kind": "Image", "metadata": metadata, "spec": image})
    await until(client, Key("images", "shared", "mark"), lambda doc: bool(doc["status"].get("phase") == "Ready"))
    return [{"name": "system", "source": {"image": "shared/mark"}}]
