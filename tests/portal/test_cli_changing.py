"""`nanoctl apply`, `run`, `start`, `stop`, `restart`, `delete`, `wait` and what they say, against the real API."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import ShellComplete

from nanovirt.portal.cli import cli
from nanovirt.portal.cli.connection import Connection
from nanovirt.portal.cli.manifests import BadManifests, read_all
from nanovirt.portal.cli.power import in_phase
from nanovirt.portal.cli.settling import difference
from nanovirt.portal.cli.waiting import met_by
from nanovirt.portal.powering import to_restart, to_resume, to_start, to_stop, to_suspend
from nanovirt.resources.errors import Malformed
from nanovirt.resources.wire import LAST_APPLIED
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
MANIFESTS = Path(__file__).parent.parent.parent / "manifests"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 60))
POOL = """
apiVersion: nano/v1
kind: AddressPool
metadata: {name: NAME, labels: {a: "1"}}
spec:
  network: NAME
  subnet: 10.30.0.0/24
  dns: [10.30.0.1]
  ranges: [{name: low, first: 10.30.0.50, last: 10.30.0.99}]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "local"})
        made.library()
        yield made


def pool(name: str, **spec: Any) -> str:
    doc = yaml.safe_load(POOL.replace("NAME", name))
    return json.dumps(doc | {"spec": doc["spec"] | spec})


# --- apply ----------------------------------------------------------------------------------------------


def test_apply_creates_configures_and_leaves_alone(running: Cluster) -> None:
    assert running.says("apply", "-f", "-", stdin=pool("life")) == "addresspool/life created\n"
    assert running.says("apply", "-f", "-", stdin=pool("life")) == "addresspool/life unchanged\n"
    assert running.says("apply", "-f", "-", stdin=pool("life", domain="lab.example")) == "addresspool/life configured\n"
    assert running.object("addresspools", "life")["spec"]["domain"] == "lab.example"


def test_a_field_that_left_the_manifest_is_removed_and_what_others_set_stays(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=pool("merge", domain="lab.example"))
    live = json.loads(running.says("get", "apool/merge", "-o", "json"))
    assert json.loads(live["metadata"]["annotations"][LAST_APPLIED])["spec"]["domain"] == "lab.example"
    running.says("apply", "-f", "-", stdin=json.dumps(live | {"spec": live["spec"] | {"leaseSeconds": 60}}))
    running.says("apply", "-f", "-", stdin=pool("merge"))
    spec = running.object("addresspools", "merge")["spec"]
    assert (spec.get("domain", ""), spec["dns"]) == ("", ["10.30.0.1"])


def test_a_set_is_one_revision_and_the_order_of_its_files_does_not_matter(running: Cluster, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "{apiVersion: nano/v1, kind: Instance, metadata: {name: first, namespace: team-o}, "
        "spec: {disks: [{name: system, size: 1Gi}]}}"
    )
    (tmp_path / "b.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: team-o}}")
    before = running.store.committed
    assert running.says("apply", "-f", str(tmp_path)).splitlines() == [
        "namespace/team-o created",
        "instance/first created",
    ]
    assert running.store.committed == before + 1
    assert running.says("apply", "-f", str(tmp_path)).count(" unchanged") == 2
    assert running.store.committed == before + 1, "what the server completes is tried, and not written again"


