"""What lies under DIR/pki after any start, however the one before it ended, and the TLS made of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography import x509

from nanovirt.portal.pki import Pki, digest, ipv4_addresses, ipv6_addresses, own_names, save_credentials, write_private
from nanovirt.resources.credentials import HostCredentials
from nanovirt.resources.errors import Invalid, NanoError
from tests.kubectl import VERSIONS, Kubectl, kubectl
from tests.portal.world import NOW, admin_pem, client_tls, credentials_pem, listening, session

URL = "https://127.0.0.1:5870"
UID = "00000000-0000-4000-8000-00000000000a"

START = """
import os, sys
from datetime import datetime, UTC
from pathlib import Path
from nanovirt.portal.pki import Pki
def start(folder):
    pki = Pki(Path(folder), datetime(2026, 11, 22, 9, 0, tzinfo=UTC))
    pki.tls_context()
    pki.admin_access("https://127.0.0.1:5870")
steps = 0
def count(event, args):
    global steps
    if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate"}:
        paths = [one for one in args if isinstance(one, (str, os.PathLike)) and str(one).startswith(sys.argv[1])]
        steps -= bool(paths) or event == "os.chmod"
        if steps < 0 and paths:
            os._exit(9)
killed = 0
while True:
    folder = f"{sys.argv[1]}/{killed}"
    child = os.fork()
    if child == 0:
        steps = killed
        sys.addaudithook(count)
        start(folder)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 9:
        break
    start(folder)
    killed += 1
