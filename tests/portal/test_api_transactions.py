"""`POST /apis/nano/v1/transactions`: a set of writes is one revision or nothing, and every fault of it is told."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.portal.api import transacting
from nanovirt.portal.api.intents import Intent, intents
from nanovirt.portal.api.transactions import Foresee, nothing
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.log import Log, MemoryLog
from nanovirt.resources.store import Change, Commit, Update, transact
from tests.portal.api_world import INSTANCES, NANO, Reply, World, instance, pool, world

JSON = dict[str, Any]
SETS = f"{NANO}/transactions"
STORAGE: JSON = {"apiVersion": "nano/v1", "kind": "StoragePool", "metadata": {"name": "local"}}
STORAGE |= {"spec": {"type": "Local", "local": {"path": "/var/lib/nano/volumes"}}}
COMPUTE: JSON = {"apiVersion": "nano/v1", "kind": "ComputePool", "metadata": {"name": "default"}}
COMPUTE |= {"spec": {"storagePool": "local"}}
TEMPLATE: JSON = {"apiVersion": "nano/v1", "kind": "SystemTemplate", "metadata": {"name": "linux"}, "spec": {}}
IMAGE: JSON = {"apiVersion": "nano/v1", "kind": "Image", "metadata": {"name": "debian", "namespace": "shared"}}
IMAGE |= {"spec": {"type": "Disk", "source": {"upload": {}}}}


class CountedLog(MemoryLog):
    """Says how many records each append had."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []

    async def append(self, records: Any) -> None:
        self.appends.append(len(records))
        await super().append(records)


def machine(name: str, namespace: str = "default", **spec: Any) -> JSON:
    doc = instance(name, **spec)
    return doc | {"metadata": {"name": name, "namespace": namespace}}


def card(ip: str = "", mac: str = "", addresses: str = "lan") -> list[JSON]:
    return [{"name": "nic0", "addressPool": addresses} | ({"ip": ip} if ip else {}) | ({"mac": mac} if mac else {})]


def create(*docs: JSON) -> list[JSON]:
    return [{"verb": "create", "object": doc} for doc in docs]


def named(verb: str, kind: str, name: str, namespace: str = "", **more: Any) -> JSON:
    return {"verb": verb, "kind": kind, "name": name, **({"namespace": namespace} if namespace else {}), **more}


@asynccontextmanager
async def ready(log: Log | None = None, foresee: Foresee = nothing) -> AsyncIterator[World]:
    """A world with the pools that instances refer to by default."""
    async with world(log=log, foresee=foresee) as w:
        for doc in (TEMPLATE, STORAGE, COMPUTE):
            await w.make(f"{NANO}/{doc['kind'].lower()}s", doc)
        yield w


async def send(w: World, *writes: JSON, query: str = "", **kwargs: Any) -> Reply:
    doc = {"apiVersion": "nano/v1", "kind": "Transaction", "writes": list(writes)}
    headers = {"Content-Type": "application/json", **kwargs.pop("headers", {})}
    return await w.call("POST", SETS + query, data=io.BytesIO(json.dumps(doc).encode()), headers=headers, **kwargs)


def causes(reply: Reply) -> dict[str, str]:
    """Field -> reason of every cause."""
    return {one["field"]: one["reason"] for one in reply.doc["details"]["causes"]}


