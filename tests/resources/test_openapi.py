"""The OpenAPI documents hold what clients look for, for every kind, in the dialect they read."""

from collections.abc import Iterator
from typing import Any

import pytest

from nanovirt.resources import openapi, registry
from nanovirt.resources.kind import CORE, GROUP_VERSION, Facts
from nanovirt.resources.openapi_v2 import REF_2, v2
from nanovirt.resources.schemas import REF, SCALE_GVK, gvk

ALL = [cls.facts for cls in registry.kinds().values()]
NANO = [facts for facts in ALL if facts.group_version == GROUP_VERSION]


def nodes(doc: Any) -> Iterator[dict[str, Any]]:
    if isinstance(doc, dict):
        yield doc
    for below in doc.values() if isinstance(doc, dict) else doc if isinstance(doc, list) else ():
        yield from nodes(below)


@pytest.mark.parametrize("facts", ALL, ids=lambda facts: facts.kind)
def test_every_kind_is_found_by_group_version_and_kind(facts: Facts) -> None:
    made = openapi.v3([facts], "1")
    wanted = gvk(facts)
    schemas = made["components"]["schemas"].values()
    assert [one for one in schemas if one.get("x-kubernetes-group-version-kind") == [wanted]]
    own = {path: item for path, item in made["paths"].items() if not path.endswith("/scale")}
    operations = [one for item in own.values() for word, one in item.items() if word != "parameters"]
    assert all(one["x-kubernetes-group-version-kind"] == wanted for one in operations)
    assert {one["x-kubernetes-action"] for one in operations} >= {"list", "get", "post", "put", "patch", "delete"}


@pytest.mark.parametrize("facts", [one for one in ALL if one.scaling], ids=lambda facts: facts.kind)
def test_scale_is_found_under_its_own_group_version_and_kind(facts: Facts) -> None:
    made = openapi.v3([facts], "1")
    schemas = made["components"]["schemas"].values()
    assert [one for one in schemas if one.get("x-kubernetes-group-version-kind") == [SCALE_GVK]]
    (path,) = [item for path, item in made["paths"].items() if path.endswith("/scale")]
    assert {path[word]["x-kubernetes-group-version-kind"]["kind"] for word in ("get", "put", "patch")} == {"Scale"}


def test_writes_name_the_parameters_that_kubectl_decides_by() -> None:
    paths = openapi.v3(NANO, "1")["paths"]
    for item in paths.values():
        for method in ("post", "put", "patch"):
            if method in item:
                names = {one["name"] for one in item[method]["parameters"]}
                assert {"dryRun", "fieldManager", "fieldValidation"} <= names
    single = paths["/apis/nano/v1/namespaces/{namespace}/instances/{name}"]
    assert "application/strategic-merge-patch+json" not in single["patch"]["requestBody"]["content"]
    assert "application/merge-patch+json" in single["patch"]["requestBody"]["content"]


def test_lists_say_by_which_key_they_merge() -> None:
    for made in (openapi.v3(NANO, "1")["components"]["schemas"], v2(NANO, "1")["definitions"]):
        found = {
            name: (field["x-kubernetes-list-type"], field.get("x-kubernetes-list-map-keys"))
            for model in ("InstanceSpec", "AddressPoolSpec", "HostSpec")
            for name, field in made[f"nano.v1.{model}"]["properties"].items()
            if "x-kubernetes-list-type" in field
        }
        assert found == {
            "disks": ("map", ["name"]),
            "nics": ("map", ["name"]),
            "media": ("map", ["name"]),
            "ranges": ("map", ["name"]),
            "bridges": ("map", ["network"]),
            "storagePaths": ("map", ["storagePool"]),
        }
        metadata = made["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
        assert metadata["finalizers"]["x-kubernetes-list-type"] == "set"
        assert metadata["ownerReferences"]["x-kubernetes-list-map-keys"] == ["uid"]


def test_objects_can_be_applied_and_their_status_cannot() -> None:
    apply = "application/apply-patch+yaml"
    older, newer = v2(NANO, "1")["paths"], openapi.v3(NANO, "1")["paths"]
    single = "/apis/nano/v1/namespaces/{namespace}/instances/{name}"
    assert apply in older[single]["patch"]["consumes"]
    assert apply in newer[single]["patch"]["requestBody"]["content"]
    assert "force" in [one["name"] for one in newer[single]["patch"]["parameters"]]
    assert apply not in older[f"{single}/status"]["patch"]["consumes"]
    assert apply not in newer[f"{single}/status"]["patch"]["requestBody"]["content"]


def test_nothing_stands_beside_a_reference_and_all_references_lead_somewhere() -> None:
    made = openapi.v3(NANO, "1")
    for node in nodes(made):
        if "$ref" in node and isinstance(node["$ref"], str):
            assert list(node) == ["$ref"]
            assert node["$ref"].removeprefix(REF) in made["components"]["schemas"]


def test_dialect_has_no_words_of_newer_drafts() -> None:
    for node in nodes(openapi.v3(ALL, "1")["components"]):
        assert not {"anyOf", "const", "$defs", "prefixItems", "exclusiveMinimum"} & node.keys()
        assert node.get("type") != "null"


def test_older_version_says_the_same_without_newer_words() -> None:
    made = v2(ALL, "1")
    assert made["swagger"] == "2.0"
    assert made["definitions"].keys() == openapi.v3(ALL, "1")["components"]["schemas"].keys()
    for node in nodes(made["definitions"]):
        assert not {"nullable", "allOf", "anyOf"} & node.keys()
        if isinstance(node.get("$ref"), str):
            assert node["$ref"].removeprefix(REF_2) in made["definitions"]


def test_core_kinds_stand_below_api() -> None:
    paths = openapi.v3([facts for facts in ALL if facts.group_version == CORE], "1")["paths"]
    assert "/api/v1/namespaces/{name}" in paths
    assert "/api/v1/namespaces/{namespace}/events" in paths