def test_all_that_is_wrong_is_told_and_nothing_is_stored(running: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(
        POOL.replace("NAME", "good") + "---\n"
        "apiVersion: nano/v1\n"
        "kind: Instance\n"
        "metadata: {name: bad}\n"
        "spec:\n"
        "  cpus: 0\n"
        "  disks:\n"
        "  - {name: system, size: 4GB}\n"
        "---\n"
        "{apiVersion: nano/v1, kind: Instance, metadata: {name: lost, namespace: nowhere}, spec: {}}\n"
    )
    result = running.nanoctl("apply", "-f", str(file))
    assert result.exit_code == 1
    for said in (
        f"{file}:15 (document 2, Instance bad): spec.cpus",
        f"{file}:17 (document 2, Instance bad): spec.disks[0].size: '4GB'",
        f"{file}:19 (document 3, Instance lost): metadata.namespace: Namespace nowhere does not exist.",
        "nothing was stored",
    ):
        assert said in result.stderr
    assert running.nanoctl("get", "apool/good").exit_code == 1


def test_a_misspelt_field_is_answered_with_the_right_one(running: Cluster) -> None:
    doc = "apiVersion: nano/v1\nkind: Instance\nmetadata: {name: x}\nspec:\n  cpuss: 2\n"
    result = running.nanoctl("apply", "-f", "-", stdin=doc)
    assert "stdin:5 (document 1, Instance x): spec.cpuss: there is no such field; do you mean cpus?" in result.stderr


def test_an_unknown_kind_is_told_with_its_line(running: Cluster) -> None:
    result = running.nanoctl("apply", "-f", "-", stdin="apiVersion: nano/v1\nkind: Unicorn\nmetadata: {name: x}\n")
    assert "stdin:2 (document 1, Unicorn x): there is no kind Unicorn in nano/v1" in result.stderr


@pytest.mark.parametrize(
    ("version", "kind", "hint"),
    [
        ("nano/v1", "Namespace", "there is no kind Namespace in nano/v1; write apiVersion: v1 "),
        ("v1", "Instnace", "there is no kind Instnace in v1; write apiVersion: nano/v1 and kind: Instance "),
        ("nano/v1", "Unicorn", "there is no kind Unicorn in nano/v1; known are Address (nano/v1), "),
    ],
)
def test_an_unknown_kind_is_answered_with_the_one_that_was_meant(
    running: Cluster, version: str, kind: str, hint: str
) -> None:
    doc = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"
    assert hint in running.nanoctl("apply", "-f", "-", stdin=doc).stderr


@pytest.mark.parametrize("written", ["50%", "2 cores", "1.5"])
def test_an_amount_of_processors_in_other_units_is_answered_with_an_example(running: Cluster, written: str) -> None:
    spec = f"{{disks: [{{name: system, size: 1Gi}}], qos: {{cpu: {{limit: {written}}}}}}}"
    doc = f"apiVersion: nano/v1\nkind: Instance\nmetadata: {{name: x}}\nspec: {spec}\n"
    said = running.nanoctl("apply", "-f", "-", stdin=doc).stderr
    assert f"spec.qos.cpu.limit: {written if written == '1.5' else repr(written)} is not " in said
    assert "an amount like '1500m', which is one and a half processors (units: m)" in said


def test_a_dry_run_stores_nothing(running: Cluster) -> None:
    assert running.says("apply", "--dry-run", "-f", "-", stdin=pool("dry")) == "addresspool/dry created (dry run)\n"
    assert running.nanoctl("get", "apool/dry").exit_code == 1


def test_what_the_server_completes_in_a_list_is_no_change(running: Cluster) -> None:
    doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "lists"}}
    doc["spec"] = {"disks": [{"name": "system", "size": "1Gi"}]}
    assert running.says("apply", "-f", "-", stdin=json.dumps(doc)) == "instance/lists created\n"
    assert running.says("apply", "-f", "-", stdin=json.dumps(doc)) == "instance/lists unchanged\n"


def test_what_refers_to_nothing_is_refused_with_its_line(running: Cluster) -> None:
    doc = "apiVersion: nano/v1\nkind: Instance\nmetadata: {name: lost}\nspec:\n  disks:\n"
    result = running.nanoctl("apply", "-f", "-", stdin=doc + "  - name: system\n    source: {image: shared/absent}\n")
    said = "stdin:7 (document 1, Instance lost): spec.disks[0].source.image: Image shared/absent does not exist."
    assert (result.exit_code, result.stderr) == (1, f"Error: {said} (nothing was stored)\n")


def test_warnings_are_told_once_and_with_the_object(running: Cluster) -> None:
    disks = [{"name": "system", "source": {"image": "shared/absent"}}]
    running.creates("instances", "warned", "default", spec={"computePool": "default", "disks": disks})
    more = [*disks, {"name": "more", "source": {"image": "shared/absent"}}]
    for cpus, count in ((2, 1), (3, 0)):
        spec = {"cpus": cpus, "disks": more}
        doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "warned"}, "spec": spec}
        result = running.nanoctl("apply", "-f", "-", stdin=json.dumps(doc))
        assert result.stdout == "instance/warned configured\n"
        assert result.stderr.count("Image shared/absent does not exist") == count
        assert ("Warning: instance/warned: spec.disks[1].source.image" in result.stderr) is (count == 1)


