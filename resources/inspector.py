"""What the bytes of a disk image say they are, read by our own parser before any tool may open the file.

Accepted: plain qcow2 of version 2 or 3 (the QEMU document docs/interop/qcow2.rst) and raw. Everything that could make a
tool open another file, or that only a newer tool understands, is refused; so is what looks like two formats at once.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from nanovirt.resources.errors import Invalid
from nanovirt.resources.reasons import Reason

VIRTUAL_MAX = 16 * 2**40
"""Bytes: the largest disk that an image may describe."""
SECTOR = 512
PLAIN = "make a plain one with: qemu-img convert -O qcow2 OLD NEW"

QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_END, _FEATURE_NAMES = 0, 0x6803F857
_REFUSED_EXTENSIONS = {
    0xE2792ACA: "names the format of a backing file",
    0x44415441: "names an external data file",
    0x0537BE77: "is encrypted",
    0x23852875: "holds persistent bitmaps",
}
_L1_MAX, _REFCOUNT_MAX = 32 * 2**20, 8 * 2**20
_L1_RESERVED, _L1_OFFSET = 0x7F000000000001FF, 0x00FFFFFFFFFFFE00
_REFCOUNT_RESERVED, _REFCOUNT_OFFSET = 0x1FF, 0xFFFFFFFFFFFFFE00


class ImageFacts(NamedTuple):
    """What an image is, and how many bytes a guest sees."""

    format: Literal["qcow2", "raw"]
    virtual_size: int


class Signature(NamedTuple):
    """Bytes that tell a format: from the beginning of the file, or from its end when `at` is negative."""

    format: str
    at: int
    magic: bytes


SIGNATURES = (
    Signature("qcow2", 0, QCOW2),
    Signature("VMDK", 0, b"KDMV"),
    Signature("VMDK", 0, b"COWD"),
    Signature("VMDK", 0, b"# Disk DescriptorFile"),
    Signature("VDI", 0x40, b"\x7f\x10\xda\xbe"),
    Signature("VHD", 0, b"conectix"),
    Signature("VHD", -512, b"conectix"),
    Signature("VHD", -511, b"conectix"),
    Signature("VHDX", 0, b"vhdxfile"),
    Signature("QED", 0, b"QED\0"),
    Signature("LUKS", 0, b"LUKS\xba\xbe"),
    Signature("LUKS", 0, b"SKUL\xba\xbe"),
    Signature("Parallels", 0, b"WithoutFreeSpace"),
    Signature("Parallels", 0, b"WithouFreSpacExt"),
    Signature("Bochs", 0, b"Bochs Virtual HD Image"),
    Signature("cloop", 0, b"#!/bin/sh\n#V2.0 Format"),
    Signature("DMG", -512, b"koly"),
    Signature("ISO", 0x8001, b"CD001"),
    Signature("ISO", 0x8801, b"CD001"),
    Signature("ISO", 0x8001, b"BEA01"),
    Signature("ISO", 0x8801, b"NSR0"),
    Signature("gzip", 0, b"\x1f\x8b\x08"),
    Signature("xz", 0, b"\xfd7zXZ\0"),
    Signature("zstd", 0, b"\x28\xb5\x2f\xfd"),
    Signature("bzip2", 0, b"BZh"),
    Signature("zip", 0, b"PK\x03\x04"),
    Signature("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    Signature("tar", 257, b"ustar"),
)
PACKED = {"gzip", "xz", "zstd", "bzip2", "zip", "7z", "tar"}
_VMDK_TEXT = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*version[ \t]*=", re.IGNORECASE)


@dataclass(frozen=True)
class _File:
    """An open file of known size; reading outside of it gives fewer bytes, never an error."""

    fd: int
    size: int

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self.fd, length, at) if 0 <= at < self.size else b""


def inspect(path: Path, kinds: Collection[str] = ("Disk",)) -> ImageFacts:
    """Say what the image is, or refuse it. Raises Invalid (reason ImageRejected), OSError.

    `kinds`: what it may be, a Disk, or Media: an ISO image, which is raw and nothing else. The file must not change
    meanwhile: inspect a copy that nobody else can write.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            _refuse("it is not an ordinary file")
        return _examine(_File(fd, found.st_size), kinds)
    finally:
        os.close(fd)


