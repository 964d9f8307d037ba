"""`nanoctl wait` and what it says, against the real API."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial

import pytest

from nanovirt.portal.cli.waiting import met_by
from nanovirt.resources.errors import Malformed
from tests.portal.cli_world import Cluster, machine


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
    at_once = running.nanoctl("wait", "instance/never", "--for=condition=Ready", "--timeout", "0")
    assert (at_once.exit_code, "instance/never: Pending" in at_once.stderr) == (3, True), at_once.stderr
    running.running("never")
    assert running.says("wait", "instance/never", "--for=condition=Ready", "--timeout", "0")


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
