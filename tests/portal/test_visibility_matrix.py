"""Every cell of role x visibility x verb x kind x place x owner is as the oracle says, at the door and over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import pytest_asyncio

from nanovirt.portal.authorization import SEES_ALL, authorize, visibility_class, visible
from nanovirt.portal.identity import Subject
from nanovirt.portal.membership import Rights, compiled
from nanovirt.resources.codec import trusted
from nanovirt.resources.defaults import defaults
from nanovirt.resources.errors import Forbidden, NotFound
from nanovirt.resources.group import Group
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.role import Role
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import Entry
from tests.portal import oracle
from tests.portal.api_world import NANO
from tests.portal.oracle import IN_NAMESPACES, LIKE_NAMESPACED, READ, VERBS, Member, Thing
from tests.portal.people_world import People, document, group, people_world

SHIPPED = {one.metadata.name: one for one in defaults() if isinstance(one, Role)}
ALL_KINDS = (*kinds(), "credentials", "snapshots")
SUBS = ("", "status", "scale", "upload", "image", "owner", "token", "console", "report")
ENDS = tuple(f"/{sub}" if sub else "" for sub in SUBS)
RULES: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "nothing": (),
    "operator": tuple((tuple(rule.kinds), tuple(rule.verbs)) for rule in SHIPPED["operator"].spec.rules),
    "viewer": tuple((tuple(rule.kinds), tuple(rule.verbs)) for rule in SHIPPED["viewer"].spec.rules),
    "blind": ((("instances", "secrets"), ("create", "update", "delete", "deletecollection")),),
    "uploader": ((("images/upload",), ("create", "get")), (("images",), ("list",))),
    "greedy": tuple((tuple(kind + end for kind in ALL_KINDS), VERBS) for end in ENDS),
}
"""Roles as they may stand in the store; `greedy` says everything, also what no role can grant."""
USERS = [(role, shows_all) for role in RULES for shows_all in (False, True)]
PEOPLE = [
    *[(one,) for one in USERS],
    (("viewer", True), ("operator", False)),
    (("blind", True), ("viewer", False)),
    (("greedy", False), ("uploader", True)),
]
SPACES = {"home": "team-a", "shared": "shared", "away": "team-b"}
OWNERS = ("mine", "theirs", "nobody's", "absent", "myself")


def person(*memberships: tuple[str, bool]) -> tuple[Subject, Member]:
    """Alice in one group for each (role, whether it shows everything), and the same in the words of the oracle."""
    groups, roles = [], {}
    for at, (name, shows_all) in enumerate(memberships):
        rules = [{"kinds": list(words), "verbs": list(verbs)} for words, verbs in RULES[name]]
        roles[name] = trusted(Role, _raw("roles", name, {"rules": rules}))
        seen = dict.fromkeys(ALL_KINDS, "Group") if shows_all else {}
        made = {"members": ["alice"], "roles": [name, "absent"], "namespaces": ["team-a"], "visibility": seen}
        groups.append(trusted(Group, _raw("groups", f"g{at}", made)))
    first, *others = [Member(RULES[name], shows_all) for name, shows_all in memberships]
    subject = Subject("alice", ("nano:users",), rights=Rights(compiled(groups, roles), (), 1), uid="u")
    return subject, Member(first.rules, first.shows_all, tuple(others))


def _raw(plural: str, name: str, spec: dict[str, Any]) -> bytes:
    return entry_of(plural, {"metadata": {"name": name, "uid": "u"}, "spec": spec}, 1).raw


def placed(thing: Thing) -> tuple[Key, Entry | None]:
    """The object that a cell is about."""
    space = SPACES[thing.space]
    name = {"absent": "absent", "myself": "alice"}.get(thing.owner, "web")
    key = Key(thing.kind, space if thing.kind in IN_NAMESPACES else "", space if thing.kind == "namespaces" else name)
    if thing.owner == "absent" or thing.kind not in kinds():
        return key, None
    label = {"mine": {"nano/owner": "alice"}, "theirs": {"nano/owner": "bob"}}.get(thing.owner, {})
    spec = {"instance": f"{space}/web"} if thing.kind == "addresses" else {}
    return key, entry_of(key.plural, {"metadata": {"name": key.name, "uid": "u", "labels": label}, "spec": spec}, 1)


def at_the_door(subject: Subject, verb: str, thing: Thing) -> str:
    key, entry = placed(thing)
    try:
        authorize(subject, verb, thing.kind, thing.sub, key, None if verb == "create" else entry)
    except (Forbidden, NotFound) as error:
        return type(error).__name__
    return "yes"


def in_a_collection(subject: Subject, verb: str, thing: Thing, *, everywhere: bool) -> str:
    key, entry = placed(thing)
    space = "" if everywhere else key.namespace
    try:
        authorize(subject, verb, thing.kind, "", Key(thing.kind, space, ""))
    except Forbidden:
        return "Forbidden"
    assert entry is not None
    if visibility_class(subject, verb, thing.kind, space) == SEES_ALL:
        return "seen"  # then nothing is filtered
    return "seen" if visible(subject, key, entry, verb) else "unseen"


@pytest.mark.parametrize("memberships", PEOPLE, ids=str)
def test_every_cell_is_as_the_oracle_says(memberships: tuple[tuple[str, bool], ...]) -> None:
    subject, member = person(*memberships)
    cells = 0
    for kind, sub, space, owner, verb in product(ALL_KINDS, SUBS, SPACES, OWNERS, VERBS):
        thing = Thing(kind, sub, space, owner)
        if verb in READ - {"get"} or verb == "deletecollection":
            continue
        if kind == "snapshots" and owner != "absent":
            continue
        expected = oracle.single(member, verb, thing) if kind != "snapshots" else "Forbidden"
        assert at_the_door(subject, verb, thing) == expected, (verb, thing)
        cells += 1
    for kind, space, owner, verb in product(kinds(), SPACES, OWNERS[:3], ("list", "watch", "deletecollection")):
        thing = Thing(kind, "", space, owner)
        for everywhere in (False, True):
            expected = oracle.several(member, verb, thing, everywhere=everywhere)
            assert in_a_collection(subject, verb, thing, everywhere=everywhere) == expected, (verb, thing, everywhere)
            cells += 1
    assert cells > 5000


def test_matrix_has_cells_of_every_outcome() -> None:
    member = Member(RULES["operator"], shows_all=False)
    things = [Thing(kind, "", space, owner) for kind, space, owner in product(kinds(), SPACES, OWNERS)]
    assert {oracle.single(member, verb, thing) for thing in things for verb in VERBS} == {
        "yes",
        "Forbidden",
        "NotFound",
    }
    told = {oracle.several(member, "watch", thing, everywhere=False) for thing in things}
    assert told == {"seen", "unseen", "Forbidden"}


def test_each_group_stands_by_itself() -> None:
    """One may look at everybody's in one group and change one's own in another; never change everybody's."""
    shown = {"roles": ["viewer"], "namespaces": ["a"], "visibility": {"images": "Group"}}
    look = trusted(Group, _raw("groups", "g1", shown))
    act = trusted(Group, _raw("groups", "g2", {"roles": ["operator"], "namespaces": ["a"]}))
    table = compiled([look, act], SHIPPED)
    assert table["get", "images", ""]["a"] is True
    assert table["delete", "images", ""]["a"] is False


