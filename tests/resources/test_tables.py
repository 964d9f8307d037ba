"""Tables show what the columns of a kind declare, in words that kubectl uses."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nanovirt.resources import registry
from nanovirt.resources.kind import Column
from nanovirt.resources.tables import age, cell, columns, definitions, row, steps, table, values

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DOC: dict[str, Any] = {
    "metadata": {"name": "web-1", "creationTimestamp": "2026-11-22T08:55:00Z"},
    "spec": {"cpus": 2, "memory": "4Gi", "on": True},
    "status": {
        "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Scheduled", "status": "False"}],
    },
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.cpus", [2]),
        ("$.spec.cpus", [2]),
        (".spec.gone", []),
        (".spec.cpus.deeper", []),
        (".status.addresses[*].ip", ["10.0.0.1", "10.0.0.2"]),
        (".status.addresses[1].ip", ["10.0.0.2"]),
        (".status.addresses[7].ip", []),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='Gone')].status", []),
    ],
)
def test_paths(path: str, found: list[Any]) -> None:
    assert values(DOC, path) == found


def test_path_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="not understood"):
        steps(".spec..x")


def test_every_column_of_every_kind_is_understood() -> None:
    for cls in registry.kinds().values():
        assert all(steps(column.path) for column in columns(cls.facts))


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (Column("Cpus", ".spec.cpus", "integer"), 2),
        (Column("On", ".spec.on", "boolean"), True),
        (Column("Ips", ".status.addresses[*].ip"), "10.0.0.1,10.0.0.2"),
        (Column("Gone", ".spec.gone"), ""),
        (Column("Age", ".metadata.creationTimestamp", "date"), "5m"),
        (Column("Never", ".metadata.deletionTimestamp", "date"), "<unknown>"),
        (Column("Odd", ".spec.memory", "date"), "<unknown>"),
    ],
)
def test_cells(column: Column, shown: Any) -> None:
    assert cell(DOC, column, NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (600, "10m"), (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"), (7 * 3600 + 300, "7h5m"), (9 * 3600 + 300, "9h"), (47 * 3600, "47h"), (48 * 3600, "2d"),
        (75 * 3600, "3d3h"), (20 * 86400, "20d"), (729 * 86400, "729d"), (730 * 86400, "2y"), (800 * 86400, "2y70d"),
        (4000 * 86400, "10y"),
    ],
)  # fmt: skip
def test_ages_are_short(seconds: int, shown: str) -> None:
    assert age(timedelta(seconds=seconds)) == shown


def test_table_has_name_first_and_age_last() -> None:
    facts = registry.kinds()["instances"].facts
    made = definitions(facts)
    assert (made[0]["name"], made[0]["format"], made[-1]["name"], made[-1]["type"]) == ("Name", "name", "Age", "string")
    shown = table(facts, [DOC], NOW, {"resourceVersion": "7"})
    assert len(shown["rows"][0]["cells"]) == len(made)
    assert shown["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


def test_rows_carry_as_much_of_the_object_as_asked() -> None:
    facts = registry.kinds()["instances"].facts
    assert "object" not in row(facts, DOC, NOW, "None")
    assert row(facts, DOC, NOW, "Object")["object"] == DOC
