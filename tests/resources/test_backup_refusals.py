"""Backups that are refused: cut off, damaged, forged, or larger than they say."""

from __future__ import annotations

import gzip
import hashlib
import random
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from nanovirt.resources.archive import END, MANIFEST, packed
from nanovirt.resources.backup_contents import Contents
from nanovirt.resources.errors import Rejected
from nanovirt.resources.restoring import restore
from nanovirt.resources.segments import every_segment
from tests.resources.backups import NOW, contents_of, named, summed_up_twice, taken, tar
from tests.resources.test_compaction import change, opened


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    return await summed_up_twice(tmp_path / "data")


def refused(file: Path, match: str | None = None) -> None:
    """It is refused, and nothing has come of it."""
    new = file.parent / "refused"
    with pytest.raises(Rejected, match=match):
        restore(file, new, NOW)
    assert not new.exists()


def test_cut_off_backup_is_refused_wherever_it_ends(store: Path) -> None:
    whole = taken(store).read_bytes()
    file, chance = store.parent / "cut.tar", random.Random(3)
    last = [len(whole) - less for less in (1, 512, 1024)]
    for length in [0, 1, 511, 512, *last, *chance.sample(range(len(whole)), 60)]:
        file.write_bytes(whole[:length])
        refused(file)
    file.write_bytes(whole + b"x")
    refused(file)


def test_backup_with_any_flipped_bit_is_refused(store: Path) -> None:
    whole = bytearray(taken(store).read_bytes())
    file, chance = store.parent / "bad.tar", random.Random(4)
    new = store.parent / "refused"
    places = [*range(600), *chance.sample(range(len(whole)), 150), *range(len(whole) - 1100, len(whole))]
    for at in places:
        whole[at] ^= 1 << at % 8
        file.write_bytes(whole)
        with pytest.raises(Rejected):
            restore(file, new, NOW)
        assert not new.exists(), at
        whole[at] ^= 1 << at % 8


@pytest.mark.parametrize(
    "info",
    [
        named("FORMAT", tarfile.SYMTYPE, "/etc/passwd"),
        named("FORMAT", tarfile.LNKTYPE, "/etc/passwd"),
        named("FORMAT", tarfile.CHRTYPE),
        named("FORMAT", tarfile.FIFOTYPE),
        named("wal", tarfile.DIRTYPE),
        named("FORMAT", tarfile.GNUTYPE_SPARSE),
        named("wal/" + "0" * 200),
    ],
    ids=lambda info: f"{info.name[:30]!r}-{info.type!r}",
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archive_with_more_than_plain_files_is_refused(tmp_path: Path, info: tarfile.TarInfo, form: int) -> None:
    if len(info.name) <= 100 or form != tarfile.USTAR_FORMAT:
        refused(tar(tmp_path / "bad.tar", (info, b""), format_=form))


def archived(file: Path, *names: str) -> Path:
    """An archive as ours are packed, of empty files."""
    file.write_bytes(b"".join([*(piece for name in names for piece in packed(name, 0, [])), END]))
    return file


@pytest.mark.parametrize(
    "name",
    ["../FORMAT", "/etc/passwd", "wal/../../x", "wal/0000000000000001.wal/..", "secrets.key", "pki/ca.key",
     "wal/0000000000000001.wal\n", "QUARANTINE", "RESTORING", "LOCK", "wal/1.wal", "\xe9"],
)  # fmt: skip
def test_archive_with_a_name_that_does_not_belong_is_refused(tmp_path: Path, name: str) -> None:
    refused(archived(tmp_path / "bad.tar", name), "does not belong|is no backup, or damaged")


def test_archive_with_something_twice_is_refused(tmp_path: Path) -> None:
    refused(archived(tmp_path / "bad.tar", "FORMAT", "FORMAT"), "does not belong")


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1, -512, -1])
def test_archive_that_lies_about_sizes_is_refused(tmp_path: Path, size: int) -> None:
    info = named("FORMAT")
    info.size = size
    (tmp_path / "bad.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "bad.tar", "not all there")


def forged(file: Path, base: str, **parts: tuple[str, bytes]) -> Path:
    """An archive whose manifest agrees with its parts."""
    files = {"FORMAT": orjson.dumps({"version": 2, "cluster": "c", "incarnation": 1})}
    files |= dict(parts.values())
    noted = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    said = orjson.dumps(asdict(Contents("c", 1, 0, 0, "", base, "", noted)))

    def all_of_it() -> Iterator[bytes]:
        for name, content in {**files, MANIFEST: said}.items():
            yield from packed(name, len(content), [content])
        yield END

    file.write_bytes(b"".join(all_of_it()))
    return file


def test_part_that_unpacks_to_far_more_than_a_store_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(200 << 20), 9)
    for name in (f"history/{1:016d}.wal.gz", f"history/{1:016d}.json.snap.gz"):
        refused(forged(tmp_path / "bad.tar", "", part=(name, bomb)), "unpacks to more|damaged")
    assert forged(tmp_path / "empty.tar", "")
    assert contents_of(tmp_path / "empty.tar").revision == 0


def test_backup_of_another_version_or_without_its_parts_is_refused(store: Path) -> None:
    refused(forged(store.parent / "a.tar", "snap/x"), "does not hold")
    other = forged(store.parent / "b.tar", "").read_bytes().replace(b'"backup":1', b'"backup":2')
    (store.parent / "b.tar").write_bytes(other)
    refused(store.parent / "b.tar", "of version 2")


async def test_parts_of_two_backups_do_not_make_one(store: Path) -> None:
    """A segment of another store, or an older one, does not follow, even if a manifest says so."""
    async with opened(store.parent / "other") as engine:
        await change(engine, 3)
    segment = every_segment(store.parent / "other")[0]
    part = (f"wal/{segment.name}", segment.read_bytes().rstrip(b"\0"))
    refused(forged(store.parent / "a.tar", "", part=part), "another cluster")
