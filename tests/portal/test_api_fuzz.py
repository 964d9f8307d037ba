"""Random sequences of good, bad and odd requests: never a 5xx, always the right shape, never slow."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import pytest

from nanovirt.resources.codec import decode
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import KINDS, Document
from tests.portal.api_world import INSTANCES, NANO, Reply, instance, pool, world
from tests.seeds import failed_once

SLOWEST_SECONDS = 2.0
FEW, MANY = 10_000, 200_000
WORKERS = 8
MEANT = 0.06
"""So many of the requests are what a client means to send: mere chance hardly ever hits what is there, or changed."""
NAMES = ("a", "b", "web-1", "lan", "default", "shared", "team-a", "node-1")
SUBJECTS = ("admin", "admin", "admin", "admin", "stranger", "node-1", "nobody")
COLLECTIONS = (
    INSTANCES, f"{NANO}/instances", f"{NANO}/namespaces/shared/images", f"{NANO}/addresspools", f"{NANO}/hosts",
    f"{NANO}/computepools", f"{NANO}/storagepools", f"{NANO}/systemtemplates", f"{NANO}/addresses",
    f"{NANO}/namespaces/team-a/instances", f"{NANO}/placements", f"{NANO}/namespaces/default/volumes",
    "/api/v1/namespaces", "/api/v1/events", "/api/v1/namespaces/default/events",
)  # fmt: skip
DOCUMENTS = (
    f"{NANO}/history", f"{NANO}/history/diff", f"{NANO}/history/rollback", f"{NANO}/history/x",
    "/", "/api", "/apis", "/apis/nano", "/apis/nano/v1", "/api/v1", "/version", "/openapi/v2", "/openapi/v3", "/readyz",
    "/openapi/v3/apis/nano/v1", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/nothing", "//", "/api/v1/",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
)  # fmt: skip
METHODS = ("GET", "GET", "POST", "POST", "PUT", "PATCH", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND")
TYPES = (
    "application/json", "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml",
    "application/strategic-merge-patch+json", "application/vnd.kubernetes.protobuf", "text/plain", "", "nonsense",
)  # fmt: skip
ACCEPTS = (
    "application/json", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "text/html", ",;=,",
    "application/vnd.kubernetes.protobuf,application/json", "application/json;as=Table;g=meta.k8s.io;v=v9",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, float("1e300"), "", " ", "x", "ä\u202e\u0000", "../..", "-",
    "*", "4Gi", "-4Gi", "1e9", "10.20.0.0/24", "0.0.0.0", "::1", "52:54:00:00:00:01", "2026-11-22T06:00:00Z", "x" * 999,
    [], {}, [[]], [None], {"a": None}, {"": ""}, [{"name": "a"}, {"name": "a"}], {"$patch": "delete"}, {"metadata": {}},
)  # fmt: skip
QUERIES: dict[str, tuple[str, ...]] = {
    "limit": ("1", "0", "-1", "x", "9" * 20, ""),
    "continue": ("", "x", "W10=", base64.b64encode(b'[1,"default","a"]').decode(), "=" * 50),
    "labelSelector": ("app=web", "app in (a,b)", "!app", ",", "a=b=c", "(", "app in ()", "nano/owner=admin"),
    "fieldSelector": ("metadata.name=a", "status.phase!=Running", "spec.x=1", ",", "=", "metadata.name", "reason=x,"),
    "resourceVersion": ("0", "1", "5", "-1", "x", "9" * 14, ""),
    "fieldValidation": ("Strict", "Warn", "Ignore", "strict"),
    "fieldManager": ("kubectl", "", "x" * 200),
    "dryRun": ("All", "", "None"),
    "force": ("true", "x"),
    "includeObject": ("None", "Metadata", "Object", "All"),
    "propagationPolicy": ("Background", "Foreground", "Orphan", "Never"),
    "orphanDependents": ("true", "false"),
    "timeoutSeconds": ("1",),
    "watch": ("true", "True", "0"),
    "allowWatchBookmarks": ("true",),
    "sendInitialEvents": ("true",),
    "resourceVersionMatch": ("NotOlderThan", "Exact", "x"),
    "at": ("1", "7", "40", "x", "", "9" * 14, "2100-01-01T00:00:00Z", "2001-01-01T00:00:00+02:00", "2026-11-22"),
    "from": ("0", "3", "9" * 14, "x"),
    "to": ("5", "2100-01-01T00:00:00Z"),
    "kind": ("instance", "addresspools", "events", "x"),
    "uid": ("x", ""),
    "all": ("true",),
}


class Door(Protocol):
    """Whatever takes requests in somebody's name."""

    async def call(self, method: str, path: str, doc: Any = None, **kwargs: Any) -> Reply: ...


