"""A running API in which users prove who they are with real tokens, for the tests of identity and authorization."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import ClientSession, TCPConnector
from aiohttp.test_utils import RawTestServer

from nanovirt.portal.api.dispatch import Api, HookTable
from nanovirt.portal.api.people import people
from nanovirt.portal.identity import ADMIN, Identities, Subject
from nanovirt.portal.pki import HOST_PREFIX, HOSTS, digest
from nanovirt.resources import registry
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, Op, transact
from tests.portal.api_world import MERGE, NANO, Reply, Watch

JSON = dict[str, Any]
Names = Sequence[str]
ADMIN_TOKEN = "nano_" + "a" * 43


@dataclass
class Clock:
    """Time that a test moves."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def passes(self, **some: float) -> None:
        self.now += timedelta(**some)


def document(plural: str, name: str, namespace: str = "", owner: str = "", **spec: Any) -> Create:
    """An object as the system writes it, past the API."""
    facts = registry.kinds()[plural].facts
    metadata: JSON = {"name": name} | ({"namespace": namespace} if namespace else {})
    if owner:
        metadata["labels"] = {OWNER_LABEL: owner}
    doc = {"apiVersion": facts.group_version, "kind": facts.kind, "metadata": metadata, "spec": spec}
    return Create(Key(plural, namespace, name), doc)


def group(
    name: str, members: Names, roles: Names, namespaces: Names, visibility: Mapping[str, str] | None = None
) -> Create:
    """A Group."""
    spec: JSON = {"members": list(members), "roles": list(roles), "namespaces": list(namespaces)}
    spec["visibility"] = dict(visibility or {})
    return document("groups", name, "", "", **spec)


def role(name: str, *rules: tuple[Sequence[str], Sequence[str]]) -> Create:
    """A Role; each rule is (kinds, verbs)."""
    return document("roles", name, rules=[{"kinds": list(kinds), "verbs": list(verbs)} for kinds, verbs in rules])


@dataclass
class People:
    """The store, who is known in it, and requests in anybody's name."""

    store: Engine
    identities: Identities
    session: ClientSession
    base: str
    clock: Clock
    tokens: dict[str, str]
    api: Api

    async def does(self, *ops: Op) -> None:
        """What the system writes; everybody who follows the store has heard of it then."""
        await transact(self.store, ops, "system:controllers")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def call(self, who: str, method: str, path: str, doc: Any = None, **headers: str) -> Reply:
        """One request with the token of `who` (any other text: as the token itself)."""
        headers = {"Authorization": f"Bearer {self.tokens.get(who, who)}", **headers}
        data = None if doc is None else json.dumps(doc).encode()
        if data is not None:
            headers.setdefault("Content-Type", MERGE["Content-Type"] if method == "PATCH" else "application/json")
        async with self.session.request(method, self.base + path, headers=headers, data=data) as response:
            return Reply(response.status, response.headers, await response.read())

    async def user(self, name: str) -> str:
        """Make a user with a token; the token."""
        made = await self.call("admin", "POST", f"{NANO}/users", {"metadata": {"name": name}})
        assert made.code in (201, 409), made.raw
        return await self.token(name)

    async def token(self, name: str, by: str = "admin", **asked: Any) -> str:
        """Make another token for a user, which is the one used from now on."""
        made = await self.call(by, "POST", f"{NANO}/users/{name}/token", asked)
        assert made.code == 201, made.raw
        self.tokens[name] = made.doc["status"]["token"]
        return self.tokens[name]

    @asynccontextmanager
    async def watch(self, who: str, path: str, **query: str) -> AsyncIterator[Watch]:
        """An open watch."""
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        query["watch"] = "true"
        async with self.session.get(self.base + path, params=query, headers=headers) as response:
            assert response.status == 200, await response.read()
            yield Watch(response)

    async def can(self, who: str, verb: str, plural: str, namespace: str = "", name: str = "", sub: str = "") -> bool:
        """What `kubectl auth can-i` says."""
        asked = {"verb": verb, "resource": plural, "namespace": namespace, "name": name, "subresource": sub}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        said = await self.call(who, "POST", path, {"spec": {"resourceAttributes": asked}})
        assert said.code == 201, said.raw
        return bool(said.doc["status"]["allowed"])


@asynccontextmanager
async def people_world(
    *namespaces: str, hosts: Names = (), hooks: Callable[[Engine], HookTable] = lambda _store: {}
) -> AsyncIterator[People]:
    """A world with `default`, `shared`, team-a and team-b, the administrator, and agents of `hosts`.

    `hooks`: who answers for other sub-resources.
    """
    store, clock = Engine(MemoryLog()), Clock()
    async with asyncio.TaskGroup() as tasks:
        committer = tasks.create_task(store.run())
        for name in ("default", "shared", "team-a", "team-b", *namespaces):
            await transact(store, [document("namespaces", name)], "start")
        agents = {f"nano_{name:a<43}": Subject(f"{HOST_PREFIX}{name}", (HOSTS,), host=name) for name in hosts}
        for name in hosts:
            made = document("hosts", name, computePool="default", enabled=True)
            made.doc["metadata"]["uid"] = name
            await transact(store, [made], "start")
        tokens = {digest(token): subject for token, subject in agents.items()}
        identities = Identities(store, {digest(ADMIN_TOKEN): ADMIN, **tokens}, clock)
        api = Api(
            store, identities.identify, {**people(store, clock), **hooks(store)}, clock=clock, sealer=Sealer(b"k" * 32),
            standing=identities.standing,
        )  # fmt: skip
        server = RawTestServer(api.handle)
        await server.start_server()
        try:
            async with ClientSession(connector=TCPConnector(limit=0)) as session:
                base = f"http://{server.host}:{server.port}"
                known = {"admin": ADMIN_TOKEN} | {subject.host: token for token, subject in agents.items()}
                yield People(store, identities, session, base, clock, known, api)
        finally:
            api.close()
            await server.close()
            committer.cancel()