# --- reading the body -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "field"),
    [
        ("x", ""),
        ({}, "verb"),
        ({"verb": "scale"}, "verb"),
        ({"verb": ["create"]}, "verb"),
        ({"verb": "create"}, "object"),
        ({"verb": "create", "object": []}, "object"),
        ({"verb": "create", "object": {}}, "kind"),
        ({"verb": "create", "object": {"kind": "Unicorn"}}, "kind"),
        ({"verb": "create", "object": {"kind": "Instance", "metadata": []}}, "metadata"),
        ({"verb": "create", "object": {"kind": "Instance", "metadata": {"name": "a"}}}, "metadata.namespace"),
        ({"verb": "create", "object": {"kind": "Instance", "metadata": {"namespace": "a"}}}, "metadata.name"),
        ({"verb": "create", "object": {"kind": "Host", "metadata": {"name": "a", "namespace": "b"}}},
         "metadata.namespace"),
        ({"verb": "create", "object": {"kind": "Host", "apiVersion": "v1"}}, "apiVersion"),
        ({"verb": "update", "object": {"kind": "Host", "metadata": {"generateName": "a"}}}, "metadata.name"),
        ({"verb": "patch", "kind": "Host", "name": "a"}, "patch"),
        ({"verb": "patch", "kind": "Host", "name": ["a"], "patch": {}}, "name"),
        ({"verb": "patch", "kind": "Host", "patch": {}}, "name"),
        ({"verb": "delete", "kind": "Host", "name": "a", "patch": {}}, "patch"),
        ({"verb": "delete", "kind": "Host", "name": "a", "preconditions": 1}, "preconditions"),
        ({"verb": "delete", "kind": "Host", "name": "a", "preconditions": {"uuid": ""}}, "preconditions.uuid"),
        ({"verb": "delete", "kind": "Host", "name": "a", "preconditions": {"resourceVersion": 1}},
         "preconditions.resourceVersion"),
        ({"verb": "expect", "kind": "Host", "name": "a"}, "resourceVersion"),
        ({"verb": "expect", "kind": "Host", "name": "a", "resourceVersion": "-1"}, "resourceVersion"),
        ({"verb": "expect", "kind": "Host", "name": "a", "absent": 1}, "resourceVersion"),
    ],
)  # fmt: skip
def test_write_that_cannot_be_read_says_which_field(write: Any, field: str) -> None:
    (found,) = intents([write])
    assert isinstance(found, NanoError)
    assert [one.field for one in found.causes] == [field]


def test_a_write_that_cannot_be_read_hides_no_other() -> None:
    first, second = intents([1, named("delete", "Instance", "web-1", "team-a", preconditions={"uid": "u"})])
    assert isinstance(first, NanoError)
    assert isinstance(second, Intent)
    assert (second.target.key, second.deletion.uid) == (Key("instances", "team-a", "web-1"), "u")


# --- one revision ---------------------------------------------------------------------------------------


async def test_a_set_is_one_revision_and_answers_each_object_as_stored() -> None:
    async with ready() as w:
        lan = (await w.make(f"{NANO}/addresspools", pool()))["metadata"]
        await w.make(INSTANCES, instance("old"))
        before = w.store.committed
        done = await send(
            w,
            *create(machine("new", cpus=2)),
            named("patch", "Instance", "old", "default", patch={"spec": {"cpus": 3}}),
            named("delete", "AddressPool", "lan", preconditions={"uid": lan["uid"]}),
            named("expect", "ComputePool", "default", resourceVersion="6"),
            named("expect", "Image", "debian", "shared", absent=True),
        )
        assert done.code == 200, done.raw
        made, patched, gone, kept, absent = done.doc["results"]
        revision = str(before + 1)
        assert (done.doc["kind"], done.doc["metadata"]) == ("Transaction", {"resourceVersion": revision})
        assert w.store.committed == before + 1
        assert (made["spec"]["cpus"], made["metadata"]["labels"]) == (2, {"nano/owner": "admin"})
        assert made == (await w.call("GET", f"{INSTANCES}/new")).doc
        assert (patched["spec"]["cpus"], patched["metadata"]["resourceVersion"]) == (3, revision)
        assert (gone["status"], gone["details"]["uid"]) == ("Success", lan["uid"])
        assert kept["metadata"]["resourceVersion"] == "6"
        assert absent["details"] == {"name": "debian", "kind": "images", "group": "nano"}


async def test_update_replaces_and_checks_the_revision_in_the_object() -> None:
    async with ready() as w:
        made = await w.make(INSTANCES, instance("web-1", cpus=2))
        made["spec"]["cpus"] = 3
        done = await send(w, {"verb": "update", "object": made})
        assert done.doc["results"][0]["spec"]["cpus"] == 3
        stale = await send(w, {"verb": "update", "object": made})
        assert (stale.code, stale.doc["reason"], causes(stale)) == (409, "Conflict", {"writes[0]": "Conflict"})


