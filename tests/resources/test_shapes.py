"""Shapes follow from the models alone, and say the same as the schemas that clients read."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources import openapi, registry
from nanovirt.resources.kind import Facts
from nanovirt.resources.schemas import REF
from nanovirt.resources.shapes import FREE, LIST_KEYS, WHOLE, Shape, item_key, shape_of

KINDS = registry.kinds()


@pytest.mark.parametrize(
    ("plural", "path", "key"),
    [
        ("instances", "spec.disks", "name"),
        ("instances", "spec.nics", "name"),
        ("instances", "spec.bootOrder", None),
        ("addresspools", "spec.ranges", "name"),
        ("addresspools", "spec.reserved", None),
        ("hosts", "spec.bridges", "network"),
        ("hosts", "spec.storagePaths", "storagePool"),
        ("hosts", "metadata.ownerReferences", "uid"),
        ("hosts", "metadata.finalizers", ""),
    ],
)
def test_lists_merge_by_the_first_key_that_each_item_must_have(plural: str, path: str, key: str | None) -> None:
    shape = shape_of(KINDS[plural])
    for step in path.split("."):
        shape = shape.below(step)
    assert (shape.key if shape.items is not None else None) == key


def test_nobody_owns_the_status_or_what_the_server_keeps() -> None:
    shape = shape_of(KINDS["instances"])
    assert set(shape.names) == {"metadata", "spec"}
    assert set(shape.names["metadata"].names) == {"labels", "annotations", "finalizers", "ownerReferences"}


def test_maps_and_free_objects_are_open_and_scalars_are_wholes() -> None:
    spec = shape_of(KINDS["instances"]).names["spec"]
    assert spec.below("cpus") is WHOLE
    assert spec.below("memory") is WHOLE
    assert spec.below("scheduling").below("affinity").others is WHOLE
    quota = shape_of(KINDS["groups"]).names["spec"].below("quota")
    assert quota is FREE
    assert quota.below("any").below("thing") is FREE


def test_required_fields_decide_about_the_key() -> None:
    assert item_key(["size", "name"]) == "name"
    assert item_key(["network", "name"]) == "name"
    assert item_key(["device"]) == ""


@pytest.mark.parametrize("facts", [cls.facts for cls in KINDS.values()], ids=lambda facts: facts.kind)
def test_schemas_publish_the_keys_that_shapes_have(facts: Facts) -> None:
    schemas = openapi.v3([facts], "1")["components"]["schemas"]

    def compare(schema: dict[str, Any], shape: Shape) -> None:
        while "allOf" in schema or "$ref" in schema:
            schema = schema["allOf"][0] if "allOf" in schema else schemas[schema["$ref"].removeprefix(REF)]
        keys = [shape.key] if shape.key else None
        assert schema.get(LIST_KEYS) == keys
        for name, below in shape.names.items():
            compare(schema["properties"][name], below)
        if shape.key and shape.items is not None:
            compare(schema["items"], shape.items)

    name = f"nano.v1.{facts.kind}"
    compare(schemas[name], shape_of(KINDS[facts.plural]))