def test_a_set_with_one_bad_change_changes_nothing(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=pool("whole"))
    docs = f"{pool('whole', domain='lab.example')}\n---\n{pool('half', subnet='10.30.9.0/24')}"
    result = running.nanoctl("apply", "-f", "-", stdin=docs)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "(document 2, AddressPool half): spec.ranges[0]" in result.stderr
    assert running.object("addresspools", "whole")["spec"].get("domain") != "lab.example"


def test_a_manifest_of_an_old_revision_is_a_conflict_with_its_line(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=pool("aged"))
    old = running.object("addresspools", "aged")
    running.says("apply", "-f", "-", stdin=pool("aged", domain="lab.example"))
    stale = old | {"spec": old["spec"] | {"leaseSeconds": 60}}
    result = running.nanoctl("apply", "-f", "-", stdin=json.dumps(stale))
    assert result.exit_code == 1
    assert "stdin:1 (document 1, AddressPool aged): Operation cannot be fulfilled" in result.stderr


def test_a_set_over_a_limit_is_refused_with_the_limit(running: Cluster) -> None:
    docs = "---\n".join(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: n{at}}}}}\n" for at in range(40))
    big = docs.replace("}}", ", annotations: {a: " + "x" * 120_000 + "}}}")
    result = running.nanoctl("apply", "-f", "-", stdin=big)
    assert result.exit_code == 1
    assert "the limit is 4194304 (nothing was stored)" in result.stderr


