"""Bytes that become images: by the folder, by uploads with every interruption, and out again to the agents."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from aiohttp import ClientSession, TraceConfig
from aiohttp.test_utils import RawTestServer

from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.blobs import Blobs, Stopped
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.images import Library
from nanovirt.portal.part import Part
from nanovirt.portal.pki import HOSTS
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Conflict, Invalid, TooLarge
from nanovirt.resources.kind import Key
from nanovirt.resources.report import ImageProgress
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Half, Update
from tests.portal.world import commit, document, gone, placement, running_store

KEY = Key("images", "default", "debian")
UPLOAD: JSON = {"upload": {}}
RAW = os.urandom(512) + bytes(2 * 2**20) + os.urandom(1536) + bytes(2**20)
"""Three and a bit MiB, most of it holes."""
SHA256 = hashlib.sha256(RAW).hexdigest()
OTHER = bytes(1024)


@dataclass
class Shop:
    """A library at work behind the real API, and a client of it."""

    store: Engine
    reports: Reports
    library: Library
    client: ClientSession
    base: str
    folder: Path

    async def call(self, method: str, body: bytes = b"", headers: dict[str, str] | None = None, /, **query: Any) -> Any:
        """One request to the upload of the image: its code, and its Upload-Offset or reason."""
        url = f"{self.base}/apis/nano/v1/namespaces/default/images/debian/upload"
        async with self.client.request(
            method, url, data=io.BytesIO(body) if body else None, headers=headers, params=query
        ) as response:
            if response.status < 300:
                return response.status, int(response.headers["Upload-Offset"])
            return response.status, (await response.json())["reason"] if method != "HEAD" else ""

    async def offset(self) -> int:
        code, offset = await self.call("HEAD")
        assert code == 200
        return int(offset)

    async def ended(self, phase: str, key: Key = KEY) -> ImageProgress:
        """Wait until the image is so far."""
        async with asyncio.timeout(10):
            while (progress := self.reports.image(key)) is None or progress.phase != phase:
                await asyncio.sleep(0.01)
        return progress

    async def note_ready(self, key: Key = KEY) -> None:
        """What the controller does: write it down."""
        progress = await self.ended("Ready", key)
        status = {"phase": "Ready", "sha256": progress.sha256, "size": progress.size}
        await commit(self.store, Update(key, load(self.store.get(key).raw) | {"status": status}, Half.STATUS))

    def put(self, name: str, content: bytes) -> Path:
        """A file in the folder, put there a minute ago."""
        path = self.folder / "incoming" / name
        path.write_bytes(content)
        age(path)
        return path

    def files(self) -> dict[str, list[str]]:
        return {name: sorted(path.name for path in (self.folder / name).iterdir()) for name in ("blobs", "uploads")}


def age(path: Path, seconds: float = 60) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def image(source: JSON, name: str = "debian") -> Create:
    key = Key("images", "default", name)
    return Create(key, document(key, {"source": source}))


@asynccontextmanager
async def shop(folder: Path, store: Engine, **limits: int) -> AsyncIterator[Shop]:
    """A server, from its start to its end; the same folder and store may be given to another one afterwards."""
    reports = Reports(0.0)
    library = Library(store, reports, folder, **{"reserve": 0, **limits})
    subjects = {name: Subject(f"host:{name}", (HOSTS,), host=name) for name in ("h1", "h2")}
    api = Api(store, lambda request: subjects.get(request.headers.get("X-Host", ""), ADMIN), library.hooks)
    server = RawTestServer(api.handle)
    await server.start_server()
    try:
        async with asyncio.TaskGroup() as group, ClientSession() as client:
            running = group.create_task(library.run())
            yield Shop(store, reports, library, client, str(server.make_url("")).rstrip("/"), folder)
            running.cancel()
    finally:
        await server.close()


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


# --- uploads ---


async def test_upload_in_one_request(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    assert await open_shop.offset() == 0
    assert await open_shop.call("POST", RAW, {"Upload-Sha256": SHA256}) == (201, len(RAW))
    found = await open_shop.ended("Ready")
    assert (found.sha256, found.size, found.virtual_size, found.format) == (SHA256, len(RAW), len(RAW), "raw")
    await open_shop.note_ready()
    async with asyncio.timeout(5):
        while open_shop.files() != {"blobs": [SHA256], "uploads": []}:
            await asyncio.sleep(0.01)
    assert (open_shop.folder / "blobs" / SHA256).read_bytes() == RAW


async def test_asking_how_far_an_upload_came_needs_no_new_connection(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    made = 0

    async def count(*_: object) -> None:
        nonlocal made
        made += 1

    trace = TraceConfig()
    trace.on_connection_create_end.append(count)
    async with ClientSession(trace_configs=[trace]) as counted:
        asking = replace(open_shop, client=counted)
        assert [await asking.offset() for _ in range(3)] == [0, 0, 0]
    assert made == 1


@pytest.mark.parametrize("style", ["query", "tus"])
async def test_upload_in_pieces(open_shop: Shop, style: str) -> None:
    await commit(open_shop.store, image(UPLOAD))
    if style == "tus":
        assert await open_shop.call("POST", b"", {"Upload-Length": str(len(RAW))}) == (201, 0)
    for at in range(0, len(RAW), 2**20):
        piece = RAW[at : at + 2**20]
        assert await open_shop.offset() == at
        if style == "tus":
            told = await open_shop.call("PATCH", piece, {"Upload-Offset": str(at)})
        else:
            sha256 = SHA256 if at + 2**20 > len(RAW) else ""
            told = await open_shop.call("PUT", piece, offset=at, total=len(RAW), sha256=sha256)
        assert told == (204, at + len(piece))
    assert (await open_shop.ended("Ready")).sha256 == SHA256


async def test_progress_of_an_upload_is_told(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.ended("Waiting")
    await open_shop.call("PUT", RAW[:1000], offset=0, total=len(RAW))
    found = await open_shop.ended("Uploading")
    assert (found.received, found.total) == (1000, len(RAW))


@pytest.mark.parametrize(
    ("method", "query", "headers", "code", "reason"),
    [
        ("PUT", {}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "0", "total": "0"}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "-1", "total": "9"}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "0", "total": "9e9"}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "\u0663", "total": "9"}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "0", "total": "9" * 19}, {}, 400, "BadRequest"),
        ("PUT", {"offset": "0", "total": "9" * 18}, {}, 413, "RequestEntityTooLarge"),
        ("PUT", {"offset": "0", "total": "5"}, {}, 413, "RequestEntityTooLarge"),
        ("PUT", {"offset": "5", "total": "20"}, {}, 409, "Conflict"),
        ("PUT", {"offset": "2000", "total": "4000"}, {}, 409, "Conflict"),
        ("PUT", {"offset": "1000", "total": "4001"}, {}, 409, "Conflict"),
        ("PUT", {"offset": "1000", "sha256": "x"}, {}, 422, "Invalid"),
        ("PUT", {"offset": "1000", "sha256": SHA256.upper()}, {}, 422, "Invalid"),
        ("PUT", {"offset": "1000"}, {"Content-Encoding": "gzip"}, 415, "UnsupportedMediaType"),
        ("PATCH", {}, {"Upload-Offset": "999"}, 409, "Conflict"),
        ("DELETE", {}, {}, 404, "NotFound"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    open_shop: Shop, method: str, query: dict[str, str], headers: dict[str, str], code: int, reason: str
) -> None:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.call("PUT", RAW[:1000], offset=0, total=4000)
    assert await open_shop.call(method, b"0123456789", headers, **query) == (code, reason)
    if query.get("total") != "5":
        assert await open_shop.offset() == 1000


async def test_upload_must_begin_at_the_beginning(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    assert await open_shop.call("PUT", RAW, offset=5, total=len(RAW) + 5) == (409, "Conflict")


async def test_image_from_a_file_takes_no_upload(open_shop: Shop) -> None:
    await commit(open_shop.store, image({"file": "debian.raw"}))
    assert await open_shop.call("POST", RAW) == (422, "Invalid")
    assert open_shop.files()["uploads"] == []


async def test_missing_image_takes_no_upload(open_shop: Shop) -> None:
    assert await open_shop.call("POST", RAW) == (404, "NotFound")
    assert open_shop.files()["uploads"] == []


async def test_host_sends_no_images(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    assert await open_shop.call("POST", RAW, {"X-Host": "h1"}) == (403, "Forbidden")
    assert open_shop.files()["uploads"] == []


async def test_ready_image_does_not_change(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.call("POST", RAW)
    await open_shop.ended("Ready")
    assert await open_shop.call("POST", OTHER) == (409, "Conflict")
    await open_shop.note_ready()
    assert await open_shop.call("POST", OTHER) == (409, "Conflict")
    assert (open_shop.folder / "blobs" / SHA256).read_bytes() == RAW


@pytest.mark.parametrize("wrong", ["hash", "format"])
async def test_refused_upload_is_thrown_away_and_may_come_again(open_shop: Shop, wrong: str) -> None:
    await commit(open_shop.store, image(UPLOAD))
    content, announced = (RAW, "0" * 64) if wrong == "hash" else (b"QED\0" + bytes(508), "")
    assert (await open_shop.call("POST", content, sha256=announced))[0] == 201
    assert (await open_shop.ended("Failed")).detail
    assert open_shop.files() == {"blobs": [], "uploads": []}
    assert await open_shop.offset() == 0
    assert (await open_shop.call("POST", RAW))[0] == 201
    await open_shop.ended("Ready")


async def test_upload_over_the_limit_is_refused_before_a_byte_is_kept(tmp_path: Path, store: Engine) -> None:
    await commit(store, image(UPLOAD))
    async with shop(tmp_path, store, limit=len(RAW) - 1) as opened:
        assert await opened.call("POST", RAW) == (413, "RequestEntityTooLarge")
        assert opened.files()["uploads"] == []


@asynccontextmanager
async def half_sent(opened: Shop, length: int) -> AsyncIterator[asyncio.StreamWriter]:
    """A connection that has announced all of RAW and sent `length` bytes of it; it breaks in the end."""
    port = int(opened.base.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/apis/nano/v1/namespaces/default/images/debian/upload?offset=0&total={len(RAW)}"
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(RAW)}\r\n\r\n".encode() + RAW[:length])
    try:
        await writer.drain()
        async with asyncio.timeout(5):
            while (told := opened.reports.image(KEY)) is None or told.phase != "Uploading":
                await asyncio.sleep(0.01)
        yield writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_broken_connection_costs_one_piece_at_most(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    async with half_sent(open_shop, 1_500_000):
        await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        while open_shop.library.uploads.busy:
            await asyncio.sleep(0.01)
    at = await open_shop.offset()
    assert 1_500_000 - 2**20 < at <= 1_500_000
    assert await open_shop.call("PUT", RAW[at:], offset=at, total=len(RAW), sha256=SHA256) == (204, len(RAW))
    assert (await open_shop.ended("Ready")).sha256 == SHA256


async def test_second_writer_is_turned_away(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    async with half_sent(open_shop, 1000) as writer:
        assert await open_shop.call("POST", RAW) == (409, "Conflict")
        writer.write(RAW[1000:])
        await writer.drain()
        assert (await open_shop.ended("Ready")).sha256 == SHA256


async def test_client_that_waits_to_be_asked_for_its_bytes_is_asked(open_shop: Shop, tmp_path: Path) -> None:
    await commit(open_shop.store, image(UPLOAD))
    (tmp_path / "file").write_bytes(RAW)
    url = f"{open_shop.base}/apis/nano/v1/namespaces/default/images/debian/upload"
    command = ["curl", "-sSf", "-X", "POST", "-H", "Expect: 100-continue", "--expect100-timeout", "20"]
    begun = time.monotonic()
    await asyncio.to_thread(subprocess.run, [*command, "-T", str(tmp_path / "file"), url], check=True, timeout=30)
    assert time.monotonic() - begun < 10
    assert (await open_shop.ended("Ready")).sha256 == SHA256


# --- restarts ---


async def test_upload_goes_on_after_a_restart(tmp_path: Path, store: Engine) -> None:
    await commit(store, image(UPLOAD))
    async with shop(tmp_path, store) as opened:
        await opened.call("PUT", RAW[:2_000_000], offset=0, total=len(RAW), sha256=SHA256)
    async with shop(tmp_path, store) as opened:
        assert await opened.offset() == 2_000_000
        assert (await opened.ended("Uploading")).total == len(RAW)
        await opened.call("PUT", RAW[2_000_000:], offset=2_000_000)
        assert (await opened.ended("Ready")).sha256 == SHA256


async def test_finished_upload_is_found_again_when_nobody_wrote_it_down(tmp_path: Path, store: Engine) -> None:
    await commit(store, image(UPLOAD))
    async with shop(tmp_path, store) as opened:
        await opened.call("POST", RAW)
        await opened.ended("Ready")
    for _ in range(2):
        async with shop(tmp_path, store) as opened:
            assert (await opened.ended("Ready")).sha256 == SHA256
            assert opened.files()["blobs"] == [SHA256]


async def test_ready_image_keeps_its_bytes_over_a_restart(tmp_path: Path, store: Engine) -> None:
    await commit(store, image(UPLOAD))
    async with shop(tmp_path, store) as opened:
        await opened.call("POST", RAW)
        await opened.note_ready()
    async with shop(tmp_path, store) as opened:
        await commit(store, image(UPLOAD, "other"))
        await opened.ended("Waiting", Key("images", "default", "other"))
        await commit(store, gone("images", "other", "default"))
        await asyncio.sleep(0.1)
        assert opened.files() == {"blobs": [SHA256], "uploads": []}


async def test_lost_bytes_are_taken_from_the_folder_again(tmp_path: Path, store: Engine) -> None:
    await commit(store, image({"file": "debian.raw"}))
    async with shop(tmp_path, store) as opened:
        opened.put("debian.raw", RAW)
        await opened.note_ready()
    (tmp_path / "blobs" / SHA256).unlink()
    async with shop(tmp_path, store) as opened:
        await opened.ended("Ready")
        assert opened.files()["blobs"] == [SHA256]
    (tmp_path / "blobs" / SHA256).unlink()
    async with shop(tmp_path, store) as opened:
        opened.put("debian.raw", OTHER)
        assert "as announced" in (await opened.ended("Failed")).detail
        assert opened.files()["blobs"] == []


def test_bytes_that_may_not_be_durable_are_not_counted(tmp_path: Path) -> None:
    part = Part.begin(tmp_path / "u", 3000)
    part.append(0, RAW[:1000])
    part.note()
    part.append(1000, RAW[1000:2000])
    found = Part.resume(tmp_path / "u")
    assert found is not None
    assert (found.offset, found.length) == (1000, 3000)
    found.append(1000, RAW[1000:3000])
    assert found.complete
    assert found.digest() == hashlib.sha256(RAW[:3000]).hexdigest()


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b"null", b'{"length":1}', b'{"length":9,"synced":9,"sha256":""}', b'{"length":"x"}']
)
def test_upload_whose_note_makes_no_sense_begins_anew(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "u").write_bytes(b"12345678")
    (tmp_path / "u.json").write_bytes(note)
    assert Part.resume(tmp_path / "u") is None


def test_late_thread_cannot_write_into_a_part(tmp_path: Path) -> None:
    part = Part.begin(tmp_path / "u", 3000)
    part.append(0, RAW[:1000])
    with pytest.raises(Conflict):
        part.append(0, RAW[:1000])
    with pytest.raises(TooLarge):
        part.append(1000, RAW[:2001])
    assert part.offset == 1000


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
    async with asyncio.timeout(5):
        while open_shop.files() != {"blobs": [], "uploads": []}:
            await asyncio.sleep(0.01)
    assert open_shop.reports.image(KEY) is None


async def test_unfinished_upload_goes_with_its_image(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    await open_shop.call("PUT", RAW[:1000], offset=0, total=len(RAW))
    assert len(open_shop.files()["uploads"]) == 2
    await commit(open_shop.store, gone("images", "debian", "default"))
    async with asyncio.timeout(5):
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
    async with asyncio.timeout(5):
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