# --- over HTTP ------------------------------------------------------------------------------------------

KINDS_OVER_HTTP = ("secrets", "images", "volumes", "addresses", "computepools", "users")
SPECS: dict[str, dict[str, Any]] = {
    "images": {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}},
    "computepools": {"storagePool": "local"},
}


def user_of(role: str, *, shows_all: bool) -> str:
    return f"{role}-{'group' if shows_all else 'owner'}"


def name_of(thing: Thing, who: str) -> str:
    return "absent" if thing.owner == "absent" else f"{who}-x" if thing.owner == "mine" else "theirs"


def path_of(thing: Thing, who: str) -> str:
    space = f"/namespaces/{SPACES[thing.space]}" if thing.kind in IN_NAMESPACES else ""
    name = name_of(thing, who) + (f".{thing.space}" if thing.kind in LIKE_NAMESPACED else "")
    return f"{NANO}{space}/{thing.kind}/{name}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p() -> AsyncIterator[People]:
    """Every member of the matrix in a group of its own, and in each place an object of each and one of bob's."""
    async with people_world() as running:
        for name, rules in RULES.items():
            stored = [{"kinds": list(words), "verbs": list(verbs)} for words, verbs in rules]
            await running.does(document("roles", name, rules=stored))
        for role, shows_all in USERS:
            who = user_of(role, shows_all=shows_all)
            await running.user(who)
            seen = dict.fromkeys(ALL_KINDS, "Group") if shows_all else {}
            await running.does(group(who, [who], [role], ["team-a"], seen))
            await running.does(*_objects(f"{who}-x", who))
        await running.does(*_objects("theirs", "bob"))
        yield running


