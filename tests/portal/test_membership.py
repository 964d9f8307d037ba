"""The compiled rights, kept as groups and roles change, are those that compiling everything anew gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.portal.membership import Membership, compiled
from nanovirt.resources.codec import decode
from nanovirt.resources.engine import Engine
from nanovirt.resources.group import Group
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.role import Role
from nanovirt.resources.store import Commit, Create, Delete, Op, Update
from tests.portal.people_world import group, role

USERS = ("alice", "bob", "carol")
NAMES = st.sampled_from(["g1", "g2", "r1", "r2"])
LISTS = st.lists(st.sampled_from(USERS), unique=True)
STEPS = st.lists(st.tuples(NAMES, st.booleans(), LISTS, st.sampled_from(["r1", "r2"]), st.booleans()), max_size=25)


class Told:
    """A store that tells at once what was staged: membership follows it as it follows durable commits."""

    def __init__(self) -> None:
        self.engine = Engine(MemoryLog())
        self.membership = Membership(self.engine)
        self.engine.subscribe(self._tell, admitted=True)

    def _tell(self, commit: Commit) -> None:
        self.membership._follow(commit)

    def does(self, op: Op) -> None:
        self.engine.stage([op], "test")

    def put(self, op: Create) -> None:
        there = self.engine.peek(op.key) is not None
        self.does(Update(op.key, op.doc) if there else op)

    def gone(self, key: Key) -> None:
        if self.engine.peek(key) is not None:
            self.does(Delete(key))

    def fresh(self) -> dict[str, Any]:
        """What compiling everything anew gives."""
        groups = [Group.model_validate_json(entry.raw) for _, entry in self.engine.peek_all("groups")]
        roles = {key.name: Role.model_validate_json(entry.raw) for key, entry in self.engine.peek_all("roles")}
        return {user: compiled([one for one in groups if user in one.spec.members], roles) for user in USERS}


@given(STEPS)
@settings(max_examples=150)
def test_kept_rights_are_the_ones_compiled_anew(steps: list[tuple[str, bool, list[str], str, bool]]) -> None:
    told = Told()
    for name, there, members, which, wide in steps:
        if name.startswith("g"):
            made = group(name, members, [which], ["a", "b"] if wide else ["a"], {"secrets": "Group"} if wide else {})
        else:
            made = role(name, (["secrets", "computepools"] if wide else ["images"], ["get", "list"]))
        told.put(made) if there else told.gone(made.key)
    assert {user: told.membership.rights(user).table for user in USERS} == told.fresh()


def test_rights_of_those_who_are_not_concerned_stay_the_same_object() -> None:
    told = Told()
    told.put(role("r1", (["secrets"], ["get"])))
    told.put(group("g1", ["alice"], ["r1"], ["a"]))
    told.put(group("g2", ["bob"], ["r1"], ["a"]))
    alice, bob = told.membership.rights("alice"), told.membership.rights("bob")
    told.put(group("g2", ["bob"], ["r1"], ["a", "b"]))
    assert told.membership.rights("alice") is alice
    assert told.membership.rights("bob") is not bob
    assert told.membership.rights("bob").since > bob.since


@pytest.mark.parametrize(
    ("verb", "plural", "visibility", "reach"),
    [
        ("get", "secrets", {}, {"a": False, "shared": True}),
        ("get", "secrets", {"secrets": "Group"}, {"a": True, "shared": True}),
        ("get", "secrets", {"images": "Group"}, {"a": False, "shared": True}),
        ("delete", "secrets", {}, {"a": False}),
        ("get", "computepools", {}, {"": True}),
        ("get", "namespaces", {}, {"a": True, "shared": True}),
        ("get", "addresses", {}, {"a": False, "shared": True}),
    ],
)
def test_where_a_right_reaches(verb: str, plural: str, visibility: dict[str, str], reach: dict[str, bool]) -> None:
    team = decode(Group, group("g", [], ["r"], ["a"], visibility).doc)
    given_role = decode(Role, role("r", ([plural], [verb])).doc)
    assert compiled([team], {"r": given_role}) == {(verb, plural, ""): reach}
