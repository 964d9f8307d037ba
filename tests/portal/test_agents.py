"""What a report leaves behind and what its answer says."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession, web

from nanovirt.portal.agents import Agents, read_report
from nanovirt.portal.identity import ADMIN
from nanovirt.resources.codec import BODY_MAX, JSON
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import Invalid, Malformed, NotFound, TooLarge
from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.report import (
    DOOMED_MAX,
    HeldPlacement,
    HostFacts,
    HostReport,
    ReportReply,
    StorageFact,
    Unclaimed,
)
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Update
from nanovirt.resources.volume import FINALIZER
from tests.portal.world import (
    NOW,
    commit,
    document,
    gone,
    host,
    listening,
    placement,
    placement_spec,
    pool,
    running_store,
)


@dataclass(frozen=True)
class Channel:
    """A server with two hosts, whose clock stands at 7 seconds."""

    store: Engine
    reports: Reports
    agents: Agents

    def held(self, name: str) -> list[tuple[str, int, str]]:
        return [(one.name, one.epoch, one.role) for one in self.reply(name).placements]

    def reply(self, name: str) -> ReportReply:
        return ReportReply.model_validate_json(self.agents.reply(name))


@pytest.fixture
async def channel() -> AsyncIterator[Channel]:
    async with running_store() as store:
        await commit(store, host("h1"), host("h2"), pool("local", "/srv/volumes"), placement("web-1", "h1"))
        reports = Reports(0.0)
        yield Channel(store, reports, Agents(store, reports, lambda: 7.0))


REPORT = HostReport(
    sequence=3,
    facts=HostFacts(address="192.0.2.1", bridges=("br0",), storage=(StorageFact(path="/srv/volumes", error="full"),)),
    unclaimed=(Unclaimed(uuid="u", name="pet", state="running"),),
)


async def test_report_is_heard_and_answered_over_http(channel: Channel) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return await channel.agents.report(request, ADMIN, Key("hosts", "", request.path.strip("/")))

    async with listening(respond) as port, ClientSession() as client:
        async with client.post(f"http://127.0.0.1:{port}/h1", json=REPORT.to_json()) as response:
            assert response.status == 200
            assert response.content_type == "application/json"
            reply = ReportReply.model_validate_json(await response.read())
        async with client.post(f"http://127.0.0.1:{port}/h9", json=REPORT.to_json()) as response:
            assert await response.text() == "NotFound"
        async with client.post(f"http://127.0.0.1:{port}/h1", data=io.BytesIO(b" " * (BODY_MAX + 1))) as response:
            assert await response.text() == "RequestEntityTooLarge"
        async with client.post(f"http://127.0.0.1:{port}/h1") as response:
            assert await response.text() == "BadRequest"
    assert reply.placements == (HeldPlacement(namespace="default", name="web-1", epoch=1, role="Active"),)
    assert reply.storage_paths == ("/srv/volumes",)
    assert reply.lease_seconds == 10.0
    heard = channel.reports.heard("h1")
    assert heard is not None
    assert (heard.report, heard.at) == (REPORT, 7.0)
    assert channel.reports.heard("h9") is None


async def test_answer_follows_the_placements(channel: Channel) -> None:
    assert channel.held("h1") == [("web-1", 1, "Active")]
    assert channel.held("h2") == []
    await commit(
        channel.store, placement_spec(channel.store, "web-1", role="Revoked"), placement("web-2", "h2", epoch=2)
    )
    assert channel.held("h1") == [("web-1", 1, "Revoked")]
    assert channel.held("h2") == [("web-2", 2, "Active")]
    await commit(channel.store, gone("placements", "web-2", "default"))
    assert channel.held("h2") == [("web-2", 2, "Active")], "kept by its finalizer until the host has released it"
    doc = placement("web-2", "h2", epoch=2).doc
    doc["metadata"]["finalizers"] = []
    await commit(
        channel.store, type(placement_spec(channel.store, "web-2"))(Key("placements", "default", "web-2"), doc)
    )
    assert channel.held("h2") == []


async def test_answer_names_the_path_of_every_local_pool_or_its_override(channel: Channel) -> None:
    own = [{"storagePool": "fast", "path": "/nvme"}, {"storagePool": "unknown", "path": "/nowhere"}]
    await commit(channel.store, host("h3", storagePaths=own), pool("fast", "/srv/fast"), pool("same", "/srv/volumes"))
    assert channel.reply("h3").storage_paths == ("/nvme", "/srv/volumes")
    assert channel.reply("h1").storage_paths == ("/srv/fast", "/srv/volumes")
    await commit(channel.store, gone("storagepools", "fast"))
    assert channel.reply("h1").storage_paths == ("/srv/volumes",)
    await commit(channel.store, gone("hosts", "h1"))
    with pytest.raises(NotFound):
        channel.reply("h1")


async def test_answer_names_the_files_of_volumes_that_people_delete(channel: Channel) -> None:
    own = "/v/11111111-1111-4111-8111-000000000001.{}.qcow2"
    for name, file in (("a", own.format("a")), ("b", own.format("b")), ("c", "/old/c.qcow2")):
        key = Key("volumes", "default", name)
        spec = {"storagePool": "local", "host": "h1", "size": "1Gi", "file": file}
        doc = document(key, spec)
        doc["metadata"]["finalizers"] = [FINALIZER]
        await commit(channel.store, Create(key, doc))
    assert channel.reply("h1").doomed == ()
    await commit(channel.store, *(gone("volumes", name, "default") for name in "ac"))
    assert channel.reply("h1").doomed == (own.format("a"),), "what Nano did not make stays"
    assert channel.reply("h2").doomed == ()
    await commit(channel.store, Create(HOLD, hold_document()))
    assert channel.reply("h1").doomed == (), "a restored store does not know what is in use"
    await commit(channel.store, gone("holds", HOLD.name))
    again = Agents(channel.store, channel.reports)
    assert ReportReply.model_validate_json(again.reply("h1")).doomed == (own.format("a"),)
    key = Key("volumes", "default", "a")
    doc = document(key, {"storagePool": "local", "host": "h1", "size": "1Gi", "file": own.format("a")})
    await commit(channel.store, Update(key, doc))
    assert channel.reply("h1").doomed == ()


async def test_files_that_could_not_be_removed_hold_up_no_others(channel: Channel) -> None:
    own = "/v/11111111-1111-4111-8111-{:012}.data.qcow2"
    failed = {"type": "Removed", "status": "False", "reason": "VolumeNotRemoved", "message": "no", "params": {}}
    files = [own.format(number) for number in range(DOOMED_MAX + 20)]
    for number, file in enumerate(files):
        key = Key("volumes", "default", f"v{number}")
        doc = document(key, {"storagePool": "local", "host": "h1", "size": "1Gi", "file": file})
        doc["metadata"]["finalizers"] = [FINALIZER]
        doc["status"] = {"conditions": [failed] if number < DOOMED_MAX else []}
        await commit(channel.store, Create(key, doc))
        await commit(channel.store, gone("volumes", f"v{number}", "default"))
    fresh, stuck = files[DOOMED_MAX:], files[:DOOMED_MAX]
    assert channel.reply("h1").doomed == (*fresh, *stuck[: DOOMED_MAX - len(fresh)])


def hold_document() -> JSON:
    made = Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=1, restored=NOW))
    return made.to_json()


async def test_answer_knows_what_was_stored_before_the_start(channel: Channel) -> None:
    later = Channel(channel.store, channel.reports, Agents(channel.store, channel.reports))
    assert later.held("h1") == [("web-1", 1, "Active")]


async def test_deleted_host_is_forgotten(channel: Channel) -> None:
    channel.reports.hear("h1", REPORT, 1.0)
    await commit(channel.store, gone("hosts", "h1"))
    assert channel.reports.heard("h1") is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", Malformed),
        (b"null", Malformed),
        (b"[]", Malformed),
        (b"{", Malformed),
        (b'{"a":' * 40 + b"1" + b"}" * 40, Malformed),
        (b'{"sequence":"x"}', Invalid),
        (b'{"facts":{"accelerator":"warp"}}', Invalid),
        (b'{"facts":{"capacity":{"memory":-1}}}', Invalid),
        (b'{"facts":{"capacity":{"cpus":1e999}}}', Malformed),
        (b'{"unclaimed":[{}]}', Invalid),
        (orjson.dumps({"unclaimed": [{"uuid": "u", "name": "n"}] * 10_001}), Invalid),
        (b'{"sequence":1}' + b" " * BODY_MAX, TooLarge),
    ],
)
def test_bad_report_is_refused(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_report(body)


def test_fields_of_a_newer_agent_are_ignored() -> None:
    assert read_report(b'{"sequence":1,"future":{"x":[1]},"facts":{"future":1}}').sequence == 1


async def test_thousand_hosts_every_two_seconds_are_a_small_part_of_one_core(channel: Channel) -> None:
    body = orjson.dumps(full_report())
    begun = time.process_time()
    for _ in range(500):
        channel.reports.hear("h1", read_report(body), 1.0)
        channel.agents.reply("h1")
    assert time.process_time() - begun < 0.5, "500 reports are one second of 1,000 hosts"


def full_report() -> dict[str, Any]:
    unclaimed = tuple(Unclaimed(uuid=f"{n:036}", name=f"pet-{n}", state="running") for n in range(10))
    storage = tuple(StorageFact(path=f"/srv/{n}") for n in range(4))
    facts = REPORT.facts.model_copy(update={"storage": storage})
    return HostReport(sequence=1, facts=facts, unclaimed=unclaimed).to_json()
