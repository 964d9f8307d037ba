"""The three-way merge of one object: what the file said, what it says, and what the API side has made of it."""

from typing import Any

import pytest

from nanovirt.portal.desired.merging import Live, Merged, merge
from nanovirt.portal.desired.wishes import Wish, wishes
from nanovirt.resources import registry
from nanovirt.resources.codec import JSON, decode
from nanovirt.resources.instance import Instance
from nanovirt.resources.patching import merge as patched
from tests.portal.desired_world import machine, text

assert registry.MODULES
DISK = {"name": "system", "size": "1Gi"}
DATA = {"name": "data", "size": "2Gi"}


def wish(**spec: Any) -> Wish:
    found, problems = wishes("web.yaml", text(machine("web-1", **spec)).encode())
    assert not problems
    return found[0]


def live(**spec: Any) -> JSON:
    return decode(Instance, {**machine("web-1", **spec)}).to_json()


def merged(before: dict[str, Any] | None, now: dict[str, Any], there: dict[str, Any]) -> tuple[Merged, Any]:
    """The merge, and the spec that comes of it; `before` None: nothing was applied yet."""
    base = wish(**before).values if before is not None else {}
    doc = live(**there)
    done = merge(base, wish(**now), Live(Instance, doc))
    return done, decode(Instance, patched(doc, done.patch or {})).to_json()["spec"]


@pytest.mark.parametrize(
    ("before", "now", "there", "then"),
    [
        pytest.param({"cpus": 1}, {"cpus": 1}, {"cpus": 1}, {"cpus": 1}, id="nothing changed"),
        pytest.param({"cpus": 2}, {"cpus": 3}, {"cpus": 2}, {"cpus": 3}, id="the file changed"),
        pytest.param({"cpus": 2}, {"cpus": 2}, {"cpus": 4}, {"cpus": 4}, id="the API side changed"),
        pytest.param({"cpus": 2}, {"cpus": 3}, {"cpus": 3}, {"cpus": 3}, id="both agree"),
        pytest.param({"cpus": 2}, {"cpus": 3}, {"cpus": 4}, {"cpus": 4}, id="both changed"),
        pytest.param({"cpus": 2}, {"cpus": 3}, {"cpus": 1}, {"cpus": 1}, id="the API side went back to the default"),
        pytest.param({"cpus": 2}, {}, {"cpus": 2}, {"cpus": 1}, id="the file says it no more"),
        pytest.param(
            {"cpus": 2}, {}, {"cpus": 4}, {"cpus": 4}, id="the file says it no more, and the API side differs"
        ),
        pytest.param({}, {"cpus": 2}, {}, {"cpus": 2}, id="the file says it first"),
        pytest.param({}, {"cpus": 2}, {"cpus": 3}, {"cpus": 3}, id="the API side said it first"),
        pytest.param(None, {"cpus": 2}, {}, {"cpus": 2}, id="adopted, at its default"),
        pytest.param(None, {"cpus": 2}, {"cpus": 3}, {"cpus": 3}, id="adopted, as somebody made it"),
        pytest.param(
            {"cpus": 2, "memory": "1Gi"},
            {"cpus": 3, "memory": "2Gi"},
            {"cpus": 4, "memory": "1Gi"},
            {"cpus": 4, "memory": "2Gi"},
            id="field by field",
        ),
    ],
)
def test_a_field_is_whose_it_was_changed_by_and_the_api_side_wins(
    before: dict[str, Any] | None, now: dict[str, Any], there: dict[str, Any], then: dict[str, Any]
) -> None:
    _, spec = merged(before, now, there)
    assert {name: spec[name] for name in then} == then


@pytest.mark.parametrize(
    ("before", "now", "there", "names"),
    [
        pytest.param([DISK], [DISK, DATA], [DISK], ["system", "data"], id="the file adds one"),
        pytest.param([DISK, DATA], [DISK], [DISK, DATA], ["system"], id="the file drops one"),
        pytest.param([DISK], [DISK], [DISK, DATA], ["system", "data"], id="the API side adds one"),
        pytest.param([DISK, DATA], [DISK, DATA], [DISK], ["system"], id="the API side drops one"),
        pytest.param(
            [DISK, DATA], [DISK], [DISK, {**DATA, "size": "9Gi"}], ["system", "data"], id="dropped here, changed there"
        ),
        pytest.param(
            [DISK, DATA], [DISK, {**DATA, "size": "9Gi"}], [DISK], ["system"], id="changed here, dropped there"
        ),
        pytest.param(
            [DISK],
            [DISK, {"name": "mine", "size": "1Gi"}],
            [DISK, {"name": "theirs", "size": "1Gi"}],
            ["system", "theirs", "mine"],
            id="both add one",
        ),
    ],
)
def test_items_of_lists_merge_by_name(before: list[JSON], now: list[JSON], there: list[JSON], names: list[str]) -> None:
    _, spec = merged({"disks": before}, {"disks": now}, {"disks": there})
    assert sorted(one["name"] for one in spec["disks"]) == sorted(names)


def test_what_is_decided_against_the_file_is_told_and_stays_decided() -> None:
    done, _ = merged({"cpus": 2}, {"cpus": 3}, {"cpus": 4})
    assert done.contested == ("spec.cpus",)
    assert done.patch is None
    again = merge(done.fields, wish(cpus=3), Live(Instance, live(cpus=4)))
    assert (again.contested, again.patch) == (("spec.cpus",), None)
    gone_back = merge(done.fields, wish(cpus=3), Live(Instance, live(cpus=2)))
    assert gone_back.patch == {"spec": {"cpus": 3}}


def test_once_the_file_agrees_it_leads_again() -> None:
    done, _ = merged({"cpus": 2}, {"cpus": 4}, {"cpus": 4})
    assert not done.contested
    later = merge(done.fields, wish(cpus=5), Live(Instance, live(cpus=4)))
    assert later.patch == {"spec": {"cpus": 5}}


def test_what_the_server_completes_is_no_change_of_the_api_side() -> None:
    card = {"name": "lan", "network": "default", "mac": "52-54-00-00-00-0A"}
    done, spec = merged({"nics": [card]}, {"nics": [card], "cpus": 2}, {"nics": [card]})
    assert not done.kept
    assert spec["nics"][0]["mac"] == "52:54:00:00:00:0a"


def test_an_object_that_the_file_drops_takes_its_defaults_along() -> None:
    source = {"name": "system", "source": {"image": "shared/debian-12"}}
    done, spec = merged({"disks": [source]}, {"disks": [DISK]}, {"disks": [source]})
    assert done.patch is not None
    assert spec["disks"] == [{"name": "system", "size": "1Gi", "reclaim": "Delete", "rebuild": 0}]


def test_what_the_api_side_adds_around_makes_them_disagree() -> None:
    done, _ = merged({"cpus": 2}, {"cpus": 2}, {"cpus": 2, "description": "mine"})
    assert not done.agreed
    done, _ = merged({"cpus": 2}, {"cpus": 2, "description": "mine"}, {"cpus": 2, "description": "mine"})
    assert done.agreed