class Pulse:
    """Follows how the loop of this process fares: when it comes round late, and how much of that was not its own work.

    A machine with other things to do keeps us waiting, which is no fault of the server. Work of all threads counts as
    our own, so a request that holds the loop, or the interpreter, is never excused.
    """

    EVERY = 0.02
    """Seconds between two looks."""

    def __init__(self) -> None:
        self.withheld = 0.0
        """Seconds for which the machine has kept the loop waiting until now."""
        self.longest, self.its_work = 0.0, 0.0
        """The longest that the loop did not come round, and for how much of it this process was at work."""

    async def beat(self) -> None:
        """For ever."""
        while True:
            began, worked = time.monotonic(), time.process_time()
            await asyncio.sleep(self.EVERY)
            late, worked = time.monotonic() - began - self.EVERY, time.process_time() - worked
            self.withheld += max(late - worked, 0.0)
            if late > self.longest:
                self.longest, self.its_work = late, worked


class Slow(NamedTuple):
    """A request that took longer than it may: so many seconds too long, of which the machine withheld so many."""

    over: float
    withheld: float
    told: str


class Asked(NamedTuple):
    """A request in the name of `who`."""

    who: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes | None


class Fuzzer:
    """Makes requests from one seed, and judges the answers."""

    subjects: Sequence[str] = SUBJECTS
    collections: Sequence[str] = COLLECTIONS
    documents: Sequence[str] = DOCUMENTS
    home: str = INSTANCES
    """The collection of what is meant."""
    names: Sequence[str] = NAMES
    subresources: Sequence[str] = ("", "", "", "", "/status", "/timeline", "/scale", "/nothing", "/a/b")

    def __init__(self, w: Door, seed: int) -> None:
        self.world, self.random = w, random.Random(seed)
        self.codes: Counter[int] = Counter()
        self.pulse = Pulse()
        self.slow: list[Slow] = []
        self.longest = 0.0
        """Seconds of the request that took longest, without what it had to wait for by its own wish."""
        self.seen: list[Any] = [instance(), pool()]
        """Documents that came back, to be sent again."""

    async def go(self, count: int) -> None:
        """So many requests, one after the other."""
        for _ in range(count):
            await self._one()

    async def _one(self) -> None:
        who, method, path, query, headers, body = self._meant() if self.random.random() < MEANT else self._any()
        sent = {"params": query, "headers": headers, "data": body}
        began, withheld = time.monotonic(), self.pulse.withheld
        reply = await self.world.call(method, path, subject=who, **sent)
        took = time.monotonic() - began
        told = f"{who}: {method} {path} {query} {headers} {body!r:.600}\n-> {reply.code} {reply.raw[:600]!r}"
        try:
            self._judge(method, path, query, reply)
        except (AssertionError, ValueError, KeyError, TypeError, NanoError) as error:
            raise AssertionError(f"{error!r}\n{told}") from error
        future = query.get("watch") and query.get("resourceVersion", "").isdigit()  # waited for, 3 s
        past = "at" in query or "/history" in path or path.endswith("/timeline")  # all that was before is read
        waits = 3 if future else 8 if past else 1 if query.get("watch") else 0
        self.longest = max(self.longest, took - waits)
        if took >= SLOWEST_SECONDS + waits:
            await asyncio.sleep(2 * Pulse.EVERY)  # until it has looked again
            over, withheld = took - waits - SLOWEST_SECONDS, self.pulse.withheld - withheld
            self.slow.append(
                Slow(over, withheld, f"{took:.1f} s, {withheld:.1f} s of it withheld by the machine\n{told}")
            )
        self.codes[reply.code] += 1

    # --- making ---

    def _any(self) -> Asked:
        """Whatever comes up."""
        path, who = self._path(), self.random.choice(self.subjects)
        method = self._method(path)
        query, headers = self._query(method), self._headers(method)
        body = self._body(path) if method in ("POST", "PUT", "PATCH", "DELETE") else None
        return Asked(who, method, path, query, headers, body)

    def _meant(self) -> Asked:
        """An instance is made, put as it once was, or deleted, of a name that may be there, changed or gone."""
        method = self.random.choice(("POST", "POST", "PUT", "DELETE"))
        name = self.random.choice((self.random.choice(NAMES), f"meant-{self.random.randrange(200)}"))
        doc = instance(name, cpus=self.random.randrange(1, 9), disks=[{"name": "a", "size": "1Gi"}])
        if method == "PUT":
            doc = self.random.choice([one for one in self.seen if one.get("kind") == "Instance"] or [doc])
            name = doc["metadata"]["name"]
        path = self.home if method == "POST" else f"{self.home}/{name}"
        body = None if method == "DELETE" else json.dumps(doc).encode()
        headers = {"Accept": self.random.choice(ACCEPTS), "Content-Type": TYPES[0]}
        return Asked(self.subjects[0], method, path, {}, headers, body)

    def _method(self, _path: str) -> str:
        return self.random.choice(METHODS)

    def _query(self, _method: str) -> dict[str, str]:
        pick = self.random.choice
        query = {word: pick(values) for word, values in QUERIES.items() if self.random.random() < 0.12}
        if self.random.random() < 0.8:  # the past is read from its beginning, which takes its time
            query.pop("at", None)
        if query.get("watch"):
            query["timeoutSeconds"] = "1"
            if self.random.random() < 0.9:  # each takes its second
                del query["watch"]
        return query

    def _headers(self, method: str) -> dict[str, str]:
        return {"Accept": self.random.choice(ACCEPTS), "Content-Type": self._type(method)}

    def _path(self) -> str:
        chance, pick = self.random.random(), self.random.choice
        if chance < 0.06:
            return pick(self.documents)
        path = pick(self.collections)
        if chance < 0.35:
            return path
        name = (
            pick(self.names) if chance < 0.95 else pick(("%2F", "..", "%00", "%ff", "A", "x" * 300, "a%20b", "?", "%"))
        )
        sub = pick(self.subresources) if chance > 0.6 else ""
        return f"{path}/{name}{sub}"

    def _type(self, method: str) -> str:
        fitting = TYPES[1:3] if method == "PATCH" else TYPES[:1]
        return self.random.choice(fitting if self.random.random() < 0.85 else TYPES)

    def _body(self, path: str) -> bytes | None:
        chance = self.random.random()
        if chance < 0.05:
            return self.random.choice(
                (b"", b"{", b"[]", b"null", b"k8s\x00\x0a\x04", b"\xff\xfe", b"a: [b", b'{"a":' * 60)
            )
        if chance < 0.1:
            return self.random.randbytes(self.random.randrange(200))
        doc: Any = self._operations() if chance < 0.25 else self._document(path)
        return json.dumps(doc).encode(errors="surrogatepass")

    def _document(self, path: str) -> Any:
        again = self.random.random() < 0.6
        doc = json.loads(json.dumps(self.random.choice(self.seen))) if again else self._fresh(path)
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2, 5))):
            self._spoil(doc)
        return doc

    def _fresh(self, path: str) -> Any:
        """A document that has a chance where it is sent."""
        name = self.random.choice(self.names)
        if path.startswith(INSTANCES):
            return instance(name, cpus=self.random.randrange(1, 9), disks=[{"name": "a", "size": "1Gi"}])
        if path.endswith("/rollback"):
            chosen = self.random.choice(({}, {"namespace": "default"}, {"kind": "Instance"}))
            return {"to": str(self.random.randrange(60)), "objects": chosen, "deleteNew": self.random.random() < 0.1}
        if "addresspools" in path:
            return pool(name, f"10.{self.random.randrange(256)}.0.0/24")
        return {"metadata": {"name": name, "labels": {"app": "web"}, "finalizers": ["example.com/x"]}}

    def _spoil(self, doc: Any) -> None:
        """Put junk somewhere."""
        while isinstance(doc, dict | list) and doc:
            key = self.random.choice(list(doc) if isinstance(doc, dict) else range(len(doc)))
            if not isinstance(doc[key], dict | list) or not doc[key] or self.random.random() < 0.25:
                if isinstance(doc, dict) and self.random.random() < 0.2:
                    doc[self.random.choice(("name", "spec", "status", "x", "metadata"))] = doc.pop(key)
                else:
                    doc[key] = json.loads(json.dumps(self.random.choice(JUNK)))  # a copy
                return
            doc = doc[key]

    def _operations(self) -> list[Any]:
        """A JSON patch."""
        paths = (
            "/spec/cpus",
            "/metadata/labels/a",
            "/metadata/finalizers",
            "/metadata/name",
            "",
            "/",
            "/spec",
            "/x/0/-",
        )
        words = ("add", "remove", "replace", "move", "copy", "test", "fly")
        return [
            {"op": self.random.choice(words), "path": self.random.choice(paths), "from": self.random.choice(paths),
             "value": self.random.choice(JUNK)}
            for _ in range(self.random.randrange(4))
        ]  # fmt: skip

    # --- judging ---

    def _judge(self, method: str, path: str, query: dict[str, str], reply: Reply) -> None:
        assert reply.code < 500
        if method == "HEAD":
            assert reply.raw == b""
            return
        if reply.code >= 400:
            status = reply.doc
            assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", reply.code)
            assert status["message"]
            assert status["reason"]
            return
        path = path.partition("?")[0]  # a name of "?" begins the query: the collection is asked
        whole = path not in self.documents and not path.endswith(tuple(filter(None, self.subresources)))
        whole = whole and not path.endswith(("/.", "/.."))  # the client walks there: what stands above is asked
        if query.get("watch") in ("true", "True") and method == "GET" and whole:
            for line in reply.raw.splitlines():
                assert json.loads(line)["type"] in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
            return
        if "json" in reply.headers.get("Content-Type", ""):  # an upload is answered without a body
            self._judge_document(reply.doc)

    def _judge_document(self, doc: Any) -> None:
        kinds = {cls.__name__: cls for cls in KINDS.values()}
        kind = str(doc.get("kind", ""))
        if kind in kinds and "metadata" in doc:
            self._judge_object(kinds[kind], doc)
        elif kind.removesuffix("List") in kinds:
            assert int(doc["metadata"]["resourceVersion"]) >= 0
            for item in doc["items"]:
                self._judge_object(kinds[kind.removesuffix("List")], item)
        elif kind == "Table":
            width = len(doc["columnDefinitions"])
            assert all(len(row["cells"]) == width for row in doc["rows"])

    def _judge_object(self, cls: type[Document], doc: Any) -> None:
        """It is what its model says, and the server's part is there."""
        assert decode(cls, doc).to_json()["metadata"]["name"] == doc["metadata"]["name"]
        for word in ("uid", "resourceVersion", "creationTimestamp", "generation"):
            assert doc["metadata"][word], word
        if len(self.seen) > 200:
            self.seen[self.random.randrange(len(self.seen))] = doc
        else:
            self.seen.append(doc)