def test_what_another_creates_meanwhile_is_looked_at_anew(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, raced = Connection.ask, pool("raced")

    def late(connection: Connection, method: str, path: str, doc: Any = None, **more: Any) -> JSON:
        if path.startswith("/apis/nano/v1/transactions") and not seen:
            seen.append(path)
            running.creates("addresspools", "raced", spec=json.loads(raced)["spec"] | {"domain": "lab.example"})
        return ask(connection, method, path, doc, **more)

    seen: list[str] = []
    monkeypatch.setattr(Connection, "ask", late)
    assert running.says("apply", "-f", "-", stdin=raced) == "addresspool/raced configured\n"
    assert running.object("addresspools", "raced")["metadata"]["labels"]["a"] == "1"


def test_only_what_changes_is_written(running: Cluster) -> None:
    doc: JSON = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "listed"}}
    doc["spec"] = {"disks": [{"name": "system", "size": "1Gi"}]}
    running.says("apply", "-f", "-", stdin=f"{json.dumps(doc)}\n---\n{pool('beside')}")
    before = running.object("instances", "listed", "default")["metadata"]["resourceVersion"]
    changed = f"{json.dumps(doc)}\n---\n{pool('beside', domain='lab.example')}"
    assert (
        running.says("apply", "-f", "-", stdin=changed) == "addresspool/beside configured\ninstance/listed unchanged\n"
    )
    assert running.object("instances", "listed", "default")["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize("folder", ["demo", "examples"])
def test_the_manifests_of_this_repository_apply_and_stay(tmp_path: Path, folder: str) -> None:
    with cluster(tmp_path) as fresh:
        if folder == "examples":
            fresh.creates("computepools", "default", spec={"storagePool": "local"})
        told = fresh.says("apply", "-f", str(MANIFESTS / folder))
        assert told.count(" created") == len(read_all([str(MANIFESTS / folder)]))
        assert "created" not in fresh.says("apply", "-f", str(MANIFESTS / folder))
        assert "configured" not in fresh.says("apply", "-f", str(MANIFESTS / folder))


def test_the_demo_set_has_room_and_leaves_the_choice_of_addresses() -> None:
    docs = {one.doc["kind"]: one.doc for one in read_all([str(MANIFESTS / "demo")])}
    assert not {"nics", "scheduling"} & set(docs["Instance"]["spec"])
    assert docs["AddressPool"]["metadata"]["name"] == "lan"
    assert docs["Instance"]["spec"]["memory"] == "256Mi"


def test_a_three_way_merge_touches_what_was_named() -> None:
    live = {"spec": {"a": 1, "b": 2, "mine": 3, "deep": {"x": 1, "y": 2}}, "status": {"s": 1}}
    before = {"spec": {"a": 1, "b": 2, "deep": {"x": 1, "y": 2}}}
    wanted = {"spec": {"a": 5, "deep": {"x": 1}}, "status": {"s": 2}}
    assert difference(live, wanted, before) == {"spec": {"a": 5, "deep": {"y": None}, "b": None}}


def test_a_settled_manifest_needs_no_patch() -> None:
    live = {"spec": {"a": 1, "default": 2}}
    assert difference(live, {"spec": {"a": 1}}, {"spec": {"a": 1}}) == {}


# --- manifests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", ":2 cannot be read"),
        ("- a list\n", ":1 (document 1) is a list, not a mapping"),
        ("only words\n", ":1 (document 1) is a text, not a mapping"),
        ("7\n", ":1 (document 1) is the value 7, not a mapping"),
        ("\n\nkind: Instance\nmetadata: {name: x}\n", ":3 (document 1, Instance x) has no apiVersion"),
        ("apiVersion: v1\nkind: Namespace\n", ":1 (document 1, Namespace) has no metadata.name"),
        ("apiVersion: v1\nkind: Namespace\nkind: Other\n", "kind stands twice in the mapping at line 1"),
        ("", "there is no manifest in"),
        ("---\n---\n", "there is no manifest in"),
        ("\x00", "cannot be read"),
        ("&a [*a]", ":1 (document 1) cannot be read: the alias at line 1 refers to itself"),
        ("[" * 1_000_000, "x.yaml:1 cannot be read: nested deeper than 50 levels"),
        (BOMB, "its aliases make more than 1000000 values"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(BadManifests) as bad:
        read_all([str(file)])
    assert said in str(bad.value)


def test_more_than_fits_is_refused_instead_of_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanovirt.portal.cli.manifests.SIZE_MAX", 1 << 20)
    (tmp_path / "x.yaml").write_text("# comment\n" * (1 << 17))
    with pytest.raises(BadManifests, match="is larger than 1 MiB"):
        read_all([str(tmp_path)])
    with pytest.raises(BadManifests, match="is larger than 1 MiB"):
        read_all(["/dev/zero"])


def test_an_address_is_answered_with_how_it_is_read() -> None:
    with pytest.raises(BadManifests, match=r"write `curl -fsS https://example.org/a.yaml \| nanoctl apply -f -`"):
        read_all(["https://example.org/a.yaml"])


def test_errors_of_all_files_come_together(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.yaml").write_text("kind: Instance\n")
    with pytest.raises(BadManifests, match="3 errors"):
        read_all([str(tmp_path)])


def test_hidden_folders_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_text("kind: Instance\n")
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
    assert [one.name for one in read_all([str(tmp_path)])] == ["a"]


def test_the_same_object_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("---\n".join(["apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n"] * 2))
    with pytest.raises(BadManifests, match="stands already"):
        read_all([str(file)])


def test_lists_are_taken_apart_and_times_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n"
        "  metadata: {name: a, annotations: {at: 2026-11-22T06:00:00Z}}\n"
    )
    (one,) = read_all([str(file)])
    assert one.doc["metadata"]["annotations"] == {"at": "2026-11-22T06:00:00Z"}
    assert one.where("metadata.name") == f"{file}:6 (document 1, Namespace a)"


# --- power ----------------------------------------------------------------------------------------------


def machine(wish: str = "Running", phase: str = "Running", **spec: Any) -> JSON:
    conditions = [{"type": "Ready", "status": "True", "observedGeneration": 2}]
    status = {"phase": phase, "observedGeneration": 2, "conditions": conditions}
    return {"metadata": {"name": "web", "generation": 2}, "spec": {"powerState": wish, **spec}, "status": status}


def test_starting_a_running_machine_changes_nothing() -> None:
    assert to_start(machine(), NOW)[0] is None


def test_starting_a_machine_that_shut_itself_down_orders_a_restart() -> None:
    patch, _ = to_start(machine(phase="Stopped"), NOW)
    assert patch == {"spec": {"restart": {"at": "2026-11-22T09:00:00.000000Z", "mode": "Graceful"}}}


def test_starting_a_stopped_machine_is_a_wish() -> None:
    assert to_start(machine("Stopped", "Stopped"), NOW)[0] == {"spec": {"powerState": "Running"}}


def test_stopping_by_force_takes_the_grace_away_and_says_so() -> None:
    patch, said = to_stop(machine(stopGraceSeconds=60), force=True)
    assert patch == {"spec": {"powerState": "Stopped", "stopGraceSeconds": 0}}
    assert "was 60" in said


def test_stopping_twice_changes_nothing() -> None:
    assert to_stop(machine("Stopped", "Stopping"), force=False)[0] is None


def test_an_order_is_newer_than_the_last_one_even_on_a_machine_whose_clock_is_behind() -> None:
    ahead = machine()
    ahead["spec"]["restart"] = {"at": "2026-11-22T09:05:00Z", "mode": "Graceful"}
    patch, _ = to_restart(ahead, NOW, force=False)
    assert patch is not None
    assert patch["spec"]["restart"]["at"] == "2026-11-22T09:05:00.000001Z"


def test_a_restart_by_force_is_hard_and_a_stopped_machine_starts() -> None:
    patch, _ = to_restart(machine(), NOW, force=True)
    assert patch is not None
    assert patch["spec"]["restart"]["mode"] == "Hard"
    assert to_restart(machine("Stopped", "Stopped"), NOW, force=False)[0] == {"spec": {"powerState": "Running"}}


def test_suspending_is_a_wish_and_starts_nothing_that_is_stopped() -> None:
    assert to_suspend(machine())[0] == {"spec": {"powerState": "Suspended"}}
    assert to_suspend(machine("Suspended", "Suspended"))[0] is None
    assert to_suspend(machine("Stopped", "Stopped"))[0] is None


def test_resuming_is_for_what_stands_still() -> None:
    assert to_resume(machine("Suspended", "Suspended")) == ({"spec": {"powerState": "Running"}}, "resuming")
    assert to_resume(machine())[0] is None
    assert to_resume(machine("Stopped", "Stopped"))[0] is None
    assert to_start(machine("Suspended", "Suspended"), NOW) == ({"spec": {"powerState": "Running"}}, "resuming")
    assert to_restart(machine("Suspended", "Suspended"), NOW, force=True)[1] == "was suspended; resuming"


def test_a_phase_from_before_the_latest_wish_does_not_count() -> None:
    doc = machine()
    assert in_phase("Running")(doc)
    assert not in_phase("Running")(doc | {"metadata": {"name": "web", "generation": 3}})
    assert not in_phase("Running")(None)


def test_power_commands_write_the_wish(running: Cluster) -> None:
    running.says("run", "power", "--image", "shared/mini")
    assert running.says("stop", "power") == "instance/power stopping, within 60 s\n"
    assert running.object("instances", "power", "default")["spec"]["powerState"] == "Stopped"
    assert running.says("start", "instance/power") == "instance/power starting\n"
    running.running("power")
    assert "restarting by force" in running.says("restart", "power", "--force")
    assert running.object("instances", "power", "default")["spec"]["restart"]["mode"] == "Hard"


def fits_nowhere(running: Cluster, name: str) -> None:
    """Make an instance that waits for a host."""
    running.says("run", name, "--image", "shared/mini")
    told = {"type": "Scheduled", "status": "False", "reason": "NoHostFits"}
    told |= {"message": "No host of pool default fits: none.", "lastTransitionTime": "2026-11-22T09:00:00Z"}
    running.status("instances", name, "default", phase="Pending", conditions=[told])


def test_restarting_what_waits_for_a_host_is_refused_at_once_with_what_it_waits_for(running: Cluster) -> None:
    fits_nowhere(running, "waits")
    for verb in ("restart", "reset"):
        refused = running.nanoctl(verb, "waits", "--wait")
        assert refused.exit_code == 1
        assert "it has no host yet, so there is nothing to restart" in refused.stderr
        assert "No host of pool default fits: none." in refused.stderr
    assert "restart" not in running.object("instances", "waits", "default")["spec"]


def test_stopping_what_waits_for_a_host_waits_for_nothing(running: Cluster) -> None:
    fits_nowhere(running, "idle")
    said = running.says("stop", "idle", "--wait")
    assert said == "instance/idle stopping, within 60 s; it has no host yet, so nothing runs\n"
    assert running.object("instances", "idle", "default")["spec"]["powerState"] == "Stopped"


def test_each_instance_is_answered_by_itself_and_one_that_fails_keeps_no_other(running: Cluster) -> None:
    running.says("run", "first", "--image", "shared/mini", "-l", "tier=front")
    running.says("run", "second", "--image", "shared/mini", "-l", "tier=front")
    told = running.nanoctl("stop", "first", "unknown", "second")
    assert told.exit_code == 1
    assert told.stdout == "instance/first stopping, within 60 s\ninstance/second stopping, within 60 s\n"
    assert "instance/unknown not changed: " in told.stderr
    assert "1 of 3 instances could not be changed" in told.stderr
    assert running.says("start", "-l", "tier=front") == "instance/first starting\ninstance/second starting\n"
    assert running.says("suspend", "first") == "instance/first suspending\n"
    assert running.object("instances", "first", "default")["spec"]["powerState"] == "Suspended"
    assert running.says("resume", "first") == "instance/first resuming\n"
    assert running.says("reset", "second") == "instance/second restarting by force\n"
    assert running.object("instances", "second", "default")["spec"]["restart"]["mode"] == "Hard"
    for wrong in (("stop",), ("stop", "first", "--all"), ("stop", "-l", "tier=none")):
        assert running.nanoctl(*wrong).exit_code != 0


# --- run ------------------------------------------------------------------------------------------------


def test_run_prints_the_manifest_that_it_would_send(running: Cluster) -> None:
    told = running.says(
        "run", "p", "--image", "shared/later", "--cpus", "2", "--disk", "9Gi", "--nic", "lan", "--network", "outside",
        "--host", "node-1", "-l", "a=b", "--stopped", "--print",
    )  # fmt: skip
    doc = yaml.safe_load(told)
    assert doc["spec"] == {
        "cpus": 2, "memory": "512Mi", "powerState": "Stopped", "scheduling": {"host": "node-1"},
        "disks": [{"name": "system", "size": "9Gi", "source": {"image": "shared/later"}}],
        "nics": [{"name": "nic0", "addressPool": "lan"}, {"name": "nic1", "network": "outside"}],
    }  # fmt: skip
    assert running.nanoctl("apply", "--dry-run", "-f", "-", stdin=told).stderr.count("does not exist") == 3
    others = [
        {"apiVersion": "nano/v1", "kind": "Image", "metadata": {"name": "later", "namespace": "shared"}},
        {"apiVersion": "nano/v1", "kind": "Host", "metadata": {"name": "node-1"}, "spec": {}},
    ]
    others[0] |= {"spec": {"type": "Disk", "source": {"upload": {}}}}
    docs = "\n---\n".join((told, pool("lan"), *map(json.dumps, others)))
    said = running.says("apply", "--dry-run", "-f", "-", stdin=docs)
    assert "instance/p created (dry run)\n" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "shared/minni"], "--image shared/minni: there is no such image in namespace shared"),
        (["--image", "shared/minni"], "; do you mean shared/mini? To create"),
        (["--image", "mini"], "in namespace default; do you mean shared/mini?"),
        (["--image", "other/mini"], "in namespace other; do you mean shared/mini?"),
        (["--image", "windows"], "in namespace default (nanoctl get images -A lists them)."),
        (["--image", "shared/mini", "--media", "shared/mimi"], "--media shared/mimi: there is no such image"),
        (["--image", "a/b/c"], "there is no such image"),
    ],
)
def test_run_refuses_an_image_that_is_not_there_with_those_that_are_near(
    running: Cluster, words: list[str], said: str
) -> None:
    result = running.nanoctl("run", "mistyped", *words)
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    assert "add --wait-for-image" in result.stderr
    assert running.nanoctl("get", "instance/mistyped").exit_code == 1


