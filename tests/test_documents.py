"""What documents say about the code and about each other, where it can be checked without reading."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTROLLERS = ("instances", "hosts", "pools", "images", "holds", "garbage")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def architecture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_one_writer_table_says_what_a_controller_reads(controller: str) -> None:
    reads = importlib.import_module(f"nanovirt.controllers.{controller}").READS
    found = re.search(rf"^\| `{controller}` \| (.+) \|$", architecture(), re.MULTILINE)
    assert found is not None
    assert [word.strip() for word in found[1].split(",")][: len(reads)] == [*reads]


def test_the_one_writer_table_gives_each_written_half_to_one_controller() -> None:
    writers: dict[str, list[str]] = {}
    for controller in CONTROLLERS:
        for half in importlib.import_module(f"nanovirt.controllers.{controller}").WRITES:
            writers.setdefault(half, []).append(controller)
    assert len(writers.pop("events")) > 1, "each tells of the objects whose status it writes"
    assert {half: names for half, names in writers.items() if len(names) > 1} == {}


def test_architecture_fits_on_a_few_screens() -> None:
    assert len(architecture().splitlines()) <= 150
