"""Secrets: 200 planted values are found neither in a reply nor on disk nor in the log; keys, patches and limits."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.resources.file_log import FileLog
from nanovirt.resources.kind import Key
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.wire import LAST_APPLIED
from tests.portal.api_world import JSON_PATCH, MERGE, NANO, Reply, World, world

SECRETS = f"{NANO}/namespaces/default/secrets"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
PLANTED = 200


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    log = FileLog.open(tmp_path / "data")
    try:
        async with world(log=log) as running:
            yield running
    finally:
        log.close()


def secret(name: str, data: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    spec = {} if data is None else {"data": data}
    return {"apiVersion": "nano/v1", "kind": "Secret", "metadata": {"name": name, **metadata}, "spec": spec}


def opened(w: World, name: str) -> dict[str, str]:
    """The values as a controller would open them."""
    entry = w.store.get(Key("secrets", "default", name))
    sealed = json.loads(entry.raw)["spec"]["data"]
    return {key: Sealer(b"k" * 32).open("Secret", entry.uid, key, text).reveal() for key, text in sealed.items()}


async def plant(w: World, at: int, value: str) -> list[Reply]:
    """Write one value in one of the ways there are; every answer that came."""
    name, path = f"s{at}", f"{SECRETS}/s{at}"
    applied = {LAST_APPLIED: json.dumps(secret(name, {"password": value}))}
    first = {"password": "first"} if at % 5 else {"password": value}
    replies = [
        await w.call("POST", f"{SECRETS}?dryRun=All", secret(name, {"password": value})),
        await w.call("POST", SECRETS, secret(name, first, annotations=applied)),
    ]
    match at % 5:
        case 0:
            pass
        case 1:
            replies += [await w.call("PUT", path, secret(name, {"password": value}, annotations=applied))]
        case 2:
            patch = {"metadata": {"annotations": applied}, "spec": {"data": {"password": value}}}
            replies += [await w.call("PATCH", path, patch, headers=MERGE)]
        case 3:
            operation = {"op": "replace", "path": "/spec/data/password", "value": value}
            replies += [await w.call("PATCH", path, [operation], headers=JSON_PATCH)]
        case _:
            doc = secret(name, {"password": value}) | {"status": {"keys": [value]}}
            replies += [await w.call("PUT", f"{path}?dryRun=All", doc), await w.call("PUT", path, doc)]
    assert [reply.code for reply in replies] == [201, 201, *[200] * (len(replies) - 2)], [one.raw for one in replies]
    return replies


async def refused(w: World, at: int, value: str) -> list[Reply]:
    """Writes that are refused, with the value in them."""
    path = f"{SECRETS}/s{at}"
    bad = {"op": "test", "path": "/spec/data/password", "value": value}
    return [
        await w.call("POST", SECRETS, secret(f"s{at}", {"password": value})),
        await w.call("POST", SECRETS, secret("x", {"bad key": value})),
        await w.call("POST", SECRETS, secret("x") | {"spec": {"password": value}}),
        await w.call("PUT", path, secret(f"s{at}", {"password": [value]})),
        await w.call("PATCH", path, [bad], headers=JSON_PATCH),
        await w.call("PATCH", path, {"metadata": {"uid": "other"}, "spec": {"data": {"p": value}}}, headers=MERGE),
    ]


async def test_two_hundred_values_are_found_nowhere(
    w: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    values = [f"planted-{secrets.token_hex(16)}" for _ in range(PLANTED)]
    replies: list[Reply] = []
    async with w.watch(SECRETS) as watch, w.watch(SECRETS, accept=TABLE["Accept"]) as table:
        for at, value in enumerate(values):
            replies += await plant(w, at, value)
            if at % 20 == 0:
                replies += await refused(w, at, value)
        heard = [json.dumps(await watch.next()) for _ in range(PLANTED)]
        heard += [json.dumps(await table.next()) for _ in range(PLANTED)]
    assert all(opened(w, f"s{at}") == {"password": value} for at, value in enumerate(values))
    for path in (SECRETS, f"{NANO}/secrets", f"{SECRETS}/s1", f"{SECRETS}/s1/status", f"{SECRETS}?limit=10"):
        for headers in ({}, TABLE):
            replies.append(await w.call("GET", path, headers=headers))
    replies.append(await w.call("GET", f"{SECRETS}?includeObject=Object", headers=TABLE))
    replies += [await w.call("DELETE", f"{SECRETS}/s{at}") for at in range(5)]
    replies.append(await w.call("DELETE", SECRETS))
    async with w.watch(SECRETS, resourceVersion="4") as again:
        heard += [json.dumps(await again.next()) for _ in range(2 * PLANTED)]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "BALLAST")
    everywhere = {
        "replies": b"".join(reply.raw + str(reply.headers).encode() for reply in replies),
        "watches": "".join(heard).encode(),
        "disk": kept,
        "log": (caplog.text + "".join(capfd.readouterr())).encode(),
    }
    assert b"s199" in everywhere["replies"]
    assert b"s199" in everywhere["disk"], "the scan looks where objects are"
    found = {(place, value) for place, content in everywhere.items() for value in values if value.encode() in content}
    assert found == set()
    assert b"sealed.v1" not in everywhere["replies"] + everywhere["watches"], "not even the ciphertext is shown"


async def test_keys_are_shown_and_values_are_not(w: World) -> None:
    made = await w.make(SECRETS, secret("s", {"user": "ops", "password": "hunter2"}))
    assert made["status"] == {"keys": ["password", "user"]}
    assert "data" not in made["spec"]
    row = (await w.call("GET", f"{SECRETS}/s", headers=TABLE)).doc["rows"][0]
    assert row["cells"][1] == "password,user"


@pytest.mark.parametrize(
    ("method", "body", "headers", "left"),
    [
        ("PUT", secret("s"), {}, {"a": "1", "b": "2"}),
        ("PUT", secret("s", {"c": "3"}), {}, {"c": "3"}),
        ("PUT", secret("s", {}), {}, {}),
        ("PATCH", {"spec": {"displayName": "x"}}, MERGE, {"a": "1", "b": "2"}),
        ("PATCH", {"spec": {"data": {"a": "9"}}}, MERGE, {"a": "9", "b": "2"}),
        ("PATCH", {"spec": {"data": {"a": None, "c": "3"}}}, MERGE, {"b": "2", "c": "3"}),
        ("PATCH", [{"op": "remove", "path": "/spec/data/a"}], JSON_PATCH, {"b": "2"}),
        ("PATCH", [{"op": "add", "path": "/spec/data/c", "value": "3"}], JSON_PATCH, {"a": "1", "b": "2", "c": "3"}),
    ],
)
async def test_what_a_write_leaves(
    w: World, method: str, body: Any, headers: dict[str, str], left: dict[str, str]
) -> None:
    await w.make(SECRETS, secret("s", {"a": "1", "b": "2"}))
    reply = await w.call(method, f"{SECRETS}/s", body, headers=headers)
    assert reply.code == 200, reply.raw
    assert opened(w, "s") == left
    assert reply.doc["status"]["keys"] == sorted(left)


async def test_get_and_put_back_changes_nothing(w: World) -> None:
    await w.make(SECRETS, secret("s", {"a": "1"}))
    doc = (await w.call("GET", f"{SECRETS}/s")).doc
    again = await w.call("PUT", f"{SECRETS}/s", doc)
    assert again.doc["metadata"]["resourceVersion"] == doc["metadata"]["resourceVersion"]


async def test_same_value_is_no_change_and_another_is_a_new_generation(w: World) -> None:
    made = await w.make(SECRETS, secret("s", {"a": "1"}))
    same = await w.call("PATCH", f"{SECRETS}/s", {"spec": {"data": {"a": "1"}}}, headers=MERGE)
    assert same.doc["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    other = await w.call("PATCH", f"{SECRETS}/s", {"spec": {"data": {"a": "2"}}}, headers=MERGE)
    assert other.doc["metadata"]["generation"] == made["metadata"]["generation"] + 1


@pytest.mark.parametrize("goal", ["/metadata/annotations", "/spec/displayName", "/spec/data/b", "/spec/description"])
@pytest.mark.parametrize("op", ["copy", "move"])
async def test_patch_cannot_carry_a_value_to_where_it_shows(w: World, op: str, goal: str) -> None:
    await w.make(SECRETS, secret("s", {"a": "1"}))
    operations = [{"op": op, "from": "/spec/data/a", "path": goal}]
    if goal == "/metadata/annotations":
        operations = [{"op": op, "from": "/spec/data", "path": goal}]
    reply = await w.call("PATCH", f"{SECRETS}/s", operations, headers=JSON_PATCH)
    assert reply.code == 422, reply.raw
    assert opened(w, "s") == {"a": "1"}


async def test_guessing_by_a_patch_test_learns_nothing(w: World) -> None:
    await w.make(SECRETS, secret("s", {"a": "1"}))
    guesses = [await w.call("PATCH", f"{SECRETS}/s", [_test(guess)], headers=JSON_PATCH) for guess in ("1", "2")]
    assert guesses[0].code == guesses[1].code == 422
    assert guesses[0].raw.replace(b"1 ", b"2 ") == guesses[1].raw.replace(b"1 ", b"2 ")


def _test(guess: str) -> dict[str, str]:
    return {"op": "test", "path": "/spec/data/a", "value": guess}


async def test_last_applied_annotation_is_dropped_and_others_stay(w: World) -> None:
    notes = {LAST_APPLIED: '{"spec":{"data":{"a":"1"}}}', "team": "web"}
    made = await w.make(SECRETS, secret("s", {"a": "1"}, annotations=notes))
    assert made["metadata"]["annotations"] == {"team": "web"}
    patched = await w.call("PATCH", f"{SECRETS}/s", {"metadata": {"annotations": notes}}, headers=MERGE)
    assert patched.doc["metadata"]["annotations"] == {"team": "web"}


async def test_ciphertext_of_one_secret_does_not_open_in_another(w: World) -> None:
    await w.make(SECRETS, secret("mine", {"a": "1"}))
    sealed = json.loads(w.store.get(Key("secrets", "default", "mine")).raw)["spec"]["data"]["a"]
    await w.make(SECRETS, secret("theirs", {"a": sealed}))
    assert opened(w, "theirs") == {"a": sealed}, "it is a value like any other"


async def test_remade_object_opens_under_its_own_uid(w: World) -> None:
    await w.make(SECRETS, secret("s", {"a": "1"}, uid="00000000-0000-4000-8000-000000000001"))
    await w.call("DELETE", f"{SECRETS}/s")
    await w.make(SECRETS, secret("s", {"a": "2"}))
    assert opened(w, "s") == {"a": "2"}


async def test_status_is_made_from_the_values_and_cannot_be_written(w: World) -> None:
    await w.make(SECRETS, secret("s", {"a": "x" * 60_000}))
    reply = await w.call("PATCH", f"{SECRETS}/s/status", {"status": {"keys": ["b"]}}, headers=MERGE)
    assert reply.code == 405
    assert (await w.call("GET", f"{SECRETS}/s/status")).doc["status"] == {"keys": ["a"]}


async def test_without_a_key_no_secret_is_taken(w: World) -> None:
    w.api.writer._vault._sealer = None
    assert (await w.call("POST", SECRETS, secret("s", {"a": "1"}))).code == 503


async def test_secret_that_is_applied_on_the_server_is_shared_by_keys_and_never_shown(w: World) -> None:
    headers, path = {"Content-Type": "application/apply-patch+yaml"}, f"{SECRETS}/shared-one"
    values = {name: secrets.token_hex(8) for name in ("password", "token", "other")}

    async def apply(by: str, query: str = "", **data: str) -> Reply:
        return await w.call("PATCH", f"{path}?fieldManager={by}{query}", secret("shared-one", data), headers=headers)

    first = await apply("ann", password=values["password"], token=values["token"])
    again = await apply("ann", password=values["password"], token=values["token"])
    assert (first.code, again.code) == (201, 200)
    assert first.doc["metadata"]["resourceVersion"] == again.doc["metadata"]["resourceVersion"], "nothing changed"
    clash = await apply("bob", password=values["other"])
    assert clash.code == 409
    taken = await apply("bob", "&force=true", password=values["other"])
    left = await apply("ann", token=values["token"])
    assert (taken.code, left.code) == (200, 200)
    assert opened(w, "shared-one") == {"password": values["other"], "token": values["token"]}
    gone = await apply("bob")
    assert gone.code == 200
    assert opened(w, "shared-one") == {"token": values["token"]}
    shown = b"".join(reply.raw for reply in (first, again, clash, taken, left, gone))
    assert not [name for name, value in values.items() if value.encode() in shown]
