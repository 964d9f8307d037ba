"""Members' transactions, repetitions and apply patches: the same rights and the same sight as single requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.writing import Deletion
from nanovirt.portal.identity import Subject
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, Delete, Half, Update
from tests.portal.api_world import MERGE, NANO, Reply, pool
from tests.portal.people_world import People, document, group, people_world, role
from tests.portal.set_world import COMPUTE, STORAGE, TEMPLATE

JSON = dict[str, Any]
INSTANCES, SECRETS = f"{NANO}/namespaces/team-a/instances", f"{NANO}/namespaces/team-a/secrets"
SETS = f"{NANO}/transactions"
ALL = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
APPLY = {"Content-Type": "application/apply-patch+yaml"}
IMAGE = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
HIDDEN = (("Instance", "his"), ("Secret", "his"), ("Image", "his"))
ABSENT = "xxx"


@pytest.fixture
async def p() -> AsyncIterator[People]:
    """Alice and bob at home in team-a, each seeing their own; carol may only patch, dave only create."""
    async with people_world() as running:
        for name in ("alice", "bob", "carol", "dave"):
            await running.user(name)
        kinds = ("instances", "secrets", "images")
        await running.does(
            role("all", (kinds, ALL)), role("patches", (kinds, ALL[:1] + ALL[5:6])), role("creates", (kinds, ALL[3:4])),
            group("team", ["alice", "bob"], ["all"], ["team-a"]), group("patchers", ["carol"], ["patches"], ["team-a"]),
            group("creators", ["dave"], ["creates"], ["team-a"]),
        )  # fmt: skip
        await running.does(
            document("secrets", "his", "team-a", "bob"), document("images", "his", "team-a", "bob", **IMAGE),
        )  # fmt: skip
        for doc in (TEMPLATE, STORAGE, COMPUTE):
            assert (await running.call("admin", "POST", f"{NANO}/{doc['kind'].lower()}s", doc)).code == 201
        for who, name in (("bob", "his"), ("alice", "hers")):
            assert (await running.call(who, "POST", INSTANCES, machine(name))).code == 201
        yield running


async def send(p: People, who: str, *writes: JSON, query: str = "", **headers: str) -> Reply:
    return await p.call(who, "POST", SETS + query, {"kind": "Transaction", "writes": list(writes)}, **headers)


def named(verb: str, kind: str, name: str, namespace: str = "team-a", **more: Any) -> JSON:
    return {"verb": verb, "kind": kind, "namespace": namespace, "name": name, **more}


def thing(kind: str, name: str, namespace: str = "team-a", **spec: Any) -> JSON:
    return {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def machine(name: str, image: str = "") -> JSON:
    source: JSON = {"source": {"image": image}} if image else {"size": "1Gi"}
    return thing("Instance", name, disks=[{"name": "a", **source}])


def given(p: People, plural: str, name: str, user: str) -> Update:
    """The same object in other hands."""
    entry = p.store.peek(Key(plural, "team-a", name))
    assert entry is not None
    doc = json.loads(entry.raw)
    doc["metadata"]["labels"] = {OWNER_LABEL: user}
    return Update(Key(plural, "team-a", name), doc, Half.MAIN)


def alike(there: Reply, gone: Reply, name: str = "his") -> bool:
    """Whether two answers differ in nothing but the name and the time."""
    same = there.raw.replace(name.encode(), ABSENT.encode()) == gone.raw
    return same and there.code == gone.code and dict(there.headers, Date="") == dict(gone.headers, Date="")


# --- sets -----------------------------------------------------------------------------------------------


def writes(verb: str, kind: str, name: str) -> JSON:
    """One write of that verb, right but for whose the object may be."""
    spec = {"Instance": machine(name)["spec"], "Image": IMAGE, "Secret": {"data": {"a": "1"}}}[kind]
    match verb:
        case "update":
            return {"verb": verb, "object": thing(kind, name, **spec)}
        case "patch":
            return named(verb, kind, name, patch={"spec": {"displayName": "mine"}})
        case "operations":
            operation = {"op": "add", "path": "/spec/displayName", "value": "mine"}
            return named("patch", kind, name, patchType="json", patch=[operation])
        case "status":
            return named("patch", kind, name, subresource="status", patch={"status": {}})
        case "at":
            return named("expect", kind, name, resourceVersion="1")
        case "absent":
            return named("expect", kind, name, absent=True)
        case _:
            return named(verb, kind, name)


@pytest.mark.parametrize("query", ["", "?dryRun=All", "?dryRun=All&forecast=true"])
@pytest.mark.parametrize("verb", ["update", "patch", "operations", "status", "delete", "at", "absent"])
@pytest.mark.parametrize(("kind", "name"), HIDDEN)
async def test_each_verb_of_a_set_meets_the_invisible_as_if_it_were_absent(
    p: People, kind: str, name: str, verb: str, query: str
) -> None:
    there = await send(p, "alice", writes(verb, kind, name), query=query)
    gone = await send(p, "alice", writes(verb, kind, ABSENT), query=query)
    assert alike(there, gone), (there.raw, gone.raw)
    assert (there.code < 300) == (verb == "absent")
    assert b'"spec"' not in there.raw


async def test_expectation_at_the_very_revision_of_the_invisible_fails_like_any(p: People) -> None:
    entry = p.store.get(Key("instances", "team-a", "his"))
    right = await send(p, "alice", named("expect", "Instance", "his", resourceVersion=str(entry.rev)))
    wrong = await send(p, "alice", named("expect", "Instance", ABSENT, resourceVersion=str(entry.rev)))
    assert right.code == 409
    assert alike(right, wrong), (right.raw, wrong.raw)


async def test_repetition_of_an_expectation_about_the_invisible_is_answered_as_about_the_absent(p: People) -> None:
    for name in ("his", ABSENT):
        asked = (named("expect", "Instance", name, absent=True), writes("patch", "Instance", "hers"))
        first = await send(p, "alice", *asked, **{"Idempotency-Key": name})
        again = await send(p, "alice", *asked, **{"Idempotency-Key": name})
        assert (first.code, again.code) == (200, 200), again.raw
        assert first.doc["results"][0] == again.doc["results"][0]
        assert first.doc["results"][0]["details"] == {"name": name, "group": "nano", "kind": "instances"}


@pytest.mark.parametrize("query", ["", "?dryRun=All", "?dryRun=All&forecast=true"])
@pytest.mark.parametrize("beside", ["", "patch", "delete", "absent"])
async def test_reference_to_the_invisible_is_refused_as_one_to_nothing(p: People, query: str, beside: str) -> None:
    replies = []
    for name in ("his", ABSENT):
        more = [writes(beside, "Image", name)] if beside else []
        replies.append(await send(p, "alice", {"verb": "create", "object": machine("new", name)}, *more, query=query))
    assert replies[0].code == 422
    assert alike(replies[0], replies[1]), [one.raw for one in replies]
    reasons = [one["reason"] for one in replies[0].doc["details"]["causes"] if "image" in one.get("field", "")]
    assert reasons == ["ReferenceMissing"], "once"


async def test_set_with_one_write_that_is_not_allowed_changes_nothing(p: People) -> None:
    before = p.store.committed
    reply = await send(p, "alice", {"verb": "create", "object": machine("new")}, writes("delete", "Secret", "his"))
    assert (reply.code, p.store.committed) == (404, before)


@pytest.mark.parametrize(
    "write",
    [
        {"verb": "create", "object": {"kind": "Role", "metadata": {"name": "r"}, "spec": {}}},
        {"verb": "create", "object": {"kind": "User", "metadata": {"name": "r"}, "spec": {}}},
        {"verb": "create", "object": {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "mine"}}},
        {"verb": "patch", "kind": "Group", "name": "team", "patch": {"spec": {"namespaces": ["team-b"]}}},
        {"verb": "delete", "kind": "Group", "name": "team"},
        {"verb": "create", "object": machine("new") | {"metadata": {"name": "new", "namespace": "team-b"}}},
        {"verb": "create", "object": thing("Placement", "p")},
        {"verb": "expect", "kind": "User", "name": "bob", "absent": True},
        named("expect", "Instance", "x", "team-b", absent=True),
    ],
)  # fmt: skip
async def test_what_a_single_request_may_not_a_set_may_not(p: People, write: JSON) -> None:
    reply = await send(p, "alice", write)
    assert reply.code == 403, reply.raw


async def test_kinds_that_no_route_knows_are_in_no_set(p: People) -> None:
    tokens = [key.name for key, _ in p.store.list("credentials")]
    for who in ("admin", "alice"):
        reply = await send(p, who, {"verb": "expect", "kind": "Credential", "name": tokens[0], "absent": True})
        assert reply.code == 422, reply.raw


async def test_what_a_member_makes_in_a_set_is_its_own_whatever_it_says(p: People) -> None:
    doc = machine("new")
    doc["metadata"]["labels"] = {OWNER_LABEL: "bob"}
    made = await send(p, "alice", {"verb": "create", "object": doc})
    assert made.doc["results"][0]["metadata"]["labels"][OWNER_LABEL] == "alice"
    patch = {"metadata": {"labels": {OWNER_LABEL: "bob"}}}
    kept = await send(p, "alice", named("patch", "Instance", "new", patch=patch))
    assert kept.doc["results"][0]["metadata"]["labels"][OWNER_LABEL] == "alice"


@pytest.mark.parametrize("card", [{"mac": "52:54:00:00:00:01"}, {"ip": "10.20.0.50"}])
async def test_who_holds_a_mac_or_an_address_is_told_to_those_who_see_it(p: People, card: JSON) -> None:
    assert (await p.call("admin", "POST", f"{NANO}/addresspools", pool())).code == 201
    taken, mine = machine("taken-by-bob"), machine("new")
    for doc in (taken, mine):
        doc["spec"]["nics"] = [{"name": "a", "addressPool": "lan", **card}]
    assert (await p.call("bob", "POST", INSTANCES, taken)).code == 201
    for reply in (
        await p.call("alice", "POST", INSTANCES, mine),
        await send(p, "alice", {"verb": "create", "object": mine}),
    ):
        assert reply.code == 422
        assert b"somebody else" in reply.raw
        assert b"taken-by-bob" not in reply.raw
    assert b"team-a/taken-by-bob" in (await p.call("bob", "POST", INSTANCES, mine)).raw


@pytest.mark.parametrize(
    ("hers", "said"), [("hers-1", b"used by instances/team-a/hers-1 and 2 others."), ("", b"used by 2 others.")]
)
async def test_what_others_use_is_said_to_be_used_without_their_names(p: People, hers: str, said: bytes) -> None:
    await p.does(document("images", "lent", "team-a", "alice", **IMAGE))
    for who, name in (("bob", "his-1"), ("bob", "his-2"), ("alice", hers)):
        if name:
            await p.does(document("instances", name, "team-a", who, **machine(name, "lent")["spec"]))
    images = f"{NANO}/namespaces/team-a/images"
    replies = [
        await p.call("alice", "DELETE", f"{images}/lent"),
        await p.call("alice", "DELETE", images),
        await send(p, "alice", named("delete", "Image", "lent")),
    ]
    for reply in replies:
        assert reply.code == 409
        assert said in reply.raw
        assert b"his" not in reply.raw
    assert b"instances/team-a/his-1" in (await p.call("admin", "DELETE", f"{images}/lent")).raw


# --- secrets --------------------------------------------------------------------------------------------


async def test_secret_of_a_set_is_sealed_and_shown_in_no_answer(p: People) -> None:
    secret = thing("Secret", "s", data={"a": "planted-1"})
    wrong = thing("Secret", "t", data={"a": ["planted-2"]})
    once = {"Idempotency-Key": "k"}
    replies = [
        await send(p, "alice", {"verb": "create", "object": secret}, query="?dryRun=All&forecast=true"),
        await send(p, "alice", {"verb": "create", "object": secret}, **once),
        await send(p, "alice", {"verb": "create", "object": secret}, **once),
        await send(p, "alice", named("patch", "Secret", "s", patch={"spec": {"data": {"b": "planted-3"}}})),
        await send(p, "alice", {"verb": "update", "object": thing("Secret", "s", data={"c": "planted-4"})}),
        await send(p, "alice", {"verb": "create", "object": wrong}),
        await send(p, "alice", {"verb": "create", "object": thing("Secret", "t", password="planted-5")}),
    ]
    assert [reply.code for reply in replies] == [200, 200, 200, 200, 200, 422, 400], [one.raw for one in replies]
    entry = p.store.get(Key("secrets", "team-a", "s"))
    shown = b"".join([*(reply.raw + str(reply.headers).encode() for reply in replies), entry.raw])
    assert b"planted" not in shown
    assert b"sealed.v1" not in b"".join(reply.raw for reply in replies)
    assert b"sealed.v1" in entry.raw


async def test_what_is_remembered_of_a_body_cannot_be_compared_with_guesses(p: People) -> None:
    doc = thing("Secret", "s", data={"pin": "1234"})
    assert (await p.call("alice", "POST", SECRETS, doc, **{"Idempotency-Key": "k"})).code == 201
    known = p.store.remembered("alice", f"{p.store.get(Key('users', '', 'alice')).uid} k")
    assert known is not None
    guess = f"POST\n{SECRETS}\napplication/json\n{json.dumps(doc)}".encode()
    assert known.digest == Sealer(b"k" * 32).mark(guess), "with the key it can be made again"
    assert known.digest != hashlib.sha256(guess).hexdigest()


# --- repetitions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "method", "path", "doc"),
    [
        ("dave", "POST", INSTANCES, machine("new")),
        ("dave", "POST", SETS, {"kind": "Transaction", "writes": [{"verb": "create", "object": machine("new")}]}),
        ("erin", "DELETE", f"{INSTANCES}/erins", None),
        ("erin", "DELETE", INSTANCES, None),
        ("erin", "POST", SETS, {"kind": "Transaction", "writes": [named("delete", "Instance", "erins")]}),
    ],
)
async def test_who_may_write_and_not_read_is_answered_again_as_the_first_time(
    p: People, who: str, method: str, path: str, doc: Any
) -> None:
    await p.user("erin")
    deletes = role("deletes", (("instances",), ("delete", "deletecollection")))
    await p.does(deletes, group("deleters", ["erin"], ["deletes"], ["team-a"]), instance_of("erin", "erins"))
    once = {"Idempotency-Key": "k"}
    first = await p.call(who, method, path, doc, **once)
    assert first.code < 300, first.raw
    rev = p.store.committed
    again = await p.call(who, method, path, doc, **once)
    assert (again.code, again.raw, p.store.committed) == (first.code, first.raw, rev)


def instance_of(who: str, name: str) -> Create:
    return document("instances", name, "team-a", who, **machine(name)["spec"])


async def test_who_may_not_write_any_more_and_never_could_read_is_refused(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    assert (await p.call("dave", "POST", INSTANCES, machine("new"), **once)).code == 201
    await p.does(given(p, "instances", "new", "bob"))
    again = await p.call("dave", "POST", INSTANCES, machine("new"), **once)
    assert again.code in (403, 404), "it has changed hands"
    await p.does(given(p, "instances", "new", "dave"))
    await p.does(Delete(Key("groups", "", "creators")))
    again = await p.call("dave", "POST", INSTANCES, machine("new"), **once)
    assert (again.code, b"spec" in again.raw) == (403, False)


async def test_object_that_changed_hands_is_not_told_again(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    first = await p.call("alice", "POST", INSTANCES, machine("new"), **once)
    assert first.code == 201
    await p.does(given(p, "instances", "new", "bob"))
    again = await p.call("alice", "POST", INSTANCES, machine("new"), **once)
    assert again.code == 404
    assert b"spec" not in again.raw


async def test_what_is_gone_is_told_again_also_when_the_name_is_somebody_else_s_now(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    first = await p.call("alice", "POST", SECRETS, thing("Secret", "new"), **once)
    await p.does(Delete(Key("secrets", "team-a", "new")))
    gone = await p.call("alice", "POST", SECRETS, thing("Secret", "new"), **once)
    await p.does(document("secrets", "new", "team-a", "bob"))
    taken = await p.call("alice", "POST", SECRETS, thing("Secret", "new"), **once)
    assert first.raw == gone.raw == taken.raw


async def test_deletion_is_told_again_and_says_nothing_of_what_has_the_name_now(p: People) -> None:
    await p.call("alice", "POST", SECRETS, thing("Secret", "new"))
    first = await p.call("alice", "DELETE", f"{SECRETS}/new", **{"Idempotency-Key": "k"})
    await p.does(document("secrets", "new", "team-a", "bob"))
    again = await p.call("alice", "DELETE", f"{SECRETS}/new", **{"Idempotency-Key": "k"})
    assert (first.code, again.code) == (200, 200)
    assert again.raw == first.raw


async def test_user_made_anew_knows_nothing_of_the_keys_of_the_one_before(p: People) -> None:
    once = {"Idempotency-Key": "k"}
    assert (await p.call("alice", "POST", SECRETS, thing("Secret", "new"), **once)).code == 201
    assert (await p.call("alice", "GET", f"{SETS}/k")).code == 200
    assert (await p.call("bob", "GET", f"{SETS}/k")).code == 404, "another user"
    await p.does(Delete(Key("secrets", "team-a", "new")), Delete(Key("users", "", "alice")))
    await p.user("alice")
    assert (await p.call("alice", "GET", f"{SETS}/k")).code == 404
    made = await p.call("alice", "POST", SECRETS, thing("Secret", "new"), **once)
    assert made.code == 201
    assert p.store.get(Key("secrets", "team-a", "new")).uid == made.doc["metadata"]["uid"], "it was carried out"


async def test_deletion_of_all_is_counted_alike_when_it_is_told_again(p: People) -> None:
    path, once = f"{SECRETS}?propagationPolicy=Foreground", {"Idempotency-Key": "k"}
    for name in ("a", "b"):
        await p.call("alice", "POST", SECRETS, thing("Secret", name))
    first, again = await p.call("alice", "DELETE", path, **once), await p.call("alice", "DELETE", path, **once)
    assert (first.code, again.raw) == (200, first.raw)
    assert first.doc["details"]["params"] == {"count": 2}


# --- apply patches --------------------------------------------------------------------------------------


async def apply(p: People, who: str, name: str, query: str = "") -> Reply:
    path = f"{INSTANCES}/{name}?fieldManager=m{query}"
    return await p.call(who, "PATCH", path, machine(name), **APPLY)


@pytest.mark.parametrize(("who", "said"), [("carol", "create"), ("dave", "patch")])
@pytest.mark.parametrize("query", ["", "&dryRun=All", "&force=true"])
async def test_apply_needs_both_rights_and_tells_the_invisible_not_from_the_absent(
    p: People, who: str, said: str, query: str
) -> None:
    there, gone = await apply(p, who, "his", query), await apply(p, who, ABSENT, query)
    assert there.code == 403
    assert f"may not {said}".encode() in there.raw
    assert alike(there, gone), (there.raw, gone.raw)
    within = [
        await send(p, who, {"verb": "apply", "object": machine(name)}, query=f"?fieldManager=m{query}")
        for name in ("his", ABSENT)
    ]
    assert within[0].code == 403
    assert f"may not {said}".encode() in within[0].raw
    assert alike(within[0], within[1]), [one.raw for one in within]


async def test_who_may_patch_can_apply_to_what_is_its_own(p: People) -> None:
    await p.does(given(p, "instances", "hers", "carol"))
    assert (await apply(p, "carol", "hers")).code == 200
    assert (await apply(p, "alice", "hers")).code == 404, "for others it is not there"


async def test_agent_may_expect_its_own_placements_in_a_set_and_tell_their_status_and_do_nothing_else() -> None:
    async with people_world(hosts=("node-1", "node-2")) as p:
        for host in ("node-1", "node-2"):
            await p.does(document("placements", f"at-{host}", "team-a", "alice", **placement(host)))
        rev = str(p.store.get(Key("placements", "team-a", "at-node-1")).rev)
        own = await send(p, "node-1", named("expect", "Placement", "at-node-1", resourceVersion=rev))
        assert own.doc["results"][0]["spec"]["host"] == "node-1"
        for more in ({"absent": True}, {"resourceVersion": rev}):
            there = await send(p, "node-1", named("expect", "Placement", "at-node-2", **more))
            gone = await send(p, "node-1", named("expect", "Placement", "at-node-9", **more))
            assert alike(there, gone, "at-node-2") or there.raw.replace(b"node-2", b"node-9") == gone.raw
        for verb, kind in product(("create", "update", "patch", "delete"), ("Instance", "Secret", "Image")):
            assert (await send(p, "node-1", writes(verb, kind, "x"))).code in (403, 422), (verb, kind)
        tell: JSON = {"subresource": "status", "patch": {"status": {"state": "Running"}, "spec": {"epoch": 2}}}
        told = await send(p, "node-1", named("patch", "Placement", "at-node-1", **tell))
        (seen,) = told.doc["results"]
        assert (seen["status"]["state"], seen["spec"]["epoch"]) == ("Running", 1)
        both = [named("patch", "Placement", f"at-{name}", **tell) for name in ("node-1", "node-2")]
        before = p.store.committed
        assert ((await send(p, "node-1", *both)).code, p.store.committed) == (404, before)
        patch = named("patch", "Placement", "at-node-1", patch={"spec": {"epoch": 2}})
        assert (await send(p, "node-1", patch)).code == 403
        assert (await send(p, "node-1", named("delete", "Placement", "at-node-1"))).code == 403


def placement(host: str) -> JSON:
    uid = "00000000-0000-4000-8000-000000000001"
    spec = {"instance": "web", "instanceUid": uid, "host": host, "epoch": 1, "role": "Active"}
    domain = {"uuid": uid, "name": "team-a.web"}
    return {**spec, "domain": domain, "hostname": "web", "cpu": 1, "memory": "1Gi", "volumes": []}


# --- deletions, reviews, headers ------------------------------------------------------------------------


async def test_what_changes_hands_while_all_is_deleted_is_left_alone(p: People) -> None:
    target = Target(KINDS["secrets"], Key("secrets", "team-a", ""), "")
    await p.does(document("secrets", "hers", "team-a", "alice"))
    alice = Subject("alice", ("nano:users",), rights=p.identities._membership.rights("alice"))
    ticket = p.store.stage([given(p, "secrets", "hers", "bob")], "admin")  # not durable yet: lists show it as alice's
    count = await p.api.writer.delete_all(alice, target, [Key("secrets", "team-a", "hers")], Deletion())
    await ticket.durable()
    assert count == 0
    assert p.store.get(Key("secrets", "team-a", "hers")).labels[OWNER_LABEL] == "bob"


@pytest.mark.parametrize("policy", ["Foreground", "Orphan", "Background"])
async def test_policy_of_a_deletion_reaches_no_object_of_others(p: People, policy: str) -> None:
    before = {name: p.store.get(Key(name, "team-a", "his")).raw for name in ("instances", "secrets", "images")}
    reply = await p.call("alice", "DELETE", f"{INSTANCES}/his?propagationPolicy={policy}")
    none = await p.call("alice", "DELETE", f"{INSTANCES}/{ABSENT}?propagationPolicy={policy}")
    assert alike(reply, none)
    assert (await p.call("alice", "DELETE", f"{SECRETS}?propagationPolicy={policy}")).code == 200
    assert {name: p.store.get(Key(name, "team-a", "his")).raw for name in before} == before


@pytest.mark.parametrize("header", ["Impersonate-User", "Impersonate-Group", "Impersonate-Uid"])
@pytest.mark.parametrize("who", ["admin", "alice", "nobody"])
async def test_nobody_asks_in_the_name_of_another(p: People, who: str, header: str) -> None:
    reply = await p.call(who, "GET", INSTANCES, **{header: "nano:admins"})
    assert reply.code == 403
    assert b"items" not in reply.raw


@pytest.mark.parametrize(
    "path", [f"{INSTANCES}/NAME", f"{SECRETS}/NAME", f"{SECRETS}/NAME/status", f"{SECRETS}/NAME/owner"]
)
async def test_head_of_the_invisible_is_that_of_the_absent(p: People, path: str) -> None:
    there = await p.call("alice", "HEAD", path.replace("NAME", "his"))
    gone = await p.call("alice", "HEAD", path.replace("NAME", ABSENT))
    assert (there.code, there.raw) == (403 if "status" in path else 404, b"")
    assert alike(there, gone)


async def test_review_of_a_token_of_somebody_else_says_nothing(p: People) -> None:
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    replies = [await p.call("alice", "POST", path, {"spec": {"token": one}}) for one in (p.tokens["bob"], "nano_x", "")]
    assert len({reply.raw for reply in replies}) == 1
    assert b'"authenticated":false' in replies[0].raw
    own = await p.call("alice", "POST", path, {"spec": {"token": p.tokens["alice"]}})
    assert own.doc["status"]["user"]["username"] == "alice"
    assert p.tokens["alice"].encode() not in own.raw


async def test_pages_selectors_and_tables_show_one_s_own_alone(p: People) -> None:
    for at in range(5):
        await p.does(
            document("secrets", f"a{at}", "team-a", "alice"), document("secrets", f"b{at}-his", "team-a", "bob")
        )
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    for query in (
        "",
        "&labelSelector=nano/owner!=alice",
        "&labelSelector=nano/owner=bob",
        "&fieldSelector=metadata.name!=a1",
    ):
        for headers in ({}, table):
            token, shown = "", 0
            for _ in range(9):
                reply = await p.call("alice", "GET", f"{SECRETS}?limit=2&continue={token}{query}", **headers)
                assert b"his" not in reply.raw
                assert "remainingItemCount" not in reply.doc["metadata"]
                shown += len(reply.doc.get("items", reply.doc.get("rows")))
                token = reply.doc["metadata"].get("continue", "")
                if not token:
                    break
            assert shown == (5 if not query else 4 if "field" in query else 0)


async def test_merge_patch_of_the_invisible_by_a_set_and_alone_say_the_same(p: People) -> None:
    alone = await p.call("alice", "PATCH", f"{INSTANCES}/his", {"spec": {"cpus": 2}}, **MERGE)
    within = await send(p, "alice", named("patch", "Instance", "his", patch={"spec": {"cpus": 2}}))
    assert alone.code == within.code == 404
    assert within.doc["details"]["causes"][0]["message"] == 'instances "his" not found', within.raw
