"""User, Group, Role and Secret: what they accept, what they refuse by name, and what they never show."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources import openapi
from nanovirt.resources.codec import decode, dump
from nanovirt.resources.defaults import defaults
from nanovirt.resources.errors import Invalid, Rejected
from nanovirt.resources.kind import KINDS
from nanovirt.resources.registry import by_any_name, by_kind, kinds
from nanovirt.resources.role import Role, grantable
from nanovirt.resources.secret import KEYS_MAX, VALUE_MAX, Secret, SecretText

RULE = {"kinds": ["instances"], "verbs": ["get"]}


def granting(verb: str, kind: str) -> dict[str, Any]:
    return {"rules": [{"kinds": [kind], "verbs": ["get", verb]}, RULE]}


@pytest.mark.parametrize(
    ("plural", "name", "spec"),
    [
        ("users", "alice", {"displayName": "Alice 李", "email": "alice@lab.example", "disabled": False}),
        ("users", "alice.li", {}),
        ("groups", "team-a", {"members": ["alice"], "roles": ["operator"], "namespaces": ["team-a"]}),
        ("groups", "team-a", {"visibility": {"instances": "Group", "images": "Owner"}}),
        ("roles", "viewer", {"rules": [{"kinds": ["instances", "snapshots"], "verbs": ["get", "delete"]}]}),
        ("roles", "viewer", {"rules": [{"kinds": ["instances/console"], "verbs": ["create"]}]}),
        ("roles", "viewer", {"rules": [{"kinds": ["users", "roles", "hosts"], "verbs": ["get", "list", "watch"]}]}),
        ("roles", "viewer", {"menus": ["dashboard"]}),
        ("secrets", "web-admin", {"data": {"password": "correct-horse", "user.data": "#cloud-config\n\ta: 1\n"}}),
        ("secrets", "web-admin", {"data": {"big": "x" * VALUE_MAX}}),
        ("secrets", "web-admin", {}),
    ],
)
def test_good_manifest_is_read(plural: str, name: str, spec: dict[str, Any]) -> None:
    assert decode(kinds()[plural], {"metadata": {"name": name}, "spec": spec}).metadata.name == name


@pytest.mark.parametrize(
    ("plural", "name", "spec", "field", "reason"),
    [
        ("users", "admin", {}, "metadata.name", "NameReserved"),
        ("users", "a" * 64, {}, "metadata.name", "FieldValueInvalid"),
        ("users", "alice", {"email": "nobody"}, "spec.email", "FieldValueInvalid"),
        ("users", "alice", {"email": "a@b\r\nBcc: x"}, "spec.email", "FieldValueInvalid"),
        ("users", "alice", {"disabled": "maybe"}, "spec.disabled", "FieldValueInvalid"),
        ("groups", "g", {"members": ["alice", "bob", "alice"]}, "spec.members[2]", "FieldDuplicate"),
        ("groups", "g", {"members": ["../x"]}, "spec.members[0]", "FieldValueInvalid"),
        ("groups", "g", {"namespaces": ["a.b"]}, "spec.namespaces[0]", "FieldValueInvalid"),
        ("groups", "g", {"visibility": {"instances": "Everybody"}}, "spec.visibility.instances", "FieldValueInvalid"),
        ("groups", "g", {"quota": {"instances": 20}}, "spec.quota", "NotYetSupported"),
        ("roles", "r", {"rules": [RULE | {"verbs": ["*"]}]}, "spec.rules[0].verbs[0]", "FieldValueInvalid"),
        ("roles", "r", {"rules": [RULE | {"kinds": ["*"]}]}, "spec.rules[0].kinds[0]", "FieldValueInvalid"),
        ("roles", "r", granting("update", "groups"), "spec.rules[0].verbs", "NotGrantable"),
        ("roles", "r", granting("create", "computepools"), "spec.rules[0].verbs", "NotGrantable"),
        ("roles", "r", granting("delete", "placements"), "spec.rules[0].verbs", "NotGrantable"),
        ("roles", "r", granting("patch", "instances/status"), "spec.rules[0].verbs", "NotGrantable"),
        ("roles", "r", granting("create", "instances/owner"), "spec.rules[0].verbs", "NotGrantable"),
        ("roles", "r", granting("get", "users/token"), "spec.rules[0].verbs", "NotGrantable"),
        ("secrets", "s", {"data": {"a b": "hunter2"}}, "spec.data.a b", None),
        ("secrets", "s", {"data": {"a": 5}}, "spec.data.a", "FieldValueInvalid"),
        ("secrets", "s", {"data": {"a": "x" * (VALUE_MAX + 1)}}, "spec.data.a", "SecretTooLong"),
        ("secrets", "s", {"data": {f"k{n}": "x" * VALUE_MAX for n in range(5)}}, "spec.data", "SecretTooLong"),
        ("secrets", "s", {"data": {f"k{n}": "" for n in range(KEYS_MAX + 1)}}, "spec.data", "FieldValueInvalid"),
    ],
)  # fmt: skip
def test_bad_field_is_refused_by_name(
    plural: str, name: str, spec: dict[str, Any], field: str, reason: str | None
) -> None:
    with pytest.raises(Invalid) as refused:
        decode(kinds()[plural], {"metadata": {"name": name}, "spec": spec})
    found = {cause.field: cause.reason for cause in refused.value.causes}
    if reason is None:
        assert any(one.startswith(field) for one in found), found
    else:
        assert found.get(field) == reason, found


@pytest.mark.parametrize("spec", [{"data": {"a b": "hunter2"}}, {"data": "hunter2"}, {"data": {"a": ["hunter2"]}}])
def test_refusal_of_a_secret_does_not_tell_it(spec: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refused:
        decode(Secret, {"metadata": {"name": "s"}, "spec": spec})
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in str(refused.value.__cause__)


def test_secret_value_shows_itself_to_nobody() -> None:
    made = decode(Secret, {"metadata": {"name": "s"}, "spec": {"data": {"password": "hunter2"}}})
    value = made.spec.data["password"]
    assert (repr(value), str(value), f"{value}", value.reveal()) == ("***", "***", "***", "hunter2")
    assert "hunter2" not in repr(made)
    assert b"hunter2" not in dump(made.to_json())
    assert isinstance(value, SecretText)


def test_the_internal_kind_is_known_to_the_store_alone() -> None:
    assert "credentials" in KINDS
    assert "credentials" not in kinds()
    assert by_kind("Credential") is None
    assert by_any_name("credentials") is None
    served = [cls.facts for cls in kinds().values()]
    assert "Credential" not in str(openapi.v3(served, "1"))


def test_shipped_roles_grant_what_they_say_and_nothing_that_no_role_can() -> None:
    roles = {one.metadata.name: one for one in defaults() if isinstance(one, Role)}
    assert sorted(roles) == ["operator", "viewer"]
    granted = {name: set(role.grants()) for name, role in roles.items()}
    assert ("delete", "instances", "") in granted["operator"]
    assert ("create", "images", "upload") in granted["operator"]
    assert {verb for verb, _, _ in granted["viewer"]} == {"get", "list", "watch"}
    assert {plural for _, plural, _ in granted["viewer"]} <= kinds().keys()
    assert not {"hosts", "users", "groups", "roles"} & {plural for _, plural, _ in granted["operator"]}


@pytest.mark.parametrize(
    ("verb", "plural", "subresource", "possible"),
    [
        ("get", "users", "", True),
        ("create", "users", "", False),
        ("create", "users", "token", False),
        ("get", "users", "token", False),
        ("create", "hosts", "report", False),
        ("update", "namespaces", "", False),
        ("delete", "instances", "", True),
        ("create", "instances", "console", True),
        ("create", "snapshots", "", True),
        ("create", "volumes", "", False),
        ("get", "volumes", "", True),
    ],
)
def test_what_a_role_can_grant_at_all(verb: str, plural: str, subresource: str, *, possible: bool) -> None:
    assert grantable(verb, plural, subresource) is possible
