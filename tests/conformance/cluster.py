"""A real server with simulated hosts, and a plain look at what it holds that depends on no client under test."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanovirt.resources import access, kubeconfig
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.registry import by_any_name, kinds
from nanovirt.resources.tables import values
from tests.e2e.server_process import ServerProcess, running_server

JSON = dict[str, Any]
SECONDS = 50.0
MADE_BY_PEOPLE = (
    "instancesets",
    "instances",
    "images",
    "systemtemplates",
    "addresspools",
    "computepools",
    "storagepools",
    "namespaces",
)


class Cluster:
    """The server, and the objects in it by plain requests of the administrator."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        credentials = kubeconfig.from_kubeconfig(server.kubeconfig)
        self._tls, self._token = access.tls(credentials), credentials.token
        self._first = self._names()

    def call(self, method: str, path: str, doc: JSON | None = None, kind: str = "application/json") -> tuple[int, JSON]:
        """One request; the code and the document that came back."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        body = json.dumps(doc).encode() if doc is not None else None
        request = urllib.request.Request(self.server.url + path, body, headers, method=method)  # noqa: S310 - our https
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=self._tls) as reply:  # noqa: S310 - our https
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())

    def get(self, word: str) -> JSON | None:
        """The object at `kind/name` (in `default`) or `kind/namespace/name`, or None."""
        code, doc = self.call("GET", path(word))
        assert code in (200, 404), doc
        return doc if code == 200 else None

    def found(self, word: str, where: str) -> Any:
        """What stands at a JSON path of an object: one value, or a list of several or of none."""
        doc = self.get(word)
        assert doc is not None, f"there is no {word}"
        several = values(doc, where)
        return several[0] if len(several) == 1 else several

    def clear(self) -> None:
        """Remove what was made since the beginning, finalizers of others first."""
        until = time.monotonic() + SECONDS
        while strange := self._names() - self._first:
            for key in strange:
                self._remove(key)
            assert time.monotonic() < until, f"these do not go: {strange}"
            time.sleep(0.02)

    def _remove(self, key: Key) -> None:
        where = path(str(key))
        code, doc = self.call("GET", where)
        if code == 200 and doc["metadata"].get("finalizers"):
            self.call("PATCH", where, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
        self.call("DELETE", where)

    def _names(self) -> set[Key]:
        found = set()
        for plural in MADE_BY_PEOPLE:
            _, listed = self.call("GET", f"{root(plural)}/{plural}")
            for item in listed["items"]:
                found.add(Key(plural, item["metadata"].get("namespace", ""), item["metadata"]["name"]))
        return found


def root(plural: str) -> str:
    """Where the paths of a kind begin."""
    version = KINDS[plural].facts.group_version
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def path(word: str) -> str:
    """The URL path of `kind/name` or `kind/namespace/name`."""
    parts = word.split("/")
    assert kinds()
    kind = by_any_name(parts[0])
    assert kind is not None, word
    plural, name = kind.facts.plural, parts[-1]
    space = (parts[1] if len(parts) == 3 else "default") if kind.facts.namespaced else ""
    return f"{root(plural)}/namespaces/{space}/{plural}/{name}" if space else f"{root(plural)}/{plural}/{name}"


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A server with two simulated hosts that are ready."""
    with running_server(folder / "nano", "--simulated-hosts", "2") as server:
        cluster = Cluster(server)
        until = time.monotonic() + SECONDS
        while not all(ready(cluster, name) for name in ("sim-1", "sim-2")):
            assert time.monotonic() < until, "the simulated hosts do not become ready"
            time.sleep(0.05)
        yield cluster


def ready(cluster: Cluster, host: str) -> bool:
    """Whether that host takes instances."""
    doc = cluster.get(f"hosts/{host}")
    return doc is not None and values(doc, '.status.conditions[?(@.type=="Ready")].status') == ["True"]
