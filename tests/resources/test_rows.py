"""Stored forms of documents: which rows are one, and what a new object is called by."""

from __future__ import annotations

import uuid
from typing import Any

from nanovirt.resources.codec import load
from nanovirt.resources.engine import new_uid
from nanovirt.resources.registry import kinds
from nanovirt.resources.rows import entry_of

assert kinds()


def applied(*contested: str) -> dict[str, Any]:
    spec = {"plural": "instances", "namespace": "default", "name": "a", "uid": "u", "generation": 1, "file": "a.yaml"}
    return {"metadata": {"name": "a", "uid": "u"}, "spec": spec | {"digest": "d", "contested": [*contested]}}


def instance(name: str, pool: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name}, "spec": {"computePool": pool, "powerState": "Running"}}


def test_objects_whose_rows_say_the_same_share_one() -> None:
    one, other = entry_of("instances", instance("a", "p"), 1), entry_of("instances", instance("b", "p"), 2)
    assert one.row is other.row
    assert one.row.compute_pool == "p"
    assert one.row.status_phase is None
    assert entry_of("instances", instance("c", "q"), 3).row != one.row


def test_rows_with_lists_are_made_for_each_object() -> None:
    one, other = entry_of("applied", applied("spec.cpus"), 1), entry_of("applied", applied("spec.cpus"), 2)
    assert one.row == other.row
    assert one.row.contested == ["spec.cpus"]
    assert load(one.raw)["metadata"]["resourceVersion"] == "1"


def test_uids_are_random_uuids_of_version_4() -> None:
    made = {new_uid() for _ in range(1000)}
    assert len(made) == 1000
    for one in map(uuid.UUID, made):
        assert (one.version, one.variant) == (4, uuid.RFC_4122)
    assert all(str(uuid.UUID(one)) == one for one in made)
