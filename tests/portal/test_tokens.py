"""Tokens of users: told once, kept as digests, and worth nothing the moment somebody takes them back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from nanovirt.portal.api.tokens import SECONDS_MAX, TOKENS_MAX
from nanovirt.portal.pki import digest
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Delete
from tests.portal.api_world import NANO
from tests.portal.people_world import People, group, people_world, role

WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ALICE = f"{NANO}/users/alice"
SECRETS = f"{NANO}/namespaces/team-a/secrets"


@pytest.fixture
async def p() -> AsyncIterator[People]:
    async with people_world() as running:
        await running.user("alice")
        await running.user("bob")
        await running.does(role("r", (["secrets"], ["get", "list", "watch", "create"])))
        await running.does(group("team", ["alice", "bob"], ["r"], ["team-a"]))
        yield running


async def test_token_is_its_user_with_the_groups_of_the_store(p: People) -> None:
    said = await p.call("alice", "POST", WHOAMI, {})
    assert said.doc["status"]["userInfo"] == {"username": "alice", "groups": ["nano:users", "team"]}


async def test_token_is_told_once_and_kept_as_a_digest(p: People) -> None:
    made = await p.call("alice", "POST", f"{ALICE}/token", {"description": "laptop", "expiresSeconds": 3600})
    token = made.doc["status"]["token"]
    assert token.startswith("nano_")
    assert len(token) == 48
    listed = await p.call("alice", "GET", f"{ALICE}/token")
    assert [one["spec"]["description"] for one in listed.doc["items"]].count("laptop") == 1
    assert token.encode() not in listed.raw
    assert digest(token).encode() not in listed.raw + made.raw
    entries = [entry for _, entry in p.store.list("credentials")]
    assert digest(token) in {entry.row.digest for entry in entries}
    assert not any(token.encode() in entry.raw for entry in entries)


async def test_request_for_a_token_that_comes_again_puts_another_in_place_of_the_first(p: People) -> None:
    once, before = {"Idempotency-Key": "k"}, len(p.store.list("credentials"))
    first, again = [
        await p.call("alice", "POST", f"{ALICE}/token", {"description": word}, **once) for word in ("first", "again")
    ]
    assert (first.code, again.code) == (201, 201)
    assert first.doc["metadata"]["name"] == again.doc["metadata"]["name"]
    codes = [(await p.call(one.doc["status"]["token"], "POST", WHOAMI, {})).code for one in (first, again)]
    assert codes == [401, 201]
    assert len(p.store.list("credentials")) == before + 1
    others = [
        await p.call("alice", "POST", f"{ALICE}/token", {}, **{"Idempotency-Key": "another"}),
        await p.call("admin", "POST", f"{ALICE}/token", {}, **once),
        await p.call("bob", "POST", f"{NANO}/users/bob/token", {}, **once),
    ]
    assert len({one.doc["metadata"]["name"] for one in (again, *others)}) == 4
    assert (await p.call(again.doc["status"]["token"], "POST", WHOAMI, {})).code == 201
    assert (await p.call("alice", "POST", f"{ALICE}/token", {}, **{"Idempotency-Key": "a b"})).code == 400


async def test_place_of_a_token_is_kept_when_its_user_may_have_no_more(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    for _ in range(TOKENS_MAX - 2):
        await p.call("alice", "POST", f"{ALICE}/token", {})
    assert (await p.call("alice", "POST", f"{ALICE}/token", {}, **once)).code == 201
    assert (await p.call("alice", "POST", f"{ALICE}/token", {}, **once)).code == 201
    assert (await p.call("alice", "POST", f"{ALICE}/token", {}, **{"Idempotency-Key": "l"})).code == 403


async def test_token_that_replaced_one_lives_as_long_as_itself(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    for seconds in (60, 3600):
        made = await p.call("admin", "POST", f"{ALICE}/token", {"expiresSeconds": seconds}, **once)
        p.tokens["alice"] = made.doc["status"]["token"]
        assert (await p.call("alice", "POST", WHOAMI, {})).code == 201
    p.clock.passes(seconds=120)
    async with p.watch("alice", SECRETS) as watch:
        assert (await p.call("alice", "POST", SECRETS, {"metadata": {"name": "new"}, "spec": {}})).code == 201
        assert await watch.take(1) == [("ADDED", "new")]


@pytest.mark.parametrize("who", ["bob", "stranger"])
@pytest.mark.parametrize("name", ["alice", "nobody"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_nobody_gets_at_the_tokens_of_another(p: People, who: str, name: str, method: str) -> None:
    reply = await p.call(who, method, f"{NANO}/users/{name}/token?id=x", {} if method == "POST" else None)
    assert reply.code == (403 if who == "bob" else 401)


async def test_administrator_makes_tokens_for_users_that_are_there(p: People) -> None:
    assert (await p.call("admin", "POST", f"{ALICE}/token", {})).code == 201
    assert (await p.call("admin", "POST", f"{NANO}/users/nobody/token", {})).code == 404


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"expiresSeconds": 59}, "expiresSeconds"),
        ({"expiresSeconds": SECONDS_MAX + 1}, "expiresSeconds"),
        ({"expiresSeconds": "soon"}, "expiresSeconds"),
        ({"description": "x" * 121}, "description"),
        ({"scopes": ["read"]}, "scopes"),
    ],
)
async def test_bad_request_for_a_token_is_refused_by_field(p: People, asked: dict[str, Any], field: str) -> None:
    reply = await p.call("alice", "POST", f"{ALICE}/token", asked)
    assert (reply.code, reply.doc["details"]["causes"][0]["field"]) == (422, field)


async def test_number_of_tokens_is_limited_and_old_ones_make_room(p: People) -> None:
    for _ in range(TOKENS_MAX - 1):
        await p.token("alice", expiresSeconds=60)
    assert (await p.call("alice", "POST", f"{ALICE}/token", {})).code == 403
    p.clock.passes(seconds=61)
    assert (await p.call("admin", "POST", f"{ALICE}/token", {})).code == 201
    assert len([1 for _, entry in p.store.list("credentials") if entry.row.user == "alice"]) == 2


# --- ends -----------------------------------------------------------------------------------------------


async def revoked(p: People) -> None:
    """By its id, by the user itself."""
    [one] = (await p.call("alice", "GET", f"{ALICE}/token")).doc["items"]
    assert (await p.call("alice", "DELETE", f"{ALICE}/token?id={one['metadata']['name']}")).code == 200


async def disabled(p: People) -> None:
    assert (await p.call("admin", "PATCH", ALICE, {"spec": {"disabled": True}})).code == 200


async def deleted(p: People) -> None:
    await p.call("admin", "DELETE", f"{NANO}/groups/team")
    assert (await p.call("admin", "DELETE", ALICE)).code == 200


async def made_anew(p: People) -> None:
    await deleted(p)
    await p.call("admin", "POST", f"{NANO}/users", {"metadata": {"name": "alice"}})


async def expired(p: People) -> None:
    p.clock.passes(days=31)


@pytest.mark.parametrize("end", [revoked, disabled, deleted, made_anew, expired])
async def test_token_that_is_over_is_unknown(p: People, end: Any) -> None:
    assert (await p.call("alice", "GET", SECRETS)).code == 200
    await end(p)
    over = await p.call("alice", "GET", SECRETS)
    unknown = await p.call("nano_" + "z" * 43, "GET", SECRETS)
    assert over.code == 401
    assert over.raw == unknown.raw


@pytest.mark.parametrize("end", [revoked, disabled, deleted])
async def test_open_watch_ends_with_the_token(p: People, end: Any) -> None:
    async with p.watch("alice", SECRETS) as mine, p.watch("bob", SECRETS) as theirs:
        await end(p)
        assert b'"code":410' in await mine.end()
        if end is not deleted:
            made = await p.call("bob", "POST", SECRETS, {"metadata": {"name": "s"}})
            assert made.code == 201
            assert (await theirs.next())["type"] == "ADDED", "the others go on"


async def test_watch_lasts_no_longer_than_its_token(p: People) -> None:
    await p.token("alice", expiresSeconds=60)
    p.clock.passes(seconds=59.5)
    async with p.watch("alice", SECRETS) as watch:
        assert await watch.end() == b""


async def test_another_token_of_the_same_user_goes_on(p: People) -> None:
    old = p.tokens["alice"]
    await p.token("alice")
    first = next(one for _, one in p.store.list("credentials") if one.row.digest == digest(old))
    name = next(key.name for key, one in p.store.list("credentials") if one is first)
    assert (await p.call("alice", "DELETE", f"{ALICE}/token?id={name}")).code == 200
    assert (await p.call(old, "GET", SECRETS)).code == 401
    assert (await p.call("alice", "GET", SECRETS)).code == 200


async def test_id_of_somebody_else_s_token_is_not_found(p: People) -> None:
    theirs = next(key.name for key, entry in p.store.list("credentials") if entry.row.user == "bob")
    assert (await p.call("alice", "DELETE", f"{ALICE}/token?id={theirs}")).code == 404
    assert (await p.call("alice", "DELETE", f"{ALICE}/token")).code == 400


async def test_disabled_user_gets_no_token_and_comes_back_with_the_old_one(p: People) -> None:
    await disabled(p)
    assert (await p.call("admin", "POST", f"{ALICE}/token", {})).code == 403
    await p.call("admin", "PATCH", ALICE, {"spec": {"disabled": False}})
    assert (await p.call("alice", "GET", SECRETS)).code == 200


async def test_credential_that_the_system_removes_is_over_too(p: People) -> None:
    keys = [key for key, entry in p.store.list("credentials") if entry.row.user == "alice"]
    await p.does(*[Delete(Key(*key)) for key in keys])
    assert (await p.call("alice", "GET", SECRETS)).code == 401
