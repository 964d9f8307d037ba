"""Sets of instances on the command line: `scale`, `get`, `tree`, `describe`, `why`, `wait`, `plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from nanovirt.resources.conditions import condition
from nanovirt.resources.kind import Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Change
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
DISK = {"name": "system", "size": "1Gi"}


def foresee(changes: Sequence[Change]) -> dict[Key, JSON]:
    """Two new members, one of which waits."""
    members = [
        {"name": "new-1", "host": "node-1", "addresses": [{"nic": "nic0", "addressPool": "lan", "ip": "10.30.0.50"}]},
        {"name": "new-2", "reason": "AddressPoolFull", "message": "The pool is full.", "params": {}},
    ]
    return {one.key: {"members": members} for one in changes if one.key.name == "new"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli"), foresee=foresee) as made:
        made.creates("computepools", "default", spec={"storagePool": "local"})
        made.says("apply", "-f", "-", stdin=a_set("web"))
        uid = made.object("instancesets", "web", "default")["metadata"]["uid"]
        owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "web", "uid": uid}
        for name in ("web-1", "web-2"):
            doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": name, "ownerReferences": [owner]}}
            made.says("apply", "-f", "-", stdin=json.dumps(doc | {"spec": {"disks": [DISK]}}))
        made.running("web-1")
        made.says("apply", "-f", "-", stdin=a_set("other"))
        yield made


def a_set(name: str, **spec: Any) -> str:
    doc = {"apiVersion": "nano/v1", "kind": "InstanceSet", "metadata": {"name": name}}
    return json.dumps(doc | {"spec": {"replicas": 3, "template": {"spec": {"disks": [DISK]}}, **spec}})


def settles(cluster: Cluster, name: str = "web", *, failed: tuple[str, ...] = ()) -> None:
    """What the controller says of a set: all are ready, or those are not."""
    doc = cluster.object("instancesets", name, "default")
    wished, generation = doc["spec"]["replicas"], doc["metadata"]["generation"]
    bad = [{"name": one, "reason": "AddressPoolFull", "message": "The pool is full."} for one in failed]
    there = wished - len(failed)
    if failed:
        ready = condition("Ready", "False", Reason.MembersNotReady, generation, ready=there, replicas=wished)
    else:
        ready = condition("Ready", "True", Reason.MembersReady, generation, replicas=wished)
    cluster.status(
        "instancesets", name, "default", observedGeneration=generation, replicas=wished, readyReplicas=there,
        selector=f"nano/instance-set={name}", failed=bad, conditions=[ready.to_json()],
    )  # fmt: skip


def test_scale_changes_the_wish(running: Cluster) -> None:
    assert running.says("scale", "iset/other", "--replicas", "5") == "instanceset/other scaled to 5\n"
    assert running.object("instancesets", "other", "default")["spec"]["replicas"] == 5


def test_scale_waits_until_the_members_are_as_wished(running: Cluster) -> None:
    running.later(0.3, partial(settles, running))
    said = running.says("scale", "instanceset/web", "--replicas", "4", "--wait", "--timeout", "10s")
    assert said.splitlines() == ["instanceset/web scaled to 4", "instanceset/web is Ready"]
    late = running.nanoctl("scale", "instanceset/web", "--replicas", "2", "--wait", "--timeout", "0.3s")
    assert (late.exit_code, "not reached after 0.3 s" in late.stderr) == (3, True), "ready for an older wish"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("instancesets", "--replicas", "1"), 2, "say which"),
        (("iset/none", "--replicas", "1"), 1, "not found"),
        (("instance/web-1", "--replicas", "1"), 2, "instancesets have"),
        (("iset/web", "--replicas", "1001"), 1, "spec.replicas"),
        (("iset/web", "--replicas", "-1"), 2, "--replicas"),
        (("iset/web",), 2, "--replicas"),
    ],
)
def test_what_cannot_be_scaled_is_said(running: Cluster, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = running.nanoctl("scale", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


def test_get_and_describe_show_counts(running: Cluster) -> None:
    settles(running, failed=("web-2",))
    rows = [line.split() for line in running.says("get", "instancesets", "web").splitlines()]
    wished = str(running.object("instancesets", "web", "default")["spec"]["replicas"])
    assert rows[0] == ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]
    assert rows[1][:4] == ["web", wished, wished, str(int(wished) - 1)]
    said = running.says("describe", "instanceset/web")
    assert "MembersNotReady" in said
    assert "nano/instance-set=web" in said


def test_tree_shows_the_members(running: Cluster) -> None:
    lines = running.says("tree", "instanceset/web").splitlines()
    assert [line.strip("─│├└ ").split()[0] for line in lines[1:]] == [
        "instanceset/web", "instance/web-1", "instance/web-2",
    ]  # fmt: skip


def test_why_names_the_members_that_do_not_get_ready(running: Cluster) -> None:
    settles(running, failed=("web-2", "web-3"))
    said = running.says("why", "instanceset/web")
    assert "web-2, web-3: The pool is full." in said
    assert "nanoctl tree instanceset/web" in said
    settles(running)
    assert "Everything is as desired." in running.says("why", "instanceset/web")


def test_wait_for_ready_members(running: Cluster) -> None:
    settles(running)
    assert "condition met" in running.says("wait", "instanceset/web", "--for=condition=Ready", "--timeout", "5s")


def test_fewer_members_are_a_loss_of_data_and_another_template_is_none(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=a_set("planned"))
    fewer = a_set("planned", replicas=1, template={"spec": {"disks": [DISK], "cpus": 2}})
    assert running.says("plan", "-f", "-", stdin=fewer).splitlines()[2:] == [
        "OBJECT                FIELD                     NOW   THEN   EFFECT",
        "instanceset/planned   spec.replicas             3     1      DataLoss",
        "instanceset/planned   spec.template.spec.cpus   1     2      Live",
    ]
    refused = running.nanoctl("apply", "--max-disruption=Restart", "-f", "-", stdin=fewer)
    assert (refused.exit_code, "spec.replicas: its effect is DataLoss" in refused.stderr) == (1, True)


def test_plan_says_where_new_members_would_be(running: Cluster) -> None:
    assert running.says("plan", "-f", "-", stdin=a_set("new")).splitlines()[2:] == [
        "OBJECT            FIELD            NOW   THEN                         EFFECT",
        "instanceset/new   members[new-1]   -     node-1 at 10.30.0.50         Foreseen",
        "instanceset/new   members[new-2]   -     Pending: The pool is full.   Foreseen",
    ]
