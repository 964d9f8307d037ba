"""Bytes of an image that somebody sends: in one request or in pieces, broken off, refused, and over a restart."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession, TraceConfig

from nanovirt.portal.part import Part
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Conflict, TooLarge
from nanovirt.resources.kind import Key
from tests.portal.image_world import OTHER, RAW, SHA256, UPLOAD, Shop, half_sent, image, shop
from tests.portal.world import commit, gone, running_store


@pytest.fixture
async def store() -> AsyncIterator[Engine]:
    async with running_store() as engine:
        yield engine


@pytest.fixture
async def open_shop(tmp_path: Path, store: Engine) -> AsyncIterator[Shop]:
    async with shop(tmp_path, store) as opened:
        yield opened


# --- uploads ---


async def test_upload_in_one_request(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    assert await open_shop.offset() == 0
    assert await open_shop.call("POST", RAW, {"Upload-Sha256": SHA256}) == (201, len(RAW))
    found = await open_shop.ended("Ready")
    assert (found.sha256, found.size, found.virtual_size, found.format) == (SHA256, len(RAW), len(RAW), "raw")
    await open_shop.note_ready()
    async with asyncio.timeout(30):
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


async def test_broken_connection_costs_one_piece_at_most(open_shop: Shop) -> None:
    await commit(open_shop.store, image(UPLOAD))
    async with half_sent(open_shop, 1_500_000):
        await asyncio.sleep(0.3)
    async with asyncio.timeout(30):
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