@pytest.mark.parametrize("wanted", [{"resourceVersion": "1"}, {"uid": "another"}])
async def test_deletion_of_another_state_is_a_conflict_of_that_write(wanted: dict[str, str]) -> None:
    async with ready() as w:
        await w.make(f"{NANO}/addresspools", pool())
        stale = await send(
            w, *create(machine("a", cpus=0)), named("delete", "AddressPool", "lan", preconditions=wanted)
        )
        assert causes(stale) == {"writes[0].spec.cpus": "FieldValueInvalid", "writes[1]": "Conflict"}


async def test_what_others_change_while_a_set_is_prepared_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transacting, "AT_ONCE", 1)
    async with ready() as w:
        await w.make(INSTANCES, instance("web-1"))
        key = Key("instances", "default", "web-1")
        seen: list[int] = []
        w.store.subscribe(lambda commit: seen.extend(_labels(commit, key)))

        async def label() -> None:
            for count in itertools.count(1):
                doc = json.loads(w.store.get(key).raw)
                doc["metadata"]["labels"]["count"] = str(count)
                await transact(w.store, [Update(key, doc)], "another")

        async with asyncio.TaskGroup() as tasks:
            labelling = tasks.create_task(label())
            change = named("patch", "Instance", "web-1", "default", patch={"spec": {"cpus": 3}})
            done = await send(w, change, *create(*(machine(f"other-{at}") for at in range(100))))
            labelling.cancel()
        assert done.code == 200
        assert len(seen) > 10
        assert seen == sorted(seen), "the patch left the label as it was by then"


def _labels(commit: Commit, key: Key) -> list[int]:
    return [int(one.after.labels.get("count", 0)) for one in commit.changes if one.key == key and one.after]


async def test_watchers_see_a_set_with_one_resource_version() -> None:
    async with ready() as w, w.watch(INSTANCES, resourceVersion="0") as watch:
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(20))))
        events = [await watch.next() for _ in range(20)]
        assert {one["object"]["metadata"]["resourceVersion"] for one in events} == {
            done.doc["metadata"]["resourceVersion"]
        }


async def test_a_thousand_creates_are_one_request_and_one_commit() -> None:
    log = CountedLog()
    async with ready(log) as w:
        log.appends.clear()
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(1000))))
        assert (done.code, len(done.doc["results"])) == (200, 1000)
        assert log.appends == [1]
        assert len(w.store.list("instances")) == 1000


async def test_others_are_answered_while_a_large_set_is_prepared() -> None:
    async with ready() as w:
        done, seen = await _beside(w, 2000)
        assert done.code == 200
        assert seen > 10


async def _beside(w: World, count: int) -> tuple[Reply, int]:
    """Send a large set; how many other requests were answered meanwhile."""
    seen = 0

    async def look() -> None:
        nonlocal seen
        while True:
            await w.call("GET", f"{NANO}/computepools/default")
            seen += 1

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        done = await send(w, *create(*(machine(f"web-{number}") for number in range(count))))
        looking.cancel()
    return done, seen


async def test_dry_run_answers_as_if_and_stores_nothing() -> None:
    async with ready() as w:
        before = w.store.committed
        done = await send(w, *create(machine("web-1")), query="?dryRun=All")
        assert (done.code, done.doc["results"][0]["spec"]["cpus"]) == (200, 1)
        assert (w.store.committed, w.store.list("instances")) == (before, [])
        assert w.api.writer.world.index.uses[Key("computepools", "", "default")] == 0, "the real index is untouched"


async def test_dry_run_may_ask_what_is_foreseen_of_each_write() -> None:
    def foresee(changes: Sequence[Change]) -> dict[Key, JSON]:
        return {one.key: {"host": f"node-for-{one.key.name}"} for one in changes if one.key.plural == "instances"}

    async with ready(foresee=foresee) as w:
        writes = [named("expect", "Image", "x", "shared", absent=True), *create(pool(), machine("web-1"))]
        done = await send(w, *writes, query="?dryRun=All&forecast=true")
        assert done.doc["forecast"] == [{}, {}, {"host": "node-for-web-1"}]
        assert "forecast" not in (await send(w, *writes, query="?dryRun=All")).doc
        assert "forecast" not in (await send(w, *writes, query="?forecast=true")).doc


