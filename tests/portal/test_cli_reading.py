"""`nanoctl get`, `describe`, `why`, `watch` and their tables, against the real API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanovirt.portal.cli import tables
from nanovirt.portal.cli.ages import age, span
from nanovirt.portal.cli.describing import lean
from nanovirt.portal.cli.output import as_yaml
from nanovirt.portal.cli.tables import Grid
from nanovirt.portal.cli.why import reasons
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Update
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.library()
        for name in ("web-1", "web-2"):
            made.says("run", name, "--image", "shared/mini", "-l", "app=web")
        made.says("run", "db", "--image", "shared/mini", "-n", "shared")
        made.running("web-1")
        yield made


# --- get ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [["instances"], ["instance"], ["inst"], ["vm"], ["INSTANCES"], ["instances.nano"]])
def test_a_kind_goes_by_each_of_its_names(running: Cluster, what: list[str]) -> None:
    lines = running.says("get", *what).splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "HOST", "IP", "CPUS", "MEMORY", "AGE"]
    assert [line.split()[0] for line in lines[1:]] == ["web-1", "web-2"]


@pytest.mark.parametrize("what", [["instance", "web-1"], ["instance/web-1"], ["vm/web-1"]])
def test_one_object_goes_by_both_spellings(running: Cluster, what: list[str]) -> None:
    assert running.says("get", *what, "--no-headers").split()[:4] == ["web-1", "Running", "node-1", "10.20.0.50"]


def test_several_names_and_kinds_are_told_apart(running: Cluster) -> None:
    assert "web-2" in running.says("get", "instance", "web-1", "web-2")
    told = running.says("get", "instances,namespaces")
    assert "instance/web-1" in told
    assert "namespace/shared" in told


def test_wide_has_more_columns_and_all_namespaces_have_theirs(running: Cluster) -> None:
    lines = running.says("get", "instances", "-A", "-o", "wide").splitlines()
    assert lines[0].split()[0] == "NAMESPACE"
    assert {"READY", "REASON", "MAC"} <= set(lines[0].split())
    assert [line.split()[:2] for line in lines[1:]] == [["default", "web-1"], ["default", "web-2"], ["shared", "db"]]


def test_documents_come_as_json_yaml_and_names(running: Cluster) -> None:
    assert json.loads(running.says("get", "instance/web-1", "-o", "json"))["metadata"]["name"] == "web-1"
    listed = yaml.safe_load(running.says("get", "instances", "-o", "yaml"))
    assert (listed["kind"], {item["kind"] for item in listed["items"]}) == ("List", {"Instance"})
    assert running.says("get", "instances", "-o", "name") == "instance/web-1\ninstance/web-2\n"


def test_who_owns_which_field_is_printed_only_when_asked_for(running: Cluster) -> None:
    key, doc = Key("instances", "shared", "db"), running.object("instances", "db", "shared")
    owner = {"manager": "ann", "operation": "Apply", "apiVersion": "nano/v1", "fieldsV1": {"f:spec": {"f:cpus": {}}}}
    running.does(Update(key, doc | {"metadata": doc["metadata"] | {"managedFields": [owner]}}))
    for what in (["instance/db"], ["instances"]):
        for output in ("json", "yaml"):
            asked = ["get", *what, "-n", "shared", "-o", output]
            assert "managedFields" not in running.says(*asked)
            assert "f:cpus" in running.says(*asked, "--show-managed-fields")


def test_yaml_leaves_every_character_readable() -> None:
    said = {"displayName": "机房 𠮷 🚀", "note": "a\u0007b"}
    written = as_yaml(said)
    assert "机房 𠮷 🚀" in written
    assert yaml.safe_load(written) == said


def test_selectors_choose(running: Cluster) -> None:
    assert running.says("get", "vm", "-l", "app=web", "--field-selector", "status.phase=Running", "-o", "name") == (
        "instance/web-1\n"
    )


@pytest.mark.parametrize("output", [[], ["-o", "name"], ["-o", "yaml"]])
def test_of_several_names_those_that_are_there_are_shown_before_the_others_are_said(
    running: Cluster, output: list[str]
) -> None:
    result = running.nanoctl("get", "instances", "no", "web-1", "nor", *output)
    assert (result.exit_code, "web-1" in result.stdout) == (1, True)
    assert [line.split('"')[1] for line in result.stderr.splitlines()] == ["no", "nor"]
    result = running.nanoctl("get", "instances", "no", "nor", *output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split('"')[1] for line in result.stderr.splitlines()] == ["no", "nor"]


def test_nothing_found_is_said_on_standard_error(running: Cluster) -> None:
    result = running.nanoctl("get", "images")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No images found in namespace default" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["get", "unicorns"], 1, "there is no kind 'unicorns'; known are addresses"),
        (["get", "instance/nobody"], 1, "those that are there: nanoctl get instances -A"),
        (["log", "instance/web-1"], 2, "of one object: nanoctl timeline instance/web-1; what a guest said"),
        (["get", "web-1"], 1, "one object is KIND/NAME, as in instance/web-1"),
        (["logs", "web-1"], 2, "there is no command 'logs'; do you mean `nanoctl console NAME --log`?"),
        (["get", "instance/nope"], 1, 'instances.nano "nope" not found'),
        (["get"], 2, "say what"),
        (["get", "instance/web-1", "web-2"], 2, "not both"),
        (["get", "image", "shared/mini"], 2, "for one in namespace shared: image/mini -n shared"),
        (["restart", "host/node-1"], 2, "only instances are started and stopped, not hosts"),
        (["get", "instances", "--field-selector", "spec.nonsense=1"], 1, "spec.nonsense"),
        (["get", "instances", "-o", "xml"], 2, "xml"),
        (["gte", "instances"], 2, "do you mean 'get'?"),
        (["get", "instances", "--kubeconfig", "/nowhere"], 1, "/nowhere cannot be read"),
        (["get", "instances", "--context", "other"], 1, "it has nano, nano-cert"),
    ],
)
def test_what_is_refused_is_said_in_a_line_or_two(running: Cluster, arguments: list[str], code: int, said: str) -> None:
    result = running.nanoctl(*arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4
    assert "Traceback" not in result.output


def test_without_a_kubeconfig_it_says_where_it_looked(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("data_folder", "own_folder"):
        monkeypatch.setattr(f"nanovirt.portal.cli.connection.{folder}", lambda: Path("/nowhere/nano"))
    running = Cluster(Path("/nowhere"), running.url, running.store, running.loop)
    monkeypatch.setattr(Cluster, "kubeconfig", "")
    result = running.nanoctl("get", "vm")
    assert result.exit_code == 1
    for place in ("--kubeconfig", "$NANO_KUBECONFIG", "/nowhere/nano/admin.kubeconfig", "nanoctl up"):
        assert place in result.stderr


def test_a_server_that_is_not_there_is_said_with_what_to_do(running: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(running.kubeconfig.read_text().replace(running.url, "https://127.0.0.1:9"))
    result = running.nanoctl("get", "vm", "--kubeconfig", str(config))
    assert result.exit_code == 1
    assert "nothing listens at https://127.0.0.1:9" in result.stderr
    assert "nanoctl up" in result.stderr


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- <&-", 0, ""),
        ("> /dev/full", 1, "Error: the output cannot be written: No space left on device\n"),
        ("-o yaml > /dev/full", 1, "Error: the output cannot be written: No space left on device\n"),
    ],
)
def test_output_that_nobody_takes_leaves_no_traceback(running: Cluster, redirected: str, code: int, said: str) -> None:
    line = f'"$0" -c "from nanovirt.portal.cli import cli; cli()" get vm --kubeconfig "$1" {redirected}'
    command = ["/bin/sh", "-c", line, sys.executable, str(running.kubeconfig)]
    done = subprocess.run(command, check=False, timeout=60, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (code, said)


def test_get_watch_prints_a_row_for_each_change(running: Cluster) -> None:
    command = [sys.executable, "-c", "from nanovirt.portal.cli import cli; cli()", "get", "namespaces", "-w"]
    with subprocess.Popen(
        [*command, "--kubeconfig", str(running.kubeconfig)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = [process.stdout.readline().split()[0] for _ in range(3)]
            running.creates("namespaces", "fresh")
            assert process.stdout.readline().split()[0] == "fresh"
        finally:
            process.terminate()
    running.removes("namespaces", "fresh")
    assert first == ["NAME", "default", "shared"]


# --- describe and why -----------------------------------------------------------------------------------


def event(reason: str, message: str, uid: str) -> JSON:
    about = {"kind": "Instance", "namespace": "default", "name": "web-1", "uid": uid}
    stamp = "2026-11-22T09:00:00Z"
    told = {"involvedObject": about, "reason": reason, "message": message, "type": "Normal"}
    return told | {"firstTimestamp": stamp, "lastTimestamp": stamp, "count": 3}


def test_describe_tells_wish_state_conditions_and_events(running: Cluster) -> None:
    uid = running.object("instances", "web-1", "default")["metadata"]["uid"]
    running.creates("events", "web-1.1", "default", **event("Scheduled", "Placed on node-1.", uid))
    told = running.says("describe", "instance/web-1")
    for part in (
        "Instance web-1 in namespace default", "app=web", "memory: 512Mi", "phase: Running", "ip: 10.20.0.50",
        "The machine is as desired.", "Scheduled (x3)", "Placed on node-1.",
    ):  # fmt: skip
        assert part in told
    assert "last-applied" not in told


def test_describe_takes_a_label(running: Cluster) -> None:
    told = running.says("describe", "instances", "-l", "app=web")
    assert "Instance web-1" in told
    assert "Instance web-2" in told


def test_empty_fields_are_left_out_but_for_a_union() -> None:
    assert lean({"a": "", "b": [], "c": {"d": None}, "e": 0, "f": False}) == {"e": 0, "f": False}
    assert lean({"source": {"upload": {}}}) == {"source": {"upload": {}}}


def condition(reason: str, message: str, kind: str = "Ready", status: str = "False", **params: Any) -> JSON:
    return {"type": kind, "status": status, "reason": reason, "message": message, "params": params}


def instance(*conditions: JSON, phase: str = "Pending", wish: str = "Running") -> JSON:
    metadata = {"name": "web", "namespace": "team-a", "generation": 1}
    status = {"phase": phase, "conditions": list(conditions)}
    return {"kind": "Instance", "metadata": metadata, "spec": {"powerState": wish}, "status": status}


def test_why_lists_the_hosts_that_do_not_fit_by_what_they_lack() -> None:
    hosts = "node-1: disabled; node-2: not ready; node-3: disabled"
    said = f"No host of pool default fits: {hosts}."
    refused = [condition("NoHostFits", said, kind, pool="default", hosts=hosts) for kind in ("Ready", "Scheduled")]
    told = list(reasons(instance(*refused)))
    assert told[0].endswith("instance/web is Pending; it should be Running.\x1b[0m")
    assert "  Ready and Scheduled: False. No host of pool default fits:" in told
    assert [line.split(maxsplit=1) for line in told if "node-1" in line] == [["disabled", "node-1, node-3"]]
    assert any("nanoctl host" in line or "nanoctl get hosts" in line for line in told)


@pytest.mark.parametrize(
    ("reason", "params", "advice"),
    [
        ("ImageNotReady", {"image": "shared/mini"}, "nanoctl why image/mini -n shared"),
        ("ImageNotReady", {"image": "mini"}, "nanoctl why image/mini -n team-a"),
        ("GuestShutdown", {}, "nanoctl start web"),
        ("HostUnreachable", {"host": "node-7"}, "nanoctl describe host/node-7"),
    ],
)
def test_why_says_what_to_do(reason: str, params: JSON, advice: str) -> None:
    assert any(advice in line for line in reasons(instance(condition(reason, "so it is", **params))))


def test_a_machine_that_is_stopped_as_desired_is_no_problem() -> None:
    doc = instance(condition("StoppedAsDesired", "The machine is stopped as desired."), phase="Stopped", wish="Stopped")
    assert "  Everything is as desired." in list(reasons(doc))


def test_why_runs_against_the_server(running: Cluster) -> None:
    assert "instance/web-1 is Running on node-1." in running.says("why", "instance/web-1")


# --- tables ---------------------------------------------------------------------------------------------


def test_a_pipe_gets_every_character() -> None:
    long = "x" * 500
    assert tables.render(Grid(["NAME", "MESSAGE"], [["a", long]]), room=0)[1] == f"a      {long}"


def test_a_terminal_gets_lines_that_fit() -> None:
    made = Grid(["NAME", "MESSAGE"], [["n" * 20, "m" * 200]])
    (_, line) = tables.render(made, room=80)
    assert (tables.width(line), line[-1]) == (80, "…")
    assert line.startswith("n" * 20)


def test_addresses_and_names_are_never_cut() -> None:
    made = Grid(["NAME", "IP", "MAC"], [["n" * 60, "10.20.30.40", "52:54:00:00:00:01"]])
    (_, line) = tables.render(made, room=60)
    assert line.split() == ["n" * 60, "10.20.30.40", "52:54:00:00:00:01"]


def test_chinese_takes_two_columns_each() -> None:
    heading, first, second = tables.render(Grid(["NAME", "PHASE"], [["官网前端", "x"], ["plain", "y"]]), room=0)
    assert tables.width(first) == tables.width(second)
    assert heading.index("PHASE") == 11
    assert tables.cut("官网前端", 5) == "官网…"


def test_a_guest_cannot_drive_the_terminal() -> None:
    assert tables.text("evil\x1b[2Jname\nnext") == "evil\N{REPLACEMENT CHARACTER}[2Jname next"


def test_a_last_column_is_broken_into_words() -> None:
    made = tables.wrapped(Grid(["A", "B"], [["one", "word " * 20]]), 40)
    assert len(made.rows) > 2
    assert " ".join(row[1] for row in made.rows) == ("word " * 20).strip()
    assert {row[0] for row in made.rows[1:]} == {""}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (3600, "1h"), (11_520, "3h12m"), (187_200, "2d4h"), (8_640_000, "100d")],
)
def test_ages_have_two_units_at_most(seconds: int, said: str) -> None:
    assert span(seconds) == said


def test_an_age_of_nothing_is_a_dash() -> None:
    assert age("") == "-"
