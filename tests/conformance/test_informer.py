"""Informers of the `kubernetes` client end with the right state, whatever happens to the server and to the wire."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer

from tests.conformance.cluster import Cluster
from tests.conformance.forgetful_server import KEPT
from tests.conformance.wire import Wire, wire
from tests.e2e.server_process import ServerProcess, running_server

PLURALS = ("systemtemplates", "namespaces")
NAMES = 25
CATCH_UP_SECONDS = 60
MERGE = "application/merge-patch+json"
BUSES = ("Virtio", "Scsi", "Sata", "Ide")
logging.getLogger("kubernetes.informer").setLevel(logging.CRITICAL)  # it tells of every attempt that fails


class ForgetfulServer(ServerProcess):
    """Keeps few changes."""

    program = (sys.executable, "-m", "tests.conformance.forgetful_server")


class Follower:
    """One informer, and what its handlers have made of the events, which must come to the same."""

    def __init__(self, plural: str, listing: Callable[..., Any]) -> None:
        self.plural = plural
        self.seen: dict[str, int] = {}
        self.backwards: list[str] = []
        self.expired = self.events = 0
        self.informer = SharedInformer(listing, key_func=name_of)
        for word, handler in {"ADDED": self._there, "MODIFIED": self._there, "DELETED": self._gone}.items():
            self.informer.add_event_handler(word, handler)
        self.informer.add_event_handler("ERROR", self._failed)

    def state(self) -> dict[str, int]:
        """Name -> revision, as the cache of the informer has it."""
        return {name_of(one): revision_of(one) for one in self.informer.cache.list()}

    def _there(self, thing: Any) -> None:
        name, revision = name_of(thing), revision_of(thing)
        if revision < self.seen.get(name, 0):
            self.backwards.append(f"{name} went from {self.seen[name]} to {revision}")
        self.seen[name] = revision
        self.events += 1

    def _gone(self, thing: Any) -> None:
        self.seen.pop(name_of(thing), None)
        self.events += 1

    def _failed(self, error: Any) -> None:
        self.expired += isinstance(error, ApiException) and error.status == 410


def metadata_of(thing: Any) -> Any:
    """Of a dict, or of a model."""
    return SimpleNamespace(**thing["metadata"]) if isinstance(thing, dict) else thing.metadata


def name_of(thing: Any) -> str:
    """Its name."""
    return str(metadata_of(thing).name)


def revision_of(thing: Any) -> int:
    """Its resourceVersion."""
    metadata = metadata_of(thing)
    return int(metadata.resourceVersion if isinstance(thing, dict) else metadata.resource_version)


def listing_of(api: kubernetes.client.ApiClient, plural: str) -> Callable[..., Any]:
    """What an informer calls to list and to watch; the client's own for kinds that it has a model of."""
    if plural == "namespaces":
        own: Callable[..., Any] = kubernetes.client.CoreV1Api(api).list_namespace
        return own
    custom: Any = kubernetes.client.CustomObjectsApi(api)

    def listing(**query: Any) -> Any:
        found = custom.list_cluster_custom_object("nano", "v1", plural, **query)
        if query.get("watch"):
            return found
        metadata = SimpleNamespace(resource_version=found["metadata"]["resourceVersion"])
        return SimpleNamespace(items=found["items"], metadata=metadata)

    listing.__doc__ = ":rtype: object"  # the client's watch reads that
    return listing


