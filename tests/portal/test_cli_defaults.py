"""`nanoctl defaults`, and what `why` says of shipped objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nanovirt.resources.defaults import defaults
from nanovirt.resources.store import Create
from tests.portal.cli_world import Cluster, cluster


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Cluster]:
    """All that is shipped."""
    with cluster(tmp_path) as made:
        made.does(*(Create(one.key, one.to_json()) for one in defaults() if made.store.peek(one.key) is None))
        yield made


def row(begun: Cluster, name: str) -> list[str]:
    return next(line.split() for line in begun.says("defaults").splitlines() if line.startswith(name))


def test_each_shipped_object_is_listed_with_what_became_of_it(begun: Cluster) -> None:
    assert row(begun, "role/viewer") == ["role/viewer", "AsShipped"]
    begun.says("delete", "role/viewer")
    begun.says("apply", "-f", "-", stdin=as_shipped(begun, "systemtemplate/legacy").replace("Rtl8139", "E1000"))
    assert row(begun, "role/viewer") == ["role/viewer", "Deleted"]
    edited = row(begun, "systemtemplate/legacy")
    assert edited[1] == "Edited"
    assert edited[-1] == "spec.nicModel"
    assert row(begun, "addresspool/lan") == ["addresspool/lan", "Yours"]


def as_shipped(begun: Cluster, name: str) -> str:
    return begun.says("defaults", name, "-o", "yaml")


def test_what_is_printed_brings_back_what_was_deleted_or_edited(begun: Cluster) -> None:
    text = as_shipped(begun, "role/operator")
    assert yaml.safe_load(text)["metadata"] == {"name": "operator"}
    begun.says("delete", "role/operator")
    begun.says("apply", "-f", "-", stdin=text)
    assert row(begun, "role/operator") == ["role/operator", "AsShipped"]
    begun.says("apply", "-f", "-", stdin=text.replace("instances/console", "instances/log"))
    assert row(begun, "role/operator")[1] == "Edited"
    begun.says("apply", "-f", "-", stdin=text)
    assert row(begun, "role/operator") == ["role/operator", "AsShipped"]


def test_what_is_not_shipped_is_not_found(begun: Cluster) -> None:
    assert begun.nanoctl("defaults", "role/mine").exit_code == 1
    assert begun.nanoctl("defaults", "instance/web").exit_code == 1
    assert len(begun.says("defaults", "systemtemplates").splitlines()) == 6


def test_why_says_whether_it_follows_the_release(begun: Cluster) -> None:
    assert "is renewed with Nano as long as nobody edits it" in begun.says("why", "systemtemplate/legacy")
    begun.says("apply", "-f", "-", stdin=as_shipped(begun, "systemtemplate/legacy").replace("Rtl8139", "E1000"))
    said = begun.says("why", "systemtemplate/legacy")
    assert "other spec.nicModel; it was edited" in said
    assert "nanoctl defaults systemtemplate/legacy -o yaml" in said
