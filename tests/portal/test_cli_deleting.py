"""`nanoctl delete` and what it says, against the real API."""

from __future__ import annotations

import pytest

from tests.portal.cli_world import Cluster, pool


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
