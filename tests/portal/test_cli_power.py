"""`nanoctl run`, `start`, `stop` and the like, and what they say, against the real API."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml
from click.shell_completion import ShellComplete

from nanovirt.portal.cli import cli
from nanovirt.portal.cli.power import in_phase
from nanovirt.portal.powering import to_restart, to_resume, to_start, to_stop, to_suspend
from tests.portal.cli_world import Cluster, machine, pool

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


# --- power ----------------------------------------------------------------------------------------------


def test_starting_a_running_machine_changes_nothing() -> None:
    assert to_start(machine(), NOW)[0] is None


def test_starting_a_machine_that_shut_itself_down_orders_a_restart() -> None:
    patch, _ = to_start(machine(phase="Stopped"), NOW)
    assert patch == {"spec": {"restart": {"at": "2026-11-22T09:00:00.000000Z", "mode": "Graceful"}}}


def test_starting_a_machine_that_was_paused_behind_ends_nothing() -> None:
    paused = machine(phase="Failed")
    paused["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "MachinePaused"}]
    assert to_start(paused, NOW) == (None, "is paused on its host, and goes on by itself")
    assert to_resume(paused) == to_start(paused, NOW)
    assert to_start(machine(phase="Failed"), NOW)[0] is not None


def test_stopping_by_force_cuts_the_power_of_one_that_was_paused_behind() -> None:
    paused = machine(phase="Failed")
    paused["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "MachinePaused"}]
    patch, _ = to_stop(paused, NOW, force=True)
    assert patch is not None
    assert patch["spec"]["restart"]["mode"] == "Hard"


def test_starting_a_stopped_machine_is_a_wish() -> None:
    assert to_start(machine("Stopped", "Stopped"), NOW)[0] == {"spec": {"powerState": "Running"}}


def test_stopping_by_force_is_ordered_once_and_leaves_the_grace() -> None:
    order = {"restart": {"at": "2026-11-22T09:00:00.000000Z", "mode": "Hard"}}
    patch, said = to_stop(machine(stopGraceSeconds=60), NOW, force=True)
    assert (patch, said) == ({"spec": {"powerState": "Stopped", **order}}, "stopping by force")
    assert to_stop(machine("Stopped", "Stopping"), NOW, force=True)[0] == {"spec": order}


def test_stopping_by_force_what_was_stopped_and_has_ended_orders_nothing() -> None:
    assert to_stop(machine("Stopped", "Stopped"), NOW, force=True) == (None, "is Stopped already")


@pytest.mark.parametrize(
    ("wish", "phase"),
    [
        ("Running", "Stopped"),  # a start of a moment ago, of which the host has said nothing yet
        ("Running", "Failed"),
        ("Stopped", "Failed"),
        ("Suspended", "Stopped"),
    ],
)
def test_stopping_by_force_cuts_the_power_whatever_phase_was_seen_last(wish: str, phase: str) -> None:
    patch, said = to_stop(machine(wish, phase), NOW, force=True)
    assert patch is not None
    assert (patch["spec"]["restart"]["mode"], said) == ("Hard", "stopping by force")
    assert ({**machine(wish, phase)["spec"], **patch["spec"]})["powerState"] == "Stopped"


def test_machine_whose_resuming_is_refused_is_not_restarted_by_a_start() -> None:
    refused = machine("Running", "Suspended")
    refused["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "HypervisorRefused"}]
    assert to_start(refused, NOW) == (None, "should be Running already, and is Suspended")


def test_stopping_twice_changes_nothing() -> None:
    assert to_stop(machine("Stopped", "Stopping"), NOW, force=False)[0] is None


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


def test_waiting_for_what_a_stopped_machine_never_does_is_refused_at_once(running: Cluster) -> None:
    running.says("run", "off", "--image", "shared/mini", "--stopped")
    for verb, why in (("suspend", "nothing to suspend"), ("resume", "start it instead")):
        assert why in running.says(verb, "off")
        told = running.nanoctl(verb, "off", "--wait", "--timeout", "60s")
        assert told.exit_code == 1
        assert why in told.stderr


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


def test_run_in_a_mistyped_namespace_blames_no_image(running: Cluster) -> None:
    for image in ("mini", "shared/minni"):
        result = running.nanoctl("run", "mistyped", "--image", image, "-n", "nowhere")
        assert result.exit_code == 1
        assert 'namespaces "nowhere" not found; those that are there: nanoctl get namespaces' in result.stderr
        assert "image" not in result.stderr


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
