"""Image.status from what is noted about its bytes."""

from __future__ import annotations

import pytest

from nanovirt.resources.defaults import made
from nanovirt.resources.image import Image
from nanovirt.resources.kind import Key
from nanovirt.resources.report import ImageProgress
from tests.controllers.universe import Universe

KEY = Key("images", "default", "a")


def image(**source: object) -> Universe:
    universe = Universe()
    universe.create(made("Image", "a", "default", source=source))
    universe.settle()
    return universe


@pytest.mark.parametrize(
    ("source", "reason"), [({"file": "a.qcow2"}, "WaitingForFile"), ({"upload": {}}, "WaitingForUpload")]
)
def test_image_without_bytes_says_what_it_waits_for(source: dict[str, object], reason: str) -> None:
    status = image(**source).get(Image, "a", "default").status
    assert (status.phase, status.conditions[0].reason) == ("Pending", reason)


@pytest.mark.parametrize(
    ("progress", "phase", "percent", "reason"),
    [
        (ImageProgress(phase="Uploading", received=5, total=20), "Uploading", 25, "Uploading"),
        (ImageProgress(phase="Inspecting"), "Inspecting", 0, "Inspecting"),
        (ImageProgress(phase="Failed", detail="it has a backing file"), "Failed", 0, "ImageRejected"),
    ],
)
def test_progress_is_said(progress: ImageProgress, phase: str, percent: int, reason: str) -> None:
    universe = image(upload={})
    universe.reports.note_image(KEY, progress)
    universe.settle()
    status = universe.get(Image, "a", "default").status
    assert (status.phase, status.progress, status.conditions[0].reason) == (phase, percent, reason)


def test_ready_image_stays_ready_when_the_server_forgets_its_upload() -> None:
    universe = image(upload={})
    ready = ImageProgress(phase="Ready", size=5, virtual_size=1024, sha256="b" * 64, format="qcow2")
    universe.reports.note_image(KEY, ready)
    universe.settle()
    universe.reports.forget(KEY)
    universe.settle()
    status = universe.get(Image, "a", "default").status
    assert (status.phase, status.sha256, status.virtual_size) == ("Ready", "b" * 64, 1024)
