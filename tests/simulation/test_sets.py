"""Instance sets in a whole cluster: members run, are fewer, are none, and nobody else has to wait for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from nanovirt.resources.defaults import made
from nanovirt.resources.store import Change, Commit
from nanovirt.resources.wire import PATCH_TYPES
from tests.simulation.virtual_time import now
from tests.simulation.whole import Whole, whole

DISKS = [{"name": "system", "size": "1Gi"}]
PATH = "/apis/nano/v1/namespaces/default/instancesets/web"


def a_set(cluster: Whole, replicas: int, **spec: Any) -> None:
    template = {"spec": {"memory": "256Mi", "disks": DISKS, **spec}}
    cluster.makes(made("InstanceSet", "web", "default", replicas=replicas, template=template))


def scale(cluster: Whole, replicas: int) -> None:
    patch = {"spec": {"replicas": replicas}}
    merge = PATCH_TYPES["merge"]
    done = cluster.session.connection.ask("PATCH", f"{PATH}/scale", patch, content_type=merge)
    assert done["spec"]["replicas"] == replicas


def phases(cluster: Whole) -> Counter[str]:
    return Counter(entry.row.status_phase for _, entry in cluster.store.list("instances"))


def ready(cluster: Whole) -> tuple[int, int, str]:
    status = cluster.object("instancesets", "web")["status"]
    return status["replicas"], status["readyReplicas"], status["conditions"][0]["status"]


def test_fifty_members_run_and_are_scaled_to_ten_and_to_none(tmp_path: Path) -> None:
    with whole(tmp_path) as cluster:
        a_set(cluster, 50)
        cluster.settles()
        assert (phases(cluster), ready(cluster)) == (Counter(Running=50), (50, 50, "True"))
        first = {key.name: entry.uid for key, entry in cluster.store.list("instances")}
        scale(cluster, 10)
        cluster.settles()
        left = {key.name: entry.uid for key, entry in cluster.store.list("instances")}
        assert left == {name: first[name] for name in (f"web-{number}" for number in range(1, 11))}
        assert ready(cluster) == (10, 10, "True")
        assert Counter(host for machine in cluster.hosts.values() for host in machine.files).total() == 10
        scale(cluster, 0)
        cluster.settles()
        assert ready(cluster) == (0, 0, "True")
        for plural in ("instances", "placements", "volumes", "addresses"):
            assert cluster.store.list(plural) == [], plural
        assert not any(machine.files for machine in cluster.hosts.values())


def test_member_deleted_by_hand_runs_again_and_all_go_with_their_set(tmp_path: Path) -> None:
    with whole(tmp_path) as cluster:
        a_set(cluster, 3)
        cluster.settles()
        before = cluster.object("instances", "web-2")["metadata"]["uid"]
        cluster.session.connection.ask("DELETE", PATH.replace("instancesets/web", "instances/web-2"))
        cluster.passes(0.1)
        assert ready(cluster) == (3, 2, "False"), "before the machine can have gone"
        cluster.settles()
        assert cluster.object("instances", "web-2")["metadata"]["uid"] != before
        assert (phases(cluster), ready(cluster)) == (Counter(Running=3), (3, 3, "True"))
        cluster.session.connection.ask("DELETE", PATH)
        cluster.settles()
        assert cluster.store.list("instances") == []


def test_name_that_somebody_else_had_is_known_to_be_free_again(tmp_path: Path) -> None:
    with whole(tmp_path) as cluster:
        cluster.makes(made("Instance", "web-1", "default", disks=DISKS))
        a_set(cluster, 1)
        cluster.settles()
        assert names_free(cluster) == "False"
        cluster.session.connection.ask("DELETE", PATH.replace("instancesets/web", "instances/web-1"))
        cluster.settles()
        assert names_free(cluster) == "True"
        assert [key.name for key, _ in cluster.store.list("instances")] == ["web-2"]


def names_free(cluster: Whole) -> str:
    conditions = cluster.object("instancesets", "web")["status"]["conditions"]
    return next(str(one["status"]) for one in conditions if one["type"] == "NamesFree")


def test_thousand_members_hold_nobody_up(tmp_path: Path) -> None:
    """They are made in many commits, between which a single instance gets its place."""
    commits: list[Commit] = []
    with whole(tmp_path, hosts=20) as cluster:
        cluster.store.subscribe(commits.append)
        began = now_of(cluster)
        a_set(cluster, 1000, memory="64Mi", powerState="Stopped")
        cluster.makes(made("Instance", "single", "default", disks=DISKS))
        waited_until(cluster, lambda: bool(cluster.object("instances", "single").get("status", {}).get("host")))
        assert now_of(cluster) - began < 1
        cluster.settles()
        assert ready(cluster)[0] == 1000
        made_at_once = [sum(map(created, commit.changes)) for commit in commits]
        assert max(made_at_once) == 50
        told = [one for commit in commits for one in commit.changes if one.key.plural == "instancesets"]
        assert len(told) < 300, "the status is not written for every member"


def created(change: Change) -> bool:
    return change.key.plural == "instances" and change.before is None


def now_of(cluster: Whole) -> float:
    async def read() -> float:
        return now()

    return cluster.run(read())


def waited_until(cluster: Whole, true: Any, most: float = 60) -> None:
    began = now_of(cluster)
    while not true():
        assert now_of(cluster) - began < most
        cluster.passes(0.05)
