"""The client against the real API over TLS, through a wire that can be cut."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from nanovirt.portal.identity import Subject
from nanovirt.resources import access, kubeconfig, wire
from nanovirt.resources.access import BadCredentials, Credentials
from nanovirt.resources.client import Client, Patience, key_of, path_of
from nanovirt.resources.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    HostUnreachable,
    Invalid,
    Malformed,
    NanoError,
    NotFound,
    StoreUnreachable,
    Unauthorized,
    Unavailable,
)
from nanovirt.resources.kind import Key
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
BYTES = bytes(range(256)) * 20_000
QUICK = Patience(connect=2, request=5, silence=8)


async def _image(request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
    del request, subject, key
    return web.Response(body=BYTES)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("client"), {("images", "content", "GET"): _image}) as made:
        yield made


@pytest.fixture
async def client(running: Cluster) -> AsyncIterator[Client]:
    async with Client.from_kubeconfig(running.kubeconfig) as made:
        yield made


def instance(name: str, **spec: Any) -> JSON:
    disks = [{"name": "system", "size": "1Gi"}]
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}, "spec": {"disks": disks, **spec}}


def key(name: str) -> Key:
    return Key("instances", "default", name)


def node(name: str, **labels: str) -> JSON:
    return {"apiVersion": "nano/v1", "kind": "Host", "metadata": {"name": name, "labels": labels}, "spec": {}}


# --- objects --------------------------------------------------------------------------------------------


async def test_an_object_is_created_read_changed_and_deleted(client: Client) -> None:
    life = Key("hosts", "", "life")
    made = await client.create(node("life"))
    assert (await client.get(life))["metadata"]["uid"] == made["metadata"]["uid"]
    patched = await client.patch(life, {"spec": {"enabled": False}})
    assert patched["spec"]["enabled"] is False
    patched = await client.patch(life, [{"op": "replace", "path": "/spec/enabled", "value": True}], kind="json")
    replaced = await client.replace(patched | {"spec": patched["spec"] | {"description": "the last one"}})
    assert replaced["metadata"]["generation"] == 4
    assert (await client.delete(life))["kind"] == "Status"
    with pytest.raises(NotFound, match=r'hosts\.nano "life" not found'):
        await client.get(life)


async def test_a_deletion_that_must_wait_returns_the_object(client: Client) -> None:
    await client.create(instance("slow"))
    assert (await client.delete(key("slow")))["metadata"]["deletionTimestamp"]


async def test_the_status_half_is_written_by_itself(client: Client) -> None:
    made = await client.create(node("half"))
    wish = made | {"spec": {"enabled": False}, "status": {"address": "10.0.0.1"}}
    written = await client.replace(wish, status=True)
    assert (written["status"]["address"], written["spec"]["enabled"]) == ("10.0.0.1", True)


async def test_a_dry_run_stores_nothing(client: Client) -> None:
    await client.create(instance("dry"), dry_run=True)
    with pytest.raises(NotFound):
        await client.get(key("dry"))


async def test_what_the_server_refuses_comes_as_our_own_errors(client: Client) -> None:
    await client.create(instance("twice"))
    with pytest.raises(AlreadyExists):
        await client.create(instance("twice"))
    with pytest.raises(Invalid) as bad:
        await client.create(instance("bad", cpus=0, memory="4GB"))
    assert {cause.field for cause in bad.value.causes} == {"spec.cpus", "spec.memory"}
    with pytest.raises(Malformed, match="cpuss") as unknown:
        await client.create(instance("bad", cpuss=1))
    assert unknown.value.causes[0].field == "spec.cpuss"
    stale = await client.get(key("twice"))
    await client.patch(key("twice"), {"spec": {"cpus": 2}})
    with pytest.raises(Conflict):
        await client.replace(stale | {"spec": stale["spec"] | {"cpus": 7}})


async def test_a_deletion_by_uid_spares_a_namesake(client: Client) -> None:
    await client.create(instance("namesake"))
    with pytest.raises(Conflict):
        await client.delete(key("namesake"), uid="00000000-0000-4000-8000-000000000000")
    assert await client.get(key("namesake"))


async def test_a_wrong_token_is_unauthorized(running: Cluster) -> None:
    found = kubeconfig.from_kubeconfig(running.kubeconfig)
    async with Client(Credentials(found.server, found.ca_pem, token="nano_wrong")) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.get(key("any"))


async def test_the_certificate_context_works_as_well(running: Cluster) -> None:
    async with Client.from_kubeconfig(running.kubeconfig, "nano-cert") as by_certificate:
        assert await by_certificate.get(Key("namespaces", "", "default"))


async def test_a_server_of_another_authority_is_refused(running: Cluster, tmp_path: Path) -> None:
    with cluster(tmp_path) as other:
        found = kubeconfig.from_kubeconfig(running.kubeconfig)
        async with Client(Credentials(other.url, found.ca_pem, token="nano_secret")) as deceived:
            with pytest.raises(StoreUnreachable, match=r"(?i)certificate"):
                await deceived.get(key("any"))


async def test_no_server_is_unreachable_and_not_a_surprise() -> None:
    async with Client(Credentials("https://127.0.0.1:9"), QUICK) as lonely:
        with pytest.raises(StoreUnreachable, match="cannot be reached"):
            await lonely.get(key("any"))


async def test_a_server_that_says_nothing_is_given_up() -> None:
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with Client(Credentials(f"http://127.0.0.1:{port}"), Patience(1, 0.2, 1)) as client:
            with pytest.raises(StoreUnreachable, match="in time"):
                await client.get(key("any"))
        await left.wait()


async def test_bytes_are_streamed_and_hashed(client: Client) -> None:
    file, seen = BytesIO(), []
    path = path_of(Key("images", "shared", "mini"), "content")
    await client.create({"apiVersion": "nano/v1", "kind": "Image", "metadata": {"name": "mini", "namespace": "shared"},
                         "spec": {"source": {"upload": {}}}})  # fmt: skip
    digest = await client.fetch_into(path, file, lambda got, total: seen.append((got, total)))
    assert file.getvalue() == BYTES
    assert digest == hashlib.sha256(BYTES).hexdigest()
    assert seen[-1] == (len(BYTES), len(BYTES))


async def test_a_full_disk_is_not_blamed_on_the_server(client: Client) -> None:
    class Full(BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await client.fetch_into("/apis/nano/v1", Full())


# --- lists and watches ----------------------------------------------------------------------------------


async def test_a_list_is_read_page_by_page(client: Client) -> None:
    for index in range(7):
        await client.create(node(f"page-{index}", batch="pages"))
    items, revision = await client.list("hosts", label_selector="batch=pages", limit=3)
    assert [item["metadata"]["name"] for item in items] == [f"page-{index}" for index in range(7)]
    assert int(revision) >= max(int(item["metadata"]["resourceVersion"]) for item in items)
    assert {item["kind"] for item in items} == {"Host"}


async def test_field_selectors_are_passed_on(client: Client) -> None:
    await client.create(node("off"))
    await client.patch(Key("hosts", "", "off"), {"spec": {"enabled": False}})
    items, _ = await client.list("hosts", field_selector="spec.enabled=false")
    assert "off" in {item["metadata"]["name"] for item in items}


async def test_a_watch_tells_each_change_once(client: Client) -> None:
    _, revision = await client.list("hosts")
    async with asyncio.timeout(10), aclosing(client.watch("hosts", resource_version=revision)) as changes:
        await client.create(node("seen"))
        await client.patch(Key("hosts", "", "seen"), {"spec": {"enabled": False}})
        await client.delete(Key("hosts", "", "seen"))
        told = [await anext(changes) for _ in range(3)]
    assert [event.type for event in told] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_watch_from_a_revision_that_nobody_knows_is_expired(client: Client) -> None:
    async with aclosing(client.watch("hosts", resource_version="999999")) as changes:
        with pytest.raises(Expired):
            await anext(changes)


async def test_a_watch_that_is_refused_ends(client: Client) -> None:
    async with aclosing(client.watch("hosts", field_selector="spec.nonsense=1")) as changes:
        with pytest.raises(Malformed):
            await anext(changes)


class Wire:
    """A TCP relay to a server, whose connections can be cut, and which can be led to another server."""

    def __init__(self, to: str) -> None:
        self.to = to
        self.open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            while self.open:
                self.cut()
                await asyncio.sleep(0.01)

    def cut(self) -> None:
        for writer in self.open:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = urlsplit(self.to)
        self.open.add(writer)
        try:
            back, forth = await asyncio.open_connection(there.hostname, there.port)
            self.open.add(forth)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, forth))
                both.create_task(self._copy(back, writer))
            self.open.discard(forth)
        except OSError:
            writer.transport.abort()
        finally:
            self.open.discard(writer)

    async def _copy(self, source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                goal.write(piece)
                await goal.drain()
        except ConnectionError:
            pass
        finally:
            goal.transport.abort()


def through(running: Cluster, relay: Wire) -> Client:
    found = kubeconfig.from_kubeconfig(running.kubeconfig)
    return Client(Credentials(f"https://127.0.0.1:{relay.port}", found.ca_pem, found.token), QUICK)


async def test_a_cut_watch_goes_on_without_a_gap_or_a_repetition(running: Cluster, client: Client) -> None:
    async with Wire(running.url).laid() as relay, through(running, relay) as far, asyncio.timeout(20):
        _, revision = await far.list("hosts")
        async with aclosing(far.watch("hosts", resource_version=revision, label_selector="cut=yes")) as changes:
            told = []
            for index in range(6):
                await client.create(node(f"cut-{index}", cut="yes"))
                if index % 2:
                    relay.cut()
                told.append((await anext(changes)).object["metadata"]["name"])
    assert told == [f"cut-{index}" for index in range(6)]


async def test_a_watch_that_is_cut_within_a_transaction_misses_nothing_of_it(running: Cluster, client: Client) -> None:
    def large(index: int) -> JSON:
        metadata = {"name": f"whole-{index}", "labels": {"whole": "yes"}, "annotations": {"much": "x" * 1000}}
        return {"verb": "create", "object": {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}}

    told: list[str] = []
    count = 500
    async with Wire(running.url).laid() as relay, through(running, relay) as far, asyncio.timeout(40):
        _, revision = await far.list("namespaces")
        changes = far.watch("namespaces", resource_version=revision, label_selector="whole=yes")
        async with aclosing(changes), asyncio.TaskGroup() as group:
            writes = [large(index) for index in range(count)]
            doc = {"apiVersion": "nano/v1", "kind": "Transaction", "writes": writes}
            group.create_task(client.post("/apis/nano/v1/transactions", doc))
            while len(told) < count:
                told.append((await anext(changes)).object["metadata"]["name"])
                if len(told) == 1:
                    relay.cut()
    assert len(set(told)) == count


async def test_a_watch_that_is_cut_while_it_tells_what_is_there_misses_nothing(
    running: Cluster, client: Client
) -> None:
    """The first one told is the newest: to go on from its revision would be to miss all others."""
    count = 300

    def large(index: int) -> JSON:
        metadata = {"name": f"old-{index:03}", "labels": {"old": "yes"}, "annotations": {"much": "x" * 1000}}
        return {"verb": "create", "object": {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}}

    doc = {"apiVersion": "nano/v1", "kind": "Transaction", "writes": [large(index) for index in range(count)]}
    await client.post("/apis/nano/v1/transactions", doc)
    await client.patch(Key("namespaces", "", "old-000"), {"metadata": {"labels": {"new": "yes"}}})
    told: list[str] = []
    async with (
        Wire(running.url).laid() as relay,
        through(running, relay) as far,
        asyncio.timeout(40),
        aclosing(far.watch("namespaces", label_selector="old=yes")) as changes,
    ):
        while len(told) < count:
            told.append((await anext(changes)).object["metadata"]["name"])
            if len(told) == 1:
                relay.cut()
    assert len(set(told)) == count


async def test_following_tells_all_first_and_then_the_changes(client: Client) -> None:
    await client.create(node("there", follow="yes"))
    async with asyncio.timeout(10), aclosing(client.follow("hosts", label_selector="follow=yes")) as told:
        first = await anext(told)
        assert isinstance(first, wire.Sync)
        assert [item["metadata"]["name"] for item in first.items] == ["there"]
        await client.create(node("new", follow="yes"))
        second = await anext(told)
    assert (second.type, isinstance(second, wire.Event) and second.object["metadata"]["name"]) == ("ADDED", "new")


async def test_following_lists_again_when_the_server_has_forgotten(running: Cluster, tmp_path: Path) -> None:
    """Another store behind the same address knows no such revision: everything is told anew."""
    with cluster(tmp_path / "first") as old:
        for index in range(30):
            old.creates("hosts", f"old-{index}", spec={}, status={})
        shutil.copytree(tmp_path / "first", tmp_path / "second")
        async with (
            asyncio.timeout(30),
            Wire(old.url).laid() as relay,
            through(old, relay) as far,
            aclosing(far.follow("hosts")) as told,
        ):
            first = await anext(told)
            assert isinstance(first, wire.Sync)
            assert len(first.items) == 30
            with cluster(tmp_path / "second") as new:
                new.creates("hosts", "young", spec={}, status={})
                relay.to = new.url
                relay.cut()
                second = await anext(told)
    assert isinstance(second, wire.Sync)
    assert [item["metadata"]["name"] for item in second.items] == ["young"]


# --- pure parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Expired),
        (503, "HostUnreachable", HostUnreachable),
        (503, "ServiceUnavailable", Unavailable),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", NanoError),
    ],
)
def test_a_status_becomes_the_error_that_it_was(code: int, reason: str, expected: type[NanoError]) -> None:
    status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "so it is"}
    error = wire.refusal(code, json.dumps(status).encode())
    assert (type(error), str(error)) == (expected, "so it is")


@pytest.mark.parametrize(
    ("code", "expected"), [(401, Unauthorized), (404, NotFound), (502, Unavailable), (418, Malformed)]
)
def test_a_reply_of_a_stranger_is_told_by_its_code(code: int, expected: type[NanoError]) -> None:
    error = wire.refusal(code, b"<html>no</html>", "GET /apis")
    assert type(error) is expected
    assert f"HTTP {code}" in str(error)
    assert "GET /apis" in str(error)


def test_lines_come_whole_from_any_pieces() -> None:
    stream = b'{"a":1}\n\n{"b":2}\n{"c"'
    for size in (1, 2, 3, 7, 100):
        lines = wire.Lines()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [line for piece in pieces for line in lines.feed(piece)] == [b'{"a":1}', b'{"b":2}']


def test_an_endless_line_is_given_up() -> None:
    lines = wire.Lines()
    lines.feed(b"x" * wire.LINE_MAX)
    with pytest.raises(StoreUnreachable):
        lines.feed(b"x")


def test_a_bookmark_moves_the_cursor_and_is_not_told() -> None:
    cursor = wire.Cursor("5")
    assert cursor.take(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}') is None
    assert cursor.resource_version == "9"


def test_a_watch_that_breaks_within_a_transaction_tells_the_rest_of_it_and_nothing_twice() -> None:
    def line(name: str, revision: int) -> bytes:
        metadata = {"name": name, "namespace": "default", "resourceVersion": str(revision)}
        return json.dumps({"type": "MODIFIED", "object": {"metadata": metadata}}).encode()

    cursor = wire.Cursor("5")
    lines = [line("a", 6), line("a", 7), line("b", 7), line("c", 7), line("a", 9)]
    told = [cursor.take(one) for one in lines[:3]]  # and here it breaks
    assert cursor.resource_version == "6"
    told += [cursor.take(one) for one in lines[1:]]
    names = [(one.object["metadata"]["name"], one.object["metadata"]["resourceVersion"]) for one in told if one]
    assert names == [("a", "6"), ("a", "7"), ("b", "7"), ("c", "7"), ("a", "9")]
    assert cursor.resource_version == "7"


def test_pauses_grow_and_stay_within_their_bounds() -> None:
    for failures in range(1, 40):
        longest = min(wire.BACKOFF_LAST, wire.BACKOFF_FIRST * 2.0 ** (failures - 1))
        assert longest / 2 <= wire.backoff(failures) <= longest


def test_names_cannot_leave_their_path() -> None:
    assert path_of(Key("instances", "a/b", "../x?y")) == "/apis/nano/v1/namespaces/a%2Fb/instances/..%2Fx%3Fy"
    assert path_of(Key("namespaces", "", "team-a")) == "/api/v1/namespaces/team-a"
    with pytest.raises(NotFound):
        path_of(Key("unicorns", "", "x"))


def test_a_document_tells_where_it_belongs() -> None:
    assert key_of(instance("x")) == Key("instances", "default", "x")
    assert key_of(node("n")) == Key("hosts", "", "n")


def test_a_token_never_goes_over_plain_http() -> None:
    with pytest.raises(BadCredentials, match="https"):
        Credentials("http://10.0.0.1:5870", token="nano_secret")
    assert "nano_secret" not in repr(Credentials("https://10.0.0.1:5870", token="nano_secret"))


def test_the_credentials_file_of_a_host_says_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "node-1.json"
    found = {"server": "https://10.0.0.1:5870", "ca": "PEM", "certificate": "PEM", "host": "node-1"}
    file.write_text(json.dumps(found))
    with pytest.raises(BadCredentials, match="key is missing"):
        access.from_credentials_file(file)
    with pytest.raises(BadCredentials, match="cannot be read"):
        access.from_credentials_file(tmp_path / "absent.json")


def test_a_kubeconfig_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n")
    with pytest.raises(BadCredentials, match="no cluster 'c'"):
        kubeconfig.from_kubeconfig(file)
    with pytest.raises(BadCredentials, match="no context 'b'; it has a"):
        kubeconfig.from_kubeconfig(file, "b")
    file.write_text("")
    with pytest.raises(BadCredentials, match="not a kubeconfig: it is empty"):
        kubeconfig.from_kubeconfig(file)
    for server in ("https://h:port", "https://h:99999", "https://h:0", "h:5870", ""):
        file.write_text(
            "contexts: [{name: a, context: {cluster: c, user: u}}]\ncurrent-context: a\n"
            f"clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        )
        with pytest.raises(BadCredentials, match="is no address like https://HOST:5870"):
            kubeconfig.from_kubeconfig(file)
    file.write_text("{not: [yaml")
    with pytest.raises(BadCredentials, match="not a kubeconfig"):
        kubeconfig.from_kubeconfig(file)


def test_merging_replaces_entries_of_the_same_name() -> None:
    mine = {"clusters": [{"name": "nano", "cluster": 1}, {"name": "other", "cluster": 2}], "current-context": "other"}
    merged = kubeconfig.merge(mine, {"clusters": [{"name": "nano", "cluster": 3}], "current-context": "nano"})
    assert merged["clusters"] == [{"name": "other", "cluster": 2}, {"name": "nano", "cluster": 3}]
    assert merged["current-context"] == "nano"