def _objects(name: str, owner: str) -> list[Any]:
    made = []
    for kind, (place, space) in product(("secrets", "images", "volumes", "addresses"), SPACES.items()):
        inside = space if kind in IN_NAMESPACES else ""
        full = name if inside else f"{name}.{place}"
        spec = {"instance": f"{space}/web"} if kind == "addresses" else SPECS.get(kind, {})
        made.append(document(kind, full, inside, owner, **spec))
    return [*made, document("computepools", name, "", owner, **SPECS["computepools"])]


async def send(p: People, who: str, verb: str, thing: Thing) -> Any:
    """One request for one object that changes nothing."""
    path = path_of(thing, who)
    match verb:
        case "get":
            return await p.call(who, "GET", path)
        case "update":
            return await p.call(who, "PUT", f"{path}?dryRun=All", {"spec": SPECS.get(thing.kind, {})})
        case "patch":
            return await p.call(who, "PATCH", f"{path}?dryRun=All", {"metadata": {"annotations": {"a": "b"}}})
        case _:
            return await p.call(who, "DELETE", f"{path}?dryRun=All")


CODES = {"yes": {200}, "Forbidden": {403}, "NotFound": {404}}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("role", "shows_all"), USERS)
async def test_requests_and_reviews_agree_with_the_oracle(p: People, role: str, *, shows_all: bool) -> None:
    who, member = user_of(role, shows_all=shows_all), Member(RULES[role], shows_all)
    for kind, space, owner, verb in product(
        KINDS_OVER_HTTP, SPACES, ("mine", "theirs", "absent"), ("get", "update", "patch", "delete")
    ):
        thing = Thing(kind, "", space, owner)
        if kind == "users" and owner == "mine":
            continue
        expected = oracle.single(member, verb, thing)
        codes = {404} if expected == "yes" and (owner == "absent" or kind == "users") else CODES[expected]
        reply = await send(p, who, verb, thing)
        assert reply.code in codes, (verb, thing, reply.raw)
        full = path_of(thing, who).rpartition("/")[2]
        said = await p.can(who, verb, kind, SPACES[space] if kind in IN_NAMESPACES else "", full)
        assert said == (reply.code != 403), (verb, thing, reply.raw)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("role", "shows_all"), USERS)
async def test_absent_and_invisible_are_the_same_bytes(p: People, role: str, *, shows_all: bool) -> None:
    who, member = user_of(role, shows_all=shows_all), Member(RULES[role], shows_all)
    compared = 0
    for kind, space, verb in product(KINDS_OVER_HTTP, SPACES, ("get", "update", "patch", "delete")):
        thing = Thing(kind, "", space, "theirs")
        if kind == "users" or oracle.reached(member, "get", thing) or oracle.reached(member, verb, thing):
            continue
        there, gone = await send(p, who, verb, thing), await send(p, who, verb, Thing(kind, "", space, "absent"))
        assert there.raw.replace(b"theirs", b"absent") == gone.raw, (verb, thing)
        assert there.code == gone.code
        assert dict(there.headers, Date="") == dict(gone.headers, Date="")
        compared += 1
    assert compared >= (0 if shows_all and role == "greedy" else 10)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("role", "shows_all"), USERS)
async def test_lists_and_watches_show_what_the_oracle_says(p: People, role: str, *, shows_all: bool) -> None:
    who, member = user_of(role, shows_all=shows_all), Member(RULES[role], shows_all)
    for kind, (space, real), everywhere in product(("secrets", "volumes", "addresses"), SPACES.items(), (False, True)):
        inside = f"/namespaces/{real}" if kind in IN_NAMESPACES and not everywhere else ""
        path = f"{NANO}{inside}/{kind}"
        listed = await p.call(who, "GET", path)
        for verb, owner in product(("list", "watch"), ("mine", "theirs")):
            expected = oracle.several(member, verb, Thing(kind, "", space, owner), everywhere=everywhere)
            if expected == "Forbidden":
                code = listed.code if verb == "list" else (await p.call(who, "GET", f"{path}?watch=true")).code
                assert code == 403, (verb, kind, space)
                continue
            shown = _names(listed.doc["items"]) if verb == "list" else await _watched(p, who, path)
            full = path_of(Thing(kind, "", space, owner), who).rpartition("/")[2]
            asked = (real if kind in IN_NAMESPACES else "", full)
            assert (asked in shown) == (expected == "seen"), (verb, kind, space, owner, everywhere)


def _names(items: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in items}


async def _watched(p: People, who: str, path: str) -> set[tuple[str, str]]:
    """What a watch begins with, up to the mark that ends the first state."""
    shown = []
    async with p.watch(who, path, sendInitialEvents="true", allowWatchBookmarks="true") as watch:
        while (event := await watch.next())["type"] != "BOOKMARK":
            shown.append(event["object"])
    return _names(shown)
