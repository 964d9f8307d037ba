"""hosts/NAME/adopt and hosts/NAME/unclaimed: who may, what is refused, and whose the instance is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from nanovirt.portal.api.adopting import Adoption
from nanovirt.resources.kind import Key
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import DomainFacts, HostReport, StrangeNic, Unclaimed
from nanovirt.resources.reports import Reports
from tests.portal.api_world import NANO, World, world

OLD = "11111111-2222-4333-8444-555555555555"
ADOPT = f"{NANO}/hosts/node-1/adopt"
FACTS = DomainFacts(cpus=2, memory=Bytes("1Gi"), nics=(StrangeNic(mac="52:54:00:aa:00:01", bridge="br0", vlan=40),))


@asynccontextmanager
async def with_strangers(**facts: Any) -> AsyncIterator[World]:
    """A host with one domain that nobody claims."""
    reports, box = Reports(0.0), dict[str, Adoption]()

    async def adopt(*asked: Any) -> web.StreamResponse:
        return await box["adoption"].adopt(*asked)

    async def unclaimed(*asked: Any) -> web.StreamResponse:
        return await box["adoption"].unclaimed(*asked)

    async with world({("hosts", "adopt", "POST"): adopt, ("hosts", "unclaimed", "GET"): unclaimed}) as w:
        box["adoption"] = Adoption(w.store, reports, lambda: w.api.writer)
        spec = {"computePool": "default", "bridges": [{"network": "default", "device": "br0"}]}
        await w.store_raw(Key("hosts", "", "node-1"), {"spec": spec})
        await w.store_raw(Key("users", "", "alice"), {"spec": {}})
        known = FACTS.model_copy(update=facts)
        stranger = Unclaimed(uuid=OLD, name="Old_Web", state="Running", facts=known)
        reports.hear("node-1", HostReport(unclaimed=(stranger,)), 1.0)
        yield w


async def test_domain_becomes_an_instance_in_that_persons_name() -> None:
    async with with_strangers() as w:
        (listed,) = (await w.call("GET", f"{NANO}/hosts/node-1/unclaimed")).doc["items"]
        assert (listed["name"], listed["facts"]["cpus"]) == ("Old_Web", 2)
        made = await w.call(
            "POST", ADOPT, {"domain": "Old_Web", "name": "old", "namespace": "team-a", "owner": "alice"}
        )
        assert made.code == 201, made.raw
        assert made.doc["metadata"]["namespace"] == "team-a"
        assert made.doc["metadata"]["labels"] == {
            "nano/owner": "alice", "nano/adopted": OLD, "nano/adopted-host": "node-1",
        }  # fmt: skip
        spec = made.doc["spec"]
        assert (spec["cpus"], spec["memory"], spec["powerState"], spec["drift"]) == (2, "1Gi", "Running", "Report")
        (card,) = spec["nics"]
        assert (card["network"], card["vlan"], card["mac"]) == ("default", 40, "52:54:00:aa:00:01")


async def test_domain_is_adopted_once() -> None:
    async with with_strangers() as w:
        assert (await w.call("POST", ADOPT, {"domain": OLD})).doc["metadata"]["name"] == "old-web"
        assert (await w.call("POST", ADOPT, {"domain": OLD, "name": "other"})).code == 409
        assert len(w.store.list("instances")) == 1


async def test_request_sent_again_with_its_key_is_answered_as_before() -> None:
    async with with_strangers() as w:
        key = {"Idempotency-Key": "once"}
        first = await w.call("POST", ADOPT, {"domain": OLD}, headers=key)
        again = await w.call("POST", ADOPT, {"domain": OLD}, headers=key)
        assert (again.code, again.doc) == (200, first.doc)


async def test_nobody_gives_himself_the_label_by_which_a_domain_is_adopted() -> None:
    async with with_strangers() as w:
        doc = {"metadata": {"name": "thief", "labels": {"nano/adopted": OLD, "nano/adopted-host": "node-1"}}}
        made = await w.make(f"{NANO}/namespaces/default/instances", doc)
        assert "nano/adopted" not in made["metadata"]["labels"]


@pytest.mark.parametrize(
    ("asked", "facts", "code"),
    [
        ({"domain": "unknown"}, {}, 404),
        ({}, {}, 422),
        ({"domain": OLD, "owner": "nobody"}, {}, 422),
        ({"domain": OLD, "namespace": "absent"}, {}, 404),
        ({"domain": OLD, "colour": "red"}, {}, 422),
        ({"domain": 7}, {}, 422),
        ({"domain": OLD}, {"problems": ("its disk sda is no file",)}, 422),
        ({"domain": OLD}, {"nics": (StrangeNic(mac="52:54:00:aa:00:01", bridge="virbr0"),)}, 422),
        ({"domain": OLD}, {"cpus": 0}, 422),
    ],
)
async def test_what_cannot_be_adopted_is_refused_and_nothing_is_made(
    asked: dict[str, Any], facts: dict[str, Any], code: int
) -> None:
    async with with_strangers(**facts) as w:
        assert (await w.call("POST", ADOPT, asked)).code == code
        assert w.store.list("instances") == []


async def test_only_administrators_adopt_and_see_what_there_is() -> None:
    async with with_strangers() as w:
        for who in ("stranger", "node-1"):
            assert (await w.call("POST", ADOPT, {"domain": OLD}, subject=who)).code == 403
            assert (await w.call("GET", f"{NANO}/hosts/node-1/unclaimed", subject=who)).code == 403
