"""The one door to secret values at rest: AES-256-GCM under a key of the data folder, bound to object and field."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nanovirt.resources.errors import NanoError, SealBroken
from nanovirt.resources.secret import SecretText
from nanovirt.resources.segments import sync_directory, write_all

KEY_BYTES, NONCE_BYTES = 32, 12
VERSION = "sealed.v1"


class Sealer:
    """Seals and opens. A sealed value is `sealed.v1.KEY.BASE64`: KEY names the key, the rest is nonce and ciphertext.

    Kind, uid and field are authenticated with it: moved to another object or field, or changed, it does not open.
    """

    def __init__(self, key: bytes) -> None:
        """`key`: 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key has {len(key)} bytes, not {KEY_BYTES}")
        self._cipher = AESGCM(key)
        self._marker = hmac.digest(key, b"nano mark", "sha256")
        self._id = hashlib.sha256(b"nano key id" + key).hexdigest()[:8]

    def mark(self, content: bytes) -> str:
        """By which the same bytes are known again, and which without the key cannot be compared with guesses."""
        return hmac.digest(self._marker, content, "sha256").hex()

    def seal(self, kind: str, uid: str, field: str, value: SecretText) -> str:
        """The value as it may be stored; twice the same value gives two different texts."""
        nonce = os.urandom(NONCE_BYTES)
        hidden = self._cipher.encrypt(nonce, value.reveal().encode(), _bound(kind, uid, field))
        return f"{VERSION}.{self._id}.{base64.b64encode(nonce + hidden).decode()}"

    def open(self, kind: str, uid: str, field: str, sealed: str) -> SecretText:
        """The value behind what `seal` gave for the same object and field. Raises SealBroken."""
        where = f"{kind} {uid}, {field}"
        head, _, body = sealed.rpartition(".")
        if head != f"{VERSION}.{self._id}":
            raise SealBroken(f"{where} was sealed with another key; put the right secrets.key back")
        try:
            raw = base64.b64decode(body, validate=True)
            opened = self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound(kind, uid, field))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise SealBroken(f"{where} is damaged or was sealed for another object; write the value again") from error
        return SecretText(opened.decode())


def _bound(kind: str, uid: str, field: str) -> bytes:
    return f"{kind}/{uid}/{field}".encode()


def key_file(path: Path, *, needed: bool) -> Sealer:
    """The sealer of the key in `path`, mode 0400; made there unless it is `needed` for what is sealed already.

    Raises NanoError when the key is missing though it is needed, has no 32 bytes, or can be read by others.
    """
    if not path.exists():
        if needed:
            raise NanoError(
                f"{path} is missing though the store holds secrets sealed with it; put it back from a backup"
            )
        _make(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise NanoError(f"{path} can be read by others; make it mode 0400, and consider what it has sealed as known")
    try:
        return Sealer(bytes.fromhex(path.read_text().strip()))
    except ValueError as error:
        raise NanoError(f"{path} holds no key; put it back from a backup") from error


def _make(path: Path) -> None:
    unborn = path.with_name(f".{path.name}.new")
    unborn.unlink(missing_ok=True)
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    try:
        write_all(fd, os.urandom(KEY_BYTES).hex().encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    unborn.rename(path)
    sync_directory(path.parent)