async def test_unknown_fields_are_refused_warned_of_or_dropped() -> None:
    async with ready() as w:
        strange = create(machine("web-1", cpuss=2))
        strict = await send(w, *strange)
        assert (strict.code, causes(strict)) == (400, {"writes[0].spec.cpuss": "FieldUnknown"})
        warned = await send(w, *strange, query="?fieldValidation=Warn&dryRun=All")
        assert warned.warnings == ['299 - "writes[0]: unknown field \\"spec.cpuss\\""']
        assert (await send(w, *strange, query="?fieldValidation=Ignore")).code == 200


# --- refusals -------------------------------------------------------------------------------------------


async def test_all_faults_of_all_writes_are_told_at_once_and_nothing_is_stored() -> None:
    async with ready() as w:
        await w.make(INSTANCES, instance("taken"))
        before = w.store.committed
        refused = await send(
            w,
            *create(machine("good"), machine("bad", cpus=0, disks=[{"name": "a", "size": "4GB"}]), machine("taken")),
            named("patch", "Instance", "nobody", "default", patch={}),
            {"verb": "delete"},
        )
        assert causes(refused) == {
            "writes[1].spec.cpus": "FieldValueInvalid",
            "writes[1].spec.disks[0].size": "FieldValueInvalid",
            "writes[2]": "AlreadyExists",
            "writes[3]": "NotFound",
            "writes[4].kind": "FieldValueRequired",
        }
        assert (refused.code, refused.doc["reason"]) == (422, "Invalid")
        assert refused.doc["message"].startswith("4 of 5 writes cannot be, so none was carried out: writes[1].spec.cpu")
        assert (w.store.committed, w.store.peek(Key("instances", "default", "good"))) == (before, None)


@pytest.mark.parametrize(
    ("subject", "writes", "code", "reason"),
    [
        ("stranger", create(machine("a")), 403, "Forbidden"),
        ("node-1", create(machine("a")), 403, "Forbidden"),
        ("stranger", [named("expect", "Instance", "a", "default", absent=True)], 403, "Forbidden"),
        ("admin", create({"kind": "Address", "metadata": {"name": "lan.10.20.0.50"}, "spec": {}}), 403, "Forbidden"),
        ("admin", [named("delete", "Instance", "a", "default")], 404, "NotFound"),
        ("admin", [named("expect", "Namespace", "default", absent=True)], 409, "Conflict"),
        ("admin", create(machine("a", namespace="nowhere")), 422, "Invalid"),
        ("admin", [], 422, "Invalid"),
    ],
)
async def test_refusal_has_the_code_of_the_gravest_fault(
    subject: str, writes: list[JSON], code: int, reason: str
) -> None:
    async with ready() as w:
        refused = await send(w, *writes, subject=subject)
        assert (refused.code, refused.doc["reason"]) == (code, reason), refused.raw


@pytest.mark.parametrize(
    ("method", "path", "doc", "code"),
    [
        ("PUT", SETS, {}, 405),
        ("GET", SETS, None, 405),
        ("POST", f"{SETS}/a/b", {}, 404),
        ("POST", SETS, {"kind": "Instance"}, 400),
        ("POST", SETS, {"writes": 1}, 422),
        ("POST", SETS, {"writs": []}, 422),
        ("POST", SETS, {"writes": [{}] * 10_001}, 413),
        ("POST", f"{SETS}?dryRun=Some", {"writes": [{}]}, 400),
    ],
)
async def test_what_is_no_set_of_writes_is_refused(method: str, path: str, doc: Any, code: int) -> None:
    async with ready() as w:
        assert (await w.call(method, path, doc)).code == code


