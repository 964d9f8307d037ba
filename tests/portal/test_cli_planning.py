"""`nanoctl plan`, `apply --dry-run` and `--max-disruption`, against the real API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Change
from tests.portal.cli_world import Cluster, cluster, pool

JSON = dict[str, Any]


def foresee(changes: Sequence[Change]) -> dict[Key, JSON]:
    """What controllers would say of two machines, and nothing of others."""
    addresses = [{"nic": "nic0", "addressPool": "lan", "ip": "10.30.0.50"}]
    known: dict[str, JSON] = {
        "placeable": {"host": "node-1", "addresses": addresses},
        "waiting": {"reason": "PoolHasNoHosts", "message": "ComputePool default has no hosts.", "params": {}},
    }
    return {one.key: known[one.key.name] for one in changes if one.key.name in known}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli"), foresee=foresee) as made:
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


def test_a_plan_says_where_a_new_machine_would_run_or_what_it_would_wait_for(running: Cluster) -> None:
    docs = f"{machine('placeable')}\n---\n{pool('unforeseen')}\n---\n{machine('waiting')}"
    assert running.says("plan", "-f", "-", stdin=docs).splitlines()[3:] == [
        "",
        "OBJECT               FIELD                    NOW   THEN                                         EFFECT",
        "instance/placeable   status.host              -     node-1                                       Foreseen",
        "instance/placeable   status.addresses[nic0]   -     10.30.0.50                                   Foreseen",
        "instance/waiting     status.phase             -     Pending: ComputePool default has no hosts.   Foreseen",
    ]


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
