"""The tests of the store have teeth: each mutant of it is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, Mutant, plant, table


@pytest.mark.timeout(900)
def test_each_mutant_of_the_store_is_caught() -> None:
    rows = list(table(MUTANTS))
    print("\n" + "\n".join(row for row, _ in rows))  # noqa: T201 - the table that issue 4 asks for
    assert all(right for _, right in rows), "\n".join(row for row, right in rows if not right)


def test_mutant_whose_text_is_gone_or_stands_twice_is_no_mutant(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("a\nb\na\n")
    for text in ("a", "c"):
        with pytest.raises(AssertionError, match="its text stands"):
            plant(Mutant("", "", text, "", ()), file)
    plant(Mutant("", "", "b", "c", ()), file)
    assert file.read_text() == "a\nc\na\n"
