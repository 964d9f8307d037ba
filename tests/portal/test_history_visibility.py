"""Who sees what of the past: as the oracle says of then and of now, and not even that there was something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import pytest_asyncio

from nanovirt.resources.codec import load
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Delete, Half, Op, Update
from tests.portal import oracle
from tests.portal.api_world import NANO
from tests.portal.oracle import IN_NAMESPACES, Member, Thing
from tests.portal.people_world import People, document, group, people_world
from tests.portal.test_visibility_matrix import ALL_KINDS, RULES, SPACES, SPECS, USERS, user_of

KINDS = ("images", "volumes", "addresses", "secrets")
STORIES = {
    "kept": ("mine", "mine"), "foreign": ("theirs", "theirs"), "given": ("mine", "theirs"), "taken": ("theirs", "mine"),
    "deleted": ("mine", ""), "lost": ("theirs", ""),
}  # fmt: skip
"""Whose it was at the revision that is asked about, and whose it is now ("": nobody's, it is gone)."""


def name_of(who: str, story: str, kind: str, place: str) -> str:
    return f"{who}-{story}" + ("" if kind in IN_NAMESPACES else f".{place}")


def key_of(who: str, story: str, kind: str, place: str) -> Key:
    return Key(kind, SPACES[place] if kind in IN_NAMESPACES else "", name_of(who, story, kind, place))


def path_of(kind: str, place: str, name: str = "") -> str:
    space = f"/namespaces/{SPACES[place]}" if kind in IN_NAMESPACES else ""
    return f"{NANO}{space}/{kind}" + (f"/{name}" if name else "")


def sees(member: Member, kind: str, place: str, story: str) -> bool:
    owners = [owner for owner in STORIES[story] if owner]
    return all(oracle.reached(member, "get", Thing(kind, "", place, owner)) for owner in owners)


def _made(who: str, kind: str, place: str, story: str) -> Op:
    key = key_of(who, story, kind, place)
    spec = {"instance": f"{SPACES[place]}/web"} if kind == "addresses" else SPECS.get(kind, {})
    return document(kind, key.name, key.namespace, {"mine": who, "theirs": "bob"}[STORIES[story][0]], **spec)


def _became(p: People, who: str, kind: str, place: str, story: str) -> Op:
    key = key_of(who, story, kind, place)
    doc, now = load(p.store.get(key).raw), STORIES[story][1]
    if not now:
        return Delete(key)
    doc["metadata"]["labels"] = {OWNER_LABEL: {"mine": who, "theirs": "bob"}[now], "new": "label"}
    return Update(key, doc, Half.MAIN)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[tuple[People, str]]:
    """Every story of every user in every place, and the revision before they took their turn."""
    async with people_world() as p:
        for name, rules in RULES.items():
            stored = [{"kinds": list(words), "verbs": list(verbs)} for words, verbs in rules]
            await p.does(document("roles", name, rules=stored))
        everybody = [user_of(role, shows_all=shows_all) for role, shows_all in USERS]
        for (role, shows_all), who in zip(USERS, everybody, strict=True):
            await p.user(who)
            seen = dict.fromkeys(ALL_KINDS, "Group") if shows_all else {}
            await p.does(group(who, [who], [role], ["team-a"], seen))
        cells = list(product(everybody, KINDS, SPACES, STORIES))
        await p.does(*[_made(*cell) for cell in cells])
        then = str(p.store.committed)
        await p.does(*[_became(p, *cell) for cell in cells])
        yield p, then


PERSON = pytest.mark.parametrize(("role", "shows_all"), USERS)
MODULE = pytest.mark.asyncio(loop_scope="module")


@MODULE
@PERSON
async def test_object_of_the_past_is_shown_as_the_oracle_says(
    world: tuple[People, str], role: str, *, shows_all: bool
) -> None:
    (p, then), who = world, user_of(role, shows_all=shows_all)
    member = Member(RULES[role], shows_all)
    for kind, place, story in product(KINDS, SPACES, STORIES):
        path = path_of(kind, place, name_of(who, story, kind, place))
        expected = 200 if sees(member, kind, place, story) else 404
        if oracle.single(member, "get", Thing(kind, "", place, "absent")) == "Forbidden":
            expected = 403
        found = await p.call(who, "GET", f"{path}?at={then}")
        assert found.code == expected, (path, found.raw)
        told = await p.call(who, "GET", f"{path}/timeline")
        assert (told.code == 200) == _any_side(member, kind, place, story), (path, told.raw)
        if expected != 200:
            absent = path.replace(story, "absent")
            for asked, there in ((f"?at={then}", found), ("/timeline", told)):
                gone = await p.call(who, "GET", f"{absent}{asked}")
                if there.code != 200:
                    assert there.raw.replace(story.encode(), b"absent") == gone.raw
                    assert dict(there.headers, Date="") == dict(gone.headers, Date="") or len(story) != len("absent")


def _any_side(member: Member, kind: str, place: str, story: str) -> bool:
    """Whether there is any moment at which it may be seen: an object that one was given has a past since then."""
    then, now = STORIES[story]
    if not now:
        return oracle.reached(member, "get", Thing(kind, "", place, then))
    return oracle.reached(member, "get", Thing(kind, "", place, now))


@MODULE
@PERSON
async def test_lists_and_differences_show_no_more(world: tuple[People, str], role: str, *, shows_all: bool) -> None:
    (p, then), who = world, user_of(role, shows_all=shows_all)
    member = Member(RULES[role], shows_all)
    differing = await p.call(who, "GET", f"{NANO}/history/diff?from={then}&all=true")
    assert differing.code == 200, differing.raw
    told = {(one["kind"], one.get("namespace", ""), one["name"]): one["change"] for one in differing.doc["items"]}
    for kind, place in product(KINDS, SPACES):
        listed = await p.call(who, "GET", f"{path_of(kind, place)}?at={then}")
        refused = oracle.several(member, "list", Thing(kind, "", place, "mine"), everywhere=False) == "Forbidden"
        assert (listed.code == 403) == refused
        names = {one["metadata"]["name"] for one in listed.doc["items"]} if not refused else set()
        for story, owned in STORIES.items():
            key = key_of(who, story, kind, place)
            owners = [owner for owner in owned if owner]
            may = all(oracle.reached(member, "list", Thing(kind, "", place, owner)) for owner in owners)
            assert (key.name in names) == may, (kind, place, story)
            change = told.get((kinds()[kind].facts.kind, key.namespace, key.name), "")
            assert change == _change(member, kind, place, story), (kind, place, story)


def _change(member: Member, kind: str, place: str, story: str) -> str:
    now = STORIES[story][1]
    before = sees(member, kind, place, story)
    after = bool(now) and oracle.reached(member, "get", Thing(kind, "", place, now))
    return {(True, True): "Changed", (True, False): "Deleted", (False, True): "Created"}.get((before, after), "")


@MODULE
async def test_administrator_sees_all_but_what_is_the_servers_own(world: tuple[People, str]) -> None:
    p, then = world
    listed = await p.call("admin", "GET", f"{NANO}/images?at={then}")
    assert len(listed.doc["items"]) == len(USERS) * len(SPACES) * len(STORIES)
    for path in ("history?limit=1000", "history/diff?from=0&all=true", f"history/diff?from={then}&to=0&all=1"):
        found = await p.call("admin", "GET", f"{NANO}/{path}")
        assert found.code == 200
        assert b"redential" not in found.raw
    assert p.store.list("credentials"), "or the test says nothing"
    assert (await p.call("admin", "GET", f"{NANO}/credentials?at={then}")).code == 404


# --- rolling back ---------------------------------------------------------------------------------------


async def back(p: People, who: str, to: int, **asked: Any) -> Any:
    return await p.call(who, "POST", f"{NANO}/history/rollback", {"to": str(to), "objects": {}, **asked})


@pytest.mark.asyncio
async def test_user_rolls_back_only_what_is_his() -> None:
    async with people_world() as p:
        await p.does(document("roles", "operator", rules=_rules("operator")))
        for name in ("alice", "bob"):
            await p.user(name)
            await p.does(group(name, [name], ["operator"], ["team-a"]))
        names = {owner: Key("images", "team-a", f"of-{owner}") for owner in ("alice", "bob")}
        for owner, key in names.items():
            await p.does(document("images", key.name, "team-a", owner, **SPECS["images"]))
        hidden = document("images", "hidden", "team-a", "bob", **SPECS["images"])
        first = p.store.committed
        for key in names.values():
            doc = load(p.store.get(key).raw)
            doc["spec"]["description"] = "changed"
            await p.does(Update(key, doc))
        await p.does(hidden)
        done = await back(p, "alice", first, deleteNew=True)
        assert done.code == 200, done.raw
        assert [one["name"] for one in done.doc["changes"]] == ["of-alice"]
        assert b"bob" not in done.raw
        assert b"hidden" not in done.raw
        assert load(p.store.get(names["bob"]).raw)["spec"]["description"] == "changed"
        assert p.store.peek(hidden.key) is not None


@pytest.mark.asyncio
async def test_who_may_only_look_rolls_nothing_back() -> None:
    async with people_world() as p:
        await p.does(document("roles", "viewer", rules=_rules("viewer")))
        await p.user("carol")
        await p.does(group("carol", ["carol"], ["viewer"], ["team-a"], {"images": "Group"}))
        await p.does(document("images", "i", "team-a", "bob", **SPECS["images"]))
        key, first = Key("images", "team-a", "i"), p.store.committed
        doc = load(p.store.get(key).raw)
        doc["spec"]["description"] = "changed"
        await p.does(Update(key, doc))
        newest = p.store.committed
        refused = await back(p, "carol", first)
        assert (refused.code, p.store.committed) == (403, newest)
        assert refused.doc["details"]["causes"][0]["field"] == "images/team-a/i"
        assert (await back(p, "carol", newest)).doc["changes"] == []


def _rules(role: str) -> list[dict[str, Any]]:
    return [{"kinds": list(words), "verbs": list(verbs)} for words, verbs in RULES[role]]
