"""The controller of Image.status: from what the upload endpoint and the image folder have noted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from nanovirt.controllers.actions import Action, Transact, set_status
from nanovirt.controllers.news import turned
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import Condition, condition, settle
from nanovirt.resources.image import Image, ImageStatus
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.report import ImageProgress

NAME = "images"
READS = ("images", "reports", "events")
WRITES = ("images/status", "events")

Phase = Literal["Pending", "Uploading", "Inspecting", "Ready", "Failed"]


def plan(image: Image | None, world: World, now: datetime) -> Iterator[Action]:
    """Image.status from its progress; an image that is Ready stays so (its bytes are named by their hash)."""
    if image is None or image.deleting or image.status.phase == "Ready":
        return
    progress = world.reports.image(image.key)
    status = _waiting(image) if progress is None or progress.phase == "Waiting" else _status(image, progress)
    settled = status.model_copy(update={"conditions": settle(now, image.status.conditions, status.conditions)})
    if settled != image.status:
        told = turned(image, NAME, image.status.conditions, settled.conditions, world, now)
        yield Transact((set_status(image, settled), *told))


def _waiting(image: Image) -> ImageStatus:
    generation, file = image.metadata.generation, image.spec.source.file
    if file is not None:
        ready = condition("Ready", "False", Reason.WaitingForFile, generation, file=file)
    else:
        ready = condition("Ready", "False", Reason.WaitingForUpload, generation)
    return ImageStatus(observed_generation=generation, conditions=(ready,))


def _status(image: Image, progress: ImageProgress) -> ImageStatus:
    phase: Phase = "Pending" if progress.phase == "Waiting" else progress.phase
    percent = 100 if phase == "Ready" else progress.received * 100 // progress.total if progress.total else 0
    ready = phase == "Ready"
    return ImageStatus(
        observed_generation=image.metadata.generation,
        phase=phase,
        progress=min(percent, 100),
        size=Bytes(progress.size) if ready else None,
        virtual_size=Bytes(progress.virtual_size) if ready else None,
        sha256=progress.sha256 if ready else "",
        format=progress.format if ready else "",
        conditions=(_ready(image, progress),),
    )


def _ready(image: Image, progress: ImageProgress) -> Condition:
    generation = image.metadata.generation
    match progress.phase:
        case "Ready":
            return condition("Ready", "True", Reason.ImageReady, generation)
        case "Failed":
            return condition("Ready", "False", Reason.ImageRejected, generation, detail=progress.detail)
        case "Uploading":
            percent = progress.received * 100 // max(1, progress.total) // 10 * 10
            return condition(
                "Ready", "False", Reason.Uploading, generation, received=f"{percent}%", total=progress.total
            )
        case _:
            return condition("Ready", "False", Reason.Inspecting, generation)
