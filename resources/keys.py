"""What proves a cluster's identity and opens its secrets, as one file apart from every backup."""

from __future__ import annotations

import re
from pathlib import Path

from nanovirt.resources import archive
from nanovirt.resources.archive import END, members, opened, packed
from nanovirt.resources.errors import Rejected
from nanovirt.resources.segments import sync_directory

PARTS = re.compile(r"secrets\.key|pki/(ca\.key|ca\.crt|server\.pem|admin\.pem|admin\.sha256)")
SIZE_MAX = 1 << 20


def keys_of(folder: Path) -> dict[str, bytes]:
    """The keys in a server's data folder, by name (OSError)."""
    found = [folder / "secrets.key", *sorted((folder / "pki").glob("*"))]
    names = {str(path.relative_to(folder)): path for path in found if path.is_file() and not path.is_symlink()}
    return {name: path.read_bytes() for name, path in names.items() if PARTS.fullmatch(name)}


def save_keys(found: dict[str, bytes], file: Path) -> None:
    """Write them into a new file, for its owner alone. Rejected: it is there already. OSError."""
    if file.exists():
        raise Rejected(f"{file} is there already; give the keys another name")
    pieces = [piece for name, content in found.items() for piece in packed(name, len(content), [content])]
    archive.write_private(file, [*pieces, END])
    sync_directory(file.parent)


def read_keys(file: Path) -> dict[str, bytes]:
    """The keys in a file. Rejected: it is none of ours, or not whole. OSError."""
    with file.open("rb") as source:
        found = {one.name: one for one in members(source, PARTS)}
        if any(one.size > SIZE_MAX for one in found.values()):
            raise Rejected(f"{file} holds no keys: they are small")
        return {name: opened(source, one).read() for name, one in found.items()}


def put_keys(found: dict[str, bytes], folder: Path) -> None:
    """Lay keys into a data folder; doing it again changes nothing. Rejected: there are others. OSError."""
    for name, content in found.items():
        path = folder / name
        if path.exists() and path.read_bytes() != content:
            raise Rejected(f"{path} is there already, and another one; name an empty folder by --data DIR")
    for name, content in found.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            unborn = path.with_name(f".{path.name}.new")
            unborn.unlink(missing_ok=True)
            archive.write_private(unborn, [content])
            unborn.chmod(0o400 if name.endswith((".key", ".pem")) else 0o600)
            unborn.rename(path)
            sync_directory(path.parent)
