"""Power and deletion through the API: of one instance, and of many with an answer for each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.portal.api_world import INSTANCES, World, instance, world

AT = "2026-11-22T06:00:00Z"


async def spec(w: World, name: str) -> Any:
    return (await w.call("GET", f"{INSTANCES}/{name}")).doc["spec"]


async def some(w: World, *names: str, **more: Any) -> None:
    for name in names:
        doc = instance(name, **more)
        doc["metadata"]["labels"] = {"app": "web"}
        await w.make(INSTANCES, doc)


async def test_sub_verb_writes_the_wish_in_the_callers_name() -> None:
    async with world() as w:
        await some(w, "web-1")
        stopped = await w.call("POST", f"{INSTANCES}/web-1/stop")
        assert (stopped.code, stopped.doc["spec"]["powerState"]) == (200, "Stopped")
        again = await w.call("POST", f"{INSTANCES}/web-1/stop", {})
        assert again.doc["metadata"]["resourceVersion"] == stopped.doc["metadata"]["resourceVersion"]
        await w.call("POST", f"{INSTANCES}/web-1/start")
        reset = await w.call("POST", f"{INSTANCES}/web-1/reset", {"at": AT})
        assert reset.doc["spec"]["restart"] == {"at": AT, "mode": "Hard"}
        suspended = await w.call("POST", f"{INSTANCES}/web-1/suspend", {})
        assert suspended.doc["spec"]["powerState"] == "Suspended"
        resumed = await w.call("POST", f"{INSTANCES}/web-1/resume", {})
        assert resumed.doc["spec"]["powerState"] == "Running"
        forced = await w.call("POST", f"{INSTANCES}/web-1/stop", {"force": True})
        assert (forced.doc["spec"]["stopGraceSeconds"], forced.doc["spec"]["restart"]["mode"]) == (60, "Hard")


async def test_sub_verb_with_a_key_takes_effect_once() -> None:
    async with world() as w:
        await some(w, "web-1")
        key = {"Idempotency-Key": "once"}
        first = await w.call("POST", f"{INSTANCES}/web-1/restart", {}, headers=key)
        assert (await w.call("POST", f"{INSTANCES}/web-1/restart", {}, headers=key)).doc == first.doc


@pytest.mark.parametrize(
    ("method", "path", "doc", "code"),
    [
        ("GET", "/web-1/stop", None, 405),
        ("POST", "/absent/stop", {}, 404),
        ("POST", "/web-1/stop", {"names": ["web-2"]}, 422),
        ("POST", "/web-1/stop", {"forse": True}, 422),
        ("POST", "/web-1/restart", {"at": "yesterday"}, 422),
        ("POST", "/web-1/restart", {"at": "2026-11-22T06:00:00"}, 422),
        ("POST", "/web-1/explode", {}, 404),
        ("POST", "/web-1", {}, 405),
        ("POST", "/stop", {}, 422),
        ("POST", "/stop", {"names": "web-1"}, 422),
        ("POST", "/stop", {"names": ["x"] * 1001}, 413),
    ],
)
async def test_what_makes_no_sense_is_refused(method: str, path: str, doc: Any, code: int) -> None:
    async with world() as w:
        await some(w, "web-1")
        assert (await w.call(method, f"{INSTANCES}{path}", doc)).code == code


async def test_each_of_many_is_answered_by_itself() -> None:
    async with world() as w:
        await some(w, "web-1", "web-2")
        told = (await w.call("POST", f"{INSTANCES}/stop", {"names": ["web-1", "absent", "web-2"]})).doc
        assert (told["kind"], told["verb"], told["failed"]) == ("BulkResult", "stop", 1)
        assert [(one["name"], one["status"]) for one in told["items"]] == [
            ("web-1", "Success"), ("absent", "Failure"), ("web-2", "Success"),
        ]  # fmt: skip
        assert (told["items"][1]["reason"], told["items"][1]["code"]) == ("NotFound", 404)
        assert [(await spec(w, name))["powerState"] for name in ("web-1", "web-2")] == ["Stopped", "Stopped"]


async def test_many_are_selected_by_their_labels() -> None:
    async with world() as w:
        await some(w, "web-1", "web-2")
        await w.make(INSTANCES, instance("db"))
        told = (await w.call("POST", f"{INSTANCES}/suspend?labelSelector=app%3Dweb", {})).doc
        assert [one["name"] for one in told["items"]] == ["web-1", "web-2"]
        assert (await spec(w, "db"))["powerState"] == "Running"


async def test_protected_instance_stays_and_keeps_no_other_from_going() -> None:
    async with world() as w:
        await some(w, "web-1", "web-3")
        await some(w, "web-2", deletionProtection=True)
        names = ["web-1", "web-2", "web-3"]
        dry = (await w.call("POST", f"{INSTANCES}/delete?dryRun=All", {"names": names})).doc
        assert dry["failed"] == 1
        told = (await w.call("POST", f"{INSTANCES}/delete", {"names": names})).doc
        assert [one["status"] for one in told["items"]] == ["Success", "Failure", "Success"]
        assert told["items"][1]["details"]["causes"][0]["reason"] == "DeletionProtected"
        left = (await w.call("GET", INSTANCES)).doc["items"]
        assert [one["metadata"]["name"] for one in left if not one["metadata"].get("deletionTimestamp")] == ["web-2"]


async def test_many_restarts_sent_twice_happen_once() -> None:
    async with world() as w:
        await some(w, "web-1")
        order = {"names": ["web-1"], "at": AT}
        await w.call("POST", f"{INSTANCES}/restart", order)
        first = await spec(w, "web-1")
        assert first["restart"] == {"at": AT, "mode": "Graceful"}
        await w.call("POST", f"{INSTANCES}/restart", order)
        assert (await spec(w, "web-1")) == first
        keyed = await w.call("POST", f"{INSTANCES}/restart", order, headers={"Idempotency-Key": "x"})
        assert keyed.code == 400


@pytest.mark.parametrize("path", ["web-1/stop", "stop"])
async def test_forced_stop_sent_again_after_somebody_started_the_machine_ends_nothing(path: str) -> None:
    async with world() as w:
        await some(w, "web-1")
        order = {"force": True, "at": AT} | ({"names": ["web-1"]} if path == "stop" else {})
        assert (await w.call("POST", f"{INSTANCES}/{path}", order)).code == 200
        assert (await spec(w, "web-1"))["restart"] == {"at": AT, "mode": "Hard"}
        await w.call("POST", f"{INSTANCES}/web-1/start")
        started = await spec(w, "web-1")
        again = await w.call("POST", f"{INSTANCES}/{path}", order)
        assert again.code == 200
        if path == "stop":
            assert again.doc["items"][0]["message"] == "was ordered already"
        assert (await spec(w, "web-1")) == started
        assert started["powerState"] == "Running"
        later = order | {"at": "2026-11-22T06:00:01Z"}
        await w.call("POST", f"{INSTANCES}/{path}", later)
        assert (await spec(w, "web-1"))["restart"]["at"] == later["at"]
