"""What happens to those who are there when users, groups and roles change, and to objects that change hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete, Half, Update
from tests.portal.api_world import NANO
from tests.portal.people_world import People, document, group, people_world, role

SECRETS = f"{NANO}/namespaces/team-a/secrets"
ALL = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
READ = ALL[:3]


@pytest.fixture
async def p() -> AsyncIterator[People]:
    async with people_world() as running:
        for name in ("alice", "bob", "carol"):
            await running.user(name)
        await running.does(role("all", (["secrets", "instances"], ALL)), role("read", (["secrets"], READ)))
        await running.does(group("team", ["alice", "bob"], ["all"], ["team-a"]))
        await running.does(document("secrets", "hers", "team-a", "alice"), document("secrets", "his", "team-a", "bob"))
        yield running


def change(name: str, **spec: Any) -> Update:
    """Another spec for the group `team`."""
    made = group(name, ["alice", "bob"], ["all"], ["team-a"])
    return Update(made.key, {**made.doc, "spec": made.doc["spec"] | spec}, Half.MAIN)


def names(reply: Any) -> list[str]:
    return [one["metadata"]["name"] for one in reply.doc["items"]]


async def test_members_see_their_own_until_the_group_says_more(p: People) -> None:
    assert names(await p.call("alice", "GET", SECRETS)) == ["hers"]
    await p.does(change("team", visibility={"secrets": "Group"}))
    assert names(await p.call("alice", "GET", SECRETS)) == ["hers", "his"]
    await p.does(change("team", visibility={"instances": "Group"}))
    assert names(await p.call("alice", "GET", SECRETS)) == ["hers"]


@pytest.mark.parametrize(
    "op",
    [
        change("team", members=["bob"]),
        change("team", roles=[]),
        change("team", roles=["read"]),
        change("team", namespaces=["team-b"]),
        change("team", visibility={"secrets": "Group"}),
        Delete(Key("groups", "", "team")),
        Delete(Key("roles", "", "all")),
    ],
    ids=["left", "no-role", "other-role", "elsewhere", "sees-more", "no-group", "role-gone"],
)
async def test_watch_ends_when_what_it_may_see_is_another(p: People, op: Any) -> None:
    async with p.watch("alice", SECRETS) as watch:
        assert (await watch.next())["object"]["metadata"]["name"] == "hers"
        await p.does(op)
        await p.does(document("secrets", "later", "team-a", "alice"))
        rest = await watch.end()
        assert b'"code":410' in rest
        assert b"later" not in rest


async def test_those_who_see_the_same_are_served_together(p: People) -> None:
    """One group of watchers for all who see everything there; those who see their own have one each."""
    await p.does(change("team", visibility={"secrets": "Group"}))
    groups = p.api.hub._groups
    async with p.watch("alice", SECRETS) as one, p.watch("bob", SECRETS) as other, p.watch("admin", SECRETS) as admins:
        for watch in (one, other, admins):
            await watch.take(2)
        assert [len(group.watchers) for group in groups.values()] == [3]
        await p.does(change("team"))
        assert b'"code":410' in await one.end()
        assert b'"code":410' in await other.end()
        assert [len(group.watchers) for group in groups.values()] == [1], "the administrator's goes on"
    async with p.watch("alice", SECRETS) as one, p.watch("bob", SECRETS) as other:
        for watch in (one, other):
            await watch.take(1)
        mine = [group for group in groups.values() if group.interest.sight.startswith("user/")]
        assert [len(group.watchers) for group in mine] == [1, 1]


async def test_watch_of_others_goes_on(p: People) -> None:
    await p.does(group("other", ["carol"], ["read"], ["team-b"]))
    path = f"{NANO}/namespaces/team-b/secrets"
    async with p.watch("carol", path) as watch, p.watch("admin", path) as admins:
        await p.does(change("team", visibility={"secrets": "Group"}), document("users", "dave"))
        await p.does(document("secrets", "x", "team-b", "carol"))
        assert (await watch.next())["type"] == "ADDED"
        assert (await admins.next())["type"] == "ADDED"


async def test_watch_from_before_new_rights_has_to_list_again(p: People) -> None:
    before = (await p.call("alice", "GET", SECRETS)).doc["metadata"]["resourceVersion"]
    await p.does(change("team", visibility={"secrets": "Group"}))
    async with p.watch("alice", SECRETS, resourceVersion=before) as watch:
        assert b'"code":410' in await watch.end()
    after = (await p.call("alice", "GET", SECRETS)).doc["metadata"]["resourceVersion"]
    async with p.watch("alice", SECRETS, resourceVersion=after) as watch:
        await p.does(document("secrets", "new", "team-a", "bob"))
        assert (await watch.next())["object"]["metadata"]["name"] == "new"


async def test_watch_in_a_namespace_shows_one_s_own_alone(p: People) -> None:
    async with (
        p.watch("alice", SECRETS) as hers,
        p.watch("bob", f"{NANO}/secrets") as his,
        p.watch("admin", SECRETS) as all_,
    ):
        await p.does(document("secrets", "new", "team-a", "alice"), document("secrets", "x", "team-b", "bob"))
        assert await hers.take(2) == [("ADDED", "hers"), ("ADDED", "new")]
        assert await all_.take(3) == [("ADDED", "hers"), ("ADDED", "his"), ("ADDED", "new")]
        await p.does(document("secrets", "two", "team-a", "bob"))
        assert await his.take(2) == [("ADDED", "his"), ("ADDED", "two")]


# --- writing --------------------------------------------------------------------------------------------


async def test_what_one_makes_is_one_s_own(p: People) -> None:
    labels = {"nano/owner": "bob", "app": "web"}
    made = await p.call("alice", "POST", SECRETS, {"metadata": {"name": "s", "labels": labels}})
    assert made.doc["metadata"]["labels"] == {"app": "web", "nano/owner": "alice"}
    patched = await p.call("alice", "PATCH", f"{SECRETS}/s", {"metadata": {"labels": {"nano/owner": "bob"}}})
    assert patched.doc["metadata"]["labels"]["nano/owner"] == "alice"


@pytest.mark.parametrize("namespace", ["team-b", "shared", "default", "absent"])
async def test_nothing_is_made_where_one_is_not_at_home(p: People, namespace: str) -> None:
    reply = await p.call("alice", "POST", f"{NANO}/namespaces/{namespace}/secrets", {"metadata": {"name": "s"}})
    assert reply.code == 403


async def test_deleting_all_deletes_one_s_own(p: People) -> None:
    assert (await p.call("alice", "DELETE", SECRETS)).doc["details"]["params"] == {"count": 1}
    assert names(await p.call("admin", "GET", SECRETS)) == ["his"]
    assert (await p.call("alice", "DELETE", f"{NANO}/namespaces/team-b/secrets")).code == 403
    assert (await p.call("carol", "DELETE", SECRETS)).code == 403


@pytest.mark.parametrize("plural", ["users", "groups", "roles", "computepools", "namespaces"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_no_role_lets_write_what_administrators_keep(p: People, plural: str, method: str) -> None:
    await p.does(role("greedy", ([plural], ALL)), change("team", roles=["greedy"]))
    root = "/api/v1" if plural == "namespaces" else NANO
    path = (
        f"{root}/{plural}" if method == "POST" else f"{root}/{plural}/{'team-a' if plural == 'namespaces' else 'team'}"
    )
    doc = {"metadata": {"name": "mine"}, "spec": {}}
    assert (await p.call("alice", method, path, None if method == "DELETE" else doc)).code == 403


# --- referring ------------------------------------------------------------------------------------------

INSTANCES = f"{NANO}/namespaces/team-a/instances"


def instance(image: str, name: str = "web") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"disks": [{"name": "system", "source": {"image": image}}]}}


async def test_image_of_somebody_else_cannot_be_used_and_looks_absent(p: People) -> None:
    spec = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
    await p.does(change("team", roles=["all", "images"]))
    await p.does(role("images", (["images"], READ)))
    for name, owner in (("his", "bob"), ("hers", "alice")):
        await p.does(document("images", name, "team-a", owner, **spec))
    await p.does(document("images", "debian", "shared", "admin", **spec))
    theirs = await p.call("alice", "POST", INSTANCES, instance("his"))
    absent = await p.call("alice", "POST", INSTANCES, instance("xxx"))
    assert theirs.code == absent.code == 422
    assert theirs.raw.replace(b"his", b"xxx") == absent.raw
    assert (await p.call("alice", "POST", INSTANCES, instance("hers", "a"))).code == 201
    assert (await p.call("alice", "POST", INSTANCES, instance("shared/debian", "b"))).code == 201
    assert (await p.call("alice", "POST", INSTANCES, instance("shared/later", "c"))).code == 201
    assert (await p.call("admin", "POST", INSTANCES, instance("later", "d"))).code == 201
    await p.call("admin", "POST", f"{NANO}/namespaces/team-a/images/hers/owner", {"user": "bob"})
    kept = await p.call("alice", "PATCH", f"{INSTANCES}/a", {"spec": {"displayName": "x"}})
    assert kept.code == 200, "what was referred to before stays"


async def test_address_taken_elsewhere_is_told_without_whose_it_is(p: People) -> None:
    nics = [{"name": "a", "network": "x", "mac": "52:54:00:00:00:01"}]
    disks = [{"name": "system", "size": "1Gi"}]
    doc = {"metadata": {"name": "web"}, "spec": {"disks": disks, "nics": nics}}
    await p.call("admin", "POST", f"{NANO}/namespaces/team-b/instances", doc)
    reply = await p.call("alice", "POST", INSTANCES, doc)
    assert reply.code == 422
    assert b"another namespace" in reply.raw
    assert b"team-b" not in reply.raw


# --- changing hands -------------------------------------------------------------------------------------


async def test_only_the_administrator_gives_objects_away(p: People) -> None:
    path = f"{SECRETS}/hers/owner"
    assert (await p.call("alice", "POST", path, {"user": "bob"})).code == 403
    assert (await p.call("admin", "POST", path, {"user": "nobody"})).code == 422
    assert (await p.call("admin", "POST", path, {})).code == 400
    assert (await p.call("admin", "POST", f"{SECRETS}/absent/owner", {"user": "bob"})).code == 404
    given = await p.call("admin", "POST", path, {"user": "bob"})
    assert given.doc["metadata"]["labels"] == {"nano/owner": "bob"}
    assert "data" not in given.doc["spec"]
    assert (await p.call("alice", "GET", f"{SECRETS}/hers")).code == 404
    assert (await p.call("bob", "GET", f"{SECRETS}/hers")).code == 200


async def test_an_object_is_given_away_once_however_often_that_is_asked(p: People) -> None:
    path, once = f"{SECRETS}/hers/owner", {"Idempotency-Key": "k"}
    first = await p.call("admin", "POST", path, {"user": "bob"}, **once)
    await p.call("admin", "POST", path, {"user": "carol"})
    again = await p.call("admin", "POST", path, {"user": "bob"}, **once)
    assert (first.code, again.code, again.raw) == (200, 200, first.raw)
    assert p.store.get(Key("secrets", "team-a", "hers")).labels["nano/owner"] == "carol"
    assert (await p.call("admin", "POST", path, {"user": "alice"}, **once)).code == 422
    assert (await p.call("admin", "GET", f"{NANO}/transactions/k")).code == 200


async def test_watches_see_an_object_come_and_go_as_it_changes_hands(p: People) -> None:
    async with p.watch("alice", SECRETS) as hers, p.watch("bob", SECRETS) as his:
        await hers.next()
        await his.next()
        await p.call("admin", "POST", f"{SECRETS}/hers/owner", {"user": "bob"})
        assert await hers.take(1) == [("DELETED", "hers")]
        assert await his.take(1) == [("ADDED", "hers")]


async def test_what_the_system_made_of_an_instance_follows_it(p: People) -> None:
    await p.does(document("instances", "web", "team-a", "alice"))
    uid = p.store.get(Key("instances", "team-a", "web")).uid
    owner = {"apiVersion": "nano/v1", "kind": "Instance", "name": "web", "uid": uid}
    made = [
        document("placements", "web-1", "team-a", "alice"),
        document("volumes", "web.system", "team-a", "alice"),
        document("addresses", "lan.10.0.0.1", "", "alice", instance="team-a/web", instanceUid=uid),
        document("events", "web.1", "team-a", "alice"),
    ]
    for one in made[:2]:
        one.doc["metadata"]["ownerReferences"] = [owner]
    made[3].doc["involvedObject"] = {"kind": "Instance", "name": "web", "uid": uid}
    other = document("volumes", "db.system", "team-a", "alice")
    await p.does(*made, other)
    before = p.store.committed
    assert (await p.call("admin", "POST", f"{NANO}/namespaces/team-a/instances/web/owner", {"user": "bob"})).code == 200
    assert p.store.committed == before + 1, "one revision"
    assert [p.store.get(one.key).labels["nano/owner"] for one in made] == ["bob"] * 4
    assert p.store.get(other.key).labels["nano/owner"] == "alice"


async def test_members_follow_their_set_with_all_that_was_made_of_them(p: People) -> None:
    await p.does(document("instancesets", "web", "team-a", "alice"))
    uid = p.store.get(Key("instancesets", "team-a", "web")).uid
    owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "web", "uid": uid}
    member, strange = [document("instances", name, "team-a", "alice") for name in ("web-1", "web-2")]
    for one in (member, strange):
        one.doc["metadata"]["ownerReferences"] = [owner]
    member.doc["metadata"]["labels"] |= {"nano/instance-set": "web"}
    await p.does(member, strange)
    placed = document("placements", "web-1-1", "team-a", "alice")
    by_member = {"apiVersion": "nano/v1", "kind": "Instance", "name": "web-1", "uid": p.store.get(member.key).uid}
    placed.doc["metadata"]["ownerReferences"] = [by_member]
    await p.does(placed)
    path = f"{NANO}/namespaces/team-a/instancesets/web/owner"
    assert (await p.call("admin", "POST", path, {"user": "bob"})).code == 200
    owners = [p.store.get(one.key).labels["nano/owner"] for one in (member, placed, strange)]
    assert owners == ["bob", "bob", "alice"], "a reference alone makes no member"
    assert p.store.get(member.key).labels["nano/instance-set"] == "web"


async def test_user_can_be_deleted_once_everything_has_been_given_away(p: People) -> None:
    await p.does(change("team", members=["bob"]))
    held = await p.call("admin", "DELETE", f"{NANO}/users/alice")
    assert held.doc["details"]["causes"][0]["reason"] == "OwnsObjects"
    await p.call("admin", "POST", f"{SECRETS}/hers/owner", {"user": "bob"})
    assert (await p.call("admin", "DELETE", f"{NANO}/users/alice")).code == 200


# --- what one is told about oneself -----------------------------------------------------------------------


async def test_rules_review_lists_what_a_user_may_in_a_namespace(p: People) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    said = await p.call("alice", "POST", path, {"spec": {"namespace": "team-a"}})
    rules = {one["resources"][0]: one["verbs"] for one in said.doc["status"]["resourceRules"]}
    assert rules == {"users/token": ["create", "delete", "get"], "secrets": sorted(ALL), "instances": sorted(ALL)}
    said = await p.call("alice", "POST", path, {"spec": {"namespace": "shared"}})
    rules = {one["resources"][0]: one["verbs"] for one in said.doc["status"]["resourceRules"]}
    assert rules["secrets"] == sorted(READ)
    said = await p.call("carol", "POST", path, {"spec": {"namespace": "team-a"}})
    assert [one["resources"] for one in said.doc["status"]["resourceRules"]] == [["users/token"]]


async def test_review_of_what_one_may_not_see_says_what_it_says_of_the_absent(p: People) -> None:
    there = await p.can("alice", "delete", "secrets", "team-a", "his")
    gone = await p.can("alice", "delete", "secrets", "team-a", "xxx")
    assert there is gone is True, "both are answered with 404"


async def test_review_agrees_that_the_system_s_kinds_are_not_written(p: People) -> None:
    assert not await p.can("admin", "create", "placements", "team-a")
    assert await p.can("admin", "patch", "placements", "team-a", sub="status")
