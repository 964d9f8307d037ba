"""How a client reaches a server and proves who it is: the authority it trusts, a token or a certificate."""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanovirt.resources.errors import Rejected

if TYPE_CHECKING:
    from nanovirt.resources.credentials import HostCredentials

AEAD_ONLY = "ECDHE+AESGCM:ECDHE+CHACHA20"
HOST_FIELDS = ("server", "ca", "certificate", "key", "host")
"""What is read here of the JSON file of a host's agent (`resources.credentials`)."""


class BadCredentials(Rejected):
    """The file that names the server is absent, unreadable or incomplete; the message says which and what to do."""

    reason = "BadCredentials"


@dataclass(frozen=True)
class Credentials:
    """`server` is an https URL; `ca_pem` "" trusts the system's authorities; a token, or a certificate with its key."""

    server: str
    ca_pem: str = ""
    token: str = field(default="", repr=False)
    certificate_pem: str = field(default="", repr=False)
    key_pem: str = field(default="", repr=False)
    host: str = ""
    """For an agent: the name of the Host whose certificate this is."""
    namespace: str = ""
    """What the kubeconfig's context says to use where none is named."""

    def __post_init__(self) -> None:
        if not self.server.startswith(("https://", "http://")):
            raise BadCredentials(f"the server {self.server[:80]!r} is no URL such as https://10.20.0.5:5870")
        if self.server.startswith("http://") and (self.token or self.key_pem):
            raise BadCredentials(f"{self.server}: a token or key is never sent over plain http; use https")


def from_credentials_file(path: Path) -> Credentials:
    """Those of a host's agent, as `nanoctl host add` wrote them. Raises BadCredentials."""
    found = _json(path)
    lacking = [name for name in HOST_FIELDS if not isinstance(found.get(name), str) or not found[name]]
    if lacking:
        raise BadCredentials(f"{path}: {', '.join(lacking)} is missing; `nanoctl host add NAME` makes the file")
    return Credentials(
        server=found["server"].rstrip("/"),
        ca_pem=found["ca"],
        certificate_pem=found["certificate"],
        key_pem=found["key"],
        host=found["host"],
    )


def from_host_credentials(given: HostCredentials) -> Credentials:
    """The same, from what would stand in the file."""
    return Credentials(given.server, given.ca, "", given.certificate, given.key, given.host)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadCredentials(f"{path} cannot be read: {error.strerror}; `nanoctl host add NAME` makes it") from error
    except ValueError as error:
        raise BadCredentials(f"{path} is not the JSON that `nanoctl host add` writes: {error}") from error
    if not isinstance(found, dict):
        raise BadCredentials(f"{path} is not the JSON object that `nanoctl host add` writes")
    return found


def headers(credentials: Credentials) -> dict[str, str]:
    """What every request carries."""
    named = {"User-Agent": "nanovirt", "Accept": "application/json"}
    return named | {"Authorization": f"Bearer {credentials.token}"} if credentials.token else named


def tls(credentials: Credentials) -> ssl.SSLContext | None:
    """A context that verifies the server against `ca_pem` and shows the certificate; None for plain http."""
    if credentials.server.startswith("http://"):
        return None
    try:
        context = ssl.create_default_context(cadata=credentials.ca_pem or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if credentials.certificate_pem:
            with _written(credentials.certificate_pem + "\n" + credentials.key_pem) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise BadCredentials(f"certificate, key or authority for {credentials.server} is damaged: {error}") from error
    return context


def named(credentials: Credentials, address: str) -> str:
    """The address of a host if its certificate says it, else the name of the host, which it always says."""
    said = [line for line in _alternatives(credentials.certificate_pem) if line == address]
    return said[0] if said else credentials.host


def _alternatives(pem: str) -> list[str]:
    """Names and addresses in a certificate."""
    from cryptography import x509  # noqa: PLC0415 - slow to load, and only an agent asks

    found = x509.load_pem_x509_certificate(pem.encode()).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in names]


def listening_tls(credentials: Credentials, *, anybody: bool = False) -> ssl.SSLContext:
    """For the own port of a host's agent: shows the host's certificate, and demands one of the same authority.

    `anybody` demands none: whoever comes has to prove in another way who it is.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(AEAD_ONLY)
        context.load_verify_locations(cadata=credentials.ca_pem)
        context.verify_mode = ssl.CERT_NONE if anybody else ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        with _written(credentials.certificate_pem + "\n" + credentials.key_pem) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise BadCredentials(f"certificate, key or authority of {credentials.host} is damaged: {error}") from error
    return context


@contextmanager
def _written(text: str) -> Iterator[str]:
    """`ssl` reads keys only from files: one that nobody else can read, for as long as it takes."""
    handle, path = tempfile.mkstemp(prefix="nano-", suffix=".pem")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        yield path
    finally:
        Path(path).unlink()


def pem_of(entry: Mapping[str, Any], name: str, folder: Path) -> str:
    """The PEM text of a kubeconfig's `NAME-data` (base64) or `NAME` (a path, relative to the kubeconfig), or ""."""
    if inline := entry.get(f"{name}-data"):
        return base64.b64decode(inline, validate=True).decode()
    return (folder / entry[name]).read_text() if entry.get(name) else ""