async def let_go(fuzzers: Sequence[Fuzzer], count: int) -> None:
    """Have them make so many requests together, all at once (AssertionError: one took too long, by our own fault)."""
    pulse, began = Pulse(), time.monotonic()
    async with asyncio.TaskGroup() as outer:
        beating = outer.create_task(pulse.beat())
        async with asyncio.TaskGroup() as tasks:
            for one in fuzzers:
                one.pulse = pulse
                tasks.create_task(one.go(count // len(fuzzers)))
        beating.cancel()
    slow = sorted(found for one in fuzzers for found in one.slow)
    print(  # noqa: T201 - the figures
        f"{sum(one.codes.total() for one in fuzzers)} requests in {time.monotonic() - began:.0f} s; the longest took "
        f"{max(one.longest for one in fuzzers):.2f} s, {len(slow)} over {SLOWEST_SECONDS} s; the loop stood still for "
        f"{pulse.longest:.2f} s at most ({pulse.its_work:.2f} s of it at work), the machine withheld "
        f"{pulse.withheld:.0f} s in all"
    )
    for found in slow:
        print("slow:", found.told)  # noqa: T201 - excused or not
    ours = [found for found in slow if found.over >= found.withheld]
    assert not ours, "\n".join(found.told for found in ours)


async def fuzz(count: int, seed: int) -> Counter[int]:
    """So many requests from several clients at once; how often each code came."""
    print("seed", seed)  # noqa: T201 - pytest shows it with the failure
    async with world() as w:
        await w.make(INSTANCES, instance())
        await w.make(f"{NANO}/addresspools", pool())
        fuzzers = [Fuzzer(w, seed + number) for number in range(WORKERS)]
        await let_go(fuzzers, count)
        assert (await w.call("GET", "/readyz")).code == 200
        said: Callable[[Fuzzer], Counter[int]] = lambda one: one.codes  # noqa: E731 - a sum of counters
        return sum(map(said, fuzzers), Counter())


@pytest.mark.timeout(300)
async def test_nothing_that_is_sent_breaks_the_api() -> None:
    for seed in failed_once("portal/api_fuzz"):
        await fuzz(FEW, seed)
    codes = await fuzz(FEW, seed=random.randrange(2**32))
    assert min(codes[code] for code in (200, 201, 400, 401, 403, 404, 405, 409, 415, 422)) > 0, codes


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_nothing_that_is_sent_breaks_the_api_in_a_long_time() -> None:
    await fuzz(MANY, seed=random.randrange(2**32))
