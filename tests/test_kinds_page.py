"""docs/kinds.md says what the registry says; `scripts/golden` rewrites it."""

from dataclasses import replace
from pathlib import Path

from nanovirt.resources.reference import page
from nanovirt.resources.registry import kinds
from tests.conftest import Golden

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_kinds_is_current(golden: Golden) -> None:
    replace(golden, folder=DOCS)("kinds.md", page())


def test_the_page_has_every_kind_with_its_limits_and_what_comes_later() -> None:
    text = page()
    assert [kind for kind in kinds().values() if f"\n## {kind.facts.kind}\n" not in text] == []
    assert "| `spec.cpus` | integer | `1` | at least 1; at most 512 |" in text
    assert "| `spec.disks[].source.snapshot` | string |  | *later* |" in text
    assert "| `spec.subnet` | IPv4 network | *required* |  |" in text
