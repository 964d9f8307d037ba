"""The API keeps to its own OpenAPI document: schemathesis makes requests from it and checks every answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nanovirt.resources import kubeconfig
from tests.conformance.cluster import Cluster
from tests.e2e.server_process import running_server

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SLOWEST_SECONDS = 2.0
TRIES = 3
"""So often a GET is asked until an answer is soon enough: that a machine stood still is not the server's doing."""
FEW, MANY = 3, 60
NAMES = ("one", "two")
GROUPS = ("apis/nano/v1", "api/v1")
AT_LEAST = 100
"""Operations of all kinds together."""


class Door:
    """The server as schemathesis calls it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        credentials = kubeconfig.from_kubeconfig(cluster.server.kubeconfig)
        authority = folder / "ca.pem"
        authority.write_text(credentials.ca_pem)
        self.cluster, self._url, self._verify = cluster, cluster.server.url, str(authority)
        self._headers = {"Authorization": f"Bearer {credentials.token}"}
        self.codes: Counter[int] = Counter()

    def operations(self) -> list[Any]:
        """All that the documents of both groups offer."""
        found: list[Any] = []
        for group in GROUPS:
            code, doc = self.cluster.call("GET", f"/openapi/v3/{group}")
            assert code == 200
            schema: Any = schemathesis.openapi.from_dict(doc)
            found += [one.ok() for one in schema.get_all_operations()]
        return found

    def knock(self, case: Any, kind: str, group_version: str) -> None:
        """One request, which has to be answered soon and as the document says; of two, one is about the same few."""
        for word in ("watch", "sendInitialEvents"):  # a stream, which no schema describes
            case.query.pop(word, None)
        if self.codes.total() % 2:
            name = NAMES[self.codes.total() // 2 % len(NAMES)]
            known = {"name": name, "namespace": "default"}
            case.path_parameters |= {word: known[word] for word in case.path_parameters}
            if case.method in ("POST", "PUT") and isinstance(case.body, dict):
                case.body |= {"apiVersion": group_version, "kind": kind, "metadata": {"name": name}}
        taken = [self._once(case)]
        while case.method == "GET" and taken[-1] >= SLOWEST_SECONDS and len(taken) < TRIES:
            print(f"{case.method} {case.formatted_path} took {taken[-1]:.1f} s")  # noqa: T201 - excused or not
            taken.append(self._once(case))
        assert taken[-1] < SLOWEST_SECONDS, f"{case.method} {case.formatted_path} took {taken} s"

    def _once(self, case: Any) -> float:
        """Seconds until the answer was there."""
        began = time.monotonic()
        response = case.call(base_url=self._url, headers=self._headers, verify=self._verify)
        took = time.monotonic() - began
        case.validate_response(response, checks=CHECKS)
        self.codes[response.status_code] += 1
        return took


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A server of its own: the namespaces and pools do not survive this."""
    with running_server(tmp_path / "nano") as server:
        yield Door(Cluster(server), tmp_path)


def try_all(door: Door, examples: int) -> None:
    """So many requests for each operation, by which something has to be made, changed and found."""
    operations = door.operations()
    assert len(operations) >= AT_LEAST
    for operation in operations:
        try_one(door, operation, examples)
    assert door.codes.total() >= len(operations)
    assert min(door.codes[code] for code in (200, 201, 400, 404, 422)) > 0, door.codes


def try_one(door: Door, operation: Any, examples: int) -> None:
    """So many requests for one operation."""
    about = operation.definition.raw["x-kubernetes-group-version-kind"]
    group_version = "/".join(filter(None, (about["group"], about["version"])))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def attempt(case: Any) -> None:
        door.knock(case, about["kind"], group_version)

    attempt()


@pytest.mark.timeout(300)
def test_answers_are_as_the_schema_says(door: Door) -> None:
    try_all(door, FEW)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_answers_are_as_the_schema_says_many_times(door: Door) -> None:
    try_all(door, MANY)
