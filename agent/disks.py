"""Volumes of machines as qcow2 files in this host's storage folders: made whole or not at all, nowhere else."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from nanovirt.agent import qemu_img
from nanovirt.agent.image_cache import FULL, ImageCache, cached, sync
from nanovirt.agent.machine import NoRoom, SeenVolume
from nanovirt.agent.partitions import HEAD, beyond, layout
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import PlacedVolume
from nanovirt.resources.quantities import Bytes

NEEDED = 2**20
"""Bytes that must be free for a new volume: more than its own tables, which are all that it holds at first."""
MAGIC = b"QFI\xfb"
_SIZE = struct.Struct(">Q")
_SIZE_AT = 24


class Disks:
    """The volumes in those storage folders that were admitted, and the images below them."""

    def __init__(self, images: ImageCache, folders: Iterable[str] = ()) -> None:
        self.images = images
        self._folders: set[Path] = set()
        self._direct: dict[Path, bool] = {}
        self._adopted: set[Path] = set()
        self.admit(folders)

    def admit(self, folders: Iterable[str]) -> None:
        """Volumes may be made and removed there from now on; a folder is not forgotten, since volumes may be in it."""
        self._folders.update(Path(os.path.normpath(folder)) for folder in folders)

    def direct(self) -> frozenset[Path]:
        """The folders whose file system takes O_DIRECT; asked anew as long as a folder is not there."""
        for folder in self._folders:
            if folder not in self._direct and folder.is_dir():
                self._direct[folder] = takes_direct(folder)
        return frozenset(folder for folder, yes in self._direct.items() if yes)

    async def volume(self, file: str, *, adopted: bool = False) -> SeenVolume | None:
        """See Machine. The size stands in the file's header, which needs no lock and no tool."""
        if adopted:
            self._adopted.add(Path(file))
            return await asyncio.to_thread(_seen_anywhere, Path(file))
        return await asyncio.to_thread(_seen, self._place(file))

    async def make(self, volume: PlacedVolume) -> None:
        """See Machine."""
        file = self._place(volume.file)
        backing = None
        if volume.source is not None:
            backing = cached(self.images.folder, volume.source.sha256)
            below = await asyncio.to_thread(_seen, backing)
            if below is None:
                raise HypervisorError(f"the image of {file} is not in the cache; it has to be fetched first")
            if volume.size < below.size:
                raise HypervisorError(f"{file} is to have {int(volume.size)} bytes, but its image has {below.size}")
        new = file.with_name(f"{file.name}.new")
        try:
            if not await asyncio.to_thread(_begin, file, new):
                return
            await qemu_img.create(new, int(volume.size), backing)
            await asyncio.to_thread(_settle, file, new)
        except OSError as error:
            raise _refused(file, error) from error
        finally:
            new.unlink(missing_ok=True)

    async def shrink(self, file: str, size: int) -> None:
        """See Machine."""
        place = self._place(file)
        seen = await asyncio.to_thread(_seen, place)
        if seen is None:
            raise HypervisorError(f"{place} is gone; it cannot get smaller")
        if seen.size > size:
            self._keeps_all(place, seen.size, size, await qemu_img.head(place, HEAD))
            await qemu_img.shrink(place, size)

    def _keeps_all(self, file: Path, now: int, size: int, head: bytes) -> None:
        """HypervisorError when something that is known to stand on the disk would be cut; nothing ends behind `now`."""
        cut = beyond(head, size)
        if cut is not None:
            least = Bytes(min(layout(head).least, now))
            raise HypervisorError(
                f"{cut.name} ends at {Bytes(min(cut.end, now))}, beyond the {Bytes(size)} that {file.name} is to have; "
                f"{least} keep all. Make it smaller in the guest first, wish for {least} or more, or make the disk anew"
            )

    async def grow(self, file: str, size: int) -> None:
        """See Machine."""
        place = self._place(file)
        seen = await asyncio.to_thread(_seen, place)
        if seen is None:
            raise HypervisorError(f"{place} is gone; it cannot grow")
        if seen.size < size:
            await qemu_img.grow(place, size)

    async def remove(self, file: str) -> None:
        """See Machine. A half-made one goes too."""
        place = self._place(file)
        try:
            await asyncio.to_thread(_remove, place)
        except OSError as error:
            raise _refused(place, error) from error

    def _place(self, file: str) -> Path:
        """HypervisorError unless the file lies directly in a storage folder of this host, or was adopted."""
        if Path(file) in self._adopted:
            return Path(file)
        if ".." in Path(file).parts or Path(file).parent not in self._folders:
            known = ", ".join(sorted(map(str, self._folders))) or "none yet"
            raise HypervisorError(f"{file} does not lie in a storage path of this host ({known})")
        return Path(file)


def _begin(file: Path, new: Path) -> bool:
    """Whether there is anything to do; if so what a killed run left is gone. A link is no volume."""
    if _seen(file) is not None:
        return False
    new.unlink(missing_ok=True)
    room = os.statvfs(file.parent)
    if room.f_bavail * room.f_frsize < NEEDED:
        raise NoRoom(str(file.parent))
    return True


def _settle(file: Path, new: Path) -> None:
    """A hard link, unlike a renaming, never takes the place of a file that came meanwhile."""
    sync(new)
    os.link(new, file, follow_symlinks=False)
    new.unlink()
    sync(file.parent)


def _remove(file: Path) -> None:
    for one in (file, file.with_name(f"{file.name}.new")):
        one.unlink(missing_ok=True)
    if file.parent.is_dir():
        sync(file.parent)


def _seen(file: Path) -> SeenVolume | None:
    """A volume of ours: a qcow2 file, and never behind a link."""
    if (looked := _look(file, os.O_NOFOLLOW)) is None:
        return None
    found, size = looked
    if size is None:
        raise HypervisorError(f"{file} is not a qcow2 file, so it is no volume of ours; it is left alone")
    return SeenVolume(str(file), size, found.st_blocks * 512)


def _seen_anywhere(file: Path) -> SeenVolume | None:
    """A file that was there before Nano: qcow2 or raw, maybe behind a link."""
    if (looked := _look(file)) is None:
        return None
    found, size = looked
    if not stat.S_ISREG(found.st_mode):
        raise HypervisorError(f"{file} is no regular file; it is left alone")
    return SeenVolume(str(file), found.st_size if size is None else size, found.st_blocks * 512)


def _look(file: Path, flags: int = 0) -> tuple[os.stat_result, int | None] | None:
    """What stands there, and the size that a qcow2 header says, if it has one; None when nothing does."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(file, error) from error
    try:
        found = os.fstat(opened)
        head = os.pread(opened, _SIZE_AT + _SIZE.size, 0) if stat.S_ISREG(found.st_mode) else b""
    finally:
        os.close(opened)
    whole = head.startswith(MAGIC) and len(head) == _SIZE_AT + _SIZE.size
    return found, _SIZE.unpack_from(head, _SIZE_AT)[0] if whole else None


def _refused(file: Path, error: OSError) -> HypervisorError:
    if error.errno in FULL:
        return NoRoom(str(file.parent))
    if error.errno == errno.ELOOP:
        return HypervisorError(f"{file} is a symbolic link, which is never followed")
    return HypervisorError(f"{file}: {error.strerror}")


def takes_direct(folder: Path) -> bool:
    """Whether QEMU may go round the page cache there; asked with a file that has no name."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True