async def test_limits_of_the_body_of_one_object_and_of_the_record() -> None:
    async with ready() as w:
        text = "x" * 250_000
        wide = [machine(f"web-{at}") for at in range(20)]
        for doc in wide:
            doc["metadata"]["annotations"] = {"note": text}
        assert (await send(w, *create(*wide[:12]), query="?dryRun=All")).code == 200, "3 MB are fine"
        assert (await send(w, *create(*wide))).code == 413
        for part in (wide[:12], wide[12:]):
            assert (await send(w, *create(*part))).code == 200
        for at in range(20, 40):
            await w.make(INSTANCES, wide[0] | {"metadata": wide[0]["metadata"] | {"name": f"web-{at}"}})
        kept = [named("patch", "Instance", f"web-{at}", "default", patch={}) for at in range(40)]
        assert (await send(w, *kept)).code == 200, "what does not change stands in no record"
        large = machine("large")
        large["spec"]["description"] = "y"
        large["metadata"]["annotations"] = {"a": text}
        large["metadata"]["finalizers"] = ["example/" + "z" * 900_000]
        refused = await send(w, *create(large))
        assert (refused.code, causes(refused)) == (413, {"writes[0]": "RequestEntityTooLarge"})


async def test_set_that_grows_over_what_a_record_holds_is_refused_before_it_is_queued() -> None:
    async with ready() as w:
        disks = [{"name": name, "size": "1Gi"} for name in ("a", "b", "c")]
        small = [machine(f"w{at}", disks=disks) for at in range(9_900)]
        before = w.store.committed
        for query in ("?dryRun=All", ""):
            refused = await send(w, *create(*small), query=query)
            assert (refused.code, refused.doc["reason"]) == (413, "RequestEntityTooLarge"), refused.raw
        assert w.store.committed == before


# --- the set as a whole ---------------------------------------------------------------------------------


async def test_references_within_the_set_are_satisfied_in_any_order() -> None:
    async with world() as w:
        team = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-b"}}
        disks = [{"name": "system", "source": {"image": "shared/debian"}}]
        docs = [machine("web-1", "team-b", disks=disks, nics=card("10.20.0.51")), COMPUTE, STORAGE, IMAGE, pool(), team]
        docs.append(TEMPLATE)
        done = await send(w, *create(*docs))
        assert (done.code, done.warnings) == (200, []), done.raw
        assert w.api.writer.world.index.uses[Key("addresspools", "", "lan")] == 1


async def test_reference_that_is_missing_in_store_and_set_is_refused() -> None:
    async with ready() as w:
        refused = await send(w, *create(machine("web-1", disks=[{"name": "s", "source": {"image": "shared/absent"}}])))
        assert (refused.code, causes(refused)) == (422, {"writes[0].spec.disks[0].source.image": "ReferenceMissing"})
        assert refused.doc["details"]["causes"][0]["params"] == {"kind": "Image", "name": "shared/absent"}


async def test_reference_that_was_missing_before_is_warned_of() -> None:
    async with ready() as w:
        disks = [{"name": "s", "source": {"image": "shared/absent"}}]
        await w.make(INSTANCES, instance("web-1", disks=disks))
        change = {"metadata": {"labels": {"a": "b"}}}
        done = await send(w, named("patch", "Instance", "web-1", "default", patch=change))
        assert done.code == 200
        assert len(done.warnings) == 1
        assert "writes[0]: spec.disks[0].source.image: Image shared/absent does not exist." in done.warnings[0]


async def test_fault_of_an_object_is_not_told_as_one_of_those_who_refer_to_it() -> None:
    async with ready() as w:
        broken = pool()
        broken["spec"]["ranges"] = []
        broken["spec"]["subnet"] = "nonsense"
        refused = await send(w, *create(broken, machine("web-1", nics=card())))
        assert all(field.startswith("writes[0].") for field in causes(refused))


@pytest.mark.parametrize(
    ("nics", "reason"),
    [
        ((card("10.20.0.51"), card("10.20.0.51")), "AddressInUse"),
        ((card(mac="52:54:00:00:00:01"), card(mac="52:54:00:00:00:01")), "MacInUse"),
    ],
)
async def test_two_instances_that_ask_for_the_same_are_both_named(
    nics: tuple[list[JSON], list[JSON]], reason: str
) -> None:
    async with ready() as w:
        one, other = machine("a", nics=nics[0]), machine("b", nics=nics[1])
        refused = await send(w, *create(pool(), one, other))
        assert set(causes(refused).values()) == {reason}
        assert [cause["params"]["instance"] for cause in refused.doc["details"]["causes"]] == ["default/b", "default/a"]


