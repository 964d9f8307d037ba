"""What a release does with the objects that it ships: the table, and that doing it twice does nothing."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.defaults import EDITION, defaults, made
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.shipped import Delivery, ShippedSpec
from nanovirt.resources.shipping import FIRST, FORMER, RENEWED, Shipment, differing, digest, plan

OLD = made("Role", "watcher", rules=[{"kinds": ["instances"], "verbs": ["get"]}])
NEW = made("Role", "watcher", rules=[{"kinds": ["instances", "images"], "verbs": ["get"]}])
NEWEST = made("Role", "watcher", rules=[{"kinds": ["instances", "images", "hosts"], "verbs": ["get"]}])
EDITED = made("Role", "watcher", rules=[])
POOL = made("StoragePool", "local", local={"path": "/var/lib/nano/volumes"})
OTHER_POOL = made("StoragePool", "local", local={"path": "/srv"})
NAME = "roles/watcher"

SHIPPED_NOW = {
    "namespaces/default": "44136fa355b3678a",
    "namespaces/shared": "44136fa355b3678a",
    "systemtemplates/linux": "2cc50b4319e8968c",
    "systemtemplates/linux-bios": "c72ff5ca8d2e4141",
    "systemtemplates/windows": "67ba0de56004557a",
    "systemtemplates/windows-11": "34019e2d1f22ef81",
    "systemtemplates/legacy": "e85e551e994f148f",
    "storagepools/local": "24da22e51b744519",
    "addresspools/lan": "6b002b749c97dae1",
    "computepools/default": "54e7527e3cd8a2cd",
    "roles/operator": "5a60256700504f6f",
    "roles/viewer": "2d90c1638ea3d012",
}


def known(edition: int = 1, **objects: Delivery) -> ShippedSpec:
    return ShippedSpec(edition=edition, objects={name.replace("_", "/"): one for name, one in objects.items()})


def left(thing: Document, withheld: Document | None = None) -> Delivery:
    return Delivery(left=digest(thing), withheld=digest(withheld) if withheld else "")


def there(*things: Document) -> dict[Key, Document]:
    return {thing.key: thing for thing in things}


def deleting(thing: Document) -> Document:
    metadata = thing.metadata.model_copy(update={"deletion_timestamp": "2026-11-26T08:00:00Z"})
    return thing.model_copy(update={"metadata": metadata})


def outcome(shipment: Shipment) -> str:
    """One word for what a plan does with its one object."""
    if shipment.made:
        return "made"
    if shipment.renewed:
        return "renewed"
    if shipment.withheld:
        return "told" if shipment.withheld[0].new else "withheld"
    return "left"


@pytest.mark.parametrize(
    ("why", "record", "here", "does", "after"),
    [
        ("a new store has nothing", known(0), None, "made", left(NEW)),
        ("a store that never had it", known(1), None, "made", left(NEW)),
        ("somebody deleted it", known(1, roles_watcher=left(OLD)), None, "left", left(OLD)),
        ("it is as it was shipped before", known(1, roles_watcher=left(OLD)), OLD, "renewed", left(NEW)),
        ("it is as it is shipped now", known(2, roles_watcher=left(NEW)), NEW, "left", left(NEW)),
        ("somebody edited it", known(1, roles_watcher=left(OLD)), EDITED, "told", left(OLD, NEW)),
        ("he was told so", known(2, roles_watcher=left(OLD, NEW)), EDITED, "withheld", left(OLD, NEW)),
        ("he took the edit back", known(2, roles_watcher=left(OLD, NEW)), OLD, "renewed", left(NEW)),
        ("he did by himself what is shipped now", known(1, roles_watcher=left(OLD)), NEW, "left", left(NEW)),
        ("he wants it as it was before", known(2, roles_watcher=left(NEW)), OLD, "told", left(NEW, NEW)),
        ("he had one of that name before", known(1), EDITED, "told", Delivery(withheld=digest(NEW))),
        ("his is by chance the same", known(1), NEW, "left", left(NEW)),
        ("it is being deleted", known(1, roles_watcher=left(OLD)), deleting(OLD), "left", left(OLD)),
        (
            "an even newer release was told of",
            known(1, roles_watcher=left(OLD, NEWEST)),
            EDITED,
            "told",
            left(OLD, NEW),
        ),
    ],
)
def test_shipped_object_is_made_renewed_or_left_alone(
    why: str, record: ShippedSpec, here: Document | None, does: str, after: Delivery
) -> None:
    live = there(here) if here else {}
    shipment = plan([NEW], 2, record, live)
    assert outcome(shipment) == does, why
    assert shipment.record == known(2, roles_watcher=after), why
    live |= there(*shipment.made, *shipment.renewed)
    again = plan([NEW], 2, shipment.record, live)
    assert outcome(again) in ("left", "withheld")
    assert again.record == shipment.record


@pytest.mark.parametrize("here", [None, OLD, NEW, EDITED])
def test_older_release_changes_nothing_that_a_newer_one_has_left(here: Document | None) -> None:
    record = known(3, roles_watcher=left(NEW))
    assert plan([OLD], 2, record, there(here) if here else {}) == Shipment((), (), (), record)


def test_release_that_comes_back_goes_on_from_what_was_left() -> None:
    record = plan([NEW], 3, known(2, roles_watcher=left(OLD)), there(OLD)).record
    assert plan([OLD], 2, record, there(NEW)).record == record
    assert outcome(plan([NEW], 3, record, there(NEW))) == "left"
    assert outcome(plan([NEWEST], 4, record, there(NEW))) == "renewed"


def test_renewed_object_keeps_what_people_have_added_to_it() -> None:
    here = OLD.model_copy(update={"metadata": OLD.metadata.model_copy(update={"labels": {"team": "a"}})})
    (renewed,) = plan([NEW], 2, known(1, roles_watcher=left(OLD)), there(here)).renewed
    assert renewed.metadata.labels == {"team": "a"}
    assert digest(renewed) == digest(NEW)


def test_what_a_directory_applies_is_its_own() -> None:
    shipment = plan([NEW], 2, known(1, roles_watcher=left(OLD)), there(OLD), [OLD.key])
    assert outcome(shipment) == "told"


def test_how_a_site_begins_is_made_once_and_never_renewed() -> None:
    assert outcome(plan([POOL], 1, known(0), {})) == "made"
    record = known(1, storagepools_local=left(OTHER_POOL))
    assert plan([POOL], 1, record, there(OTHER_POOL)) == Shipment((), (), (), record)


def test_what_is_shipped_no_longer_stays_and_stays_remembered() -> None:
    record = known(1, roles_watcher=left(OLD))
    assert plan([], 2, record, there(OLD)) == Shipment((), (), (), known(2, roles_watcher=left(OLD)))


def _operator(*kinds: str) -> Document:
    return made("Role", "operator", rules=[{"kinds": list(kinds), "verbs": ["get"]}])


@pytest.mark.parametrize(
    ("missing", "made_anew"),
    [(name, name not in FIRST) for name in SHIPPED_NOW],
)
def test_of_a_store_without_a_record_only_what_is_newer_than_its_release_is_made(missing: str, made_anew: bool) -> None:
    things = list(defaults())
    live = {one.key: one for one in things if str(one.key) != missing}
    shipment = plan(things, EDITION, None, live)
    assert [str(one.key) for one in shipment.made] == ([missing] if made_anew else [])
    assert not shipment.renewed
    assert not shipment.withheld
    assert set(shipment.record.objects) == set(SHIPPED_NOW)


def test_role_that_an_older_release_shipped_is_renewed_and_one_that_was_edited_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    former, edited = _operator("instances"), _operator("images")
    things = list(defaults())
    monkeypatch.setitem(FORMER, "roles/operator", (digest(former),))
    for made_then, generation, does in ((former, 1, "renewed"), (former, 2, "told"), (edited, 2, "told")):
        metadata = made_then.metadata.model_copy(update={"generation": generation})
        role = made_then.model_copy(update={"metadata": metadata})
        live: dict[Key, Any] = {one.key: one for one in things} | {role.key: role}
        assert outcome(plan(things, EDITION, None, live)) == does


def test_edition_rises_when_anything_shipped_changes() -> None:
    """Without that a store would take what is new for old.

    When this fails: raise EDITION in resources/defaults.py by one, unless it has been raised since the last release,
    and put the new digests here.
    """
    assert (EDITION, {str(one.key): digest(one) for one in defaults()}) == (1, SHIPPED_NOW)


DEFAULTS = {
    "SystemTemplateSpec": {
        "displayName": "", "description": "", "family": "Linux", "architecture": "x86_64", "machine": "q35",
        "firmware": "UEFI", "secureBoot": False, "tpm": False, "clock": "Utc", "diskBus": "Virtio",
        "nicModel": "Virtio", "video": "Virtio", "tablet": "Usb", "serial": True,
    },
    "RoleSpec": {"displayName": "", "description": "", "rules": [], "menus": []},
    "Rule": {},
}  # fmt: skip


def test_defaults_of_what_is_renewed_are_part_of_its_digest() -> None:
    """A store holds them written out, and a digest leaves them out: with another one all would count as edited.

    A new field is added here. A default changes only together with an entry in resources/upgrades.py.
    """
    found: dict[str, Any] = {}
    for plural in RENEWED:
        cls = KINDS[plural].model_fields["spec"].annotation
        assert cls is not None
        schema = cls.model_json_schema(by_alias=True)
        for name, one in {cls.__name__: schema, **schema.get("$defs", {})}.items():
            found[name] = {field: said["default"] for field, said in one["properties"].items() if "default" in said}
    assert found == DEFAULTS


def test_difference_names_the_fields() -> None:
    assert differing(OLD, NEW) == ("spec.rules",)
    assert differing(OLD, OLD) == ()
    assert set(RENEWED) == {name.partition("/")[0] for name in FORMER} | {"systemtemplates"}
