"""Keys, certificates and the admin's access under the data directory, and the TLS that the server speaks with them."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import ssl
from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from nanovirt.portal.certificates import (
    CLIENT,
    SERVER,
    Pair,
    Wanted,
    certificate_pem,
    good,
    issue,
    key_pem,
    new_authority,
    new_key,
    read_key,
    read_pair,
)
from nanovirt.resources.access import AEAD_ONLY
from nanovirt.resources.codec import dump
from nanovirt.resources.credentials import ADMINS, SERVERS, HostCredentials
from nanovirt.resources.errors import NanoError
from nanovirt.resources.segments import sync_directory, write_all

HOSTS, USERS = "nano:hosts", "nano:users"
HOST_PREFIX = "host:"
TOKEN_PREFIX = "nano_"  # noqa: S105 - what tokens begin with, so that leak scanners find them
YEAR = timedelta(days=365)


class Pki:
    """The authority of one cluster under DIR/pki; what is missing, foreign or nearly over is made anew.

    ca.key (may be taken offline: then nothing new can be issued), ca.crt, server.pem, relay.pem and admin.pem (key and
    certificate in one file each, so that no crash leaves one without the other), admin.sha256 (of the admin's token).
    """

    def __init__(self, directory: Path, now: datetime) -> None:
        """Read the authority, or make one in a directory without any. Raises NanoError when it cannot be read."""
        self._directory = directory
        self._folder = directory / "pki"
        self._now = now
        for folder in (directory, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        try:
            self._key = self._read_key()
            self.ca = self._read_authority()
        except ValueError as error:
            raise NanoError(f"the authority in {self._folder} cannot be read ({error}); restore a backup") from error

    def _read_key(self) -> Any:
        path, certificate = self._folder / "ca.key", self._folder / "ca.crt"
        if path.exists():
            return read_key(path.read_bytes())
        if certificate.exists():
            return None
        key = new_key()
        write_private(path, key_pem(key), 0o400)
        return key

    def _read_authority(self) -> x509.Certificate:
        path = self._folder / "ca.crt"
        if not path.exists():
            write_private(path, certificate_pem(new_authority(self._key, self._now)))
        ca = x509.load_pem_x509_certificate(path.read_bytes())
        if self._key is not None and self._key.public_key() != ca.public_key():
            raise ValueError("ca.key does not belong to ca.crt")
        return ca

    @property
    def ca_pem(self) -> str:
        """What clients trust."""
        return certificate_pem(self.ca).decode()

    def tls_context(self, names: Iterable[str] = ()) -> ssl.SSLContext:
        """For the API and the portal: TLS 1.3, or 1.2 with AEAD; a client certificate is welcome, and must be ours.

        `names`: host names and addresses by which clients reach this machine, beside those that it knows itself.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(AEAD_ONLY)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.ca_pem)
        # Without tickets each connection proves its certificate anew.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        self.renew(context, names, self._now)
        return context

    def renew(self, context: ssl.SSLContext, names: Iterable[str], now: datetime) -> None:
        """Give the context a certificate that is good for a while; new connections use it at once."""
        self._now = now
        wanted = Wanted(SERVERS, "nano-server", (SERVER,), YEAR, tuple(dict.fromkeys([*own_names(), *names])))
        self._kept("server.pem", wanted)
        context.load_cert_chain(self._folder / "server.pem")

    def relay_context(self) -> ssl.SSLContext:
        """For calls to agents: shows who calls, and believes only the certificate with the name that was called."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.renew_relay(context, self._now)
        return context

    def renew_relay(self, context: ssl.SSLContext, now: datetime) -> None:
        """As `renew`, for what `relay_context` made."""
        self._now = now
        self._kept("relay.pem", Wanted(SERVERS, "nano-server", (CLIENT,), YEAR))
        context.load_cert_chain(self._folder / "relay.pem")

    def _kept(self, file: str, wanted: Wanted) -> Pair:
        """The pair in that file, made anew when it is not good any more."""
        path = self._folder / file
        try:
            pair = read_pair(path.read_bytes())
        except (FileNotFoundError, ValueError):
            pass
        else:
            if good(pair.certificate, self.ca, self._now, wanted.alternatives):
                return pair
        pair = self._issued(wanted)
        write_private(path, pair.pem(), 0o400)
        return pair

    def _issued(self, wanted: Wanted) -> Pair:
        if self._key is None:
            raise NanoError(f"{self._folder / 'ca.key'} is not there, so nothing can be signed; put it back")
        return issue(Pair(self._key, self.ca), wanted, self._now)

    def host_credentials(self, name: str, uid: str, server_url: str, names: Iterable[str] = ()) -> HostCredentials:
        """A new key and certificate for the agent of a Host; valid for a year, or until the Host is deleted.

        `names`: host names and addresses by which viewers reach that host, beside its own name. They are never taken
        from the host's word: with another's name in its certificate it could stand in the place of that other.
        """
        known = tuple(dict.fromkeys([uid, name, *names]))
        pair = self._issued(Wanted(HOSTS, f"{HOST_PREFIX}{uid}", (CLIENT, SERVER), YEAR, known))
        certificate, key = certificate_pem(pair.certificate).decode(), key_pem(pair.key).decode()
        return HostCredentials(server=server_url, host=name, uid=uid, ca=self.ca_pem, certificate=certificate, key=key)

    def user_pair(self, name: str, uid: str) -> Pair:
        """A new key and certificate for a User; valid for a year, or until the User is disabled or deleted.

        The uid stands beside the name, so that it means nobody else when the name is given again.
        """
        return self._issued(Wanted(USERS, name, (CLIENT,), YEAR, (uid,)))

    # --- the administrator ---

    def admin_access(self, server_url: str) -> str:
        """SHA-256 (hex) of the admin's token, which DIR/admin.kubeconfig then holds with all else for `server_url`.

        Contexts: `nano` (token) and `nano-cert` (client certificate). A file that says so already is left alone.
        """
        path, digests = self._directory / "admin.kubeconfig", self._folder / "admin.sha256"
        pair = self._kept("admin.pem", Wanted(ADMINS, "admin", (CLIENT,), YEAR))
        known = digests.read_text().strip() if digests.exists() else ""
        written = _read_kubeconfig(path)
        token = _token_in(written)
        if not token or (known and digest(token) != known):
            token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        if digest(token) != known:
            write_private(digests, digest(token).encode() + b"\n")
        wanted = _kubeconfig(server_url, self.ca_pem, token, pair)
        if not (_says(written, wanted, "clusters", "cluster") and _says(written, wanted, "users", "user")):
            write_private(path, yaml.safe_dump(wanted, sort_keys=False).encode())
        path.chmod(0o600)
        return digest(token)


def save_credentials(credentials: HostCredentials, path: Path) -> None:
    """Write the file that an agent starts with, for its owner alone (OSError)."""
    write_private(path, dump(credentials.to_json()) + b"\n")


def digest(token: str) -> str:
    """The only form in which the server keeps a token: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()  # a header may hold any bytes


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file so that after a crash it is the old or the new one, and never readable by others (OSError)."""
    unborn = path.with_name(f".{path.name}.new")
    unborn.unlink(missing_ok=True)
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    unborn.rename(path)
    sync_directory(path.parent)


def own_names() -> list[str]:
    """localhost, the name of this machine, and every address that it has now (Linux: /proc/net)."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname().lower()]
    trie, six = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")
    names += ipv4_addresses(trie.read_text() if trie.exists() else "")
    names += ipv6_addresses(six.read_text() if six.exists() else "")
    return list(dict.fromkeys(name for name in names if name))