async def test_address_outside_of_a_pool_of_the_same_set_is_refused() -> None:
    async with ready() as w:
        refused = await send(w, *create(machine("a", nics=card("10.20.0.200")), pool()))
        assert causes(refused) == {"writes[0].spec.nics[0].ip": "NotInRanges"}


async def test_two_pools_of_a_set_that_overlap_are_refused() -> None:
    async with ready() as w:
        refused = await send(w, *create(pool("one"), pool("two")))
        assert causes(refused) == {"writes[0].spec.subnet": "SubnetOverlaps", "writes[1].spec.subnet": "SubnetOverlaps"}


async def test_an_address_changes_hands_in_one_set() -> None:
    async with ready() as w:
        await send(w, *create(pool(), machine("a", nics=card("10.20.0.51")), machine("b", nics=card("10.20.0.52"))))
        swapped = [
            named("patch", "Instance", name, "default", patch={"spec": {"nics": card(ip)}})
            for name, ip in (("a", "10.20.0.52"), ("b", "10.20.0.51"))
        ]
        assert (await send(w, swapped[0])).code == 422
        done = await send(w, *swapped)
        assert done.code == 200, done.raw


@pytest.mark.parametrize(
    "second",
    [
        create(machine("web-1"))[0],
        {"verb": "update", "object": machine("web-1")},
        named("patch", "Instance", "web-1", "default", patch={}),
        named("delete", "Instance", "web-1", "default"),
        named("expect", "Instance", "web-1", "default", absent=True),
    ],
)
async def test_the_same_object_twice_is_refused(second: JSON) -> None:
    async with ready() as w:
        refused = await send(w, *create(machine("web-1")), second)
        assert causes(refused)["writes[1]"] in ("WrittenTwice", "NotFound")
        assert "WrittenTwice" in {one["reason"] for one in refused.doc["details"]["causes"]}


async def test_what_the_set_deletes_cannot_be_referred_to() -> None:
    async with ready() as w:
        await w.make(f"{NANO}/addresspools", pool())
        refused = await send(w, named("delete", "AddressPool", "lan"), *create(machine("a", nics=card())))
        assert causes(refused) == {"writes[0]": "InUse", "writes[1].spec.nics[0].addressPool": "ReferenceMissing"}


async def test_what_the_set_deletes_cannot_be_referred_to_even_while_it_waits_for_its_finalizers() -> None:
    async with ready() as w:
        kept = pool()
        kept["metadata"]["finalizers"] = ["example/keep"]
        await w.make(f"{NANO}/addresspools", kept)
        refused = await send(w, named("delete", "AddressPool", "lan"), *create(machine("a", nics=card())))
        assert causes(refused)["writes[1].spec.nics[0].addressPool"] == "ReferenceMissing"


async def test_referred_to_object_goes_only_together_with_its_users() -> None:
    async with ready() as w:
        await send(w, *create(pool(), machine("a", nics=card()), machine("b", nics=card())))
        lan, a, b = (
            named("delete", "AddressPool", "lan"),
            named("delete", "Instance", "a", "default"),
            named("delete", "Instance", "b", "default"),
        )
        held = await send(w, lan, a)
        assert (held.code, causes(held)) == (409, {"writes[0]": "InUse"})
        done = await send(w, b, lan, a)
        assert done.code == 200, done.raw
        assert [one.get("status") for one in done.doc["results"]][1] == "Success"
        assert w.store.peek(Key("addresspools", "", "lan")) is None


async def test_what_the_system_has_given_out_holds_a_pool_until_its_host_lets_go() -> None:
    async with ready() as w:
        await send(w, *create(pool(), machine("a", nics=card())))
        spec = {"addressPool": "lan", "ip": "10.20.0.50", "mac": "52:54:00:00:00:01", "instance": "default/a"}
        await w.store_raw(Key("addresses", "", "lan.10.20.0.50"), {"spec": spec | {"instanceUid": "u", "nic": "nic0"}})
        held = await send(w, named("delete", "AddressPool", "lan"), named("delete", "Instance", "a", "default"))
        assert (held.code, causes(held)) == (409, {"writes[0]": "InUse"})


