"""What an older release left in a store: no record of it, fewer templates, and the roles as they were then."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.resources.defaults import LOOKED_AT, READING, defaults, made
from nanovirt.resources.kind import Document

MACHINES = ["instances", "images", "secrets"]
NEWER = ("windows-11", "operator", "viewer")
OPERATOR = made(
    "Role",
    "operator",
    displayName="Operator",
    rules=[
        {"kinds": MACHINES, "verbs": [*READING, "create", "update", "patch", "delete", "deletecollection"]},
        {"kinds": ["images/upload"], "verbs": ["get", "create", "update", "patch"]},
        {"kinds": LOOKED_AT, "verbs": READING},
    ],
    menus=["dashboard", "instances", "images", "secrets"],
)
VIEWER = made(
    "Role",
    "viewer",
    displayName="Viewer",
    rules=[{"kinds": [*MACHINES, *LOOKED_AT], "verbs": READING}],
    menus=["dashboard", "instances", "images"],
)


def older() -> Iterator[Document]:
    """All that it made at its first start."""
    yield from (one for one in defaults() if one.metadata.name not in NEWER)
    yield from (OPERATOR, VIEWER)