def ipv4_addresses(trie: str) -> list[str]:
    """The local addresses in the text of /proc/net/fib_trie: a leaf `|-- IP` above a line `/32 host LOCAL`."""
    found, leaf = set(), ""
    for line in trie.splitlines():
        if "|-- " in line:
            leaf = line.split("|-- ")[1].strip()
        elif "/32 host LOCAL" in line:
            found.add(IPv4Address(leaf))
    return [str(one) for one in sorted(found)]


def ipv6_addresses(table: str) -> list[str]:
    """The addresses in the text of /proc/net/if_inet6 that mean the same on every link."""
    found = {IPv6Address(int(line.split()[0], 16)) for line in table.splitlines()}
    return [str(one) for one in sorted(found) if not one.is_link_local]


def _kubeconfig(server_url: str, ca: str, token: str, pair: Pair) -> dict[str, Any]:
    by_certificate = {
        "client-certificate-data": _base64(certificate_pem(pair.certificate)),
        "client-key-data": _base64(key_pem(pair.key)),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "nano", "cluster": {"server": server_url, "certificate-authority-data": _base64(ca.encode())}}
        ],
        "users": [
            {"name": "nano-admin", "user": {"token": token}},
            {"name": "nano-admin-cert", "user": by_certificate},
        ],
        "contexts": [_context("nano", "nano-admin"), _context("nano-cert", "nano-admin-cert")],
        "current-context": "nano",
    }


def _context(name: str, user: str) -> dict[str, Any]:
    return {"name": name, "context": {"cluster": "nano", "user": user, "namespace": "default"}}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read_kubeconfig(path: Path) -> dict[str, Any]:
    """What stands in the file; {} for none, or for one that is not ours any more."""
    try:
        written = yaml.safe_load(path.read_text())
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return written if isinstance(written, dict) else {}


def _token_in(written: dict[str, Any]) -> str:
    """The admin's token in a kubeconfig, or ""."""
    token = _entries(written, "users", "user").get("nano-admin", {}).get("token")
    return token if isinstance(token, str) and token.startswith(TOKEN_PREFIX) else ""


def _says(written: dict[str, Any], wanted: dict[str, Any], part: str, member: str) -> bool:
    """Whether all that is wanted stands there; what kubectl or a person added beside it does not count."""
    there = _entries(written, part, member)
    entries = _entries(wanted, part, member).items()
    return all(
        name in there and all(there[name].get(field) == value for field, value in entry.items())
        for name, entry in entries
    )


def _entries(config: dict[str, Any], part: str, member: str) -> dict[str, dict[str, Any]]:
    """The named entries of one list of a kubeconfig, as far as they have the shape of entries."""
    listed = config.get(part)
    named = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return {str(one.get("name")): one[member] for one in named if isinstance(one.get(member), dict)}
