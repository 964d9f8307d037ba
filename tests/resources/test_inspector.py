"""Good images made by qemu-img are accepted; each way to be malformed, foreign or two things at once is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanovirt.resources.errors import Invalid
from nanovirt.resources.inspector import VIRTUAL_MAX, ImageFacts, inspect

MIB = 2**20
Mutation = Callable[[bytearray], object]


def made(path: Path, *options: str, size: str = "64M") -> bytes:
    """What `qemu-img create` writes."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True, timeout=30)
    return path.read_bytes()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """An image of each version, by version."""
    folder = tmp_path_factory.mktemp("good")
    return {2: made(folder / "v2", "-o", "compat=0.10"), 3: made(folder / "v3", "-o", "compat=1.1")}


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "image"


def verdict(path: Path, content: bytes) -> str:
    """What is said against the content, or ""."""
    path.write_bytes(content)
    try:
        inspect(path)
    except Invalid as refused:
        (cause,) = refused.causes
        return str(cause.params["detail"]) if cause.reason == "ImageRejected" else cause.reason
    return ""


# --- what is accepted ---


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=1.1",
        "lazy_refcounts=on",
        "compression_type=zstd",
        "compression_type=zlib",
        "extended_l2=on",
        "cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
        "compat=0.10,cluster_size=4k",
    ],
)
def test_plain_qcow2_is_accepted(tmp_path: Path, options: str) -> None:
    made(tmp_path / "image", "-o", options)
    assert inspect(tmp_path / "image") == ImageFacts("qcow2", 64 * MIB)


@pytest.mark.parametrize("size", ["512", "1G", "2T"])
def test_virtual_size_is_what_a_guest_sees(tmp_path: Path, size: str) -> None:
    made(tmp_path / "image", size=size)
    wanted = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", str(tmp_path / "image")]))
    assert inspect(tmp_path / "image").virtual_size == wanted["virtual-size"]


def test_grown_and_filled_qcow2_is_accepted(tmp_path: Path) -> None:
    source, image = tmp_path / "raw", tmp_path / "image"
    source.write_bytes(os.urandom(3 * MIB + 512))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(source), str(image)], check=True)
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(image), "300G"], check=True)
    assert inspect(image) == ImageFacts("qcow2", 300 * 2**30)


@pytest.mark.parametrize("content", [bytes(512), bytes(510) + b"\x55\xaa", b"QFI" + bytes(4093), bytes(3 * MIB)])
def test_raw_is_accepted(tmp_path: Path, content: bytes) -> None:
    assert verdict(tmp_path / "image", content) == ""
    assert inspect(tmp_path / "image") == ImageFacts("raw", len(content))


# --- qcow2 that is not as it should be ---


def field(at: int, size: int, value: int) -> Mutation:
    """Set a big-endian field."""

    def change(image: bytearray) -> None:
        image[at : at + size] = value.to_bytes(size, "big")

    return change


