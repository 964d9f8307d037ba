"""A Volume that a person deletes: it stays until its host has removed the file, and says what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.conditions import find
from nanovirt.resources.event import Event
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.report import HostFacts, HostReport, Removal
from nanovirt.resources.store import Create, Delete
from nanovirt.resources.volume import FINALIZER, Volume, VolumeSpec, made_by_nano
from tests.controllers.universe import SMALL, Universe

KEPT = Key("volumes", "default", "web-1.data")
FILE = "/var/lib/nano/volumes/11111111-1111-4111-8111-000000000001.data.qcow2"
FOUND = "/old/a.qcow2"


def kept(file: str = FILE, host: str | None = "node-1") -> Universe:
    """A Volume of nobody, that is being deleted."""
    one = Universe()
    one.host("node-1")
    one.settle()
    spec: dict[str, Any] = {"storage_pool": "local", "host": host, "size": "1Gi", "file": file, "reclaim": "Retain"}
    metadata = ObjectMeta(name=KEPT.name, namespace="default", finalizers=(FINALIZER,))
    volume = Volume(metadata=metadata, spec=VolumeSpec.model_validate(spec))
    one.stage(Create(KEPT, volume.to_json()))
    one.settle()
    assert one.get(Volume, KEPT.name, "default").status.conditions == ()
    one.stage(Delete(KEPT))
    one.settle()
    return one


def says(one: Universe, *removals: Removal) -> None:
    facts = HostFacts(accelerator="simulated", capacity=SMALL)
    one.reports.hear("node-1", HostReport(facts=facts, removals=removals), one.monotonic)
    one.settle()


def removed(one: Universe) -> tuple[str, str, dict[str, Any]]:
    found = find(one.get(Volume, KEPT.name, "default").status.conditions, "Removed")
    assert found is not None
    return found.status, found.reason, found.params


def test_volume_goes_once_its_host_has_said_that_the_file_is_gone() -> None:
    one = kept()
    assert removed(one) == ("False", "VolumeRemoving", {"host": "node-1"})
    says(one, Removal(file="/another/file.qcow2"))
    assert removed(one)[1] == "VolumeRemoving"
    says(one, Removal(file=FILE))
    assert one.engine.peek(KEPT) is None
    assert one.world.doomed.on("node-1") == ()


def test_volume_says_why_its_file_is_still_there() -> None:
    one = kept()
    says(one, Removal(file=FILE, detail="a machine of the host has it"))
    assert removed(one) == (
        "False", "VolumeNotRemoved", {"host": "node-1", "detail": "a machine of the host has it"},
    )  # fmt: skip


def test_volume_waits_for_a_host_that_is_away() -> None:
    one = kept()
    one.monotonic += 1000
    one.settle()
    assert removed(one) == ("False", "VolumeHostSilent", {"host": "node-1"})
    says(one)
    assert removed(one)[1] == "VolumeRemoving"


@pytest.mark.parametrize(("file", "gone", "why"), [(FOUND, False, "before Nano"), (FILE, True, "known no longer")])
def test_volume_whose_file_nobody_removes_goes_and_says_that_it_stays(file: str, gone: bool, why: str) -> None:
    one = kept(file)
    if gone:
        one.stage(Delete(Key("hosts", "", "node-1")))
        one.settle()
    assert one.engine.peek(KEPT) is None
    events = [one.get(Event, key.name, key.namespace) for key in one.all("events")]
    (left,) = [event for event in events if event.reason == "VolumeFileLeft"]
    assert why in left.message
    assert file in left.message


def test_volume_without_a_host_has_no_file() -> None:
    assert kept(host=None).engine.peek(KEPT) is None


@pytest.mark.parametrize(
    ("file", "expected"),
    [(FILE, True), (FILE.replace(".data", ".data.77"), True), (FOUND, False), ("/x/11111111.data.qcow2", False),
     (FILE + "/b.qcow2", False), (FILE.replace(".qcow2", ".raw"), False)],
)  # fmt: skip
def test_files_of_nano_are_known_by_their_names(file: str, expected: bool) -> None:
    assert made_by_nano(file) is expected
