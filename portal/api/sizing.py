"""Disks that are too small for their image: refused as soon as the size of the image is known."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.portal.api.index import View
from nanovirt.resources.codec import JSON
from nanovirt.resources.devices import Disk
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import resolve
from nanovirt.resources.instance import InstanceSpec
from nanovirt.resources.kind import Key
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason


def small_disks(
    store: View, namespace: str, spec: InstanceSpec, old: JSON | None, at: str = "spec", *, begun: bool = False
) -> Iterator[Cause]:
    """What an image does not fit into; `old`: the spec before. What stood there stays accepted.

    `begun`: the machine has a place, so its disks have begun, and whether one may get smaller is decided elsewhere.
    """
    before = {one["name"]: one for one in (old or {}).get("disks") or ()}
    for number, disk in enumerate(spec.disks):
        image = disk.source.image if disk.source is not None else None
        if image is None or disk.size is None or not _asks_anew(disk, before.get(disk.name), begun=begun):
            continue
        entry = store.peek(Key("images", *resolve(image, namespace)))
        needed = entry.row.status_virtual_size if entry is not None and entry.row.status_phase == "Ready" else None
        if needed is not None and disk.size < Bytes.read(needed):
            params = {"disk": disk.name, "asked": str(disk.size), "image": image, "has": needed}
            yield Cause.of(f"{at}.disks[{number}].size", Reason.DiskSmallerThanImage, **params)


def _asks_anew(disk: Disk, before: JSON | None, *, begun: bool) -> bool:
    """Whether the disk is to be made from its image, and was not to be so before."""
    if before is None or disk.rebuild > int(before.get("rebuild") or 0):
        return True
    other = (before.get("source") or {}).get("image") != (disk.source and disk.source.image)
    return other or (not begun and before.get("size") != str(disk.size))
