"""`nanoctl plan`, `apply --dry-run` and `--max-disruption`, against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.portal.cli_world import Cluster, cluster
from tests.portal.test_cli_changing import pool


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "local"})
        yield made


def machine(name: str, **spec: Any) -> str:
    doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name}}
    return json.dumps(doc | {"spec": {"disks": [{"name": "system", "size": "1Gi"}], **spec}})


def runs(running: Cluster, name: str) -> None:
    """A machine that is placed and runs."""
    running.says("apply", "-f", "-", stdin=machine(name))
    status = {"phase": "Running", "host": "node-1", "placement": f"{name}-1"}
    running.status("instances", name, "default", **status)


def test_a_plan_says_per_field_when_it_takes_effect_and_stores_nothing(running: Cluster) -> None:
    runs(running, "planned")
    docs = f"{machine('planned', memory='2Gi', displayName='Web')}\n---\n{pool('fresh')}\n---\n{machine('other')}"
    before = running.store.committed
    assert running.says("plan", "-f", "-", stdin=docs).splitlines() == [
        "addresspool/fresh would be created",
        "instance/planned would be configured",
        "instance/other would be created",
        "",
        "OBJECT             FIELD              NOW   THEN   EFFECT",
        "instance/planned   spec.displayName   -     Web    Live",
        "instance/planned   spec.memory        1Gi   2Gi    Restart",
    ]
    assert running.store.committed == before
    assert "spec.memory        1Gi   2Gi    Restart" in running.says("apply", "--dry-run", "-f", "-", stdin=docs)


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_what_is_worse_than_allowed_is_refused_before_anything_is_stored(running: Cluster, command: str) -> None:
    runs(running, f"calm-{command}")
    docs = f"{machine(f'calm-{command}', cpus=4)}\n---\n{pool(f'calm-{command}')}"
    before = running.store.committed
    result = running.nanoctl(command, "--max-disruption=Live", "-f", "-", stdin=docs)
    said = f"stdin:1 (document 1, Instance calm-{command}): spec.cpus: its effect is Restart, worse than Live"
    assert (result.exit_code, result.stderr) == (1, f"Error: {said} (nothing was stored)\n")
    assert running.store.committed == before
    assert running.nanoctl(command, "--max-disruption=Restart", "-f", "-", stdin=docs).exit_code == 0


def test_what_the_server_refuses_is_told_by_plan_with_its_line(running: Cluster) -> None:
    runs(running, "fixed")
    result = running.nanoctl("plan", "-f", "-", stdin=machine("fixed", computePool="other"))
    assert "stdin:1 (document 1, Instance fixed): spec.computePool: The field cannot be changed" in result.stderr