class Trouble:
    """Writes at random, straight to the server, and now and then breaks something."""

    def __init__(self, server: ServerProcess, cluster: Cluster, wire: Wire, seed: int) -> None:
        self._server, self._cluster, self._wire = server, cluster, wire
        self._random = random.Random(seed)
        self.restarts = self.cuts = 0

    def write(self, count: int) -> None:
        """So many creations, changes and deletions."""
        for _ in range(count):
            plural = self._random.choice(PLURALS)
            name = f"x-{self._random.randrange(NAMES)}"
            there = self._cluster.get(f"{plural}/{name}") is not None
            root = "/api/v1/namespaces" if plural == "namespaces" else f"/apis/nano/v1/{plural}"
            if not there:
                code, doc = self._cluster.call("POST", root, {"metadata": {"name": name}})
            elif self._random.random() < 0.3:
                code, doc = self._cluster.call("DELETE", f"{root}/{name}")
            else:
                patch = {"metadata": {"labels": {"n": str(self._random.randrange(10**9))}}}
                code, doc = self._cluster.call("PATCH", f"{root}/{name}", patch, MERGE)
            assert code in (200, 201), doc

    def strike(self, turn: int) -> None:
        """In turn: a cut that is mended soon, one that outlasts what is kept, kill -9, and an orderly restart."""
        match turn % 4:
            case 0:
                self._cut(3)
            case 1:
                self._server.kill()
                self._restart(3)
            case 2:
                self._cut(3 * KEPT)
            case _:
                assert self._server.stop() == 0
                self._restart(0)

    def _cut(self, writes: int) -> None:
        self._wire.cut()
        self.write(writes)
        self._wire.mend()
        self.cuts += 1

    def _restart(self, writes: int) -> None:
        self._server.start()
        self.write(writes)
        self.restarts += 1


@contextmanager
def following(server: ServerProcess, folder: Path, wire: Wire) -> Iterator[list[Follower]]:
    """An informer for each plural, through the wire."""
    config = yaml.safe_load(server.kubeconfig.read_text())
    for one in config["clusters"]:
        one["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
    file = folder / "wire.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    with kubernetes.config.new_client_from_config(str(file)) as api:
        followers = [Follower(plural, listing_of(api, plural)) for plural in PLURALS]
        for one in followers:
            one.informer.start()
        try:
            yield followers
        finally:
            wire.cut()
            for one in followers:
                one.informer.stop()


def truth(cluster: Cluster, plural: str) -> dict[str, int]:
    """Name -> revision, as the server has it."""
    root = "/api/v1" if plural == "namespaces" else "/apis/nano/v1"
    _, listed = cluster.call("GET", f"{root}/{plural}")
    return {name_of(one): revision_of(one) for one in listed["items"]}


def caught_up(cluster: Cluster, follower: Follower) -> bool:
    """Whether the informer comes to what the server has within a while."""
    wanted, until = truth(cluster, follower.plural), time.monotonic() + CATCH_UP_SECONDS
    while follower.state() != wanted or follower.seen != wanted:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def live(folder: Path, seconds: float, seed: int) -> tuple[Trouble, list[Follower]]:
    """So many seconds of trouble, at least two rounds of it; after each strike the informers must catch up."""
    with running_server(folder / "nano", cls=ForgetfulServer) as server, wire(server.api_port) as cable:
        cluster = Cluster(server)
        trouble = Trouble(server, cluster, cable, seed)
        with following(server, folder, cable) as followers:
            until, turn = time.monotonic() + seconds, 0
            while turn < 8 or time.monotonic() < until:
                trouble.write(10)
                trouble.strike(turn)
                trouble.write(5)
                for one in followers:
                    assert caught_up(cluster, one), f"{one.plural} after strike {turn} (seed {seed})"
                turn += 1
            return trouble, followers


def check(trouble: Trouble, followers: list[Follower]) -> None:
    """That there was trouble enough to mean something, and that no informer was told the past."""
    assert trouble.restarts >= 4
    assert trouble.cuts >= 4
    for one in followers:
        assert one.expired >= 1, f"{one.plural}: no 410"
        assert one.backwards == []
        assert one.events > 20


@pytest.mark.timeout(180)
def test_informers_survive_restarts_cuts_and_expired_revisions(tmp_path: Path) -> None:
    check(*live(tmp_path, 15, seed=1))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_informers_survive_ten_minutes_of_trouble(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 - pytest shows it with the failure
    check(*live(tmp_path, 600, seed))
