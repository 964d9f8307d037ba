"""How manifests are read: folders, files and lists, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanovirt.portal.cli.manifests import BadManifests, read_all

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 60))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", ":2 cannot be read"),
        ("- a list\n", ":1 (document 1) is a list, not a mapping"),
        ("only words\n", ":1 (document 1) is a text, not a mapping"),
        ("7\n", ":1 (document 1) is the value 7, not a mapping"),
        ("\n\nkind: Instance\nmetadata: {name: x}\n", ":3 (document 1, Instance x) has no apiVersion"),
        ("apiVersion: v1\nkind: Namespace\n", ":1 (document 1, Namespace) has no metadata.name"),
        ("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: 123\n", ":4 (document 1, Namespace 123) has a metadata."),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: true}\n", "YAML reads as True; put it in quotes"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: on}\n", "metadata.name: on is true to some"),
        ("apiVersion: v1\nkind: Namespace\nkind: Other\n", "kind stands twice in the mapping at line 1"),
        ("", "there is no manifest in"),
        ("---\n---\n", "there is no manifest in"),
        ("\x00", "cannot be read"),
        ("&a [*a]", ":1 (document 1) cannot be read: the alias at line 1 refers to itself"),
        ("[" * 1_000_000, "x.yaml:1 cannot be read: nested deeper than 50 levels"),
        (
            "a: {b: [x, 010]}",
            "x.yaml:1 (document 1) a.b[1]: 010 is 8 to some readers of YAML",
        ),
        ("a: &a {b: yes}\nc: *a\nd:\n  e: 22:30\n", "x.yaml:4 (document 1) d.e: 22:30 is 1350 to some readers"),
        ("metadata: {labels: {on: x}}", "metadata.labels.on: on is true to some"),
        ("spec:\n  cpus: 1e3\n", "x.yaml:2 (document 1) spec.cpus: 1e3 is 1000 to some"),
        (f"spec:\n  cpus: {'0777' * 1500}\n", "x.yaml:2 (document 1) spec.cpus: '0777"),
        ("0x" + "f" * 5000, "x.yaml:1 (document 1) : '0xff"),
        ('spec:\n  cpus: !!int "\\t5"\n', "x.yaml:2 (document 1) spec.cpus: '\\t5' is no int"),
        ("spec: {on: !!bool x}", "spec.on: 'x' is no bool"),
        ("spec: {cpus: !!int [1]}", "spec.cpus: a list is no int"),
        (f"spec: {{cpus: !!int {json.dumps(BOMB[:300])}}}", "spec.cpus: 'a0: &a0"),
        ("a: &a [x]\n? [*a, *a]\n: x\n", "cannot be read: a key of the mapping at line 1 is no text"),
        (BOMB, "its aliases make more than 1000000 values"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(BadManifests) as bad:
        read_all([str(file)])
    assert said in str(bad.value)
    assert len(str(bad.value)) < 400 + len(str(file))


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
