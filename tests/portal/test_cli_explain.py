"""`nanoctl explain`, from the document that the server publishes, and what any terminal gets of its colours."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.portal.cli_world import Cluster, cluster

NANOCTL = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "nanoctl"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.library()
        made.says("run", "web-1", "--image", "shared/mini")
        made.running("web-1")
        yield made


def fields(said: str) -> dict[str, list[str]]:
    """Field -> type and meaning."""
    lines = said.partition("FIELD")[2].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}


def test_amounts_are_texts_with_their_default(running: Cluster) -> None:
    said = running.says("explain", "instance.spec.memory")
    assert said.startswith("instance.spec.memory <string>\n")
    assert "An amount such as 4Gi" in said
    assert "default 1Gi" in said


def test_fields_have_type_limits_and_default(running: Cluster) -> None:
    found = fields(running.says("explain", "inst.spec"))
    assert found["cpus"] == ["integer", "at least 1; at most 512; default 1"]
    assert found["powerState"] == ["string", "one of Running, Stopped, Suspended; default Running"]
    assert found["deletionProtection"] == ["boolean", "default false"]
    assert found["disks"][0] == "[]object"


@pytest.mark.parametrize(
    ("what", "field", "meaning"),
    [
        ("instance.spec.guest", "hostname", "What it is called; without, as the instance"),
        (
            "instance.spec.guest",
            "userDataSecret",
            "A Secret of the namespace, whose key `userData` cloud-init carries out",
        ),
        ("instance.spec.guest.admin", "sshKeys", "Public keys to log in with, each a line such as"),
        ("instance.spec.scheduling", "antiAffinity", "Not built yet"),
        ("storagepool.spec", "type", "NFS, Directory: not built yet"),
        ("instance.spec.nics", "securityGroups", "What may come in and go out: SecurityGroups"),
    ],
)
def test_fields_say_what_they_mean(running: Cluster, what: str, field: str, meaning: str) -> None:
    assert fields(running.says("explain", what))[field][-1].startswith(meaning)


def test_items_of_a_list_are_explained_and_all_that_is_below_when_asked_for(running: Cluster) -> None:
    plain = fields(running.says("explain", "instance.spec.disks"))
    assert plain["name"] == ["string", "required"]
    assert "image" not in plain
    assert "image" in fields(running.says("explain", "instance.spec.disks", "--recursive"))


@pytest.mark.parametrize("kind", ["hosts", "events", "namespaces", "secrets", "placements"])
def test_every_kind_is_explained(running: Cluster, kind: str) -> None:
    assert {"apiVersion", "kind", "metadata"} <= fields(running.says("explain", kind)).keys()


def test_field_that_is_not_there_is_told_with_those_that_are(running: Cluster) -> None:
    result = running.nanoctl("explain", "instance.spec.memry")
    assert result.exit_code == 2
    assert "instance.spec has no field 'memry'; it has displayName" in result.stderr


def test_object_that_is_not_there_is_told_with_where_to_look(running: Cluster) -> None:
    result = running.nanoctl("get", "instance/nothing")
    assert result.exit_code == 1
    assert "nanoctl get instances" in result.stderr


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_terminal_gets_colours_unless_it_asks_for_none(
    running: Cluster, more: dict[str, str], *, coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm", "NANO_KUBECONFIG": str(running.kubeconfig), **more}
    try:
        subprocess.run([NANOCTL, "why", "instance/web-1"], stdout=theirs, env=env, check=True, timeout=60)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"web-1 is Running" in shown
    assert (b"\x1b[" in shown) is coloured


def test_pipe_gets_no_colours(running: Cluster) -> None:
    env = {"PATH": os.environ["PATH"], "TERM": "xterm", "NANO_KUBECONFIG": str(running.kubeconfig)}
    for words in (["why", "instance/web-1"], ["describe", "instance/web-1"], ["get", "instances"], ["tree"]):
        done = subprocess.run([NANOCTL, *words], env=env, check=False, timeout=60, capture_output=True)
        assert b"\x1b" not in done.stdout + done.stderr, words
