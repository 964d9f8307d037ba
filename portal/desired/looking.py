"""The one door to the directory: its files with their contents, or why a file is not read; links are never followed."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from nanovirt.portal.cli.manifests import SUFFIXES

FILE_MAX, TOTAL_MAX, FILES_MAX = 4 << 20, 64 << 20, 10_000
"""Bytes of a file and of all files, and how many files there may be."""
DEPTH_MAX = 16
"""Folders within folders."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Sight:
    """One file as it was read: `digest` names its content; `why`: it was not read, for that reason."""

    digest: str
    content: bytes = b""
    why: str = ""


@dataclass(frozen=True)
class Look:
    """What one look found: path below the directory -> Sight. `missing`, `unsafe`: why nothing of it counts at all."""

    files: dict[str, Sight] = field(default_factory=dict)
    missing: bool = False
    unsafe: str = ""
    busy: bool = False
    """Git is at work in it, so that what lies there is neither the old commit nor the new one."""
    inode: tuple[int, int] = (0, 0)
    """Which directory it was, for whoever watches it: another one may have its name by now."""


def look(directory: Path) -> Look:
    """Read the whole directory; takes as long as its disk. It never raises for what is in it."""
    try:
        top = os.open(directory, FOLDER)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not directory.is_symlink():
            return Look(missing=True)
        return Look(unsafe="it is a symbolic link" if directory.is_symlink() else _said(error))
    try:
        found = os.fstat(top)
        if why := _unsafe(found):
            return Look(unsafe=why)
        if _locked(top):
            return Look(busy=True)
        files: dict[str, Sight] = {}
        size = 0
        try:
            for path, sight in _walk(top, "", 0):
                files[path] = sight
                size += len(sight.content)
                if len(files) > FILES_MAX or size > TOTAL_MAX:
                    return Look(unsafe=f"it holds more than {FILES_MAX} files or {TOTAL_MAX >> 20} MiB")
        except OSError as error:
            return Look(unsafe=_said(error))
        return Look(files, busy=_locked(top), inode=(found.st_dev, found.st_ino))
    finally:
        os.close(top)


def ignored(name: str) -> bool:
    """Whether a name is no manifest's: hidden (.git, .web.yaml.swp), or what editors keep beside a file."""
    return name.startswith((".", "~", "#")) or name.endswith(("~", "#")) or not name.endswith(SUFFIXES)


def twins(paths: Iterator[str] | list[str]) -> dict[str, str]:
    """Each path that another file system would not tell from another one (case, composed letters) -> that other one."""
    seen: dict[str, str] = {}
    found: dict[str, str] = {}
    for path in sorted(paths):
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if plain in seen:
            found[path] = seen[plain]
            found.setdefault(seen[plain], path)
        seen.setdefault(plain, path)
    return found


def _locked(folder: int) -> bool:
    """Whether a git repository is being changed."""
    try:
        os.stat(".git/index.lock", dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _walk(folder: int, above: str, depth: int) -> Iterator[tuple[str, Sight]]:
    with os.scandir(folder) as entries:
        names = sorted((one.name, one.is_dir(follow_symlinks=False), one.is_symlink()) for one in entries)
    for name, is_folder, is_link in names:
        path = f"{above}{name}"
        if not name.isprintable():
            path = path.encode("utf-8", "backslashreplace").decode()
        if is_folder and not name.startswith("."):
            yield from _below(folder, name, path, depth)
        elif is_link and not name.startswith("."):
            # What it leads to may have been files of the directory before; so it is told, not passed over.
            yield path, _unread("symbolic links are not followed")
        elif not ignored(name):
            sight = _read(folder, name)
            if sight is not None:
                yield path, sight


def _below(folder: int, name: str, path: str, depth: int) -> Iterator[tuple[str, Sight]]:
    if depth >= DEPTH_MAX:
        yield path, _unread(f"folders are read {DEPTH_MAX} deep")
        return
    try:
        inner = os.open(name, FOLDER, dir_fd=folder)
    except OSError as error:
        yield path, _unread(_said(error))
        return
    try:
        if why := _unsafe(os.fstat(inner)):
            yield path, _unread(why)
        else:
            yield from _walk(inner, f"{path}/", depth + 1)
    finally:
        os.close(inner)


def _read(folder: int, name: str) -> Sight | None:
    """The file, or why it is not read; None when it has just gone."""
    try:
        opened = os.open(name, FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _unread("symbolic links are not followed" if error.errno == errno.ELOOP else _said(error))
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            return _unread("it is no regular file")
        if why := _unsafe(found):
            return _unread(why)
        with os.fdopen(opened, "rb", closefd=False) as file:
            content = file.read(FILE_MAX + 1)
    except OSError as error:
        return _unread(_said(error))
    finally:
        os.close(opened)
    if len(content) > FILE_MAX:
        return _unread(f"it has more than {FILE_MAX} bytes")
    return Sight(blake2b(content, digest_size=16).hexdigest(), content)


def _unread(why: str) -> Sight:
    return Sight(f"not read: {why}", why=why)


def _unsafe(found: os.stat_result) -> str:
    """Why others could have written it, or ""."""
    if found.st_uid not in (0, os.geteuid()):
        return (
            f"it belongs to uid {found.st_uid}; it must belong to root or uid {os.geteuid()}, as whom the server runs"
        )
    if found.st_mode & WRITABLE:
        return f"its mode {found.st_mode & 0o7777:o} lets others write it; chmod go-w"
    return ""


def _said(error: OSError) -> str:
    return error.strerror or str(error)