async def test_namespace_and_what_stands_in_it_come_and_go_together() -> None:
    async with ready() as w:
        team = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-b"}}
        image = IMAGE | {"metadata": {"name": "debian", "namespace": "team-b"}}
        assert (await send(w, *create(image, team))).code == 200
        gone = [named("delete", "Namespace", "team-b"), named("delete", "Image", "debian", "team-b")]
        assert causes(await send(w, gone[0])) == {"writes[0]": "NotEmpty"}
        new = machine("late", "team-b")
        refused = await send(w, *gone, *create(new))
        assert causes(refused)["writes[2].metadata.namespace"] == "ReferenceMissing"
        done = await send(w, *gone)
        assert done.code == 200, done.raw
        assert [one["status"] for one in done.doc["results"]] == ["Success", "Success"]


async def test_events_of_a_namespace_go_with_it() -> None:
    async with ready() as w:
        await w.store_raw(Key("events", "team-a", "e1"), {"reason": "Scheduled"})
        done = await send(w, *create(machine("a")), named("delete", "Namespace", "team-a"))
        assert [one["kind"] for one in done.doc["results"]] == ["Instance", "Status"]
        assert w.store.peek(Key("events", "team-a", "e1")) is None


async def test_generated_names_are_answered() -> None:
    async with ready() as w:
        doc = machine("")
        doc["metadata"] = {"generateName": "web-", "namespace": "default"}
        done = await send(w, *create(doc, json.loads(json.dumps(doc))))
        names = [one["metadata"]["name"] for one in done.doc["results"]]
        assert len({*names}) == 2
        assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_the_path_is_documented_and_is_no_kind() -> None:
    async with ready() as w:
        found = (await w.call("GET", NANO)).doc["resources"]
        assert not [one for one in found if "transaction" in one["name"]]
        documented = (await w.call("GET", f"/openapi/v3{NANO}")).doc["paths"]
        assert "dryRun" in [one["name"] for one in documented[SETS]["post"]["parameters"]]


# --- against a model ------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
WRITES = st.lists(
    st.tuples(st.sampled_from(("create", "patch", "delete", "expect")), st.sampled_from(NAMES), st.integers(1, 4)),
    min_size=1,
    max_size=5,
)


@given(sets=st.lists(WRITES, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_sets_are_visible_as_a_whole_or_not_at_all(sets: list[list[tuple[str, str, int]]]) -> None:
    asyncio.run(_follow_model(sets))


async def _follow_model(sets: list[list[tuple[str, str, int]]]) -> None:
    """ComputePools, which have no finalizers, by name; the model says what each set does."""
    async with ready() as w:
        commits: list[Commit] = []
        w.store.subscribe(commits.append)
        model: dict[str, int] = {}
        for writes in sets:
            before, seen = w.store.committed, len(commits)
            reply = await send(w, *(_write(*one) for one in writes))
            after = _expected(model, writes)
            assert (reply.code == 200) == (after is not None), reply.raw
            await asyncio.sleep(0)
            changed = after is not None and after != model
            assert w.store.committed == before + changed
            assert len(commits) == seen + changed
            model = model if after is None else after
            found = {
                key.name: json.loads(entry.raw)["spec"]["overcommit"]["cpu"]
                for key, entry in w.store.list("computepools")
                if key.name in NAMES
            }
            assert found == model


def _write(verb: str, name: str, value: int) -> JSON:
    if verb == "create":
        doc = COMPUTE | {"metadata": {"name": name}, "spec": {"storagePool": "local", "overcommit": {"cpu": value}}}
        return {"verb": "create", "object": doc}
    more: dict[str, Any] = {"patch": {"patch": {"spec": {"overcommit": {"cpu": value}}}}, "expect": {"absent": True}}
    return named(verb, "ComputePool", name, **more.get(verb, {}))


def _expected(model: dict[str, int], writes: list[tuple[str, str, int]]) -> dict[str, int] | None:
    """What the set makes of the model; None: it is refused."""
    after = dict(model)
    if len({name for _, name, _ in writes}) < len(writes):
        return None
    for verb, name, value in writes:
        if (name in model) != (verb in ("patch", "delete")):
            return None
        if verb in ("create", "patch"):
            after[name] = value
        elif verb == "delete":
            del after[name]
    return after