def _examine(file: _File, kinds: Collection[str]) -> ImageFacts:
    if not file.size:
        _refuse("it is empty")
    found = sorted(set(_formats(file)))
    if found == ["ISO"] and "Media" in kinds:
        return _raw(file)
    if "Disk" not in kinds:
        _refuse("it is no ISO image, which is what a medium has to be")
    if not found:
        return _raw(file)
    if found != ["qcow2"]:
        _refuse(_why_not(found))
    return _qcow2(file)


def _why_not(found: list[str]) -> str:
    if len(found) > 1:
        return f"it looks like several formats at once: {', '.join(found)}"
    if found == ["ISO"]:
        return "it is an ISO image, which is no disk to start from"
    if found[0] in PACKED:
        return f"it is packed ({found[0]}); unpack it first"
    return f"its format is {found[0]}; {PLAIN}"


def _formats(file: _File) -> Iterator[str]:
    for one in SIGNATURES:
        at = one.at if one.at >= 0 else file.size + one.at
        if file.read(at, len(one.magic)) == one.magic:
            yield one.format
    if _VMDK_TEXT.match(file.read(0, 64 * 1024)):
        yield "VMDK"


def _raw(file: _File) -> ImageFacts:
    if file.size % SECTOR:
        _refuse(f"a raw image is a whole number of {SECTOR}-byte sectors, and this file has {file.size} bytes")
    if file.size > VIRTUAL_MAX:
        _refuse(f"its disk of {file.size} bytes is larger than {VIRTUAL_MAX}")
    return ImageFacts("raw", file.size)


class _Header(NamedTuple):
    """The fields of version 2, in their order in the file."""

    magic: bytes
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int

    @property
    def cluster(self) -> int:
        """Bytes of one cluster."""
        return 1 << self.cluster_bits


def _qcow2(file: _File) -> ImageFacts:
    raw = file.read(0, _HEADER.size)
    if len(raw) < _HEADER.size:
        _refuse("its qcow2 header is cut off")
    header = _Header(*_HEADER.unpack(raw))
    if header.version not in {2, 3}:
        _refuse(f"its qcow2 version is {header.version}; 2 and 3 are known here. {PLAIN}")
    _check_self_contained(header)
    if not 9 <= header.cluster_bits <= 21:
        _refuse(f"cluster_bits is {header.cluster_bits}, outside of 9 to 21")
    if not 0 < header.size <= VIRTUAL_MAX or header.size % SECTOR:
        _refuse(f"its virtual size {header.size} is not a whole number of sectors between 1 byte and {VIRTUAL_MAX}")
    header_end, features = (_HEADER.size, 0) if header.version == 2 else _version_3(file, header)
    _check_extensions(file, header, header_end)
    _check_tables(file, header, features)
    return ImageFacts("qcow2", header.size)


def _check_self_contained(header: _Header) -> None:
    if header.backing_offset or header.backing_size:
        _refuse(f"it has a backing file; {PLAIN}")
    if header.encryption:
        _refuse(f"it is encrypted (method {header.encryption}); {PLAIN}")
    if header.snapshots or header.snapshots_offset:
        _refuse(f"it holds internal snapshots; {PLAIN}")


def _version_3(file: _File, header: _Header) -> tuple[int, int]:
    """Where the header ends, and its incompatible features."""
    raw = file.read(_HEADER.size, _HEADER_3.size)
    if len(raw) < _HEADER_3.size:
        _refuse("its qcow2 header is cut off")
    features, _compatible, _autoclear, refcount_order, length = _HEADER_3.unpack(raw)
    for bit, what in ((_DATA_FILE, "keeps its data in an external file"), (_CORRUPT, "is marked as corrupt")):
        if features & bit:
            _refuse(f"it {what}; {PLAIN}")
    if features & _DIRTY:
        _refuse("it was not closed properly; repair it with: qemu-img check -r all FILE")
    if unknown := features & ~(_COMPRESSION | _EXTENDED_L2):
        _refuse(f"it wants features that are not known here (bits {unknown:#x}); {PLAIN}")
    if features & _EXTENDED_L2 and header.cluster_bits < 14:
        _refuse(f"cluster_bits is {header.cluster_bits}; with extended L2 entries at least 14 are needed")
    if refcount_order > 6:
        _refuse(f"refcount_order is {refcount_order}, more than 6")
    if length not in {104, 112}:
        _refuse(f"header_length is {length}; 104 and 112 are known here")
    _check_compression(file.read(104, length - 104), named=bool(features & _COMPRESSION))
    return length, features


