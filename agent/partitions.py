"""Where the partitions of a disk end, or the file system that fills it, read from its beginning: hostile bytes.

GPT: UEFI specification 2.10, 5.3; MBR: 5.2. ext4: its superblock (kernel documentation, ext4/globals); XFS: its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEAD = 2**20
"""Bytes that are looked at: a table stands before the first partition."""
GRAIN = 2**20
"""Sizes are told in whole MiB, so that the next partition tool is content."""
ENTRIES_MAX = 128
SECTORS = (512, 4096)
BACKUP = 33
"""Sectors that the second copy of a GPT takes at the end of a disk."""
_GPT = struct.Struct("<8s64xQII")
_GPT_ENTRY = struct.Struct("<16s16xQQ")
_MBR_ENTRY = struct.Struct("<4xB3xII")
PROTECTIVE, ACTIVE = 0xEE, (0x00, 0x80)


class Extent(NamedTuple):
    """What stands on a disk, in words, and the byte after its last one."""

    name: str
    end: int


class Layout(NamedTuple):
    """All that stands there, and the fewest bytes that keep it; none of it known, and nothing is in the way."""

    extents: tuple[Extent, ...] = ()
    least: int = 0


def layout(head: bytes) -> Layout:
    """What the first bytes of a disk say."""
    for sector in SECTORS:
        found = tuple(_gpt(head, sector))
        if found:
            return _laid(found, BACKUP * sector)
    return _laid(tuple(_mbr(head)) or tuple(_file_system(head)))


def beyond(head: bytes, size: int) -> Extent | None:
    """The one that ends last, if it does not end within `size` bytes."""
    last = max(layout(head).extents, key=lambda one: one.end, default=None)
    return last if last is not None and last.end > size else None


def _laid(extents: tuple[Extent, ...], more: int = 0) -> Layout:
    end = max((one.end for one in extents), default=0)
    return Layout(extents, -(-(end + more) // GRAIN) * GRAIN if end else 0)


def _gpt(head: bytes, sector: int) -> Iterator[Extent]:
    if len(head) < sector + _GPT.size:
        return
    signature, at, count, size = _GPT.unpack_from(head, sector)
    if signature != b"EFI PART" or size < _GPT_ENTRY.size:
        return
    for number in range(min(count, ENTRIES_MAX)):
        start = at * sector + number * size
        if start + _GPT_ENTRY.size > len(head):
            return
        kind, first, last = _GPT_ENTRY.unpack_from(head, start)
        if any(kind) and last >= first:
            yield Extent(f"partition {number + 1}", (last + 1) * sector)


def _mbr(head: bytes) -> Iterator[Extent]:
    """Logical partitions lie within an extended one, one of these four. FAT and NTFS end alike, after code."""
    if head[510:512] != b"\x55\xaa" or any(head[446 + 16 * number] not in ACTIVE for number in range(4)):
        return
    for number in range(4):
        kind, first, count = _MBR_ENTRY.unpack_from(head, 446 + 16 * number)
        if kind not in (0, PROTECTIVE) and first and count:
            yield Extent(f"partition {number + 1}", (first + count) * 512)


def _file_system(head: bytes) -> Iterator[Extent]:
    """One that fills the disk, as Nano's seeds make them."""
    if head[:4] == b"XFSB" and len(head) >= 16:
        block, blocks = struct.unpack_from(">IQ", head, 4)
        yield Extent("its XFS file system", block * blocks)
    elif head[1080:1082] == b"\x53\xef" and len(head) >= 2048:
        (low,), (shift,) = struct.unpack_from("<I", head, 1028), struct.unpack_from("<I", head, 1048)
        (incompatible,), (high,) = struct.unpack_from("<I", head, 1120), struct.unpack_from("<I", head, 1360)
        blocks = low | (high << 32 if incompatible & 0x80 else 0)
        if shift <= 6:
            yield Extent("its ext4 file system", blocks << (10 + shift))
