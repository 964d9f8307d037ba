"""Whatever is wrong with a request is refused by a Status: what, where, what to do; nothing is stored or leaked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from aiohttp import ClientSession, TCPConnector

from nanovirt.resources import access, codec, kubeconfig
from nanovirt.resources.access import Credentials
from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key, Later
from nanovirt.resources.metadata import Model
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import kinds
from tests.e2e.bad_input import CASES, LATER, NANO, PLAIN, Case, made, with_field
from tests.e2e.server_process import ServerProcess, running_server
from tests.e2e.waiting import instance_key, quiet, until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has got everything which the bad requests hit upon, and is at rest."""
    with running_server(tmp_path_factory.mktemp("bad") / "data", "--simulated-hosts", "2") as server:
        server.host_credentials("sim-1")
        yield server


@dataclass
class Door:
    """The API as an administrator, a host's agent and a stranger reach it."""

    server: ServerProcess
    client: Client
    sessions: dict[str, ClientSession]

    async def send(self, case: Case) -> tuple[int, JSON]:
        """One request; its code and the JSON that comes back."""
        session, url = self.sessions[case.who], self.server.url + case.path
        headers = case.headers or (PLAIN if case.content else {})
        async with session.request(case.method, url, data=BytesIO(case.content or b""), headers=headers) as reply:
            return reply.status, json.loads(await reply.read())

    async def revision(self) -> str:
        """The revision that the store stands at."""
        return (await self.client.list("namespaces", limit=1))[1]


@pytest.fixture
async def door(server: ServerProcess) -> AsyncIterator[Door]:
    """The API of that server; what it says shows with a failure."""
    admin = kubeconfig.from_kubeconfig(server.kubeconfig)
    host = access.from_credentials_file(server.host_credentials("sim-1"))
    who = {"admin": admin, "host": host, "nobody": Credentials(server=admin.server, ca_pem=admin.ca_pem)}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(server.client())
        sessions = {name: await stack.enter_async_context(session(one)) for name, one in who.items()}
        await furnish(client)
        yield Door(server, client, sessions)
    print(server.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


def session(by: Credentials) -> ClientSession:
    """Requests with these credentials and nothing else."""
    return ClientSession(headers=access.headers(by), connector=TCPConnector(ssl=access.tls(by) or True))


async def furnish(client: Client) -> None:
    """Make the world of the bad requests, once."""
    if any(item["metadata"]["name"] == "spare" for item in (await client.list("addresspools"))[0]):
        return
    card = {"name": "lan", "addressPool": "lan", "ip": "10.87.1.5", "mac": "52:54:00:00:00:05"}
    wishes: list[tuple[str, JSON]] = [
        ("web-1", {"nics": [card], "scheduling": {"host": "sim-1"}}),
        ("web-2", {"scheduling": {"host": "sim-2"}}),
        ("safe", {"powerState": "Stopped", "deletionProtection": True}),
    ]
    for name, spec in wishes:
        await client.create(made(spec, name))
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    inner = made({"powerState": "Stopped"}, "inner")
    await client.create({**inner, "metadata": {"name": "inner", "namespace": "team-a"}})
    ranges = [{"name": "all", "first": "10.98.0.10", "last": "10.98.0.20"}]
    spare = {"network": "spare", "subnet": "10.98.0.0/24", "ranges": ranges, "reserved": ["10.98.0.15"]}
    for name, phase in [("web-1", "Running"), ("web-2", "Running"), ("safe", "Stopped")]:
        await until(client, instance_key(name), phase)
    await until(client, Key("instances", "team-a", "inner"), "Stopped")
    await client.create({"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": "spare"}, "spec": spare})
    await quiet(client)


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
async def test_bad_request_is_refused_in_words_that_help(case: Case, door: Door) -> None:
    before = await door.revision()
    code, status = await door.send(case)
    assert code == case.code, status
    check_status(status, case.code, case.reason)
    assert case.says in status["message"], status["message"]
    causes = status["details"].get("causes", [])
    if case.where or case.cause:
        assert case.where in [one.get("field", "") for one in causes], causes
        assert case.cause in ("", *(one["reason"] for one in causes if one.get("field", "") == case.where)), causes
    assert await door.revision() == before


