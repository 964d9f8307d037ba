"""What the agent makes of the server's words, and what it says to the server, over a client that only notes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, cast

import pytest

from nanovirt.agent.server import ApiServer, Changed, Gone, Listed
from nanovirt.resources.client import Client
from nanovirt.resources.errors import Conflict, Forbidden, Invalid, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacementStatus
from nanovirt.resources.report import HostReport
from nanovirt.resources.wire import Event, Sync
from tests.agent.placements import placement

JSON = dict[str, Any]


class Wire:
    """In the place of a Client: says what it was told to say, and keeps what it was sent."""

    def __init__(self, *events: Sync | Event | Exception) -> None:
        self.events = list(events)
        self.asked: list[str] = []
        self.sent: list[Any] = []
        self.refusal: Exception | None = None

    async def follow(self, plural: str, *, field_selector: str = "") -> AsyncGenerator[Sync | Event, None]:
        self.asked.append(f"{plural}?{field_selector}")
        while self.events:
            event = self.events.pop(0)
            if isinstance(event, Exception):
                raise event
            yield event

    async def patch(self, key: Key, body: Sequence[Mapping[str, Any]], kind: str, subresource: str) -> JSON:
        self.sent.append((str(key), kind, subresource, body))
        if self.refusal is not None:
            raise self.refusal
        return {}

    async def post(self, path: str, doc: JSON) -> JSON:
        self.sent.append((path, doc))
        return {"leaseSeconds": 10.0, "storagePaths": ["/a"], "somethingNew": 1}

    async def fetch_into(self, path: str, file: IO[bytes]) -> str:
        self.asked.append(path)
        file.write(b"bytes")
        return ""


def server(wire: Wire) -> ApiServer:
    return ApiServer(cast("Client", wire), "node-1")


async def heard(wire: Wire, count: int) -> list[Any]:
    async with aclosing(server(wire).placements()) as news:
        return [await anext(news) for _ in range(count)]


async def test_list_changes_and_removals_are_told() -> None:
    made = placement()
    doc = made.to_json()
    wire = Wire(Sync("SYNC", [doc], "1"), Event("MODIFIED", doc), Event("DELETED", doc))
    assert await heard(wire, 3) == [Listed((made,)), Changed(made), Gone(made.key, made.metadata.uid)]
    assert wire.asked == ["placements?spec.host=node-1"]


async def test_placement_of_a_newer_server_is_left_alone_and_the_others_are_not() -> None:
    made, newer = placement().to_json(), placement(2).to_json()
    newer["spec"]["colour"] = "red"
    wire = Wire(Sync("SYNC", [newer, made], "1"), Event("MODIFIED", newer), Event("MODIFIED", made))
    assert await heard(wire, 2) == [Listed((placement(),)), Changed(placement())]


async def test_refusal_is_asked_about_again() -> None:
    wire = Wire(Forbidden("not yet"), Sync("SYNC", [], "1"))
    assert await heard(wire, 1) == [Listed(())]


async def test_status_is_written_only_where_the_uid_is_the_same() -> None:
    wire, made = Wire(), placement()
    await server(wire).write_status(made, PlacementStatus(state="Running"))
    ((key, kind, subresource, patch),) = wire.sent
    assert (key, kind, subresource) == ("placements/default/web-1-1", "json", "status")
    assert patch[0] == {"op": "test", "path": "/metadata/uid", "value": made.metadata.uid}
    assert (patch[1]["path"], patch[1]["value"]["state"]) == ("/status", "Running")


async def test_namesake_is_a_conflict() -> None:
    wire = Wire()
    wire.refusal = Invalid("[0]", "the test failed")
    with pytest.raises(Conflict):
        await server(wire).write_status(placement(), PlacementStatus())
    wire.refusal = NotFound("placements", "web-1-1")
    with pytest.raises(NotFound):
        await server(wire).write_status(placement(), PlacementStatus())


async def test_report_goes_to_its_host_and_a_newer_answer_is_understood() -> None:
    wire = Wire()
    reply = await server(wire).report(HostReport(sequence=4))
    assert wire.sent[0][0] == "/apis/nano/v1/hosts/node-1/report"
    assert wire.sent[0][1]["sequence"] == 4
    assert reply.storage_paths == ("/a",)


async def test_image_comes_from_the_placement(tmp_path: Path) -> None:
    wire = Wire()
    await server(wire).fetch_image(placement().key, "system", tmp_path / "image")
    assert wire.asked == ["/apis/nano/v1/namespaces/default/placements/web-1-1/image?volume=system"]
    assert (tmp_path / "image").read_bytes() == b"bytes"
