"""What a Placement says of its guest, and what a Secret that comes or changes does."""

from __future__ import annotations

from typing import Any

from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacedGuest, Placement
from tests.controllers.universe import Universe, obeyed

ADMIN = {"name": "ops", "passwordSecret": "login", "sshKeys": ["ssh-ed25519 AAAA alice"]}


def secret(universe: Universe, sealed: str, name: str = "login", **more: Any) -> None:
    universe.create(made("Secret", name, "default", data={"password": sealed, **more}))


def told(universe: Universe) -> PlacedGuest:
    return universe.get(Placement, "web-1-1", "default").spec.guest


def test_instance_waits_for_its_secret_and_says_for_which(one: Universe) -> None:
    one.instance(guest={"admin": ADMIN})
    one.settle()
    ready = find(one.web().status.conditions, "Ready")
    assert ready is not None
    assert (ready.reason, ready.params) == ("SecretNotFound", {"secret": "login"})
    secret(one, "sealed.v1.one")
    one.settle()
    assert one.web().status.placement == "web-1-1"


def test_placement_says_what_the_guest_is_told_and_no_secret(one: Universe) -> None:
    secret(one, "sealed.v1.one")
    one.instance(guest={"admin": ADMIN, "timeZone": "Asia/Shanghai", "hostname": "www"})
    one.settle()
    guest = told(one)
    assert (guest.hostname, guest.time_zone, guest.admin, guest.ssh_keys) == (
        "www", "Asia/Shanghai", "ops", ("ssh-ed25519 AAAA alice",),
    )  # fmt: skip
    assert guest.password is not None
    assert (guest.password.name, bool(guest.password.mark), guest.user_data) == ("login", True, None)
    assert "sealed" not in guest.model_dump_json()


def test_secret_that_changes_is_known_by_its_mark(one: Universe) -> None:
    secret(one, "sealed.v1.one")
    one.instance(guest={"admin": ADMIN})
    one.settle()
    obeyed(one)
    one.settle()
    before = told(one)
    one.patch(Key("secrets", "default", "login"), data={"password": "sealed.v1.two"})
    one.settle()
    after = told(one)
    assert after.password != before.password
    one.patch(Key("secrets", "default", "login"), data={"password": "sealed.v1.two", "other": "x"})
    one.settle()
    assert told(one) == after, "what no guest is told changes no seed"


def test_password_and_user_data_of_one_secret_are_told_apart(one: Universe) -> None:
    secret(one, "sealed.v1.one")
    one.instance(guest={"admin": ADMIN, "userDataSecret": "login"})
    found = []
    for words in ("sealed.v1.words", "sealed.v1.others"):
        one.patch(Key("secrets", "default", "login"), data={"password": "sealed.v1.one", "userData": words})
        one.settle()
        found.append(told(one))
    before, after = found
    assert (after.password == before.password, after.user_data == before.user_data) == (True, False)


def test_secret_that_is_gone_leaves_a_placed_machine_as_it_is(one: Universe) -> None:
    secret(one, "sealed.v1.one")
    one.instance(guest={"admin": ADMIN})
    one.settle()
    before = told(one)
    one.delete(Key("secrets", "default", "login"))
    one.settle()
    assert told(one) == before


def test_those_who_name_a_secret_are_known(one: Universe) -> None:
    key = one.instance(guest={"admin": ADMIN, "userDataSecret": "words"})
    for name in ("login", "words"):
        assert one.world.tellers.of(Key("secrets", "default", name)) == (key,)
    one.patch(key, guest={})
    assert one.world.tellers.of(Key("secrets", "default", "login")) == ()


def test_file_system_and_provider_reach_the_placement(one: Universe) -> None:
    pool = Key("addresspools", "", "lan")
    one.patch(pool, provider="CloudInit")
    disks = [
        {"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}},
        {"name": "data", "size": "1Gi", "format": {"mountPath": "/srv"}},
    ]
    one.instance(disks=disks)
    one.settle()
    spec = one.get(Placement, "web-1-1", "default").spec
    assert [one.file_system and one.file_system.mount_path for one in spec.volumes] == [None, "/srv"]
    assert [nic.lease and nic.lease.provider for nic in spec.nics] == ["CloudInit"]