print(killed)
"""


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in found}


def start(directory: Path, *, url: str = URL, names: tuple[str, ...] = (), later: timedelta = timedelta()) -> Pki:
    pki = Pki(directory, NOW + later)
    pki.tls_context(names)
    pki.admin_access(url)
    return pki


def server_certificate(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "pki" / "server.pem").read_bytes())


def token_of(directory: Path) -> str:
    users = yaml.safe_load((directory / "admin.kubeconfig").read_text())["users"]
    token: str = next(one["user"]["token"] for one in users if one["name"] == "nano-admin")
    return token


@pytest.fixture
def lax() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_first_start_makes_everything_for_the_owner_alone(tmp_path: Path, lax: None) -> None:
    start(tmp_path / "data")
    modes = {name: mode for name, (mode, _) in files(tmp_path / "data").items()}
    assert modes == {
        "admin.kubeconfig": 0o600,
        "pki/admin.pem": 0o400,
        "pki/admin.sha256": 0o600,
        "pki/ca.crt": 0o600,
        "pki/ca.key": 0o400,
        "pki/server.pem": 0o400,
    }
    for folder in (tmp_path / "data", tmp_path / "data" / "pki"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_second_start_changes_nothing(tmp_path: Path) -> None:
    start(tmp_path)
    before = files(tmp_path)
    start(tmp_path, later=timedelta(days=200))
    assert files(tmp_path) == before


def test_start_killed_at_any_step_is_completed_by_the_next_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", START, str(tmp_path)], capture_output=True, text=True, check=True)
    steps = int(done.stdout)
    assert steps > 20
    for folder in (tmp_path / str(number) for number in range(steps)):
        assert set(files(folder)) >= {"admin.kubeconfig", "pki/ca.key", "pki/ca.crt", "pki/server.pem", "pki/admin.pem"}
        assert digest(token_of(folder)) == (folder / "pki" / "admin.sha256").read_text().strip()
        before = files(folder)
        start(folder)
        assert files(folder) == before


@pytest.mark.parametrize("file", ["ca.crt", "server.pem", "admin.pem", "admin.sha256", "../admin.kubeconfig"])
def test_lost_file_is_made_anew(tmp_path: Path, file: str) -> None:
    start(tmp_path)
    (tmp_path / "pki" / file).unlink()
    start(tmp_path)
    assert set(files(tmp_path)) >= {"admin.kubeconfig", "pki/ca.crt", "pki/server.pem", "pki/admin.pem"}
    assert digest(token_of(tmp_path)) == (tmp_path / "pki" / "admin.sha256").read_text().strip()


@pytest.mark.parametrize("file", ["server.pem", "admin.pem", "../admin.kubeconfig"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1, 2", b"-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_damaged_file_is_made_anew(tmp_path: Path, file: str, content: bytes) -> None:
    start(tmp_path)
    path = tmp_path / "pki" / file
    path.chmod(0o600)
    path.write_bytes(content)
    start(tmp_path)
    assert path.read_bytes() != content
    assert digest(token_of(tmp_path)) == (tmp_path / "pki" / "admin.sha256").read_text().strip()


def test_server_certificate_names_every_way_to_this_machine(tmp_path: Path) -> None:
    start(tmp_path, names=("nano.example.org", "192.0.2.7"))
    names = server_certificate(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    texts = [str(name.value) for name in names]
    assert {"localhost", "127.0.0.1", "::1", "nano.example.org", "192.0.2.7", *own_names()} == set(texts)
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("names", "later", "renewed"),
    [
        ((), timedelta(days=1), False),
        ((), timedelta(days=240), False),
        ((), timedelta(days=250), True),
        ((), timedelta(days=400), True),
        (("a.example",), timedelta(days=1), False),
        (("b.example",), timedelta(days=1), True),
    ],
)
def test_server_certificate_is_renewed_in_time(
    tmp_path: Path, names: tuple[str, ...], later: timedelta, *, renewed: bool
) -> None:
    start(tmp_path, names=("a.example",))
    before = server_certificate(tmp_path)
    start(tmp_path, names=names, later=later)
    after = server_certificate(tmp_path)
    assert (before.serial_number != after.serial_number) is renewed
    assert after.not_valid_after_utc - (NOW + later) > timedelta(days=100)


def test_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    start(tmp_path / "ours")
    start(tmp_path / "theirs")
    path = tmp_path / "ours" / "pki" / "server.pem"
    write_private(path, (tmp_path / "theirs" / "pki" / "server.pem").read_bytes())
    pki = start(tmp_path / "ours")
    server_certificate(tmp_path / "ours").verify_directly_issued_by(pki.ca)


def test_authority_key_may_be_offline_while_nothing_needs_it(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "pki" / "ca.key").unlink()
    pki = start(tmp_path)
    with pytest.raises(NanoError, match=r"ca\.key is not there"):
        pki.host_credentials("h1", UID, URL)


@pytest.mark.parametrize("spoil", ["ca.key", "ca.crt"])
def test_unreadable_authority_stops_the_start_and_is_left_as_it_is(tmp_path: Path, spoil: str) -> None:
    start(tmp_path)
    path = tmp_path / "pki" / spoil
    path.chmod(0o600)
    path.write_bytes(b"garbage")
    before = files(tmp_path)
    with pytest.raises(NanoError, match="cannot be read"):
        Pki(tmp_path, NOW)
    assert files(tmp_path) == before


def test_authority_with_the_key_of_another_stops_the_start(tmp_path: Path) -> None:
    start(tmp_path / "ours")
    start(tmp_path / "theirs")
    write_private(tmp_path / "ours" / "pki" / "ca.key", (tmp_path / "theirs" / "pki" / "ca.key").read_bytes(), 0o400)
    with pytest.raises(NanoError, match="does not belong"):
        Pki(tmp_path / "ours", NOW)


@pytest.mark.parametrize("name", ["", "a b", "x" * 64, "a..b", "*.example", "host/x", "ä.example", "1.2.3.4/24"])
def test_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        Pki(tmp_path, NOW).tls_context((name,))


def test_token_stands_in_the_kubeconfig_only(tmp_path: Path) -> None:
    start(tmp_path)
    token = token_of(tmp_path)
    assert token.startswith("nano_")
    assert len(base64.urlsafe_b64decode(token.removeprefix("nano_") + "=")) == 32
    assert [name for name, (_, content) in files(tmp_path).items() if token.encode() in content] == ["admin.kubeconfig"]


def test_another_port_keeps_the_token(tmp_path: Path) -> None:
    start(tmp_path)
    token = token_of(tmp_path)
    start(tmp_path, url="https://127.0.0.1:6870")
    assert token_of(tmp_path) == token
    config = yaml.safe_load((tmp_path / "admin.kubeconfig").read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6870"


@pytest.mark.timeout(600)  # the first time, kubectl is fetched
def test_what_kubectl_adds_to_the_kubeconfig_stays(tmp_path: Path) -> None:
    start(tmp_path)
    config = tmp_path / "admin.kubeconfig"
    Kubectl(kubectl(VERSIONS[0]), config).run("config", "set-context", "--current", "--namespace=team-a")
    before = config.read_bytes()
    start(tmp_path)
    assert b"team-a" in before
    assert config.read_bytes() == before


def test_kubeconfig_of_another_cluster_is_replaced(tmp_path: Path) -> None:
    start(tmp_path / "ours")
    start(tmp_path / "theirs")
    (tmp_path / "ours" / "admin.kubeconfig").write_bytes((tmp_path / "theirs" / "admin.kubeconfig").read_bytes())
    start(tmp_path / "ours")
    assert token_of(tmp_path / "ours") != token_of(tmp_path / "theirs")
    assert digest(token_of(tmp_path / "ours")) == (tmp_path / "ours" / "pki" / "admin.sha256").read_text().strip()


def test_symlink_in_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".x.new").symlink_to(victim)
    write_private(tmp_path / "x", b"secret")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "x").read_bytes() == b"secret"


def test_host_credentials_are_one_private_file(tmp_path: Path, lax: None) -> None:
    credentials = start(tmp_path).host_credentials("h1", UID, URL)
    save_credentials(credentials, tmp_path / "h1.json")
    assert stat.S_IMODE((tmp_path / "h1.json").stat().st_mode) == 0o600
    written = json.loads((tmp_path / "h1.json").read_bytes())
    assert sorted(written) == ["ca", "certificate", "host", "key", "server", "uid"]
    assert HostCredentials.model_validate(written) == credentials


def test_openssl_accepts_the_certificates_for_their_uses_and_no_others(tmp_path: Path) -> None:
    pki = start(tmp_path)
    (tmp_path / "host.pem").write_text(pki.host_credentials("h1", UID, URL).certificate)
    folder = tmp_path / "pki"
    wanted = {"host.pem": {"sslclient", "sslserver"}, "pki/admin.pem": {"sslclient"}, "pki/server.pem": {"sslserver"}}
    for file, purposes in wanted.items():
        ok = {one for one in ("sslclient", "sslserver") if _verified(folder / "ca.crt", tmp_path / file, one)}
        assert ok == purposes, file


def _verified(ca: Path, certificate: Path, purpose: str) -> bool:
    when = str(int(NOW.timestamp()))
    command = ["openssl", "verify", "-x509_strict", "-attime", when, "-purpose", purpose, "-CAfile", str(ca)]
    return subprocess.run([*command, str(certificate)], capture_output=True, check=False).returncode == 0


# --- TLS on real sockets ---


async def whoami(request: web.Request) -> web.Response:
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for field, value in part if field == "commonName"]
    return web.json_response({"name": names[0] if names else "", "token": request.headers.get("Authorization", "")})


def fresh(directory: Path) -> Pki:
    """With certificates that are good today, whatever day a test runs on."""
    return Pki(directory, datetime.now(UTC))


async def asked(port: int, tls: ssl.SSLContext, name: str = "localhost") -> str:
    async with session(tls) as client, client.get(f"https://{name}:{port}/") as response:
        found: str = (await response.json())["name"]
        return found


async def test_client_without_certificate_is_served_as_nobody(tmp_path: Path) -> None:
    pki = fresh(tmp_path)
    async with listening(whoami, pki.tls_context()) as port:
        assert await asked(port, client_tls(pki.ca_pem)) == ""
        assert await asked(port, client_tls(pki.ca_pem), "127.0.0.1") == ""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (admin_pem, "admin"),
        (lambda pki, _: credentials_pem(pki.host_credentials("h1", UID, URL)), f"host:{UID}"),
    ],
)
async def test_certificate_of_ours_is_seen(tmp_path: Path, make: Callable[[Pki, Path], str], name: str) -> None:
    pki = fresh(tmp_path)
    async with listening(whoami, pki.tls_context()) as port:
        assert await asked(port, client_tls(pki.ca_pem, tmp_path, make(pki, tmp_path))) == name


async def test_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    pki, other = fresh(tmp_path / "ours"), fresh(tmp_path / "theirs")
    foreign = client_tls(pki.ca_pem, tmp_path, admin_pem(other, tmp_path / "theirs"))
    async with listening(whoami, pki.tls_context()) as port:
        with pytest.raises(aiohttp.ClientError):
            await asked(port, foreign)


async def test_server_certificate_is_no_client_certificate(tmp_path: Path) -> None:
    pki = fresh(tmp_path)
    async with listening(whoami, pki.tls_context()) as port:
        pem = (tmp_path / "pki" / "server.pem").read_text()
        with pytest.raises(aiohttp.ClientError):
            await asked(port, client_tls(pki.ca_pem, tmp_path, pem))


@pytest.mark.parametrize(
    ("cipher", "served"), [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA256", False)]
)
async def test_tls_1_2_wants_aead(tmp_path: Path, cipher: str, *, served: bool) -> None:
    pki = fresh(tmp_path)
    tls = client_tls(pki.ca_pem)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers(cipher)
    async with listening(whoami, pki.tls_context()) as port:
        if served:
            assert await asked(port, tls) == ""
        else:
            with pytest.raises(aiohttp.ClientError):
                await asked(port, tls)


async def test_renewed_certificate_serves_new_connections_without_a_restart(tmp_path: Path) -> None:
    pki = fresh(tmp_path)
    tls = pki.tls_context()
    async with listening(whoami, tls) as port:
        before = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        pki.renew(tls, ("added.example",), datetime.now(UTC))
        after = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        assert before != after
        assert await asked(port, client_tls(pki.ca_pem)) == ""


@pytest.mark.timeout(600)  # the first time, kubectl is fetched
@pytest.mark.parametrize("version", VERSIONS)
async def test_kubectl_gets_in_with_either_context(tmp_path: Path, version: str) -> None:
    pki = fresh(tmp_path)
    client = Kubectl(kubectl(version), tmp_path / "admin.kubeconfig")
    async with listening(whoami, pki.tls_context()) as port:
        pki.admin_access(f"https://127.0.0.1:{port}")
        by_token = json.loads(await asyncio.to_thread(client.run, "get", "--raw", "/whoami"))
        by_certificate = json.loads(
            await asyncio.to_thread(client.run, "--context=nano-cert", "get", "--raw", "/whoami")
        )
    assert by_token == {"name": "", "token": f"Bearer {token_of(tmp_path)}"}
    assert by_certificate == {"name": "admin", "token": ""}


# --- addresses of the machine ---

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     |-- 192.0.2.9
        /32 host LOCAL
Local:
     |-- 192.0.2.9
        /32 host LOCAL
"""


def test_local_addresses_are_read_from_the_routing_table() -> None:
    assert ipv4_addresses(TRIE) == ["127.0.0.1", "192.0.2.9"]


def test_link_local_addresses_are_left_out() -> None:
    table = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe80000000000000025056fffe000001 02 40 20 80     eth0\n"
        "20010db8000000000000000000000007 02 40 00 80     eth0\n"
    )
    assert ipv6_addresses(table) == ["::1", "2001:db8::7"]