@pytest.mark.parametrize(("plural", "path", "value"), LATER, ids=[f"{plural} {path}" for plural, path, _ in LATER])
async def test_field_that_nothing_acts_on_yet_is_refused(plural: str, path: str, value: Any, door: Door) -> None:
    before = await door.revision()
    below = "/namespaces/default" if kinds()[plural].facts.namespaced else ""
    case = Case("", "POST", f"{NANO}{below}/{plural}", with_field(plural, path, value), 422, "Invalid")
    code, status = await door.send(case)
    assert code == 422, status
    check_status(status, 422, "Invalid")
    [cause] = [one for one in status["details"]["causes"] if one["field"] == path]
    assert cause["reason"] == "NotYetSupported"
    assert "leave it out" in cause["message"]
    assert await door.revision() == before


def check_status(status: JSON, code: int, reason: str) -> None:
    """It is a Status as api.md 2.6 has it, each cause has words, and a reason's sentence its parameters."""
    shape = (status["kind"], status["apiVersion"], status["status"], status["code"], status["reason"])
    assert shape == ("Status", "v1", "Failure", code, reason)
    assert len(status["message"]) > 10
    assert len(status["message"]) < 2000, "a message is read by people"
    assert "?" not in status["message"], status["message"]
    for cause in status["details"].get("causes", []):
        assert cause["message"]
        assert cause["reason"] in Reason.__members__ or cause["reason"] == "FieldValueInvalid", cause
        wanted = (
            re.findall(r"\{(\w+)\}", Reason[cause["reason"]].value) if cause["reason"] in Reason.__members__ else []
        )
        assert set(wanted) <= set(cause.get("params", {})), cause


def test_every_field_that_waits_has_a_row() -> None:
    rows = {(plural, re.sub(r"\[\d+\]", "[]", path)) for plural, path, _ in LATER}
    system = {plural for plural, cls in kinds().items() if cls.facts.system}
    marked = {(plural, path) for plural, cls in kinds().items() for path in marks(cls)}
    assert {one for one in marked if one[0] not in system} == rows


def marks(model: type[Any], path: str = "") -> Iterator[str]:
    """The path of each field below a model that is marked as not built."""
    for name, info in model.model_fields.items():
        where = f"{path}.{info.alias or name}" if path else info.alias or name
        if any(isinstance(one, Later) for one in info.metadata):
            yield where
        several = "tuple" in str(info.annotation)
        for below in codec._models_in(info.annotation):
            if issubclass(below, Model):
                yield from marks(below, where + ("[]" if several else ""))


async def test_reserved_labels_are_the_server_s(door: Door) -> None:
    name = Key("instances", "default", "labelled")
    doc = made({"powerState": "Stopped"}, "labelled")
    try:
        labels = {"app": "web", "nano/owner": "mallory", "nano/other": "x"}
        stored = await door.client.create({**doc, "metadata": {"name": "labelled", "labels": labels}})
        assert stored["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
        stored = await door.client.patch(name, {"metadata": {"labels": {"nano/owner": "mallory"}}})
        assert stored["metadata"]["labels"] == {"app": "web", "nano/owner": "admin"}
        stored = await door.client.patch(name, {"metadata": {"labels": None}})
        assert stored["metadata"]["labels"] == {"nano/owner": "admin"}
    finally:
        await door.client.delete(name)
        await quiet(door.client)


async def test_kubectl_dry_run_stores_nothing_either(door: Door) -> None:
    before = await door.revision()
    made_here = await door.client.create(made({}, "dry"), dry_run=True)
    assert made_here["metadata"]["uid"]
    await door.client.patch(instance_key("web-1"), {"spec": {"cpus": 2}}, dry_run=True)
    await door.client.delete(instance_key("web-1"), dry_run=True)
    assert await door.revision() == before


async def test_bad_requests_leave_no_file_and_no_thread_behind(door: Door) -> None:
    for case in CASES:
        await door.send(case)
    before = (door.server.open_files(), door.server.threads(), memory(door.server))
    for _ in range(5):
        for case in CASES:
            await door.send(case)
    files, threads, kept = door.server.open_files(), door.server.threads(), memory(door.server)
    assert files <= before[0] + len(door.sessions)
    assert threads <= before[1]
    assert kept <= before[2] + 8 * 2**20
    assert await door.client.get(instance_key("web-1"))


def memory(server: ServerProcess) -> int:
    """Bytes that the process has in memory."""
    with open(f"/proc/{server.pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - a line of /proc
        return int(file.read().split()[1]) * 4096
