"""The image cache: only what was hashed, inspected and converted ever has an image's name."""

import errno
import hashlib
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nanovirt.agent.image_cache import ImageCache, cached
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError
from tests.agent.small_disk import small_disk

CONTENT = b"boot" * (2**18)


def sending(content: bytes) -> tuple[str, Callable[[Path], Awaitable[None]]]:
    """The hash of the bytes, and what fetches them."""

    async def fetch(path: Path) -> None:
        path.write_bytes(content)

    return hashlib.sha256(content).hexdigest(), fetch


def qcow2(folder: Path, *options: str) -> bytes:
    file = folder / "made.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, file, "4M"], check=True)
    return file.read_bytes()


def same(folder: Path, file: Path) -> bool:
    """Whether a guest would read CONTENT."""
    raw = folder / "raw"
    raw.write_bytes(CONTENT)
    argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw), str(file)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


async def test_image_is_our_own_fresh_qcow2_with_the_same_content(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "images")
    sha256, fetch = sending(CONTENT)
    await cache.add(sha256, fetch)
    file = cached(cache.folder, sha256)
    assert same(tmp_path, file)
    assert [one.name for one in cache.folder.iterdir()] == [file.name]
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o711


async def test_image_outlives_the_agent(tmp_path: Path) -> None:
    sha256, fetch = sending(CONTENT)
    await ImageCache(tmp_path).add(sha256, fetch)

    async def never(path: Path) -> None:
        raise AssertionError(path)

    after = ImageCache(tmp_path)
    assert after.has(sha256)
    await after.add(sha256, never)


@pytest.mark.parametrize(
    "options", [("-F", "raw", "-b", "/etc/passwd", "-u"), ("-o", "data_file=/tmp/nano-no,data_file_raw=on")]
)
async def test_image_that_leads_to_another_file_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    try:
        sha256, fetch = sending(qcow2(tmp_path, *options))
    finally:
        Path("/tmp/nano-no").unlink(missing_ok=True)  # noqa: S108 - qemu-img makes the data file that it names
    cache = ImageCache(tmp_path / "images")
    with pytest.raises(HypervisorError, match="refused"):
        await cache.add(sha256, fetch)
    assert list(cache.folder.iterdir()) == []


async def test_wrong_bytes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    sha256, fetch = sending(CONTENT)
    cache = ImageCache(tmp_path / "images")
    with pytest.raises(HypervisorError, match=sha256):
        await cache.add("0" * 64, fetch)
    assert list(cache.folder.iterdir()) == []


async def test_what_a_killed_agent_left_is_swept(tmp_path: Path) -> None:
    for name in ("a.fetched", "b.new"):
        (tmp_path / name).write_bytes(b"half")
    sha256, fetch = sending(CONTENT)
    await ImageCache(tmp_path).add(sha256, fetch)
    assert [one.name for one in tmp_path.iterdir()] == [f"{sha256}.qcow2"]


async def test_full_disk_is_told_whoever_notices_it(tmp_path: Path) -> None:
    sha256, fetch = sending(CONTENT)
    for size in (512, 1536):  # full while fetching, and while converting
        with small_disk(tmp_path / f"small{size}", size) as folder:
            with pytest.raises(NoRoom) as caught:
                await ImageCache(folder).add(sha256, fetch)
            assert caught.value.path == str(folder)
            assert list(folder.iterdir()) == []


async def test_other_trouble_of_the_fetcher_is_passed_on(tmp_path: Path) -> None:
    async def fetch(path: Path) -> None:
        raise OSError(errno.EHOSTUNREACH, "no route", str(path))

    with pytest.raises(OSError, match="no route"):
        await ImageCache(tmp_path).add("0" * 64, fetch)


@pytest.mark.parametrize("sha256", ["", "../../../etc/shadow", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "ab" * 33])
def test_what_is_no_hash_becomes_no_path(sha256: str) -> None:
    with pytest.raises(HypervisorError, match="SHA-256"):
        cached(Path("/images"), sha256)
