"""A set is judged in the state that all of its writes lead to: references, addresses, names, namespaces."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from nanovirt.portal.api.index import Index
from nanovirt.portal.api.intents import intents
from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.requests import Options
from nanovirt.portal.api.transacting import AT_ONCE, Transactor
from nanovirt.portal.api.writing import Prepared, Writer
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Store
from tests.portal.api_world import INSTANCES, NANO, instance, pool, world
from tests.portal.set_world import (
    COMPUTE,
    IMAGE,
    JSON,
    STORAGE,
    TEMPLATE,
    card,
    causes,
    create,
    machine,
    named,
    ready,
    send,
)


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


async def test_reference_that_was_missing_before_may_stay_and_is_warned_of_when_it_comes_again() -> None:
    async with ready() as w:
        disks = [{"name": "s", "source": {"image": "shared/absent"}}]
        await w.make(INSTANCES, instance("web-1", disks=disks))
        change = {"metadata": {"labels": {"a": "b"}}}
        done = await send(w, named("patch", "Instance", "web-1", "default", patch=change))
        assert (done.code, done.warnings) == (200, [])
        more = {"spec": {"disks": [*disks, {"name": "t", "source": {"image": "shared/absent"}}]}}
        done = await send(w, named("patch", "Instance", "web-1", "default", patch=more))
        assert done.code == 200
        assert len(done.warnings) == 1
        assert "writes[0]: spec.disks[1].source.image: Image shared/absent does not exist." in done.warnings[0]


async def test_index_knows_of_a_set_what_a_new_one_would_read_in_the_store() -> None:
    async with ready() as w:
        disks = [{"name": "s", "source": {"image": "shared/debian"}}]
        first = machine("web-1", disks=disks, nics=card("10.20.0.51", "52:54:00:00:00:01"))
        docs = [pool(), IMAGE, first, machine("web-2", nics=card("10.20.0.52"))]
        for query in ("?dryRun=All", ""):  # what was foreseen for a dry run must not stay
            assert (await send(w, *create(*docs), query=query)).code == 200
        moved = {"spec": {"nics": card("10.20.0.53", "52:54:00:00:00:02"), "disks": [{"name": "s", "size": "1Gi"}]}}
        writes = [named("patch", "Instance", "web-1", "default", patch=moved)]
        writes += [named("delete", "Instance", "web-2", "default"), *create(machine("web-3", nics=card("10.20.0.54")))]
        assert (await send(w, *writes)).code == 200
        known, read = vars(w.api.writer.world.index), vars(Index(w.store))
        assert {name: known[name] for name in read if name != "foreseen"} == {
            name: read[name] for name in read if name != "foreseen"
        }
        assert read["ips"]["lan.10.20.0.53"] == ("default/web-1",)


class Noting(Writer):
    """A Writer that notes what it prepares."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.noted: list[str] = []

    def prepare_create(self, subject: Subject, target: Target, *args: Any, **kwargs: Any) -> Prepared:
        self.noted.append(target.key.name)
        return super().prepare_create(subject, target, *args, **kwargs)


async def test_sets_that_come_together_are_carried_out_one_after_the_other() -> None:
    async with ready() as w:
        writer, before = Noting(w.store), w.store.committed
        transactor = Transactor(w.store, writer, lambda: datetime.now(UTC))
        sets = [[f"{name}-{at:03}" for at in range(3 * AT_ONCE)] for name in "abc"]
        async with asyncio.TaskGroup() as tasks:
            for names in sets:
                asked = intents(create(*(machine(name) for name in names)))
                tasks.create_task(transactor.carry_out(ADMIN, asked, Options(dry=False, validation="Strict")))
        assert writer.noted == [name for names in sets for name in names]
        assert w.store.committed == before + 3


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
