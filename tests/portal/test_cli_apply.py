"""`nanoctl apply` and what it says, against the real API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.cli.connection import Connection
from nanovirt.portal.cli.manifests import read_all
from nanovirt.portal.cli.settling import difference
from nanovirt.resources.wire import LAST_APPLIED
from tests.portal.cli_world import POOL, Cluster, cluster, pool

JSON = dict[str, Any]
MANIFESTS = Path(__file__).parent.parent.parent / "manifests"


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
    for word, meant in (
        ("data", "spec.data"),
        ("metdata", "metadata"),
        ("labels", "metadata.labels"),
        ("namespace", "metadata.namespace"),
    ):
        doc = f"apiVersion: nano/v1\nkind: Secret\nmetadata: {{name: x}}\n{word}: {{}}\n"
        result = running.nanoctl("apply", "-f", "-", stdin=doc)
        assert f"{word}: there is no such field; do you mean {meant}?" in result.stderr


def test_a_field_that_is_known_nowhere_is_answered_with_no_other_place(running: Cluster) -> None:
    for word in ("banana", "cpus"):
        doc = f"apiVersion: nano/v1\nkind: Secret\nmetadata: {{name: x}}\n{word}: {{}}\n"
        result = running.nanoctl("apply", "-f", "-", stdin=doc)
        assert f"{word}: There is no such field; known here: " in result.stderr
        assert "do you mean" not in result.stderr


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
