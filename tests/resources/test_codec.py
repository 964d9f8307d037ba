"""Reading JSON: limits first, then every bad field by its path, its reason and what to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import BODY_MAX, DEPTH_MAX, decode, dump, load, parse
from nanovirt.resources.errors import Invalid, Malformed, Rejected, TooLarge
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import KINDS, Document
from nanovirt.resources.registry import by_any_name, by_kind, kinds
from nanovirt.resources.storage_pool import StoragePool


def instance(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"cpus": 0}, "spec.cpus", "FieldValueInvalid"),
        ({"cpus": "two"}, "spec.cpus", "FieldValueInvalid"),
        ({"cpus": True}, "spec.cpus", "FieldValueInvalid"),
        ({"cpus": "2"}, "spec.cpus", "FieldValueInvalid"),
        ({"startPriority": False}, "spec.startPriority", "FieldValueInvalid"),
        ({"memory": "5 GB"}, "spec.memory", "FieldValueInvalid"),
        ({"memory": "-1Gi"}, "spec.memory", "FieldValueInvalid"),
        ({"memory": "1Mi"}, "spec.memory", "FieldValueInvalid"),
        ({"memory": True}, "spec.memory", "FieldValueInvalid"),
        ({"powerState": "On"}, "spec.powerState", "FieldValueInvalid"),
        ({"scheduling": {"affinity": {"a": "b"}}}, "spec.scheduling.affinity", "NotYetSupported"),
        ({"scheduling": {"antiAffinity": {"a": "b"}}}, "spec.scheduling.antiAffinity", "NotYetSupported"),
        ({"disks": [{"name": "a", "source": {"disk": "b"}}]}, "spec.disks[0].source.disk", "NotYetSupported"),
        ({"qos": {"cpu": {"priority": "Top"}}}, "spec.qos.cpu.priority", "FieldValueInvalid"),
        ({"media": [{"name": "CD 0"}]}, "spec.media[0].name", "FieldValueInvalid"),
        ({"disks": [{"name": "a", "size": "1Gi", "rebuild": -1}]}, "spec.disks[0].rebuild", "FieldValueInvalid"),
        ({"disks": [{"name": "a"}]}, "spec.disks[0].size", "FieldValueRequired"),
        ({"disks": [{"size": "1Gi"}]}, "spec.disks[0].name", "FieldValueRequired"),
        ({"disks": [{"name": "../etc", "size": "1Gi"}]}, "spec.disks[0].name", "FieldValueInvalid"),
        ({"disks": [{"name": "a", "size": "1Gi"}] * 2}, "spec.disks[1].name", "FieldDuplicate"),
        ({"nics": [{"name": "a"}]}, "spec.nics[0]", "OneMemberRequired"),
        ({"nics": [{"name": "a", "network": "n", "ip": "10.0.0.1"}]}, "spec.nics[0].ip", "NeedsAddressPool"),
        ({"nics": [{"name": "a", "addressPool": "p", "mac": "01:00:5e:00:00:01"}]}, "spec.nics[0].mac", None),
        ({"nics": [{"name": "a", "addressPool": "p", "ip": 167772161}]}, "spec.nics[0].ip", None),
        ({"nics": [{"name": "a", "addressPool": "../x"}]}, "spec.nics[0].addressPool", None),
        ({"restart": {"at": "2026-11-22T06:00:00"}}, "spec.restart.at", None),
        ({"guest": {"hostname": "-x-"}}, "spec.guest.hostname", None),
        ({"displayName": "x" * 121}, "spec.displayName", None),
        ({"scheduling": {"host": "../x"}}, "spec.scheduling.host", None),
        ({"disks": [{"name": "s", "source": {"image": "other/x"}}]}, "spec.disks[0].source.image", None),
    ],
)
def test_bad_field_is_named_with_its_reason(spec: dict[str, Any], field: str, reason: str | None) -> None:
    with pytest.raises(Invalid) as refused:
        decode(Instance, instance(**spec))
    fields = {cause.field: cause.reason for cause in refused.value.causes}
    assert fields[field] == (reason or "FieldValueInvalid")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        decode(Instance, instance(cpus=0, memory="x", stopGraceSeconds=-1))
    assert [cause.field for cause in refused.value.causes] == ["spec.cpus", "spec.memory", "spec.stopGraceSeconds"]


def test_unknown_field_is_refused_and_known_ones_are_told() -> None:
    with pytest.raises(Malformed) as refused:
        decode(Instance, instance(disks=[{"name": "a", "sise": "1Gi"}]))
    assert 'unknown field "spec.disks[0].sise"' in str(refused.value)
    assert "name, size, source" in refused.value.causes[0].message


@pytest.mark.parametrize(
    ("field", "meant"),
    [("cpus", "spec.cpus"), ("labels", "metadata.labels"), ("generateName", "metadata.generateName"), ("banana", None)],
)
def test_unknown_field_at_the_top_is_told_where_it_is_known(field: str, meant: str | None) -> None:
    with pytest.raises(Malformed) as refused:
        decode(Instance, instance() | {field: 1})
    assert refused.value.causes[0].params.get("meant") == meant


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([("a", "10.0.0.9", "10.0.0.2")], "RangeReversed"),
        ([("a", "10.0.1.1", "10.0.1.2")], "NotInSubnet"),
        ([("a", "10.0.0.1", "10.0.0.9"), ("b", "10.0.0.9", "10.0.0.20")], "RangesOverlap"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges: list[tuple[str, str, str]], reason: str) -> None:
    spec = {"subnet": "10.0.0.0/24", "ranges": [{"name": n, "first": f, "last": last} for n, f, last in ranges]}
    with pytest.raises(Invalid) as refused:
        decode(AddressPool, {"metadata": {"name": "p"}, "spec": spec})
    assert reason in {cause.reason for cause in refused.value.causes}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", Malformed),
        (b"[]", Malformed),
        (b'{"a":}', Malformed),
        (b'{"a":' * 40 + b"1" + b"}" * 40, Malformed),
        (b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}", Malformed),
        (b'{"a":"' + b"x" * BODY_MAX + b'"}', TooLarge),
        (b"\xff\xfe", Malformed),
        (b'{"a":NaN}', Malformed),
    ],
)
def test_body_that_cannot_be_read_is_refused_before_anything_looks_at_it(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse(body)


@pytest.mark.parametrize(
    ("body", "called"),
    [(b"null", "null"), (b"[]", "a list"), (b"true", "true or false"), (b"1.5", "a number"), (b'"x"', "a text")],
)
def test_body_that_is_no_object_is_called_as_json_calls_it(body: bytes, called: str) -> None:
    with pytest.raises(Malformed, match=f"must be a JSON object, not {called}$"):
        parse(body)


def test_brackets_within_strings_do_not_count_as_depth() -> None:
    text = '\\"' + "[{" * 100
    assert parse(dump({"a": text}))["a"] == text
    assert parse(b'{"a":' * DEPTH_MAX + b"1" + b"}" * DEPTH_MAX)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text(), st.lists), max_size=5))
def test_decoding_anything_refuses_or_accepts_but_never_crashes(spec: dict[str, Any]) -> None:
    for kind in KINDS.values():
        try:
            decode(kind, {"metadata": {"name": "a"}, "spec": spec})
        except Rejected:
            continue


@pytest.mark.parametrize("kind", list(kinds().values()), ids=lambda kind: kind.facts.plural)
def test_every_kind_declares_consistent_facts(kind: type[Document]) -> None:
    facts = kind.facts
    assert by_kind(facts.kind) is kind
    assert all(by_any_name(name) is kind for name in (facts.plural, facts.singular, *facts.short))
    assert all(
        field.startswith(("spec.", "status.", "involvedObject.", "reason", "type")) for field in facts.selectable
    )


def test_text_in_any_script_survives() -> None:
    made = decode(Instance, instance(displayName="官网前端 1 \U0001f600"))
    assert load(dump(made.to_json()))["spec"]["displayName"] == "官网前端 1 \U0001f600"


@pytest.mark.parametrize("path", ["/a/../b", "/..", "/a/./b", "a/b", "/a b", "/a\n"])
def test_path_that_is_not_absolute_and_straight_is_refused(path: str) -> None:
    spec = {"type": "Local", "local": {"path": path}}
    with pytest.raises(Invalid) as refused:
        decode(StoragePool, {"metadata": {"name": "p"}, "spec": spec})
    assert refused.value.causes[0].field == "spec.local.path"