def _check_compression(field: bytes, *, named: bool) -> None:
    kind = field[0] if field else 0
    if kind > 1 or bool(kind) is not named or any(field[1:]):
        _refuse(f"its compression type {kind} is not known here, or does not fit its features; {PLAIN}")


def _check_extensions(file: _File, header: _Header, at: int) -> None:
    """The list of (type, length, content padded to 8 bytes) must end inside the first cluster."""
    end = min(header.cluster, file.size)
    while at + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack(file.read(at, _EXTENSION.size))
        if kind == _END:
            if length:
                _refuse("the end of its header extensions has a length")
            return
        if kind in _REFUSED_EXTENSIONS:
            _refuse(f"it {_REFUSED_EXTENSIONS[kind]}; {PLAIN}")
        if kind != _FEATURE_NAMES or length % 48:
            _refuse(f"it has a header extension that is not known here ({kind:#x}, {length} bytes); {PLAIN}")
        at += _EXTENSION.size + (length + 7) // 8 * 8
    _refuse("its header extensions do not end inside the first cluster")


def _check_tables(file: _File, header: _Header, features: int) -> None:
    entry_bytes = 16 if features & _EXTENDED_L2 else 8
    reach = header.cluster * (header.cluster // entry_bytes)
    l1, refcounts = header.l1_entries * 8, header.refcount_clusters * header.cluster
    if not -(-header.size // reach) <= header.l1_entries or l1 > _L1_MAX:
        _refuse(f"its L1 table of {header.l1_entries} entries does not fit a disk of {header.size} bytes")
    if not 0 < refcounts <= _REFCOUNT_MAX:
        _refuse(f"its refcount table takes {refcounts} bytes, outside of 1 to {_REFCOUNT_MAX}")
    _check_place(file, header, "L1 table", header.l1_offset, l1)
    _check_place(file, header, "refcount table", header.refcount_offset, refcounts)
    if header.l1_offset < header.refcount_offset + refcounts and header.refcount_offset < header.l1_offset + l1:
        _refuse("its L1 table and its refcount table overlap")
    for entry in _entries(file, header.l1_offset, l1):
        _check_entry(file, header, "L1", entry, entry & _L1_RESERVED, entry & _L1_OFFSET)
    for entry in _entries(file, header.refcount_offset, refcounts):
        _check_entry(file, header, "refcount", entry, entry & _REFCOUNT_RESERVED, entry & _REFCOUNT_OFFSET)


def _check_place(file: _File, header: _Header, what: str, offset: int, length: int) -> None:
    if offset % header.cluster or offset < header.cluster or offset + length > file.size:
        _refuse(f"its {what} (offset {offset}, {length} bytes) is not on a cluster inside the file, after the header")


def _entries(file: _File, offset: int, length: int) -> Iterator[int]:
    """The entries of a table that are not zero; most are."""
    for at in range(offset, offset + length, 2**20):
        content = file.read(at, min(2**20, offset + length - at))
        if content.strip(b"\0"):
            numbers = array("Q", content)
            if sys.byteorder == "little":
                numbers.byteswap()
            yield from filter(None, numbers)


def _check_entry(file: _File, header: _Header, what: str, entry: int, reserved: int, offset: int) -> None:
    if reserved or offset % header.cluster or offset >= file.size or 0 < offset < header.cluster:
        _refuse(f"an entry of its {what} table ({entry:#x}) does not lead to a cluster inside the file")


def _refuse(detail: str) -> NoReturn:
    raise Invalid("spec.source", Reason.ImageRejected, detail=detail)
