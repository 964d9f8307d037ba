"""Placements for tests: one small machine, changed by keywords."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nanovirt.resources.placement import Operation, PlacedVolume, Placement, PlacementSpec

UUID = "11111111-1111-4111-8111-000000000001"
UID = "22222222-2222-4222-8222-000000000001"
SHA = "ab" * 32
FILE = "/var/lib/nano/volumes/web-1-system.qcow2"
MAC = "52:54:00:00:00:01"
EPOCH_TIME = datetime(2026, 1, 1, tzinfo=UTC)
REMOVE = Operation(uid="op-1", verb="RemoveVolume", volume="system")


def at(minutes: int) -> datetime:
    return EPOCH_TIME + timedelta(minutes=minutes)


def restart(minutes: int, mode: str = "Graceful") -> dict[str, Any]:
    return {"at": at(minutes), "mode": mode}


def uuid(number: int) -> str:
    return f"11111111-1111-4111-8111-{number:012x}"


def volume(name: str = "system", number: int = 1, *, image: bool = True) -> PlacedVolume:
    file = f"/var/lib/nano/volumes/web-{number}-{name}.qcow2"
    source = {"image": "tiny", "sha256": SHA} if image else None
    return PlacedVolume.model_validate({"name": name, "file": file, "size": "1Gi", "source": source})


def spec(number: int = 1, **changes: Any) -> PlacementSpec:
    base: dict[str, Any] = {
        "instance": f"web-{number}",
        "instance_uid": uuid(number),
        "host": "node-1",
        "epoch": 1,
        "domain": {"uuid": uuid(number), "name": f"default.web-{number}"},
        "hostname": f"web-{number}",
        "cpu": 2,
        "memory": "1Gi",
        "volumes": [volume(number=number)],
        "nics": [
            {
                "name": "nic0",
                "mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
                "ip": f"10.20.{number >> 8}.{number & 255}",
                "bridge": "nano0",
                "lease": {"subnet": "10.20.0.0/16", "gateway": "10.20.255.254", "dns": ["10.20.255.254"]},
            }
        ],
    }
    return PlacementSpec.model_validate({**base, **changes})


def placement(
    number: int = 1, *, generation: int = 1, deleting: bool = False, uid: str = "", **changes: Any
) -> Placement:
    """A Placement whose spec differs from the plain one by `changes`."""
    made = spec(number, **changes)
    return Placement.model_validate(
        {
            "apiVersion": "nano/v1",
            "kind": "Placement",
            "metadata": {
                "namespace": "default",
                "name": f"web-{number}-{made.epoch}",
                "uid": uid or f"22222222-2222-4222-8222-{number:012x}",
                "generation": generation + deleting,
                "deletionTimestamp": at(0) if deleting else None,
            },
            "spec": made,
        }
    )
