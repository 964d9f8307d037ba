"""The only place that writes ISO 9660 images: small ones, whole or not at all, for the owner of the file alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pycdlib

from nanovirt.agent.image_cache import FULL, sync
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError

LABEL = "cidata"
SECTOR = 2048
_SAYS_AT = 16 * SECTOR + 318
SAYS_MAX = 64
"""Bytes of the publisher identifier of the primary volume descriptor (ECMA-119 8.4.20), which nobody else needs."""


def write(file: Path, says: str, files: Mapping[str, bytes]) -> None:
    """Put an image of these files there (NoRoom, HypervisorError); `says` is what `read_mark` finds again."""
    new = file.with_name(f"{file.name}.new")
    try:
        new.unlink(missing_ok=True)
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "wb") as target:
            target.write(image(says, files))
        sync(new)
        new.rename(file)
        sync(file.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        if error.errno in FULL:
            raise NoRoom(str(file.parent)) from error
        raise HypervisorError(f"{file} cannot be written: {error.strerror}") from error


def image(says: str, files: Mapping[str, bytes]) -> bytes:
    """An image with Joliet and Rock Ridge, so that every system sees the names as they are."""
    made = pycdlib.PyCdlib()
    made.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL, pub_ident_str=says[:SAYS_MAX])
    for number, (name, content) in enumerate(files.items()):
        made.add_fp(BytesIO(content), len(content), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    written = BytesIO()
    made.write_fp(written)
    made.close()
    return written.getvalue()


def read_mark(file: Path) -> str:
    """What `write` was told that it says; "" when there is no such image."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.pread(opened, SAYS_MAX, _SAYS_AT).decode("ascii", errors="replace").strip()
    finally:
        os.close(opened)


def read_file(file: Path, name: str) -> bytes:
    """A file of an image that `write` made."""
    opened, content = pycdlib.PyCdlib(), BytesIO()
    opened.open(str(file))
    try:
        opened.get_file_from_iso_fp(content, rr_path=f"/{name}")
    finally:
        opened.close()
    return content.getvalue()
