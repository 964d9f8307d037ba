"""Who is recognized, over real TLS connections, and how fast a Host that is gone stops being anybody."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from nanovirt.portal.credentials import NO_DIGEST
from nanovirt.portal.identity import ADMIN, Identities
from nanovirt.portal.pki import Pki, digest
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Unauthorized
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Create, Half, Update
from tests.portal.world import (
    admin_pem,
    client_tls,
    commit,
    credentials_pem,
    document,
    gone,
    host,
    listening,
    running_store,
    session,
)

TOKEN = "nano_" + "x" * 43


@dataclass(frozen=True)
class Door:
    """A TLS server that answers with the subject it recognizes."""

    store: Engine
    pki: Pki
    identities: Identities
    folder: Path
    url: str

    def client(self, pem: str = "") -> ClientSession:
        return session(client_tls(self.pki.ca_pem, self.folder, pem))

    def host_pem(self, name: str) -> str:
        uid = self.store.get(Key("hosts", "", name)).uid
        return credentials_pem(self.pki.host_credentials(name, uid, self.url))


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    pki = Pki(tmp_path, datetime.now(UTC))
    async with running_store() as store:
        await commit(store, host("h1"), host("h2"))
        identities = Identities(store, {digest(TOKEN): ADMIN})

        async def respond(request: web.Request) -> web.Response:
            subject = identities.identify(request)
            return web.json_response([subject.name, list(subject.groups), subject.host])

        async with listening(respond, pki.tls_context()) as port:
            yield Door(store, pki, identities, tmp_path, f"https://localhost:{port}/")


async def told(client: ClientSession, url: str, *authorization: str) -> Any:
    headers = [("Authorization", one) for one in authorization]
    async with client.get(url, headers=headers) as response:
        return await response.json() if response.status == 200 else await response.text()


async def test_token_is_the_admin(door: Door) -> None:
    async with door.client() as client:
        assert await told(client, door.url, f"Bearer {TOKEN}") == ["admin", ["nano:admins"], ""]
        assert await told(client, door.url, f"bearer {TOKEN}") == ["admin", ["nano:admins"], ""]


async def test_admin_certificate_is_the_admin(door: Door) -> None:
    async with door.client(admin_pem(door.pki, door.folder)) as client:
        assert await told(client, door.url) == ["admin", ["nano:admins"], ""]


async def test_host_certificate_is_that_host(door: Door) -> None:
    uid = door.store.get(Key("hosts", "", "h2")).uid
    async with door.client(door.host_pem("h2")) as client:
        assert await told(client, door.url) == [f"host:{uid}", ["nano:hosts"], "h2"]


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer x",),
        (f"Bearer  {TOKEN}",),
        (f"Bearer {TOKEN} x",),
        (f"Basic {TOKEN}",),
        (TOKEN,),
        (f"Bearer {TOKEN[:-1]}",),
        (f"Bearer {TOKEN}x",),
        (f"Bearer {TOKEN.upper()}",),
        (f"Bearer {digest(TOKEN)}",),
        (f"Bearer {'y' * 300}",),
        ("Bearer nano_\u00fc",),
        (f"Bearer {TOKEN}", f"Bearer {TOKEN}"),
        (f"Bearer {TOKEN}", "Bearer x"),
    ],
)
async def test_anything_else_is_nobody(door: Door, authorization: tuple[str, ...]) -> None:
    async with door.client() as client:
        assert await told(client, door.url, *authorization) == "Unauthorized"


async def test_wrong_token_is_refused_beside_a_good_certificate(door: Door) -> None:
    async with door.client(admin_pem(door.pki, door.folder)) as client:
        assert await told(client, door.url, "Bearer x") == "Unauthorized"


async def test_deleted_host_is_nobody_on_a_connection_that_is_open(door: Door) -> None:
    async with door.client(door.host_pem("h1")) as client:
        assert (await told(client, door.url))[2] == "h1"
        await commit(door.store, gone("hosts", "h1"))
        assert await told(client, door.url) == "Unauthorized"


async def test_host_made_anew_under_the_same_name_is_another_one(door: Door) -> None:
    pem = door.host_pem("h1")
    await commit(door.store, gone("hosts", "h1"))
    await commit(door.store, host("h1"))
    async with door.client(pem) as client:
        assert await told(client, door.url) == "Unauthorized"
    async with door.client(door.host_pem("h1")) as client:
        assert (await told(client, door.url))[2] == "h1"


async def test_host_that_waits_for_its_deletion_may_still_speak(door: Door) -> None:
    waiting = host("h3")
    waiting.doc["metadata"]["finalizers"] = ["test/keep"]
    await commit(door.store, waiting)
    await commit(door.store, gone("hosts", "h3"))
    async with door.client(door.host_pem("h3")) as client:
        assert (await told(client, door.url))[2] == "h3"


# --- users ----------------------------------------------------------------------------------------------


def user(name: str, **spec: object) -> Create:
    key = Key("users", "", name)
    return Create(key, document(key, dict(spec)))


def user_pem(door: Door, name: str) -> str:
    return door.pki.user_pair(name, door.store.get(Key("users", "", name)).uid).pem().decode()


async def test_certificate_of_a_user_is_that_user_until_it_is_disabled(door: Door) -> None:
    await commit(door.store, user("alice"))
    async with door.client(user_pem(door, "alice")) as client:
        assert await told(client, door.url) == ["alice", ["nano:users"], ""]
        made = user("alice", disabled=True)
        await commit(door.store, Update(made.key, made.doc, Half.MAIN))
        assert await told(client, door.url) == "Unauthorized"


async def test_certificate_of_a_user_means_nobody_else_of_that_name(door: Door) -> None:
    await commit(door.store, user("alice"))
    pem = user_pem(door, "alice")
    await commit(door.store, gone("users", "alice"))
    async with door.client(pem) as client:
        assert await told(client, door.url) == "Unauthorized"
        await commit(door.store, user("alice"))
        assert await told(client, door.url) == "Unauthorized"
    async with door.client(user_pem(door, "alice")) as client:
        assert (await told(client, door.url))[0] == "alice"


async def test_unknown_token_is_compared_like_a_known_one(door: Door) -> None:
    """One look-up and one comparison of equal length, whether the digest is known or not."""
    credentials = door.identities._credentials
    assert credentials.find(digest("nano_unknown")) is None
    assert len(NO_DIGEST) == len(digest("x"))


def subject_of(*parts: tuple[str, str]) -> dict[str, Any]:
    return {"subject": tuple((part,) for part in parts)}


O, CN = "organizationName", "commonName"  # noqa: E741 - as X.500 calls them


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        subject_of(),
        subject_of((O, "nano:admins")),
        subject_of((CN, "admin")),
        subject_of((O, "nano:servers"), (CN, "nano-server")),
        subject_of((O, "nano:hosts"), (CN, "admin")),
        subject_of((O, "nano:hosts"), (CN, "host:")),
        subject_of((O, "nano:hosts"), (CN, "host:00000000-0000-4000-8000-000000000000")),
        subject_of((O, "nano:hosts"), (CN, "host:h1")),
        subject_of((O, "nano:hosts"), (O, "nano:admins"), (CN, "admin")),
        subject_of((O, "nano:admins"), (CN, "admin"), (CN, "host:x")),
        subject_of((O, "NANO:ADMINS"), (CN, "admin")),
        subject_of((O, "nano:users"), (CN, "alice")),
        subject_of((O, "nano:users"), (CN, "admin")),
        subject_of((O, "nano:users"), (CN, "alice")) | {"subjectAltName": (("DNS", ""),)},
        {"subject": (((O, "nano:admins"), (O, "nano:hosts"), (CN, "admin")),)},
    ],
)
async def test_certificate_that_is_not_exactly_one_of_ours_is_nobody(door: Door, certificate: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        door.identities.by_certificate(certificate)


async def test_curl_with_the_files_of_a_host_is_recognized(door: Door) -> None:
    pem = door.folder / "host.pem"
    pem.write_text(door.host_pem("h1"))
    command = ["curl", "-sS", "--cacert", str(door.folder / "pki" / "ca.crt"), "--cert", str(pem), door.url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=20)
    assert '"h1"' in done.stdout