def test_run_creates_what_waits_for_an_image_when_that_is_meant(running: Cluster) -> None:
    result = running.nanoctl("run", "early", "--image", "shared/tomorrow", "--wait-for-image")
    assert (result.exit_code, result.stdout) == (0, "instance/early created\n")
    assert "Image shared/tomorrow does not exist" in result.stderr


def test_images_are_completed(running: Cluster) -> None:
    made = ShellComplete(cli, {}, "nanoctl", "_NANOCTL_COMPLETE")
    words = ["run", "web", "--kubeconfig", str(running.kubeconfig), "--image"]
    assert [one.value for one in made.get_completions(words, "sha")] == ["shared/mini"]


def test_run_waits_until_it_runs_and_tells_the_address(running: Cluster) -> None:
    running.later(0.5, lambda: running.running("patient", ip="10.20.0.77"))
    told = running.says("run", "patient", "--image", "shared/mini", "--wait", "--timeout", "20s")
    assert told.splitlines() == [
        "instance/patient created",
        "instance/patient is Running",
        "nic0: 10.20.0.77 (52:54:00:00:00:01)",
    ]


def test_run_says_which_field_is_wrong(running: Cluster) -> None:
    result = running.nanoctl("run", "Bad_Name", "--image", "shared/mini", "--memory", "4GB")
    assert result.exit_code == 1
    assert "spec.memory: '4GB'" in result.stderr


