"""What is asked of an agent at once: who may ask, of whom, and every way in which it fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector, WSMsgType, web

from nanovirt.portal.pki import HOSTS, USERS
from nanovirt.portal.relaying import Relay
from nanovirt.resources.credentials import ADMINS
from nanovirt.resources.errors import Conflict, HostUnreachable, HypervisorError, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.store import Create
from tests.portal.relay_world import PLACED, WEB, RelayWorld, instance, relay_world
from tests.portal.world import client_tls, commit, credentials_pem, gone, placement_spec


async def screenshot(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
    return web.Response(body=b"png of " + placement.spec.instance.encode())


async def refusing(_request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
    raise HypervisorError("libvirt is away", code=38)


async def off(_request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
    raise Conflict("instances", placement.spec.instance, "it does not run")


async def hanging(_request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)
        await asyncio.sleep(0)  # or the loop never hears that the other side has left


async def echo(request: web.BaseRequest, _placement: Placement) -> web.StreamResponse:
    if request.query.get("refuse"):
        raise Conflict("instances", "web", "é does not run")
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


ROUTES = {
    ("GET", "screenshot"): screenshot,
    ("GET", "refusing"): refusing,
    ("GET", "off"): off,
    ("GET", "hanging"): hanging,
    ("GET", "endless"): endless,
    ("GET", "echo"): echo,
}


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with relay_world(tmp_path, ROUTES) as made:
        yield made


async def test_agent_of_the_active_placement_answers(w: RelayWorld) -> None:
    assert await w.relay.fetch(WEB, "GET", "screenshot") == b"png of web"


async def test_websocket_goes_both_ways(w: RelayWorld) -> None:
    async with w.relay.open(WEB, "echo") as socket:
        await socket.send_bytes(b"\0\xff" * 100_000)
        message = await socket.receive(5)
        assert (message.type, message.data) == (WSMsgType.BINARY, b"\0\xff" * 100_000)


async def test_websocket_is_refused_in_the_agents_own_words(w: RelayWorld) -> None:
    with pytest.raises(Conflict, match="é does not run"):
        async with w.relay.open(WEB, "echo", refuse="yes"):
            pass


async def test_refusals_of_the_machine_keep_their_words(w: RelayWorld) -> None:
    with pytest.raises(HypervisorError, match="libvirt is away") as refused:
        await w.relay.fetch(WEB, "GET", "refusing")
    assert refused.value.code == 38
    with pytest.raises(Conflict, match="it does not run"):
        await w.relay.fetch(WEB, "GET", "off")


async def test_instance_that_is_not_there_or_nowhere_is_said(w: RelayWorld) -> None:
    with pytest.raises(NotFound):
        await w.relay.fetch(Key("instances", "default", "none"), "GET", "screenshot")
    await commit(w.store, instance("new"))
    with pytest.raises(Conflict, match="no host yet"):
        await w.relay.fetch(Key("instances", "default", "new"), "GET", "screenshot")


async def test_silent_host_is_not_even_asked(w: RelayWorld) -> None:
    late = Relay(w.store, w.reports, w.pki.relay_context(), lambda: 700.0)
    with pytest.raises(HostUnreachable, match="does not report"):
        await late.fetch(WEB, "GET", "screenshot")
    await late.close()


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"port": 0}, "listens on no port"),
        ({"port": 1}, "cannot be reached"),
        ({"address": ""}, "does not say at which address"),
        ({"address": "evil.example"}, "does not say at which address"),
    ],
)
async def test_host_that_cannot_be_reached_is_named(w: RelayWorld, facts: dict[str, object], why: str) -> None:
    w.report(**facts)
    with pytest.raises(HostUnreachable, match=f"h1.*{why}|{why}"):
        await w.relay.fetch(WEB, "GET", "screenshot")


async def test_agent_that_hangs_ends_with_the_deadline(w: RelayWorld) -> None:
    with pytest.raises(HostUnreachable, match="in time"):
        await w.relay.fetch(WEB, "GET", "hanging", seconds=0.2)


async def test_agent_that_never_ends_its_answer_is_cut_off(w: RelayWorld) -> None:
    with pytest.raises(HostUnreachable, match="more than 1000000 bytes"):
        await w.relay.fetch(WEB, "GET", "endless", limit=1_000_000)


async def test_placement_that_the_agent_does_not_obey_is_refused(w: RelayWorld) -> None:
    before = w.obeyed.pop(PLACED)
    with pytest.raises(HostUnreachable, match="does not run web as it should"):
        await w.relay.fetch(WEB, "GET", "screenshot")
    metadata = before.metadata.model_copy(update={"uid": "00000000-0000-4000-8000-00000000dead"})
    w.obeyed[PLACED] = before.model_copy(update={"metadata": metadata})  # a namesake
    with pytest.raises(HostUnreachable, match="does not run web as it should"):
        await w.relay.fetch(WEB, "GET", "screenshot")


async def test_revoked_placement_is_no_way_to_the_machine(w: RelayWorld) -> None:
    await commit(w.store, placement_spec(w.store, "web-1", instanceUid=w.store.get(WEB).uid, role="Revoked"))
    with pytest.raises(Conflict, match="no host yet"):
        await w.relay.fetch(WEB, "GET", "screenshot")


async def test_other_host_in_its_place_is_not_believed(w: RelayWorld) -> None:
    """The store says that the instance is on h2, and at the address that h2 tells h1 answers."""
    doc = w.placement().to_json()
    doc["spec"] |= {"host": "h2"}
    await commit(w.store, gone("placements", "web-1", "default"))
    doc["metadata"] = {"name": "web-2", "namespace": "default"}
    key = Key("placements", "default", "web-2")
    await commit(w.store, Create(key, doc))
    w.reports.hear("h2", w.reports.heard("h1").report, 7.0)  # type: ignore[union-attr]
    with pytest.raises(HostUnreachable, match=r"h2.*certificate"):
        await w.relay.fetch(WEB, "GET", "screenshot")


@pytest.mark.parametrize("who", [ADMINS, HOSTS, USERS, "nobody"])
async def test_only_the_server_may_call(w: RelayWorld, tmp_path: Path, who: str) -> None:
    uid = w.store.get(Key("hosts", "", "h1")).uid
    w.pki.admin_access("https://127.0.0.1:1")
    pems = {
        ADMINS: (tmp_path / "pki/admin.pem").read_text(),
        HOSTS: credentials_pem(w.pki.host_credentials("h2", uid, "https://127.0.0.1:1")),
        USERS: w.pki.user_pair("server", uid).pem().decode(),
        "nobody": "",
    }
    tls = client_tls(w.pki.ca_pem, tmp_path, pems[who])
    tls.check_hostname = False
    url = f"https://127.0.0.1:{w.port}/placements/default/web-1/screenshot"
    async with ClientSession(connector=TCPConnector(ssl=tls)) as client:
        if who == "nobody":
            with pytest.raises((ClientError, ssl.SSLError)):
                await client.get(url)
            return
        async with client.get(url, headers={"Nano-Placement-Uid": w.placement().metadata.uid}) as reply:
            assert reply.status == 403
            assert b"png" not in await reply.read()
        async with client.get(f"https://127.0.0.1:{w.port}/metrics") as reply:  # which are for administrators, too
            text = await reply.text()
            assert (reply.status, "nano_host_machines" in text) == ((200, True) if who == ADMINS else (403, False))
            if who == ADMINS:
                assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        async with client.post(f"https://127.0.0.1:{w.port}/metrics") as reply:
            assert reply.status == 403


async def test_server_certificate_for_browsers_does_not_open_agents(w: RelayWorld, tmp_path: Path) -> None:
    w.pki.tls_context()
    tls = client_tls(w.pki.ca_pem, tmp_path, (tmp_path / "pki/server.pem").read_text())
    tls.check_hostname = False
    async with ClientSession(connector=TCPConnector(ssl=tls)) as client:
        with pytest.raises((ClientError, ssl.SSLError)):
            await client.get(f"https://127.0.0.1:{w.port}/placements/default/web-1/screenshot")
