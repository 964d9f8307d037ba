"""Selectors mean what Kubernetes clients mean by them, and are refused with advice when they cannot be read."""

from typing import Any

import pytest

from nanovirt.resources import registry
from nanovirt.resources.errors import Malformed
from nanovirt.resources.event import Event
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.rows import entry_of
from nanovirt.resources.selectors import Selection, matcher, row_term, selection
from nanovirt.resources.store import Entry

assert registry.MODULES


def entry(cls: type[Document], labels: dict[str, str] | None = None, **halves: Any) -> Entry:
    metadata = {"name": "web-1", "namespace": "team-a", "uid": "u", "labels": labels or {}}
    return entry_of(cls.facts.plural, {"metadata": metadata, **halves}, 7)


def accepted(cls: type[Document], labels: str, fields: str, one: Entry) -> bool:
    accepts = matcher(selection(labels, fields, cls.facts), cls.facts)
    return accepts is None or accepts(Key(cls.facts.plural, "team-a", "web-1"), one)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("app=web", True),
        ("app == web", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("gone!=x", True),
        ("app", True),
        ("gone", False),
        ("!gone", True),
        ("! app", False),
        ("app in (web, db)", True),
        ("app in (db)", False),
        ("app notin (db,x)", True),
        ("gone notin (x)", True),
        ("app in (web,db),tier=front", True),
        ("app=web,tier!=front", False),
        ("nano/owner=admin", True),
        ("empty=", True),
    ],
)
def test_label_selector(text: str, wanted: bool) -> None:
    labels = {"app": "web", "tier": "front", "nano/owner": "admin", "empty": ""}
    assert accepted(Instance, text, "", entry(Instance, labels)) is wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("metadata.name=web-1", True),
        ("metadata.name!=web-1", False),
        ("metadata.namespace=team-a", True),
        ("status.phase=Running", True),
        ("status.phase==Running,spec.computePool=vip", True),
        ("status.phase!=Running", False),
        ("status.host=", True),
    ],
)
def test_field_selector(text: str, wanted: bool) -> None:
    one = entry(Instance, spec={"computePool": "vip"}, status={"phase": "Running"})
    assert accepted(Instance, "", text, one) is wanted


def test_fields_that_no_row_has_are_read_from_the_object() -> None:
    one = entry(Event, involvedObject={"kind": "Instance", "uid": "7"}, reason="Created")
    assert accepted(Event, "", "involvedObject.kind=Instance,involvedObject.uid=7", one)
    assert not accepted(Event, "", "involvedObject.kind=Host", one)


@pytest.mark.parametrize("text", ["app=web app", "=x", "app in web", "a(b)", "app in (web", "a=b=c", "x>1"])
def test_label_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="label selector"):
        selection(text, "", Instance.facts)


def test_field_that_cannot_be_selected_is_refused_with_those_that_can() -> None:
    with pytest.raises(Malformed, match=r"metadata\.name, metadata\.namespace, spec\.computePool") as caught:
        selection("", "spec.memory=1Gi", Instance.facts)
    assert caught.value.causes[0].reason == "UnknownFieldSelector"
    with pytest.raises(Malformed, match="field selector"):
        selection("", "spec.memory", Instance.facts)


def test_equal_selectors_are_equal_and_hashable() -> None:
    one, other = (selection("a in (x,y)", "metadata.name=b", Instance.facts) for _ in range(2))
    assert one == other
    assert len({one, other, Selection()}) == 2


def test_equality_on_a_field_of_the_row_finds_its_index() -> None:
    assert row_term(selection("", "spec.host=node-1", Placement.facts), Placement.facts) == (0, "node-1")
    assert row_term(selection("", "spec.host!=node-1", Placement.facts), Placement.facts) is None
    assert row_term(selection("", "metadata.name=x", Placement.facts), Placement.facts) is None


def test_commas_in_field_values_can_be_escaped() -> None:
    (term,) = selection("", r"metadata.name=a\,b", Instance.facts).fields
    assert term.value == "a,b"


def test_a_comma_at_the_end_of_a_field_selector_asks_for_nothing_more() -> None:
    assert selection("", "metadata.name=a,", Instance.facts) == selection("", "metadata.name=a", Instance.facts)
