"""What a machine that has a host may become: what is refused, and what is lost only when that is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Half, Update
from tests.portal.api_world import INSTANCES, JSON, MERGE, NANO, World, instance, world

WEB = f"{INSTANCES}/web-1"
IMAGES = f"{NANO}/namespaces/default/images"
DISKS = [{"name": "system", "size": "10Gi"}, {"name": "data", "size": "5Gi"}]
HARDWARE = {"machine": "q35", "diskBus": "Virtio", "nicModel": "Virtio", "disks": {"system": "10Gi", "data": "5Gi"}}


async def placed(w: World, phase: str = "Running", **spec: Any) -> None:
    """An instance that has a host."""
    await w.make(INSTANCES, instance("web-1", disks=DISKS, **spec))
    status = {"phase": phase, "placement": "web-1-1", "host": "node-1", "hardware": HARDWARE}
    await w.store.stage(
        [Update(Key("instances", "default", "web-1"), {"status": status}, Half.STATUS)], "test"
    ).durable()


def causes(doc: JSON) -> list[tuple[str, str]]:
    return [(cause["field"], cause["reason"]) for cause in doc["details"].get("causes", [])]


def sized(system: str) -> JSON:
    return {"spec": {"disks": [DISKS[0] | {"size": system}, DISKS[1]]}}


LOSSES = [
    ("Stopped", sized("8Gi"), "spec.disks[system].size", "system@8Gi"),
    ("Running", {"spec": {"disks": DISKS[:1]}}, "spec.disks[data]", "data@removed"),
    (
        "Running",
        {"spec": {"disks": [DISKS[0], DISKS[1] | {"rebuild": 1}]}},
        "spec.disks[data].rebuild",
        "data@rebuild-1",
    ),
]


@pytest.mark.parametrize(("phase", "patch", "field", "word"), LOSSES)
async def test_loss_is_refused_with_the_word_that_accepts_it(phase: str, patch: JSON, field: str, word: str) -> None:
    async with world() as w:
        await placed(w, phase, powerState=phase)
        said = await w.call("PATCH", WEB, patch, headers=MERGE)
        assert (said.code, causes(said.doc)) == (422, [(field, "DataLossNotAccepted")]), said.doc
        assert f"nano/accept-data-loss: {word}" in said.doc["message"]
        other = await w.call("PATCH", f"{WEB}?acceptDataLoss=data@1Gi,other@removed", patch, headers=MERGE)
        assert other.code == 422
        assert (await w.call("PATCH", f"{WEB}?acceptDataLoss={word}", patch, headers=MERGE)).code == 200


async def test_annotation_accepts_once_and_is_not_stored() -> None:
    async with world() as w:
        await placed(w)
        accept = {"metadata": {"annotations": {"nano/accept-data-loss": "data@removed", "mine": "1"}}}
        said = await w.call("PATCH", WEB, accept | {"spec": {"disks": DISKS[:1]}}, headers=MERGE)
        assert (said.code, said.doc["metadata"]["annotations"]) == (200, {"mine": "1"})
        made = instance("web-2", disks=DISKS)
        made["metadata"] |= accept["metadata"]
        assert (await w.call("POST", INSTANCES, made)).doc["metadata"]["annotations"] == {"mine": "1"}


async def test_smaller_disk_of_a_running_machine_and_another_place_are_refused() -> None:
    async with world() as w:
        await placed(w)
        for patch, field in (
            (sized("8Gi"), "spec.disks[system].size"),
            ({"spec": {"scheduling": {"host": "node-2"}}}, "spec.scheduling.host"),
            (
                {"spec": {"disks": [DISKS[0] | {"source": {"image": "other"}}, DISKS[1]]}},
                "spec.disks[system].source.image",
            ),
        ):
            said = await w.call("PATCH", f"{WEB}?acceptDataLoss=system@8Gi", patch, headers=MERGE)
            assert (said.code, causes(said.doc)) == (422, [(field, "ChangeRefused")]), said.doc


async def test_instance_without_a_host_may_become_anything() -> None:
    async with world() as w:
        await w.make(INSTANCES, instance("web-1", disks=DISKS))
        assert (await w.call("PATCH", WEB, {"spec": {"disks": DISKS[:1]}}, headers=MERGE)).code == 200


async def test_medium_in_a_drive_cannot_be_deleted() -> None:
    async with world() as w:
        image = {"kind": "Image", "metadata": {"name": "rescue"}, "spec": {"type": "Media", "source": {"upload": {}}}}
        await w.make(IMAGES, image)
        await w.make(INSTANCES, instance("web-1", disks=DISKS, media=[{"name": "cd0", "image": "rescue"}]))
        assert (await w.call("DELETE", f"{IMAGES}/rescue")).code == 409
        assert (await w.call("PATCH", WEB, {"spec": {"media": [{"name": "cd0"}]}}, headers=MERGE)).code == 200
        assert (await w.call("DELETE", f"{IMAGES}/rescue")).code == 200


BAD: list[tuple[str, JSON, str]] = [
    ("fewer than it has", {"cpus": 4, "maxCpus": 2}, "spec.maxCpus"),
    ("less than it has", {"memory": "4Gi", "maxMemory": "2Gi"}, "spec.maxMemory"),
    ("no memory to boot with", {"memory": "4"}, "spec.memory"),
    ("too much", {"memory": "100Ti"}, "spec.memory"),
    ("nothing of that name", {"bootOrder": ["cd0"]}, "spec.bootOrder[0]"),
    ("twice in the order", {"bootOrder": ["system", "system"]}, "spec.bootOrder[1]"),
    ("a disk and a drive", {"media": [{"name": "system"}]}, "spec.media[0].name"),
    ("two drives", {"media": [{"name": "cd0"}, {"name": "cd0"}]}, "spec.media[1].name"),
    (
        "a MAC twice",
        {"nics": [{"name": n, "network": "a", "mac": "52:54:00:00:00:01"} for n in "ab"]},
        "spec.nics[1].mac",
    ),
    (
        "an address twice",
        {"nics": [{"name": n, "addressPool": "a", "ip": "10.0.0.1"} for n in "ab"]},
        "spec.nics[1].ip",
    ),
    ("too small", {"disks": [{"name": "a", "size": "1Ki"}]}, "spec.disks[0].size"),
    ("too large", {"disks": [{"name": "a", "size": "65Ti"}]}, "spec.disks[0].size"),
    ("no source at all", {"disks": [{"name": "a", "source": {}}]}, "spec.disks[0].source"),
    ("two sources", {"disks": [{"name": "a", "source": {"image": "a", "volume": "b"}}]}, "spec.disks[0].source"),
    (
        "a Volume twice",
        {"disks": [{"name": n, "source": {"volume": "v"}} for n in "ab"]},
        "spec.disks[1].source.volume",
    ),
    (
        "mounted twice",
        {"disks": [{"name": n, "size": "1Gi", "format": {"mountPath": "/srv"}} for n in "ab"]},
        "spec.disks[1].format.mountPath",
    ),
    (
        "formatted image",
        {"disks": [{"name": "a", "source": {"image": "a"}, "format": {"mountPath": "/srv"}}]},
        "spec.disks[0].format",
    ),
    ("hardly a rate", {"qos": {"disk": {"readBytesPerSecond": "1"}}}, "spec.qos.disk.readBytesPerSecond"),
    ("hardly a bit", {"qos": {"network": {"inboundBitsPerSecond": "1"}}}, "spec.qos.network.inboundBitsPerSecond"),
    ("no operation at all", {"qos": {"disk": {"readIops": 0}}}, "spec.qos.disk.readIops"),
    ("too many drives", {"media": [{"name": f"cd{n}"} for n in range(5)]}, "spec.media"),
    ("too many disks", {"disks": [{"name": f"d{n}", "size": "1Gi"} for n in range(17)]}, "spec.disks"),
    ("too many cards", {"nics": [{"name": f"n{n}", "network": "a"} for n in range(9)]}, "spec.nics"),
]


@pytest.mark.parametrize(("spec", "field"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_what_no_machine_can_be_is_refused_at_its_field(spec: JSON, field: str) -> None:
    async with world() as w:
        said = await w.call("POST", INSTANCES, instance("web-1", **{"disks": DISKS} | spec))
        assert (said.code, [one for one, _ in causes(said.doc)]) == (422, [field]), said.doc
