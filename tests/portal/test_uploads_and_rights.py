"""An upload ends as soon as whoever sends it may not send it any more, and goes on through all other changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nanovirt.portal.images import Library
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Delete, Half, Op, Update
from tests.portal.people_world import People, document, group, people_world, role

IMAGE = Key("images", "team-a", "debian")
TOTAL = 3 << 20
ALL = ("get", "create", "update", "patch")
Change = Callable[[People], list[Op]]


@pytest.fixture
async def p(tmp_path: Path) -> AsyncIterator[People]:
    """Alice may send the bytes of her image."""
    libraries: list[Library] = []

    def hooks(store: Engine) -> object:
        libraries.append(Library(store, Reports(time.monotonic()), tmp_path))
        return libraries[0].hooks

    async with people_world(hooks=hooks) as running:  # type: ignore[arg-type]
        for name in ("alice", "bob"):
            await running.user(name)
        await running.does(role("all", (("images", "images/upload"), ALL)), role("reads", (("images",), ("get",))))
        await running.does(group("team", ["alice", "bob"], ["all"], ["team-a"]))
        spec = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
        await running.does(document("images", "debian", "team-a", "alice", **spec))
        yield running


@asynccontextmanager
async def sending(p: People) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Alice's upload, of which the first MiB has been taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(p.base.rpartition(":")[2]))
    path = f"/apis/nano/v1/namespaces/team-a/images/debian/upload?offset=0&total={TOTAL}"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {p.tokens['alice']}\r\n"
    head += f"Content-Length: {TOTAL}\r\n\r\n"
    writer.write(head.encode() + bytes(1 << 20))
    try:
        async with asyncio.timeout(30):
            while await taken(p) < 1 << 20:
                await asyncio.sleep(0.01)
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def taken(p: People) -> int:
    """How many bytes are there, as the administrator is told."""
    path = "/apis/nano/v1/namespaces/team-a/images/debian/upload"
    return int((await p.call("admin", "HEAD", path)).headers["Upload-Offset"])


def team(**spec: object) -> Op:
    made = group("team", ["alice", "bob"], ["all"], ["team-a"])
    return Update(made.key, {**made.doc, "spec": made.doc["spec"] | spec}, Half.MAIN)


def tokens(p: People) -> list[Op]:
    return [Delete(key) for key, entry in p.store.list("credentials") if entry.row.user == "alice"]


def given_away(p: People) -> list[Op]:
    doc = p.store.get(IMAGE)
    made = document("images", "debian", "team-a", "bob", type="Disk", architecture="x86_64", source={"upload": {}})
    return [Update(IMAGE, made.doc, Half.MAIN, doc.rev)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _p: [team(members=["bob"])], 403),
        (lambda _p: [team(roles=["reads"])], 403),
        (lambda _p: [team(namespaces=["team-b"])], 403),
        (lambda _p: [Delete(Key("roles", "", "all"))], 403),
        (tokens, 401),
        (given_away, 404),
    ],
    ids=["left", "reads-only", "elsewhere", "role-gone", "token-gone", "given-away"],
)
async def test_upload_ends_with_the_right_to_it_though_nothing_is_sent(p: People, change: Change, code: int) -> None:
    async with sending(p) as (reader, _):
        await p.does(*change(p))
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] == str(code).encode()
    assert await taken(p) == 1 << 20


async def test_upload_ends_with_its_token(p: People) -> None:
    await p.token("alice", expiresSeconds=60)
    p.clock.passes(seconds=59.5)
    async with sending(p) as (reader, _):
        p.clock.passes(seconds=1)
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] == b"401"


async def test_upload_goes_on_while_other_rights_change(p: People) -> None:
    async with sending(p) as (reader, writer):
        await p.does(team(visibility={"images": "Group"}), document("secrets", "s", "team-a", "bob"))
        await p.does(Delete(Key("roles", "", "reads")), Delete(Key("users", "", "bob")))
        writer.write(bytes(TOTAL - (1 << 20)))
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] == b"204"
    assert await taken(p) == TOTAL
