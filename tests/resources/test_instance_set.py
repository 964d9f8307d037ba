"""The names that a rule gives, read back, and when two templates are the same."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from nanovirt.resources.codec import decode
from nanovirt.resources.defaults import made
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import INDEX_MAX, InstanceSet, InstanceTemplate, naming, readings


@pytest.mark.parametrize(
    ("rule", "name", "index"),
    [
        ("{name}-{index}", "web-1", 1),
        ("{name}-{index}", "web-120", 120),
        ("{index}", "7", 7),
        ("a{index}b", "a3b", 3),
        ("{name}-{index}", f"web-{INDEX_MAX}", INDEX_MAX),
        ("{name}-{index}", f"web-{INDEX_MAX + 1}", 0),
        ("{name}-{index}", "web-01", 0),
        ("{name}-{index}", "web-0", 0),
        ("{name}-{index}", "web-", 0),
        ("{name}-{index}", "web-x", 0),
        ("{name}-{index}", "web-\N{SUPERSCRIPT TWO}", 0),
        ("{name}-{index}", "webb-1", 0),
        ("a{index}a", "a", 0),
        ("ab{index}ba", "aba", 0),
    ],
)
def test_index_of_a_name_is_that_of_which_the_rule_makes_it(rule: str, name: str, index: int) -> None:
    names = naming(rule, "web")
    assert names.index_of(name) == index
    assert not index or names.name(index) == name
    assert (names in readings(name)) == bool(index)


def test_set_refers_to_all_that_an_instance_refers_to() -> None:
    paths = {(one.path, one.plural) for one in InstanceSet.facts.refers}
    assert paths == {(f"spec.template.{one.path}", one.plural) for one in Instance.facts.refers}


def template(**spec: Any) -> InstanceTemplate:
    return decode(InstanceSet, made("InstanceSet", "web", "default", template={"spec": spec}).to_json()).spec.template


def test_field_that_a_later_release_adds_makes_no_other_template() -> None:
    nothing = hashlib.blake2s(b"{}", digest_size=8).hexdigest()
    assert template().mark == nothing, "a field that has its default is not part of the mark"


def test_mark_tells_templates_apart_by_what_they_say() -> None:
    assert template().mark == template(cpus=1, memory="1Gi", disks=[]).mark
    assert template(cpus=2).mark != template().mark
    labelled = InstanceTemplate.model_validate({"metadata": {"labels": {"a": "1", "b": "2"}}})
    turned = InstanceTemplate.model_validate({"metadata": {"labels": {"b": "2", "a": "1"}}})
    assert labelled.mark == turned.mark != template().mark


@pytest.mark.parametrize(("replicas", "refused"), [(800, False), (1000, True)])
def test_small_manifest_does_not_make_a_huge_store(replicas: int, refused: bool) -> None:
    template = {"metadata": {"annotations": {"note": "x" * 20_000}}}
    found = InstanceSet.model_validate(
        {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "template": template}}
    )
    said = [f"{cause.field}: {cause.message}" for cause in found.problems()]
    assert bool(said) == refused
    assert all("spec.replicas: The members would have" in one and "limit is 16777216" in one for one in said)