def bit(at: int, number: int) -> Mutation:
    """Set one bit of an eight-byte field."""

    def change(image: bytearray) -> None:
        image[at + 7 - number // 8] |= 1 << number % 8

    return change


def cut(length: int) -> Mutation:
    return lambda image: image.__delitem__(slice(length, None))


def extension(kind: int, length: int, content: bytes = b"") -> Mutation:
    """Put a header extension before all others."""
    return put(
        112, kind.to_bytes(4, "big") + length.to_bytes(4, "big") + content.ljust((len(content) + 7) // 8 * 8, b"\0")
    )


def put(at: int, content: bytes) -> Mutation:
    def change(image: bytearray) -> None:
        image.extend(bytes(max(0, at + len(content) - len(image))))
        image[at : at + len(content)] = content

    return change


def end_with(content: bytes) -> Mutation:
    return lambda image: image.extend(bytes(-len(image) % 512) + content.ljust(512, b"\0"))


def both(*changes: Mutation) -> Mutation:
    return lambda image: [change(image) for change in changes]


VERSION, BACKING, BACKING_SIZE, CLUSTER_BITS, SIZE, CRYPT = (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4)
L1_SIZE, L1, REFCOUNT, REFCOUNT_CLUSTERS, SNAPSHOTS, SNAPSHOT_AT = (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8)
FEATURES, REFCOUNT_ORDER, HEADER_LENGTH, COMPRESSION = 72, (96, 4), (100, 4), (104, 1)
MAX4, MAX8 = 2**32 - 1, 2**64 - 1
L1_ENTRY, REFCOUNT_ENTRY = (0x30000, 8), (0x10000, 8)
"""Where `qemu-img create` puts the tables with clusters of 64 KiB."""

EVERY_VERSION: dict[str, tuple[Mutation, str]] = {
    **{f"version {n}": (field(*VERSION, n), "version is") for n in (0, 1, 4, 5, MAX4)},
    **{f"backing offset {n}": (field(*BACKING, n), "backing file") for n in (1, 1024, MAX8)},
    **{f"backing size {n}": (field(*BACKING_SIZE, n), "backing file") for n in (1, 1023, MAX4)},
    "backing file /etc/shadow": (
        both(field(*BACKING, 1024), field(*BACKING_SIZE, 11), put(1024, b"/etc/shadow")),
        "backing file",
    ),
    "backing file json:": (
        both(field(*BACKING, 1024), field(*BACKING_SIZE, 40), put(1024, b'json:{"driver":"nbd","host":"127.0.0.1"}')),
        "backing file",
    ),
    **{f"cluster bits {n}": (field(*CLUSTER_BITS, n), "cluster_bits is") for n in (0, 1, 8, 22, 31, 63, 64, MAX4)},
    **{f"size {n}": (field(*SIZE, n), "virtual size") for n in (0, 1, 511, 513, VIRTUAL_MAX + 512, 2**63, MAX8)},
    **{f"encryption {n}": (field(*CRYPT, n), "encrypted") for n in (1, 2, 3, MAX4)},
    **{f"L1 entries {n}": (field(*L1_SIZE, n), "L1 table") for n in (0, 2**22 + 1, MAX4)},
    "L1 entries beyond the file": (field(*L1_SIZE, 10_000), "not on a cluster inside the file"),
    "disk larger than the L1 table": (field(*SIZE, 2**40), "does not fit a disk"),
    **{f"L1 offset {n}": (field(*L1, n), "L1 table") for n in (0, 1, 512, 0x30001, 0x40000, 2**63, MAX8)},
    "L1 table in the header": (field(*L1, 0), "after the header"),
    "L1 table in the refcount table": (field(*L1, 0x10000), "overlap"),
    **{f"refcount offset {n}": (field(*REFCOUNT, n), "refcount table") for n in (0, 1, 8, 0x10008, 2**40, MAX8)},
    **{f"refcount clusters {n}": (field(*REFCOUNT_CLUSTERS, n), "refcount table") for n in (0, 100, 129, MAX4)},
    "refcount table over the L1 table": (field(*REFCOUNT_CLUSTERS, 3), "refcount table"),
    **{f"snapshots {n}": (field(*SNAPSHOTS, n), "snapshots") for n in (1, 65536, MAX4)},
    "snapshot offset": (field(*SNAPSHOT_AT, 0x40000), "snapshots"),
    **{f"cut to {n}": (cut(n), "cut off") for n in (4, 8, 71)},
    "cut before the tables": (cut(0x8000), "inside the file"),
    **{f"L1 entry bit {n}": (bit(0x30000, n), "an entry of its L1 table") for n in (0, 8, 9, 15, 55, 56, 62)},
    "L1 entry beyond the file": (field(*L1_ENTRY, 1 << 63 | 0x7F0000), "an entry of its L1 table"),
    **{f"refcount entry bit {n}": (bit(0x10008, n), "an entry of its refcount table") for n in (0, 8, 9, 15, 40, 63)},
    **{
        f"also {name}": (put(at, magic), "several formats")
        for name, at, magic in [
            ("ISO", 0x8001, b"CD001"),
            ("ISO, second descriptor", 0x8801, b"CD001"),
            ("UDF", 0x8801, b"NSR02"),
            ("VDI", 0x40, b"\x7f\x10\xda\xbe"),
            ("tar", 257, b"ustar"),
        ]
    },
    **{
        f"also {name}": (end_with(magic), "several formats") for name, magic in [("VHD", b"conectix"), ("DMG", b"koly")]
    },
}
VERSION_3: dict[str, tuple[Mutation, str]] = {
    "dirty": (bit(FEATURES, 0), "not closed properly"),
    "corrupt": (bit(FEATURES, 1), "corrupt"),
    "external data file": (bit(FEATURES, 2), "external file"),
    "compression bit alone": (bit(FEATURES, 3), "compression type"),
    "compression type alone": (field(*COMPRESSION, 1), "compression type"),
    **{f"compression type {n}": (both(bit(FEATURES, 3), field(*COMPRESSION, n)), "compression type") for n in (2, 255)},
    "compression padding": (field(105, 1, 1), "compression type"),
    "extended L2 with small clusters": (both(bit(FEATURES, 4), field(*CLUSTER_BITS, 13)), "extended L2"),
    **{f"incompatible feature {n}": (bit(FEATURES, n), "features that are not known") for n in range(5, 64)},
    **{f"refcount order {n}": (field(*REFCOUNT_ORDER, n), "refcount_order") for n in (7, 64, MAX4)},
    **{
        f"header length {n}": (field(*HEADER_LENGTH, n), "header_length")
        for n in (0, 1, 72, 103, 105, 120, 65536, MAX4)
    },
    **{f"cut to {n}": (cut(n), "cut off") for n in (72, 103)},
    "no end of extensions": (cut(112), "do not end"),
    "end with a length": (extension(0, 8), "has a length"),
    "external data file name": (extension(0x44415441, 11, b"/etc/shadow"), "external data file"),
    "backing format": (extension(0xE2792ACA, 3, b"raw"), "backing file"),
    "encryption header": (extension(0x0537BE77, 16, bytes(16)), "encrypted"),
    "bitmaps": (extension(0x23852875, 24, bytes(24)), "bitmaps"),
    "unknown extension": (extension(0x12345678, 8, bytes(8)), "not known here"),
    "feature names of odd length": (extension(0x6803F857, 47, bytes(48)), "not known here"),
    "extension longer than the file": (extension(0x6803F857, 48 * 2**26 - 48), "do not end"),
    "extension of maximal length": (extension(0x6803F857, MAX4), "not known here"),
    "extension over the first cluster": (extension(0x6803F857, 48 * 1365), "do not end"),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", EVERY_VERSION)
def test_malformed_qcow2_is_refused(images: dict[int, bytes], scratch: Path, version: int, name: str) -> None:
    change, said = EVERY_VERSION[name]
    image = bytearray(images[version])
    change(image)
    assert said in verdict(scratch, bytes(image))


@pytest.mark.parametrize("name", VERSION_3)
def test_malformed_version_3_is_refused(images: dict[int, bytes], scratch: Path, name: str) -> None:
    change, said = VERSION_3[name]
    image = bytearray(images[3])
    change(image)
    assert said in verdict(scratch, bytes(image))


# --- other formats ---

OTHERS: dict[str, tuple[Mutation, str]] = {
    **{
        name: (put(at, magic), f"format is {name.split()[0]}")
        for name, at, magic in [
            ("VMDK sparse", 0, b"KDMV"),
            ("VMDK cowd", 0, b"COWD"),
            ("VMDK text", 0, b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/shadow" 0\n'),
            ("VMDK text after comments", 0, b'# x\n\n  # y\r\n version = 1\nRW 1 FLAT "/etc/shadow" 0\n'),
            ("VMDK text in other letters", 0, b'VERSION=1\ncreateType="monolithicFlat"\n'),
            ("VDI", 0x40, b"\x7f\x10\xda\xbe"),
            ("VHD dynamic", 0, b"conectix"),
            ("VHDX", 0, b"vhdxfile"),
            ("QED", 0, b"QED\0"),
            ("LUKS", 0, b"LUKS\xba\xbe\0\2"),
            ("LUKS second header", 0, b"SKUL\xba\xbe\0\2"),
            ("Parallels", 0, b"WithoutFreeSpace"),
            ("Parallels extended", 0, b"WithouFreSpacExt"),
            ("Bochs", 0, b"Bochs Virtual HD Image"),
            ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
        ]
    },
    **{
        name: (put(at, magic), "packed")
        for name, at, magic in [
            ("gzip", 0, b"\x1f\x8b\x08"),
            ("xz", 0, b"\xfd7zXZ\0"),
            ("zstd", 0, b"\x28\xb5\x2f\xfd"),
            ("bzip2", 0, b"BZh9"),
            ("zip", 0, b"PK\x03\x04"),
            ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
            ("tar", 257, b"ustar\x0000"),
        ]
    },
    "VHD fixed": (end_with(b"conectix"), "format is VHD"),
    "VHD of odd length": (both(end_with(b"conectix"), lambda image: image.pop()), "format is VHD"),
    "DMG": (end_with(b"koly"), "format is DMG"),
    "ISO": (put(0x8001, b"CD001"), "ISO image"),
    "ISO with a boot sector": (both(put(0x8001, b"CD001"), put(510, b"\x55\xaa")), "ISO image"),
    "UDF": (put(0x8001, b"BEA01"), "ISO image"),
    "ISO and tar": (both(put(0x8001, b"CD001"), put(257, b"ustar")), "several formats"),
    "qcow version 1": (put(0, b"QFI\xfb\0\0\0\1"), "version is 1"),
    "raw of half a sector": (lambda image: image.pop(), "sectors"),
    "empty": (lambda image: image.clear(), "empty"),
    "text": (both(lambda image: image.clear(), put(0, b"hello")), "sectors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused(scratch: Path, name: str) -> None:
    change, said = OTHERS[name]
    image = bytearray(128 * 1024)
    change(image)
    assert said in verdict(scratch, bytes(image))


@pytest.mark.parametrize("other", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels", "qcow"])
def test_what_qemu_img_makes_of_other_formats_is_refused(tmp_path: Path, other: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", other, str(tmp_path / "image"), "4M"], check=True, timeout=30)
    assert verdict(tmp_path / "image", (tmp_path / "image").read_bytes())


def test_raw_larger_than_any_disk_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb") as file:
        try:
            file.truncate(VIRTUAL_MAX + 512)
        except OSError:  # file systems such as ext4 know no larger files either
            return
    with pytest.raises(Invalid, match="larger than"):
        inspect(tmp_path / "image")


def test_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic links"):
        inspect(tmp_path / "link")


def test_pipe_and_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Invalid, match="not an ordinary file"):
            inspect(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    version=st.sampled_from([2, 3]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.integers(0, 200_000) | st.none(),
)
def test_any_damage_ends_in_a_verdict(
    images: dict[int, bytes], scratch: Path, version: int, changes: list[tuple[int, int]], length: int | None
) -> None:
    image = bytearray(images[version])
    for at, value in changes:
        image[at] = value
    verdict(scratch, bytes(image[:length]))


def test_what_is_accepted_in_spite_of_damage_is_harmless_to_qemu(images: dict[int, bytes], scratch: Path) -> None:
    """Every bit of the header is flipped once; where that is accepted, qemu-img sees a self-contained image too."""
    accepted = 0
    for at in range(4 * 8, 112 * 8):
        image = bytearray(images[3])
        image[at // 8] ^= 1 << at % 8
        if verdict(scratch, bytes(image)):
            continue
        accepted += 1
        command = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", str(scratch)]
        seen = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
        assert seen["virtual-size"] == inspect(scratch).virtual_size, at
        assert "backing-filename" not in seen, at
        assert "data-file" not in seen["format-specific"]["data"], at
    assert 100 < accepted < 200
