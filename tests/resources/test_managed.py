"""Who owns which field: tables for what an apply and an update do, and what holds for all of them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanovirt.resources import managed
from nanovirt.resources.codec import decode as decode_model
from nanovirt.resources.errors import Invalid
from nanovirt.resources.field_sets import Fields, decode, encode, fields_of, path_text, values_of
from nanovirt.resources.instance import Instance
from nanovirt.resources.managed import Contested, Manager, Write
from nanovirt.resources.shapes import WHOLE, Shape, shape_of

JSON = dict[str, Any]
ITEM = Shape({"name": WHOLE, "size": WHOLE, "tags": WHOLE})
SHAPE = Shape(
    {
        "metadata": Shape({"labels": Shape(others=WHOLE), "finalizers": Shape(items=WHOLE)}),
        "spec": Shape(
            {
                "cpus": WHOLE,
                "dns": WHOLE,
                "guest": Shape({"hostname": WHOLE, "zone": WHOLE}),
                "disks": Shape(items=ITEM, key="name"),
                "labels": Shape(others=WHOLE),
                "any": Shape(free=True),
            }
        ),
    }
)
ROOT, DATA = {"name": "root", "size": 1}, {"name": "data", "size": 2}


@dataclass
class Thing:
    """An object that is applied to and written, as the API does it, without a model that adds defaults."""

    doc: JSON = field(default_factory=dict)
    managers: list[Manager] = field(default_factory=list)
    now: int = 0

    def apply(self, name: str, applied: JSON, *, force: bool = False) -> None:
        self.now += 1
        new = managed.wanted(SHAPE, self.doc, applied, self.managers, name)
        done = Write(SHAPE, self.doc, new, moment(self.now))
        after = managed.after_apply(done, applied, self.managers, name, force=force, version="nano/v1")
        self.doc, self.managers = new, managed.read(managed.write(after, "nano/v1"))

    def put(self, name: str, new: JSON) -> None:
        self.now += 1
        after = managed.after_update(Write(SHAPE, self.doc, new, moment(self.now)), self.managers, name)
        self.doc, self.managers = new, managed.read(managed.write(after, "nano/v1"))

    def owned(self, name: str, operation: str = "Apply") -> list[str]:
        return [path_text(path) for one in self.managers if one[:2] == (name, operation) for path in sorted(one.fields)]


def moment(number: int) -> str:
    return f"2026-01-01T00:00:{number:02}Z"


def spec(**fields: Any) -> JSON:
    return {"spec": fields}


def thing(*applied: tuple[str, JSON]) -> Thing:
    made = Thing()
    for name, doc in applied:
        made.apply(name, doc)
    return made


# --- sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "fields"),
    [
        (spec(cpus=2), {"f:spec": {"f:cpus": {}}}),
        (spec(cpus=None), {}),
        (spec(unknown=1), {}),
        (spec(dns=["a", "b"]), {"f:spec": {"f:dns": {}}}),
        (spec(guest={"hostname": "a"}), {"f:spec": {"f:guest": {"f:hostname": {}}}}),
        (spec(guest={}, disks=[]), {"f:spec": {"f:disks": {}, "f:guest": {}}}),
        (spec(labels={"a": "b"}), {"f:spec": {"f:labels": {"f:a": {}}}}),
        (spec(any={"a": {"b": [1]}}), {"f:spec": {"f:any": {"f:a": {".": {}, "f:b": {}}}}}),
        (
            spec(disks=[ROOT]),
            {"f:spec": {"f:disks": {'k:{"name":"root"}': {".": {}, "f:name": {}, "f:size": {}}}}},
        ),
        (spec(disks=[{"size": 1}]), {"f:spec": {"f:disks": {}}}),
        ({"metadata": {"finalizers": ["a/b"]}}, {"f:metadata": {"f:finalizers": {'v:"a/b"': {}}}}),
        ({"metadata": {"name": "x", "labels": {"nano/owner": "a"}}}, {}),
        ({"status": {"phase": "Running"}}, {}),
    ],
)
def test_set_of_a_document_is_what_it_says_and_can_be_owned(doc: JSON, fields: JSON) -> None:
    assert encode(fields_of(SHAPE, doc)) == fields
    assert decode(fields) == fields_of(SHAPE, doc)


@pytest.mark.parametrize("doc", [1, [], {"cpus": {}}, {"f:a": 1}, {"i:0": {}}, {"k:[]": {}}, {"v:{": {}}])
def test_what_is_no_fields_v1_is_refused(doc: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(doc)


def test_paths_are_shown_as_kubectl_shows_them() -> None:
    paths = sorted(fields_of(SHAPE, spec(cpus=1, disks=[ROOT]) | {"metadata": {"finalizers": ["a"]}}))
    assert [path_text(path) for path in paths] == [
        '.metadata.finalizers[="a"]',
        ".spec.cpus",
        '.spec.disks[name="root"]',
        '.spec.disks[name="root"].name',
        '.spec.disks[name="root"].size',
    ]


# --- merging --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "applied", "result"),
    [
        (spec(cpus=1), spec(dns=["a"]), spec(cpus=1, dns=["a"])),
        (spec(dns=["a", "b"]), spec(dns=["c"]), spec(dns=["c"])),
        (spec(guest={"hostname": "a"}), spec(guest={"zone": "b"}), spec(guest={"hostname": "a", "zone": "b"})),
        (spec(cpus=1), spec(cpus=None), spec(cpus=1)),
        (spec(disks=[ROOT]), spec(disks=[DATA]), spec(disks=[ROOT, DATA])),
        (spec(disks=[ROOT, DATA]), spec(disks=[DATA, ROOT]), spec(disks=[DATA, ROOT])),
        (spec(disks=[ROOT]), spec(disks=[{"name": "root", "tags": [1]}]), spec(disks=[ROOT | {"tags": [1]}])),
        (spec(disks=[ROOT]), spec(disks=[]), spec(disks=[ROOT])),
        (spec(disks=[ROOT]), spec(disks=[{"size": 3}]), spec(disks=[{"size": 3}])),
        (spec(disks=[ROOT]), spec(disks={"a": 1}), spec(disks={"a": 1})),
        (spec(cpus=1), spec(cpuz=1), spec(cpus=1, cpuz=1)),
        (spec(any={"a": {"b": 1}}), spec(any={"a": {"c": 2}}), spec(any={"a": {"b": 1, "c": 2}})),
    ],
)
def test_apply_is_merged_by_field_and_by_key_and_the_rest_is_replaced(live: JSON, applied: JSON, result: JSON) -> None:
    before = json.dumps(live)
    assert managed.wanted(SHAPE, live, applied, [], "ann") == result
    assert json.dumps(live) == before, "the object itself is left alone"


@pytest.mark.parametrize("live", [{}, spec(disks=[ROOT, ROOT])])
def test_key_that_stands_twice_is_refused(live: JSON) -> None:
    with pytest.raises(Invalid, match="stands twice"):
        managed.wanted(SHAPE, live, spec(disks=[ROOT] if live else [ROOT, ROOT]), [], "ann")


# --- removing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        (spec(cpus=1, dns=["a"]), spec(dns=["a"]), spec(dns=["a"])),
        (spec(disks=[ROOT, DATA]), spec(disks=[DATA]), spec(disks=[DATA])),
        (spec(disks=[ROOT]), spec(disks=[{"name": "root"}]), spec(disks=[{"name": "root"}])),
        (spec(disks=[ROOT], cpus=1), spec(cpus=1), spec(cpus=1)),
        (spec(guest={"hostname": "a"}, cpus=1), spec(cpus=1), spec(cpus=1)),
        (spec(guest={"hostname": "a", "zone": "b"}), spec(guest={"zone": "b"}), spec(guest={"zone": "b"})),
        (spec(labels={"a": "1", "b": "2"}), spec(labels={"b": "2"}), spec(labels={"b": "2"})),
    ],
)
def test_what_a_manager_leaves_out_goes(first: JSON, second: JSON, result: JSON) -> None:
    assert thing(("ann", first), ("ann", second)).doc == result


def test_what_somebody_else_owns_as_well_stays() -> None:
    shared = thing(("ann", spec(cpus=1, disks=[ROOT])), ("bob", spec(cpus=1, disks=[{"name": "root", "tags": [1]}])))
    shared.apply("ann", {})
    assert shared.doc == spec(cpus=1, disks=[{"name": "root", "tags": [1]}]), (
        "but the size, which was ann's alone, goes"
    )


def test_item_that_somebody_changed_is_not_removed_with_its_maker() -> None:
    changed = thing(("ann", spec(disks=[ROOT])))
    changed.put("bob", spec(disks=[ROOT | {"size": 9}]))
    changed.apply("ann", {})
    assert changed.doc == spec(disks=[{"name": "root", "size": 9}])


def test_map_keeps_what_nobody_is_known_to_own() -> None:
    made = thing(("ann", spec(labels={"a": "1"})))
    made.doc["spec"]["labels"]["old"] = "x"
    made.apply("ann", {})
    assert made.doc == spec(labels={"old": "x"})


# --- conflicts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "fields"),
    [
        (spec(cpus=2), [".spec.cpus"]),
        (spec(cpus=1), []),
        (spec(dns=["b"]), [".spec.dns"]),
        (spec(disks=[ROOT | {"size": 5}]), ['.spec.disks[name="root"].size']),
        (spec(disks=[ROOT | {"tags": []}]), []),
        (spec(disks=[DATA]), []),
        (spec(guest={"hostname": "b"}), [".spec.guest.hostname"]),
        (spec(guest={"zone": "b"}), []),
        (spec(labels={"a": "2", "b": "3"}), [".spec.labels.a"]),
        (spec(any={"a": 1}), [".spec.any.a"]),
        (spec(any={"a": {"c": 1}}), []),
    ],
)
def test_conflict_is_another_value_where_another_manager_owns(theirs: JSON, fields: list[str]) -> None:
    mine = spec(cpus=1, dns=["a"], disks=[ROOT], guest={"hostname": "a"}, labels={"a": "1"}, any={"a": {"b": 1}})
    found = thing(("ann", mine))
    if not fields:
        found.apply("bob", theirs)
        return
    with pytest.raises(Contested) as caught:
        found.apply("bob", theirs)
    assert [cause.field for cause in caught.value.causes] == fields
    assert {cause.message for cause in caught.value.causes} == {'conflict with "ann"'}
    found.apply("bob", theirs, force=True)
    assert set(fields) <= set(found.owned("bob"))
    assert not set(fields) & set(found.owned("ann"))


def test_only_the_first_conflicts_are_written_out_in_the_message() -> None:
    labels = {f"l{number}": "a" for number in range(50)}
    found = thing(("ann", spec(labels=labels)))
    with pytest.raises(Contested, match=r"with 50 conflicts.*and 30 more") as caught:
        found.apply("bob", spec(labels=dict.fromkeys(labels, "b")))
    assert len(caught.value.causes) == 50


def test_kubectl_takes_over_what_it_applied_by_itself_and_nothing_else() -> None:
    annotation = '{"spec": {"cpus": 1}}'
    said = spec(cpus=1, dns=["a"]) | {"metadata": {"annotations": {managed.LAST_APPLIED: annotation}}}
    made = Thing(said, managed.unmanaged(SHAPE, said, moment(0)))
    with pytest.raises(Contested, match=r"before-first-apply.*spec\.dns"):
        made.apply("kubectl", spec(cpus=2, dns=["b"]))
    with pytest.raises(Contested, match=r"kubectl-client-side-apply.*spec\.cpus"):
        made.apply("ann", spec(cpus=2))
    made.apply("kubectl", spec(cpus=2))
    assert made.owned("kubectl") == [".spec.cpus"]


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_annotation_that_is_no_object_is_no_hindrance(text: str) -> None:
    said = spec(cpus=1) | {"metadata": {"annotations": {managed.LAST_APPLIED: text}}}
    assert {one.name for one in managed.unmanaged(SHAPE, said, "") if one.fields} == {"before-first-apply"}


# --- updates --------------------------------------------------------------------------------------------


def test_changed_and_new_fields_belong_to_whoever_wrote_them() -> None:
    made = thing(("ann", spec(cpus=1, dns=["a"], disks=[ROOT])))
    made.put("bob", spec(cpus=2, dns=["a"], disks=[ROOT, DATA]))
    assert made.owned("ann") == [
        '.spec.disks[name="root"]', '.spec.disks[name="root"].name', '.spec.disks[name="root"].size', ".spec.dns",
    ]  # fmt: skip
    assert made.owned("bob", "Update") == [
        ".spec.cpus", '.spec.disks[name="data"]', '.spec.disks[name="data"].name', '.spec.disks[name="data"].size',
    ]  # fmt: skip
    with pytest.raises(Contested, match='conflict with "bob" using nano/v1 at 2026-01-01T00:00:02Z'):
        made.apply("ann", spec(cpus=1))


def test_field_that_is_gone_belongs_to_nobody() -> None:
    made = thing(("ann", spec(cpus=1, dns=["a"])), ("bob", spec(cpus=1)))
    made.put("eve", spec(dns=["a"]))
    assert [one.name for one in made.managers] == ["ann"]
    made.apply("bob", spec(cpus=7))


def test_time_is_that_of_the_last_change() -> None:
    made = thing(("ann", spec(cpus=1)), ("ann", spec(cpus=1)))
    assert [one.time for one in made.managers] == [moment(1)]
    made.apply("ann", spec(cpus=2))
    assert [one.time for one in made.managers] == [moment(3)]
    made.put("bob", spec(cpus=2))
    assert [one.time for one in made.managers] == [moment(3)]
    made.apply("ann", {})
    assert made.managers == [], "who owns nothing is forgotten"


def test_same_name_is_another_manager_when_it_does_not_apply() -> None:
    made = thing(("bob", spec(dns=["a"])))
    made.put("ann", spec(cpus=1, dns=["a"]))
    with pytest.raises(Contested, match='conflict with "ann" using nano/v1 at 2026-01-01T00:00:02Z'):
        made.apply("ann", spec(cpus=2))
    made.apply("ann", spec(cpus=1))
    assert [one[::3] for one in made.managers] == [("bob", moment(1)), ("ann", moment(4)), ("ann", moment(2))]


def test_claim_on_what_is_not_there_is_no_conflict() -> None:
    made = thing(("ann", spec(cpus=1, dns=["a"])))
    made.doc = spec(dns=["a"])
    made.apply("bob", spec(cpus=2))
    assert made.owned("ann") == [".spec.dns"]


BAD_ENTRIES: list[JSON] = [
    {"operation": "Eat"},
    {"fieldsType": "V2"},
    {"fieldsV1": 1},
    {"time": "soon"},
    {"time": None},
    {"manager": "x" * 129},
    {"manager": "a\n"},
]


def test_entries_of_a_sub_resource_are_left_out_and_others_are_checked() -> None:
    entry = {"manager": "a", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:cpus": {}}}}
    assert managed.write(managed.read([entry]), "nano/v1") == [{**entry, "apiVersion": "nano/v1"}], "no time is none"
    assert [one.name for one in managed.read([entry, entry | {"subresource": "status"}])] == ["a"]
    wrong: list[Any] = [1, [1], [{}], *([entry | bad] for bad in BAD_ENTRIES)]
    for bad in wrong:
        with pytest.raises(Invalid):
            managed.read(bad)


# --- what always holds ----------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 2)
ITEMS = st.fixed_dictionaries({"name": WORDS}, optional={"size": NUMBERS, "tags": st.lists(NUMBERS, max_size=2)})
DOCS = st.fixed_dictionaries(
    {},
    optional={
        "cpus": NUMBERS,
        "dns": st.lists(WORDS, max_size=2),
        "guest": st.fixed_dictionaries({}, optional={"hostname": WORDS, "zone": WORDS}),
        "disks": st.lists(ITEMS, max_size=3, unique_by=lambda item: item["name"]),
        "labels": st.dictionaries(WORDS, WORDS, max_size=3),
        "any": st.dictionaries(WORDS, NUMBERS | st.dictionaries(WORDS, NUMBERS, max_size=2), max_size=2),
    },
).map(lambda fields: {"spec": fields})
NAMES = st.sampled_from(["ann", "bob", "eve"])
HISTORIES = st.lists(st.tuples(NAMES, DOCS, st.booleans()), max_size=6)


def lived(history: list[tuple[str, JSON, bool]]) -> Thing:
    """An object with a past: forced applies and plain writes of several people."""
    made = Thing()
    for name, doc, applies in history:
        if applies:
            made.apply(name, doc, force=True)
        else:
            made.put(name, doc)
    return made


def all_owned(made: Thing) -> Fields:
    return frozenset[tuple[str, ...]]().union(*(one.fields for one in made.managers))


@given(HISTORIES, NAMES, DOCS)
def test_to_apply_twice_changes_nothing_the_second_time(history: list[Any], name: str, doc: JSON) -> None:
    made = lived(history)
    made.apply(name, doc, force=True)
    before = (made.doc, made.managers)
    made.apply(name, doc)
    assert (made.doc, made.managers) == before


@given(HISTORIES, NAMES, DOCS)
def test_force_always_succeeds_and_gives_what_was_applied(history: list[Any], name: str, doc: JSON) -> None:
    made = lived(history)
    made.apply(name, doc, force=True)
    wanted, found = values_of(SHAPE, doc), values_of(SHAPE, made.doc)
    leaves = {path: value for path, value in wanted.items() if not isinstance(value, dict) and value != []}
    assert {path: found[path] for path in leaves} == leaves
    assert leaves.keys() <= {path for one in made.managers if one[:2] == (name, "Apply") for path in one.fields}


@given(DOCS, DOCS)
def test_managers_of_disjoint_fields_never_conflict(one: JSON, other: JSON) -> None:
    made = thing(("ann", one))
    if fields_of(SHAPE, one) & fields_of(SHAPE, other):
        mine = encode(fields_of(SHAPE, one))["f:spec"]
        other = {"spec": {name: value for name, value in other["spec"].items() if f"f:{name}" not in mine}}
    before = {path: value for path, value in values_of(SHAPE, made.doc).items() if value not in ({}, [])}
    made.apply("bob", other)
    after = values_of(SHAPE, made.doc)
    assert {path: after[path] for path in before} == before
    assert set(made.owned("ann")) >= set(map(path_text, before))


@given(HISTORIES, NAMES)
def test_what_nobody_owns_any_more_goes(history: list[Any], name: str) -> None:
    made = lived([(who, doc, True) for who, doc, _ in history])
    made.apply(name, {}, force=True)
    left = {path for path, value in values_of(SHAPE, made.doc).items() if value not in ({}, [])}
    assert left <= all_owned(made)


@given(HISTORIES, NAMES, DOCS)
def test_nobody_owns_what_is_not_there(history: list[Any], name: str, doc: JSON) -> None:
    made = lived(history)
    made.apply(name, doc, force=True)
    assert all_owned(made) <= values_of(SHAPE, made.doc).keys()


@given(HISTORIES, NAMES, DOCS)
def test_an_update_gives_every_changed_field_to_one_manager(history: list[Any], name: str, doc: JSON) -> None:
    made = lived(history)
    before = values_of(SHAPE, made.doc)
    made.put(name, doc)
    changed = {p for p, value in values_of(SHAPE, doc).items() if before.get(p, ...) != value}
    leaves = {path for path in changed if not isinstance(values_of(SHAPE, doc)[path], dict)}
    for one in made.managers:
        assert (one.fields & leaves == leaves) if one[:2] == (name, "Update") else not one.fields & leaves


@given(HISTORIES, NAMES, DOCS, st.randoms(use_true_random=False))
def test_order_of_keys_makes_no_difference(history: list[Any], name: str, doc: JSON, chance: random.Random) -> None:
    one, other = lived(history), lived(history)
    one.apply(name, doc, force=True)
    other.apply(name, shuffled(doc, chance), force=True)
    assert (one.doc, one.managers) == (other.doc, other.managers)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(value[name], chance) for name in chance.sample(sorted(value), len(value))}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


@given(HISTORIES)
def test_field_sets_travel_the_same_way_back(history: list[Any]) -> None:
    made = lived(history)
    for one in made.managers:
        assert decode(json.loads(json.dumps(encode(one.fields)))) == one.fields


# --- with a model, which adds defaults ------------------------------------------------------------------

KIND = shape_of(Instance)
CARDS = st.fixed_dictionaries({"name": WORDS, "network": WORDS}, optional={"mtu": st.just(1500)})
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.integers(1, 2),
        "memory": st.sampled_from(["1Gi", "2Gi"]),
        "restart": st.just({"at": "2026-11-22T06:00:00Z"}),
        "guest": st.fixed_dictionaries({}, optional={"hostname": WORDS}),
        "disks": st.lists(
            st.fixed_dictionaries({"name": WORDS, "size": st.sampled_from(["1Gi", "2Gi"])}),
            max_size=3,
            unique_by=lambda item: item["name"],
        ),
        "nics": st.lists(CARDS, max_size=2, unique_by=lambda item: item["name"]),
    },
).map(lambda fields: {"metadata": {"name": "a"}, "spec": fields})


class Machine(Thing):
    """An Instance: what is stored has defaults and is valid."""

    def apply(self, name: str, applied: JSON, *, force: bool = False) -> None:
        wanted = managed.wanted(KIND, self.doc, applied, self.managers, name)
        new = decode_model(Instance, wanted).to_json()
        done = Write(KIND, self.doc, new, "")
        self.managers = managed.after_apply(done, applied, self.managers, name, force=force, version="nano/v1")
        self.doc = new


@given(st.lists(st.tuples(NAMES, WISHES), max_size=5))
def test_nothing_but_defaults_is_ever_unowned(history: list[tuple[str, JSON]]) -> None:
    made = Machine()
    for name, doc in history:
        try:
            made.apply(name, doc, force=True)
        except Invalid:  # somebody took the network of another one's card and leaves it out now: that cannot be
            continue
        before = (made.doc, made.managers)
        made.apply(name, doc)
        assert (made.doc, made.managers) == before
        chosen = decode_model(Instance, made.doc).model_dump(mode="json", by_alias=True, exclude_defaults=True)
        said = {path for path, value in values_of(KIND, chosen).items() if value != []}
        assert said <= all_owned(made)
