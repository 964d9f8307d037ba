"""What Nano ships as ordinary objects: namespaces, system templates, roles and one pool of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanovirt.resources.codec import decode
from nanovirt.resources.kind import Document
from nanovirt.resources.registry import by_kind

SUBNET = "10.87.0.0/19"
GATEWAY = "10.87.0.1"
FIRST, LAST = "10.87.1.0", "10.87.31.250"
EDITION = 1
"""Rises with every release in which anything below is otherwise; see shipping.py, which decides what becomes of it."""
READING = ["get", "list", "watch"]
MACHINES = ["instances", "instancesets", "images", "secrets", "securitygroups"]
SEEN = ["instances/screenshot", "instances/log", "instances/usage", "instances/guest"]
"""What a guest shows, says and uses."""
TOLD = ["instances/password", "instances/freeze", "instances/thaw"]
"""What a guest's agent can be told."""
LOOKED_AT = [
    "placements", "volumes", "addresses", "events", "namespaces", "computepools", "storagepools", "addresspools",
    "systemtemplates",
]  # fmt: skip
"""What an owner may look at: what the system made of the wish, and what a wish can name."""


def defaults() -> Iterator[Document]:
    """Made once in each store; people may change or delete them. Unedited templates and roles are renewed."""
    for name in ("default", "shared"):
        yield made("Namespace", name)
    yield made("SystemTemplate", "linux", displayName="Linux (UEFI)")
    yield made("SystemTemplate", "linux-bios", displayName="Linux (BIOS)", firmware="BIOS")
    yield made("SystemTemplate", "windows", displayName="Windows", family="Windows", clock="LocalTime", video="Vga")
    yield made(
        "SystemTemplate",
        "windows-11",
        displayName="Windows 11 (Secure Boot, TPM)",
        family="Windows",
        secureBoot=True,
        tpm=True,
        clock="LocalTime",
        video="Vga",
    )
    yield made(
        "SystemTemplate",
        "legacy",
        displayName="Legacy (IDE, RTL8139)",
        family="Other",
        machine="i440fx",
        firmware="BIOS",
        diskBus="Ide",
        nicModel="Rtl8139",
        video="Vga",
    )
    yield made("StoragePool", "local", type="Local", local={"path": "/var/lib/nano/volumes"})
    yield made(
        "AddressPool",
        "lan",
        network="default",
        subnet=SUBNET,
        gateway=GATEWAY,
        dns=[GATEWAY],
        ranges=[{"name": "guests", "first": FIRST, "last": LAST}],
    )
    yield made("ComputePool", "default", storagePool="local", addressPool="lan")
    yield from roles()


def roles() -> Iterator[Document]:
    """Beside the administrator, whom no Role describes: one who runs machines, and one who looks."""
    yield made(
        "Role",
        "operator",
        displayName="Operator",
        rules=[
            {"kinds": MACHINES, "verbs": [*READING, "create", "update", "patch", "delete", "deletecollection"]},
            {"kinds": ["volumes"], "verbs": ["delete"]},
            {"kinds": ["images/upload"], "verbs": ["get", "create", "update", "patch"]},
            {"kinds": ["instancesets/scale"], "verbs": ["get", "update", "patch"]},
            {"kinds": ["instances/console"], "verbs": ["create", "delete"]},
            {"kinds": SEEN, "verbs": ["get"]},
            {"kinds": TOLD, "verbs": ["create"]},
            {"kinds": LOOKED_AT, "verbs": READING},
        ],
        menus=["dashboard", "instances", "images", "secrets"],
    )
    yield made(
        "Role",
        "viewer",
        displayName="Viewer",
        rules=[
            {
                "kinds": [*MACHINES, "instances/usage", "instances/guest", "instancesets/scale", *LOOKED_AT],
                "verbs": READING,
            }
        ],
        menus=["dashboard", "instances", "images"],
    )


def made(kind: str, name: str, namespace: str = "", **spec: Any) -> Document:
    """A valid object from its spec's JSON fields."""
    cls = by_kind(kind)
    assert cls is not None
    return decode(cls, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})
