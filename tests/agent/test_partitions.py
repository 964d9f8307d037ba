"""Where what stands on a disk ends: tables and file systems as tools write them, and as somebody hostile might."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

from nanovirt.agent.disks import Disks
from nanovirt.agent.image_cache import ImageCache
from nanovirt.agent.partitions import HEAD, Extent, Layout, beyond, layout
from nanovirt.resources.errors import HypervisorError

MIB, GIB = 2**20, 2**30
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


def mbr(*partitions: tuple[int, int, int], active: int = 0x80) -> bytes:
    """Type, first sector, number of sectors."""
    head = bytearray(HEAD)
    for number, (kind, first, count) in enumerate(partitions):
        struct.pack_into("<B3xB3xII", head, 446 + 16 * number, active if number == 0 else 0, kind, first, count)
    head[510:512] = b"\x55\xaa"
    return bytes(head)


def gpt(*partitions: tuple[int, int], sector: int = 512, count: int = 128, size: int = 128) -> bytes:
    """First and last sector; behind the MBR that protects it."""
    head = bytearray(mbr((0xEE, 1, 0xFFFFFFFF)))
    struct.pack_into("<8sIIII4Q16sQII", head, sector, b"EFI PART", 0x10000, 92, 0, 0, 1, 9, 9, 9, b"", 2, count, size)
    for number, (first, last) in enumerate(partitions):
        struct.pack_into("<16s16sQQ", head, 2 * sector + number * size, LINUX, b"x" * 16, first, last)
    return bytes(head)


def test_partitions_of_a_gpt_end_where_it_says_and_need_room_for_its_copy() -> None:
    found = layout(gpt((2048, 206847), (206848, 2 * GIB // 512 - 1)))
    assert found.extents == (Extent("partition 1", 101 * MIB), Extent("partition 2", 2 * GIB))
    assert found.least == 2 * GIB + MIB
    large = layout(gpt((256, 511), sector=4096))
    assert large == Layout((Extent("partition 1", 2 * MIB),), 3 * MIB)


def test_partitions_of_an_mbr_and_the_extended_one() -> None:
    found = layout(mbr((0x83, 2048, 2048), (0x05, 4096, 4096)))
    assert found == Layout((Extent("partition 1", 2 * MIB), Extent("partition 2", 4 * MIB)), 4 * MIB)


def test_what_a_smaller_disk_would_cut_is_named() -> None:
    head = mbr((0x83, 2048, 2048), (0x83, 4096, 4096))
    assert beyond(head, 4 * MIB) is None
    assert beyond(head, 4 * MIB - 512) == Extent("partition 2", 4 * MIB)


@pytest.mark.parametrize(
    "head",
    [
        b"", bytes(HEAD), bytes(100), b"\xeb\x58\x90MSDOS5.0" + b"\xf0" * 499 + b"\x55\xaa",
        gpt(), mbr((0x83, 2048, 2048), active=0x33),
    ],
    ids=["nothing", "zeros", "short", "FAT", "empty GPT", "no MBR"],
)  # fmt: skip
def test_disk_of_which_nothing_is_known_may_be_cut(head: bytes) -> None:
    assert layout(head) == Layout()


def test_hostile_beginnings_are_read_within_bounds() -> None:
    rnd = random.Random(7)
    for _ in range(2000):
        head = bytearray(
            rnd.choice((gpt((2048, 4095)), mbr((0x83, 1, 1)), bytes(HEAD)))[: rnd.choice((0, 600, 5000, HEAD))]
        )
        for _ in range(rnd.randint(0, 40)):
            if head:
                head[rnd.randrange(min(len(head), 4096))] = rnd.randrange(256)
        found = layout(bytes(head))
        assert len(found.extents) <= 128
    many = gpt((2048, 4095), count=2**32 - 1, size=128)
    assert len(layout(many).extents) == 1


def test_file_system_that_mke2fs_made_ends_with_its_disk(tmp_path: Path) -> None:
    file = tmp_path / "a.raw"
    for size, words in ((64 * MIB, ()), (8 * MIB, ("-b", "1024", "-O", "^64bit"))):
        file.unlink(missing_ok=True)
        subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", *words, file, f"{size >> 10}k"], check=True)
        with file.open("rb") as opened:
            assert layout(opened.read(HEAD)) == Layout((Extent("its ext4 file system", size),), size)


def on_disk(folder: Path, head: bytes) -> Path:
    """A qcow2 file of 8 MiB that begins so."""
    raw, file = folder / "a.raw", folder / "a.qcow2"
    raw.write_bytes(head)
    with raw.open("r+b") as opened:
        opened.truncate(8 * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, file], check=True)
    raw.unlink()
    return file


@pytest.mark.parametrize("end", [2**40, 2**63, 2**64 - 1])
async def test_partition_that_claims_more_than_its_disk_has_is_refused_in_words(tmp_path: Path, end: int) -> None:
    file = on_disk(tmp_path, gpt((2048, end)))
    disks = Disks(ImageCache(tmp_path / "images"), [str(tmp_path)])
    with pytest.raises(HypervisorError, match=r"^partition 1 ends at 8Mi, .*; 8Mi keep all"):
        await disks.shrink(str(file), 4 * MIB)


async def test_volume_is_not_cut_shorter_than_what_stands_on_it(tmp_path: Path) -> None:
    file = on_disk(tmp_path, mbr((0x83, 2048, 2048), (0x83, 4096, 4096)))
    disks = Disks(ImageCache(tmp_path / "images"), [str(tmp_path)])
    with pytest.raises(
        HypervisorError, match=r"^partition 2 ends at 4Mi, beyond the 3Mi that a.qcow2 .*; 4Mi keep all"
    ):
        await disks.shrink(str(file), 3 * MIB)
    await disks.shrink(str(file), 4 * MIB)
    seen = await disks.volume(str(file))
    assert seen is not None
    assert seen.size == 4 * MIB
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.qcow2"]