# --- wait -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "met"),
    [
        ("condition=Ready", True),
        ("condition=ready=true", True),
        ("condition=Ready=False", False),
        ("condition=Scheduled", False),
        ("status.phase=Running", True),
        ("jsonpath={.status.phase}=Running", True),
        ("jsonpath='{.status.phase}'=Stopped", False),
        ('status.conditions[?(@.type=="Ready")].status=True', True),
        ("status.conditions[0].type=Ready", True),
        ("status.conditions[*].type=Ready", True),
        ("spec.absent=1", False),
        ("delete", False),
        ("create", True),
    ],
)
def test_wishes_are_questions_about_an_object(wish: str, *, met: bool) -> None:
    assert met_by(wish)(machine()) is met


@pytest.mark.parametrize("wish", ["", "condition", "condition=", "ready", "status.ph ase=x", "=x"])
def test_a_wish_that_makes_no_sense_is_refused(wish: str) -> None:
    with pytest.raises(Malformed):
        met_by(wish)


def test_wait_returns_when_it_is_so(running: Cluster) -> None:
    running.says("run", "soon", "--image", "shared/mini")
    running.later(0.5, lambda: running.running("soon"))
    told = running.says("wait", "instance/soon", "--for=condition=Ready", "--timeout", "20s")
    assert told == "instance/soon condition met\n"


