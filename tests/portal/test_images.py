"""Bytes that become images by the folder, what goes with an image, and how agents get them out again."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest

from nanovirt.portal.blobs import Blobs, Stopped
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Invalid
from nanovirt.resources.kind import Key
from tests.portal.image_world import KEY, OTHER, RAW, SHA256, UPLOAD, Shop, age, half_sent, image, shop
from tests.portal.world import commit, gone, placement, running_store


@pytest.fixture
async def store() -> AsyncIterator[Engine]:
    async with running_store() as engine:
        yield engine


@pytest.fixture
async def open_shop(tmp_path: Path, store: Engine) -> AsyncIterator[Shop]:
    async with shop(tmp_path, store) as opened:
        yield opened


# --- the folder ---


async def test_file_in_the_folder_becomes_the_image(open_shop: Shop) -> None:
    put = open_shop.put("debian.raw", RAW)
    await commit(open_shop.store, image({"file": "debian.raw"}))
    found = await open_shop.ended("Ready")
    assert (found.sha256, found.size, found.virtual_size, found.format) == (SHA256, len(RAW), len(RAW), "raw")
    blob = open_shop.folder / "blobs" / SHA256
    assert blob.read_bytes() == RAW
    assert stat.S_IMODE(blob.stat().st_mode) == 0o600
    assert put.read_bytes() == RAW
    assert open_shop.files() == {"blobs": [SHA256], "uploads": []}


async def test_qcow2_in_the_folder_becomes_the_image(open_shop: Shop) -> None:
    path = open_shop.folder / "incoming" / "debian.qcow2"
    await asyncio.to_thread(subprocess.run, ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "3G"], check=True)
    age(path)
    await commit(open_shop.store, image({"file": "debian.qcow2"}))
    found = await open_shop.ended("Ready")
    assert (found.virtual_size, found.format) == (3 * 2**30, "qcow2")


async def test_image_waits_for_its_file(open_shop: Shop) -> None:
    await commit(open_shop.store, image({"file": "debian.raw"}))
    await open_shop.ended("Waiting")
    open_shop.put("debian.raw", RAW)
    await open_shop.ended("Ready")


async def test_file_that_may_still_grow_is_waited_for(open_shop: Shop) -> None:
    path = open_shop.put("debian.raw", RAW[:512])
    age(path, 0)
    await commit(open_shop.store, image({"file": "debian.raw"}))
    await open_shop.ended("Waiting")
    open_shop.put("debian.raw", RAW)
    assert (await open_shop.ended("Ready")).sha256 == SHA256


async def test_refused_file_says_why_and_is_tried_again_when_it_changes(open_shop: Shop) -> None:
    open_shop.put("debian.raw", b"conectix" + bytes(1016))
    await commit(open_shop.store, image({"file": "debian.raw"}))
    assert "format is VHD" in (await open_shop.ended("Failed")).detail
    assert open_shop.files() == {"blobs": [], "uploads": []}
    open_shop.put("debian.raw", RAW)
    await open_shop.ended("Ready")


async def test_announced_hash_is_checked(open_shop: Shop) -> None:
    open_shop.put("debian.raw", RAW)
    await commit(open_shop.store, image({"file": "debian.raw", "sha256": "0" * 64}))
    assert "as announced" in (await open_shop.ended("Failed")).detail
    assert open_shop.files()["blobs"] == []


async def test_file_over_the_limit_is_refused(tmp_path: Path, store: Engine) -> None:
    async with shop(tmp_path, store, limit=len(RAW) - 1) as opened:
        opened.put("debian.raw", RAW)
        await commit(store, image({"file": "debian.raw"}))
        assert "the limit is" in (await opened.ended("Failed")).detail


async def test_full_disk_is_said_and_copies_nothing(tmp_path: Path, store: Engine) -> None:
    async with shop(tmp_path, store, reserve=2**62) as opened:
        opened.put("debian.raw", RAW)
        await commit(store, image({"file": "debian.raw"}))
        assert "has room for 0 more" in (await opened.ended("Failed")).detail
        assert opened.files() == {"blobs": [], "uploads": []}


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "folder", "pipe", "socket", "device"])
async def test_only_plain_files_are_taken(open_shop: Shop, kind: str) -> None:
    secret, path = open_shop.folder / "secret", open_shop.folder / "incoming" / "debian.raw"
    secret.write_bytes(RAW)
    match kind:
        case "link":
            path.symlink_to(secret)
        case "dangling":
            path.symlink_to("nowhere")
        case "hard link":
            path.hardlink_to(secret)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case _:
            path.symlink_to("/dev/zero")
    await commit(open_shop.store, image({"file": "debian.raw"}))
    assert "file" in (await open_shop.ended("Failed")).detail
    assert open_shop.files() == {"blobs": [], "uploads": []}


NAMES = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a/../b", "./a", "a\0b", "a\nb", "%2e%2e", "..%2f", "-o", "~root",
    "$(id)", "a;b", "a b", "\u2025", "\u2024\u2024/a", "\uff0e\uff0e", "a" * 201, "con:", "*", "\\..\\x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(RAW)
    blobs = Blobs(tmp_path / "images", limit=2**40, reserve=0)
    with pytest.raises(Invalid, match="not a plain file name"):
        blobs.seen(name)


def test_file_exchanged_after_the_look_is_not_taken(tmp_path: Path) -> None:
    blobs, path = Blobs(tmp_path, limit=2**40, reserve=0), tmp_path / "incoming" / "a"
    path.write_bytes(RAW)
    seen = blobs.seen("a")
    assert seen is not None

    def swap(_done: int) -> None:
        path.write_bytes(OTHER)

    assert blobs.take("a", seen, "u", (), swap, Event()) is None
    assert blobs.take("a", seen, "u", (), swap, Event()) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(Invalid):
        blobs.take("a", seen, "u", (), swap, Event())
    assert not any((tmp_path / "blobs").iterdir())


def test_copy_ends_when_the_server_does(tmp_path: Path) -> None:
    blobs, stop = Blobs(tmp_path, limit=2**40, reserve=0), Event()
    (tmp_path / "incoming" / "a").write_bytes(RAW)
    seen = blobs.seen("a")
    assert seen is not None
    with pytest.raises(Stopped):
        blobs.take("a", seen, "u", (), lambda _done: stop.set(), stop)
    assert not any((tmp_path / "uploads").iterdir())


# --- what is left over ---


async def test_bytes_of_a_deleted_image_go_with_the_last_that_has_them(open_shop: Shop) -> None:
    open_shop.put("a", RAW)
    keys = [Key("images", "default", name) for name in ("debian", "twin")]
    await commit(open_shop.store, *(image({"file": "a"}, key.name) for key in keys), image(UPLOAD, "half"))
    for key in keys:
        await open_shop.note_ready(key)
    await commit(open_shop.store, gone("images", "debian", "default"))
    await asyncio.sleep(0.2)
    assert open_shop.files()["blobs"] == [SHA256]
    await commit(open_shop.store, gone("images", "twin", "default"))
    async with asyncio.timeout(30):
        while open_shop.files() != {"blobs": [], "uploads": []}:
            await asyncio.sleep(0.01)
    assert open_shop.reports.image(KEY) is None


async def test_unfinished_upload_goes_with_its_image(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.call("PUT", RAW[:1000], offset=0, total=len(RAW))
    assert len(open_shop.files()["uploads"]) == 2
    await commit(open_shop.store, gone("images", "debian", "default"))
    async with asyncio.timeout(30):
        while open_shop.files()["uploads"]:
            await asyncio.sleep(0.01)


async def test_empty_store_at_the_start_removes_nothing(tmp_path: Path, store: Engine) -> None:
    await commit(store, image(UPLOAD))
    async with shop(tmp_path, store) as opened:
        await opened.call("POST", RAW)
        await opened.note_ready()
    async with running_store() as empty, shop(tmp_path, empty) as opened:
        await asyncio.sleep(0.2)
        assert opened.files()["blobs"] == [SHA256]


async def test_deleting_an_image_in_the_middle_of_its_upload_leaves_nothing(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    async with half_sent(open_shop, 1_500_000):
        await commit(open_shop.store, gone("images", "debian", "default"))
        await asyncio.sleep(0.2)
    async with asyncio.timeout(30):
        while open_shop.files()["uploads"]:
            await asyncio.sleep(0.01)


# --- out again ---


@pytest.fixture
async def serving(open_shop: Shop) -> Shop:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.call("POST", RAW)
    await open_shop.note_ready()
    source = {"image": "debian", "sha256": SHA256}
    disk = {"file": "/v/a.qcow2", "size": "1Gi"}
    lost = disk | {"name": "lost", "source": {"image": "gone", "sha256": "1" * 64}}
    path = disk | {"name": "path", "source": {"image": "gone", "sha256": "../incoming/secret"}}
    volumes = (disk | {"name": "system", "source": source}, disk | {"name": "empty"}, lost, path)
    await commit(open_shop.store, placement("web-1", "h1", volumes=volumes))
    (open_shop.folder / "incoming" / "secret").write_bytes(OTHER)
    return open_shop


async def fetched(opened: Shop, volume: str, host: str = "h1", **headers: str) -> tuple[int, bytes]:
    url = f"{opened.base}/apis/nano/v1/namespaces/default/placements/web-1/image"
    wanted = {"X-Host": host, **headers}
    async with opened.client.get(url, params={"volume": volume}, headers=wanted) as response:
        return response.status, await response.read()


async def test_agent_gets_the_bytes_of_its_volume(serving: Shop) -> None:
    assert await fetched(serving, "system") == (200, RAW)
    assert await fetched(serving, "system", Range="bytes=1000-1999") == (206, RAW[1000:2000])
    assert await fetched(serving, "system", Range=f"bytes={len(RAW)}-") == (416, b"")


@pytest.mark.parametrize("volume", ["", "empty", "lost", "path", "nothing", "../system", "system\0"])
async def test_other_volumes_have_no_bytes(serving: Shop, volume: str) -> None:
    assert (await fetched(serving, volume))[0] == 404


async def test_agent_of_another_host_gets_nothing(serving: Shop) -> None:
    assert (await fetched(serving, "system", "h2"))[0] == 404
