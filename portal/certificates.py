"""Making and judging X.509 certificates (RFC 5280): pure functions over keys and names, no files, no clock."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nanovirt.resources.errors import Invalid

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
BACKDATED = timedelta(hours=1)
"""Clocks of hosts may be behind ours by so much."""
CA_LIFE = timedelta(days=3650)
_DNS = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """Both in one file: what is written at once can never be half there."""
        return key_pem(self.key) + certificate_pem(self.certificate)


@dataclass(frozen=True)
class Wanted:
    """What a certificate is to say: who, for which uses, under which names, for how long."""

    organization: str
    name: str
    uses: tuple[x509.ObjectIdentifier, ...]
    life: timedelta
    alternatives: tuple[str, ...] = ()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """The self-signed certificate of an authority; its name follows from the key, so no two are taken for one."""
    known_by = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = _subject("nano", f"nano authority {known_by.digest.hex()[:12]}")
    unsigned = _unsigned(subject, subject, key.public_key(), now, CA_LIFE).add_extension(known_by, critical=False)
    unsigned = unsigned.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    unsigned = unsigned.add_extension(_key_usage(signs_certificates=True), critical=True)
    return unsigned.sign(key, SHA256())


def issue(authority: Pair, wanted: Wanted, now: datetime) -> Pair:
    """A new key with a certificate as `wanted`, signed by the authority. Raises Invalid for a bad name."""
    key, ca = new_key(), authority.certificate
    subject = _subject(wanted.organization, wanted.name)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    unsigned = _unsigned(subject, ca.subject, key.public_key(), now, wanted.life)
    unsigned = unsigned.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    unsigned = unsigned.add_extension(_key_usage(signs_certificates=False), critical=True)
    unsigned = unsigned.add_extension(x509.ExtendedKeyUsage(wanted.uses), critical=False)
    unsigned = unsigned.add_extension(signer, critical=False)
    if wanted.alternatives:
        names = x509.SubjectAlternativeName([alternative(name) for name in wanted.alternatives])
        unsigned = unsigned.add_extension(names, critical=False)
    return Pair(key, unsigned.sign(authority.key, SHA256()))


def good(certificate: x509.Certificate, ca: x509.Certificate, now: datetime, names: Iterable[str] = ()) -> bool:
    """Whether it is signed by `ca`, has a third of its life left, and names all of `names`."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin or end - now < (end - begin) / 3:
        return False
    return _signed_by(certificate, ca) and {alternative(name) for name in names} <= _alternatives(certificate)


def alternative(name: str) -> x509.GeneralName:
    """A host name or an IP address as certificates write it. Raises Invalid."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if len(name) > 253 or not _DNS.fullmatch(name):
            raise Invalid("", f"{name[:60]!r} is neither a host name nor an IP address") from None
        return x509.DNSName(name)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """One PEM block."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """One PEM block, PKCS #8, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key in a PEM text, whatever else stands there. Raises ValueError."""
    begin = pem.find(b"-----BEGIN PRIVATE KEY")
    key = load_pem_private_key(pem[max(begin, 0) :], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not one for elliptic curves")  # noqa: TRY004 - one error for all that is unreadable
    return key


def read_pair(pem: bytes) -> Pair:
    """What `Pair.pem` wrote. Raises ValueError."""
    pair = Pair(read_key(pem), x509.load_pem_x509_certificate(pem))
    if pair.key.public_key() != pair.certificate.public_key():
        raise ValueError("the key does not belong to the certificate")
    return pair


def _subject(organization: str, name: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    begun = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    begun = begun.serial_number(x509.random_serial_number())
    return begun.not_valid_before(now - BACKDATED).not_valid_after(now + life)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _alternatives(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()
