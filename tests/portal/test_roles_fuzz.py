"""Random requests of an administrator, an operator, a viewer and an agent: nothing breaks, and nothing is told."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.agents import Agents
from nanovirt.portal.api.dispatch import HookTable
from nanovirt.portal.images import Library
from nanovirt.resources.defaults import defaults
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.registry import kinds
from nanovirt.resources.reports import Reports
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.secret import SecretText
from nanovirt.resources.store import Create
from tests.portal.api_world import NANO, Reply, pool
from tests.portal.people_world import People, document, group, people_world
from tests.portal.set_world import COMPUTE, STORAGE
from tests.portal.test_api_fuzz import DOCUMENTS, NAMES, TYPES, Fuzzer, let_go
from tests.seeds import failed_once

FEW, MANY = 16_000, 200_000
ROLES = ("admin", "olga", "vera", "node-1")
"""The administrator, an operator and a viewer of team-a, and the agent of a host."""
WORKERS = 2
"""Clients of each role at once."""
SETS = f"{NANO}/transactions"
APPLY = "application/apply-patch+yaml"
KEYS = ("k-1", "k-2", "k-3", "k-4", "k-5", "k-6", "k-7", "k-8", "", "x" * 201, "a b")
REVIEWS = tuple(
    f"/apis/{group}/v1/{word}"
    for group, word in (
        ("authorization.k8s.io", "selfsubjectaccessreviews"), ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"), ("authentication.k8s.io", "tokenreviews"),
    )
)  # fmt: skip
POSTED = (SETS, *REVIEWS)
WRITTEN = tuple(f"{NANO}/namespaces/team-a/{plural}" for plural in ("instances", "instancesets", "secrets", "images"))
"""Where an operator may write."""
IDENTITY = ("users", "groups", "roles")
SUBRESOURCES = (
    "", "", "", "", "/status", "/timeline", "/owner", "/token", "/image", "/upload", "/report", "/scale",
    "/nothing", "/a/b",
)  # fmt: skip
PLACED = "00000000-0000-4000-8000-000000000009"


def collections() -> Iterator[str]:
    """The path of every kind, over all namespaces and in each."""
    for plural, cls in kinds().items():
        root = f"/api/{cls.facts.group_version}" if cls.facts.group_version == "v1" else NANO
        yield f"{root}/{plural}"
        if cls.facts.namespaced:
            yield from (f"{root}/namespaces/{space}/{plural}" for space in ("team-a", "team-a", "team-b", "shared"))


class Planted:
    """What is there and must not be told: values of secrets to nobody, hidden objects to nobody but administrators."""

    def __init__(self) -> None:
        self.value = f"planted-{secrets.token_hex(16)}"
        self.marker = f"deep-{secrets.token_hex(8)}"
        self.uids: list[str] = []
        self.name = f"hidden-{secrets.token_hex(4)}"

    def objects(self) -> Iterator[Create]:
        """In the namespace of others everything of a kind, and in that of the users what somebody else owns."""
        for space in ("team-b", "team-a"):
            for plural, cls in kinds().items():
                if cls.facts.namespaced:
                    yield self._object(plural, space)
        yield document("namespaces", self.name)
        yield document(
            "addresses", f"lan.{self.name}", addressPool="lan", ip="10.20.0.51", mac="52:54:00:00:00:99",
            instance=f"team-b/{self.name}", instanceUid=PLACED, nic="a",
        )  # fmt: skip

    def _object(self, plural: str, space: str) -> Create:
        made = document(plural, self.name, space, "somebody")
        uid = made.doc["metadata"]["uid"] = f"00000000-0000-4000-9000-{secrets.token_hex(6)}"
        made.doc["metadata"] |= {"annotations": {"note": self.marker}, "finalizers": ["nano/kept"]}
        self.uids.append(uid)
        match plural:
            case "secrets":
                sealed = Sealer(b"k" * 32).seal("Secret", uid, "password", SecretText(self.value))
                made.doc["spec"] = {"data": {"password": sealed}}
            case "images":
                made.doc["spec"] = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
            case "instances":
                made.doc["spec"] = {"disks": [{"name": "a", "size": "1Gi"}]}
            case "placements":
                made.doc["spec"] = placement("node-2", self.name)
            case "events":
                made.doc.pop("spec")
                made.doc.update(reason="Scheduled", message=self.marker)
            case _:
                pass
        return made

    def leaks(self, who: str, sent: str, reply: Reply) -> list[str]:
        """What an answer tells that it must not; a name that stands in the request may be said back."""
        told = reply.raw + str(reply.headers).encode()
        never = [self.value, "sealed.v1"]
        if who != "admin":
            never += [self.marker, *self.uids, *([] if self.name in sent else [self.name])]
        return [word for word in never if word.encode() in told]


def placement(host: str, name: str) -> dict[str, Any]:
    """The spec of a Placement."""
    domain = {"uuid": PLACED, "name": f"team-b.{name}"}
    spec = {"instance": name, "instanceUid": PLACED, "host": host, "epoch": 1, "role": "Active", "domain": domain}
    return {**spec, "hostname": "web", "cpu": 1, "memory": "1Gi", "volumes": []}


class Watchful:
    """Sends requests with tokens, and looks at each answer for what was planted."""

    def __init__(self, p: People, planted: Planted) -> None:
        self.people, self.planted = p, planted

    async def call(self, method: str, path: str, doc: Any = None, **kwargs: Any) -> Reply:
        """One request of `subject`."""
        who = kwargs.pop("subject")
        del doc
        headers = {"Authorization": f"Bearer {self.people.tokens[who]}", **kwargs.pop("headers")}
        url = self.people.base + path
        async with self.people.session.request(method, url, headers=headers, **kwargs) as response:
            reply = Reply(response.status, response.headers, await response.read())
        sent = f"{method} {path} {kwargs}"
        found = self.planted.leaks(who, sent, reply)
        assert not found, f"{who}: {sent}\n-> {reply.code} tells {found}: {reply.raw[:2000]!r}"
        return reply


class RoleFuzzer(Fuzzer):
    """Makes requests of one role."""

    collections = (*collections(), *WRITTEN * 10)
    documents = (*DOCUMENTS, *REVIEWS, f"{SETS}/k-1", f"{SETS}/k-2", f"{SETS}/%20")
    home = WRITTEN[0]
    subresources = SUBRESOURCES

    def __init__(self, door: Watchful, who: str, seed: int) -> None:
        super().__init__(door, seed)
        self.who, self.subjects, self.planted = who, (who,), door.planted
        hidden = () if who == "admin" else (door.planted.name, door.planted.name)
        self.names = (*NAMES, "olga", "vera", "at-node-1", *hidden)
        if who != "admin":
            self.seen.append(placement("node-1", "web"))

    def _path(self) -> str:
        chance = self.random.random()
        if chance < 0.15:
            return SETS
        if chance < 0.2:
            return self.random.choice(REVIEWS)
        path = super()._path()
        # The administrator leaves those alone who ask here too, or they would soon have no rights to be tried.
        mine = self.who == "admin" and any(f"/{plural}" in path for plural in IDENTITY)
        return f"{NANO}/{self.random.choice(IDENTITY)}/{self.random.choice(NAMES)}" if mine else path

    def _method(self, path: str) -> str:
        return "POST" if path in POSTED and self.random.random() < 0.9 else super()._method(path)

    def _query(self, method: str) -> dict[str, str]:
        query = super()._query(method)
        if method in ("PATCH", "POST") and self.random.random() < 0.5:
            query |= {"fieldManager": self.random.choice(("ann", "bob")), "force": "true"}
        if method == "POST" and self.random.random() < 0.05:
            query |= {"dryRun": "All", "forecast": "true"}
        return query

    def _headers(self, method: str) -> dict[str, str]:
        headers = super()._headers(method)
        if self.random.random() < 0.15:
            headers["Idempotency-Key"] = self.random.choice(KEYS)
        if self.random.random() < 0.01:
            headers["Impersonate-User"] = "admin"
        return headers

    def _type(self, method: str) -> str:
        if method == "PATCH" and self.random.random() < 0.3:
            return APPLY
        return super()._type(method) if self.random.random() < 0.5 else TYPES[1 if method == "PATCH" else 0]

    def _body(self, path: str) -> bytes | None:
        if path == SETS and self.random.random() < 0.9:
            doc = {"kind": "Transaction", "writes": [self._write() for _ in range(self.random.choice((1, 1, 2, 3, 8)))]}
            if self.random.random() < 0.1:
                self._spoil(doc)
            return json.dumps(doc).encode(errors="surrogatepass")
        if path.endswith("/owner"):
            return json.dumps({"user": self.random.choice(("admin", "nobody", "", 1))}).encode()
        return super()._body(path)

    def _write(self) -> Any:
        """A write of a set, of any verb about anything."""
        pick = self.random.choice
        verb = pick(("create", "update", "apply", "patch", "patch", "delete", "expect", "fly"))
        path = pick(self.collections)
        plural = path.rpartition("/")[2]
        if self.who == "admin" and plural in IDENTITY:
            plural = "instances"
        facts, space = KINDS[plural].facts, pick(("team-a", "team-a", "team-b"))
        where = {"name": pick(self.names)} | ({"namespace": space} if facts.namespaced else {})
        doc = self._document(path)
        half = pick(({}, {}, {}, {"subresource": "status"}, {"subresource": "owner"}))
        if verb in ("create", "update", "apply"):
            said = {"apiVersion": facts.group_version, "kind": facts.kind, "metadata": where}
            doc = doc | said if isinstance(doc, dict) and self.random.random() < 0.9 else doc
            hand = pick(({}, {"fieldManager": "ann"}, {"fieldManager": "bob", "force": True}))
            return {"verb": verb, "object": doc, **{"update": half, "apply": hand}.get(verb, {})}
        write: dict[str, Any] = {"verb": verb, "kind": facts.kind, **where}
        match verb:
            case "patch" if self.random.random() < 0.5:
                write |= {"patchType": "json", "patch": self._operations(), **half}
            case "patch":
                write |= {"patch": doc if not isinstance(doc, dict) else {pick(("spec", "status")): doc.get("spec")}}
                write |= half
            case "expect":
                write |= pick(({"absent": True}, {"resourceVersion": str(self.random.randrange(60))}, {"absent": 1}))
            case "delete":
                write |= pick(({}, {}, {"preconditions": {"uid": PLACED}}, {"preconditions": {"resourceVersion": "9"}}))
            case _:
                pass
        return write

    def _fresh(self, path: str) -> Any:
        name = self.random.choice(self.names)
        metadata = {"name": name}
        # What is accepted must not hold the hidden name, or it is shown rightly from then on.
        image = self.random.choice((*self.names, f"shared/{self.random.choice(NAMES)}"))
        if path.endswith("/instances"):
            disks = [{"name": "a", **self.random.choice(({"size": "1Gi"}, {"source": {"image": image}}))}]
            return {"metadata": metadata, "spec": {"cpus": self.random.randrange(1, 9), "disks": disks}}
        if path.endswith("/secrets"):
            return {"metadata": metadata, "spec": {"data": {"a": "b", "c": "d"}}}
        if path.endswith("/images"):
            spec = {"type": "Disk", "architecture": "x86_64", "source": {"upload": {}}}
            return {"metadata": metadata, "spec": spec}
        if path in REVIEWS:
            asked = {"verb": self.random.choice(("get", "delete", "fly")), "resource": "secrets", "name": name}
            return {"spec": {"resourceAttributes": asked | {"namespace": "team-a"}, "token": name}}
        return super()._fresh(path)

    def _judge(self, method: str, path: str, query: dict[str, str], reply: Reply) -> None:
        super()._judge(method, path, query, reply)
        if path == SETS and reply.code == 200:
            for result in reply.doc["results"]:
                assert result["kind"] in {cls.facts.kind for cls in kinds().values()} | {"Status"}
                self._judge_document(result)

    def _judge_document(self, doc: Any) -> None:
        """What the administrator sees of the hidden is not sent on to where others see it."""
        if self.who == "admin" and self.planted.name in json.dumps(doc):
            return
        super()._judge_document(doc)


@asynccontextmanager
async def planted_world(folder: Path) -> AsyncIterator[tuple[People, Planted]]:
    """The four, what the server makes at its first start, and what they must not see."""

    def hooks(store: Engine) -> HookTable:
        reports = Reports(time.monotonic())
        report = Agents(store, reports).report
        return {**Library(store, reports, folder).hooks, ("hosts", "report", "POST"): report}

    async with people_world(hosts=("node-1", "node-2"), hooks=hooks) as p:
        made = [Create(one.key, one.to_json()) for one in defaults()]
        await p.does(*(op for op in made if op.key.plural != "namespaces"))
        for name, role in (("olga", "operator"), ("vera", "viewer")):
            await p.user(name)
            await p.does(group(f"of-{name}", [name], [role], ["team-a"]))
        for doc in (STORAGE, COMPUTE, pool()):
            await p.call("admin", "POST", f"{NANO}/{doc['kind'].lower()}s", doc)
        planted = Planted()
        await p.does(
            *planted.objects(), document("placements", "at-node-1", "team-a", "olga", **placement("node-1", "web"))
        )
        yield p, planted


async def fuzz(folder: Path, count: int, seed: int) -> dict[str, Counter[int]]:
    """So many requests of the four at once; how often each of them got each code."""
    print("seed", seed)  # noqa: T201 - pytest shows it with the failure
    async with planted_world(folder) as (p, planted):
        door = Watchful(p, planted)
        fuzzers = [RoleFuzzer(door, who, seed + at) for at, who in enumerate(ROLES * WORKERS)]
        await let_go(fuzzers, count)
        entry = p.store.get(Key("secrets", "team-b", planted.name))
        assert entry.labels[OWNER_LABEL] == "somebody"
        for who in ROLES[1:]:
            again = await p.call(who, "GET", f"{NANO}/namespaces/team-a/instances")
            assert again.code == (403 if who == "node-1" else 200), "the roles are what they were"
    return {who: sum((one.codes for one in fuzzers if one.who == who), Counter()) for who in ROLES}


async def test_name_that_begins_the_query_asks_for_the_collection(tmp_path: Path) -> None:
    """Seed 547399029: what stands behind a question mark is no sub-resource, so a watch there is one of all objects."""
    async with planted_world(tmp_path) as (p, planted):
        one = RoleFuzzer(Watchful(p, planted), "admin", 0)
        path, query = f"{NANO}/namespaces/team-a/instances/?/token", {"watch": "true", "timeoutSeconds": "1"}
        sent = {"subject": "admin", "headers": {}, "params": query}
        reply = await one.world.call("GET", path, **sent)
        assert json.loads(reply.raw.splitlines()[0])["object"]["metadata"]["name"] == planted.name
        one._judge("GET", path, query, reply)
        reply = await one.world.call("GET", path.replace("?", "%3F"), **sent)
        assert reply.code == 404, "written as a name it is one, and nothing has it"


@pytest.mark.timeout(300)
async def test_no_role_breaks_the_api_or_is_told_what_it_must_not_know(tmp_path: Path) -> None:
    for seed in failed_once("portal/roles_fuzz"):
        await fuzz(tmp_path / str(seed), FEW, seed)
    codes = await fuzz(tmp_path, FEW, random.randrange(2**32))
    assert min(codes["admin"][code] for code in (200, 201, 400, 404, 409, 422)) > 0, codes
    assert min(codes["olga"][code] for code in (200, 201, 400, 403, 404, 409, 422)) > 0, codes
    assert min(codes["vera"][code] for code in (200, 403, 404)) > 0, codes
    assert min(codes["node-1"][code] for code in (200, 403, 404)) > 0, codes


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_no_role_breaks_the_api_or_is_told_what_it_must_not_know_in_a_long_time(tmp_path: Path) -> None:
    await fuzz(tmp_path, MANY, random.randrange(2**32))