def test_wait_for_several_by_label(running: Cluster) -> None:
    for name in ("many-1", "many-2", "many-3"):
        running.says("run", name, "--image", "shared/mini", "-l", "set=many")
        running.later(0.3, partial(running.running, name))
    told = running.says("wait", "vm", "-l", "set=many", "--for=status.phase=Running", "--timeout", "20s")
    assert sorted(told.split()[::3]) == ["instance/many-1", "instance/many-2", "instance/many-3"]


def test_a_wait_that_is_over_exits_with_3_and_says_what_is_missing(running: Cluster) -> None:
    running.says("run", "never", "--image", "shared/mini")
    result = running.nanoctl("wait", "instance/never", "--for=condition=Ready", "--timeout", "0.3s")
    assert result.exit_code == 3
    assert "instance/never: Pending" in result.stderr
    assert "nanoctl why instance/never" in result.stderr


def test_a_wait_for_a_field_that_no_object_has_is_refused_at_once(running: Cluster) -> None:
    running.says("run", "typo", "--image", "shared/mini")
    result = running.nanoctl("wait", "instance/typo", "--for=conditon=Ready", "--timeout", "60s")
    assert result.exit_code == 2
    assert "instance/typo has no field conditon; write condition=Ready or status.phase=Running" in result.stderr
    running.running("typo")
    result = running.nanoctl("wait", "instance/typo", "--for=condition=Raedy", "--timeout", "0.3s")
    assert result.exit_code == 3
    assert "instance/typo has no condition Raedy so far; it has Ready" in result.stderr


def test_what_a_wait_has_not_looked_at_yet_is_not_called_missing(running: Cluster) -> None:
    for name in ("lot-1", "lot-2", "lot-3"):
        running.says("run", name, "--image", "shared/mini", "-l", "set=lot")
    for name in ("lot-1", "lot-2"):
        running.running(name)
    result = running.nanoctl("wait", "vm", "-l", "set=lot", "--for=status.phase=Running", "--timeout", "0.5s")
    assert (result.exit_code, "not there" in result.stderr) == (3, False), result.stderr
    assert "waiting for instance/lot-3: Pending" in result.stderr


