"""What is wrong with a set of writes is told at once, each fault with the number of its write; nothing is stored."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.portal.api.intents import Intent, intents
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from tests.portal.api_world import INSTANCES, instance
from tests.portal.set_world import JSON, SETS, causes, create, machine, named, ready, send


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


async def test_unknown_fields_are_refused_warned_of_or_dropped() -> None:
    async with ready() as w:
        strange = create(machine("web-1", cpuss=2))
        strict = await send(w, *strange)
        assert (strict.code, causes(strict)) == (400, {"writes[0].spec.cpuss": "FieldUnknown"})
        warned = await send(w, *strange, query="?fieldValidation=Warn&dryRun=All")
        assert warned.warnings == ['299 - "writes[0]: unknown field \\"spec.cpuss\\""']
        assert (await send(w, *strange, query="?fieldValidation=Ignore")).code == 200


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