def test_a_wait_that_is_interrupted_exits_as_shells_say(running: Cluster) -> None:
    running.says("run", "patience", "--image", "shared/mini")
    command = [sys.executable, "-c", "from nanovirt.portal.cli import cli; cli()", "wait", "instance/patience"]
    command += ["--for=condition=Ready", "--kubeconfig", str(running.kubeconfig)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith("waiting for instance/patience")
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert (process.wait(60), said.splitlines()[-1][:12], "Abort" in said) == (130, "interrupted:", False)
        finally:
            process.kill()


@pytest.mark.parametrize("words", [("stop",), ("wait", "--for=condition=Ready", "instances")])
def test_labels_that_nothing_has_are_said_as_such(running: Cluster, words: tuple[str, ...]) -> None:
    result = running.nanoctl(*words, "-l", "tier=nowhere")
    said = "Error: no instances with labels tier=nowhere in namespace default\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_waiting_for_what_is_not_there_is_refused_at_once(running: Cluster) -> None:
    assert running.nanoctl("wait", "instance/ghost", "--for=condition=Ready", "--timeout", "60s").exit_code == 1
    assert running.nanoctl("wait", "instances", "--for=condition=Ready").exit_code == 2


# --- delete ---------------------------------------------------------------------------------------------


def test_delete_waits_until_the_object_is_gone(running: Cluster) -> None:
    running.says("run", "doomed", "--image", "shared/mini")
    running.later(0.6, lambda: running.removes("instances", "doomed", "default"))
    assert running.says("delete", "instance/doomed", "--timeout", "20s") == "instance/doomed deleted\n"


def test_delete_without_waiting_leaves_the_finalizers_to_others(running: Cluster) -> None:
    running.says("run", "marked", "--image", "shared/mini")
    assert running.says("delete", "instance", "marked", "--no-wait") == "instance/marked deleting\n"
    assert running.object("instances", "marked", "default")["metadata"]["deletionTimestamp"]


def test_flag_with_a_value_as_kubectl_takes_it_is_understood(running: Cluster) -> None:
    running.says("run", "habit", "--image", "shared/mini")
    assert running.says("delete", "instance", "habit", "--wait=false") == "instance/habit deleting\n"
    running.says("delete", "instance", "no-such", "--ignore-not-found=true")
    assert running.nanoctl("delete", "instance", "no-such", "--ignore-not-found=false").exit_code == 1
    assert running.nanoctl("delete", "instance", "habit", "--wait=perhaps").exit_code == 2


def test_what_may_not_be_deleted_keeps_nothing_else(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=pool("free-1"))
    result = running.nanoctl("delete", "addresspool", "nope-1", "nope-2", "free-1")
    assert (result.exit_code, result.stdout) == (1, "addresspool/free-1 deleted\n")
    assert "2 were not deleted:" in result.stderr


def test_delete_by_manifest_label_and_dry_run(running: Cluster) -> None:
    running.says("apply", "-f", "-", stdin=pool("gone-1"))
    assert running.says("delete", "apool/gone-1", "--dry-run") == "addresspool/gone-1 deleted (dry run)\n"
    assert running.says("delete", "-f", "-", stdin=pool("gone-1")) == "addresspool/gone-1 deleted\n"
    assert running.says("delete", "-f", "-", stdin=pool("gone-1")) == ""
    running.says("apply", "-f", "-", stdin=pool("gone-2").replace('"a": "1"', '"a": "2"'))
    assert running.says("delete", "apool", "-l", "a=2") == "addresspool/gone-2 deleted\n"
    again = running.nanoctl("delete", "apool", "-l", "a=2")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "No addresspools found.\n")
    assert running.nanoctl("delete", "vm", "-l", "a=2").stderr == "No instances found in namespace default.\n"


@pytest.mark.parametrize("arguments", [["instances"], [], ["instance/x", "-f", "y"]])
def test_delete_wants_to_know_exactly_what(running: Cluster, arguments: list[str]) -> None:
    assert running.nanoctl("delete", *arguments).exit_code == 2


def test_deleting_what_is_not_there_is_an_error_unless_told_otherwise(running: Cluster) -> None:
    assert running.nanoctl("delete", "instance/ghost").exit_code == 1
    assert running.nanoctl("delete", "instance/ghost", "--ignore-not-found").exit_code == 0
