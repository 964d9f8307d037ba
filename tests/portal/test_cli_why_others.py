"""What `why` says of kinds whose conditions, if they have any, do not tell all: disks, addresses, rights, pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanovirt.portal.cli.holding import of_address, of_storage_pool, of_volume
from nanovirt.portal.cli.rights import of_group, of_namespace, of_role, of_user
from nanovirt.portal.cli.surroundings import held_by
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
OURS = "/srv/478faf1a-08f3-4b07-a00f-7cff0c491d76.root.qcow2"


def doc(name: str, **spec: Any) -> JSON:
    return {"metadata": {"name": name}, "spec": spec}


def volume(*, owner: str = "", holder: str = "", **spec: Any) -> JSON:
    owners = [{"kind": "Instance", "name": owner}] if owner else []
    base = {"storagePool": "local", "host": "node-1", "file": OURS, "reclaim": "Delete"}
    return {
        "metadata": {"name": "web.root", "ownerReferences": owners},
        "spec": base | spec,
        "status": {"inUseBy": holder},
    }


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (volume(owner="web"), "It belongs to instance/web and goes with it, and so does its file."),
        (volume(owner="web"), "No placement has it now."),
        (volume(owner="web", reclaim="Retain"), "stays, with its file, when that goes (reclaim: Retain)"),
        (volume(owner="web", holder="web-1"), "Placement web-1 has it."),
        (
            volume(),
            "It belongs to nobody: a disk with source: {volume: web.root} takes it; when it is deleted its file goes",
        ),
        (volume(file="/srv/old.qcow2"), "its file stays, since it was there before Nano"),
        (volume(source={"image": "shared/mini"}), "what differs from image shared/mini, which has to stay"),
        (volume(host=None), "on no host yet, in StoragePool local"),
    ],
)
def test_volume_says_whose_it_is_and_what_goes_with_it(about: JSON, said: str) -> None:
    assert said in "\n".join(of_volume(about))


def test_volume_that_is_being_deleted_waits_for_its_host() -> None:
    metadata = {"name": "v", "deletionTimestamp": "2026-11-22T06:00:00Z", "finalizers": ["nano/file-removed"]}
    (line,) = held_by({"kind": "Volume", "metadata": metadata}, None)
    assert line == "  nano/file-removed is kept until its host has removed the file."


LEASE = {
    "addressPool": "lan",
    "ip": "10.0.0.9",
    "mac": "52:54:00:00:00:01",
    "instance": "a/web",
    "instanceUid": "u",
    "nic": "eth0",
}


def holder(*nics: JSON, uid: str = "u", host: str = "") -> JSON:
    return {"metadata": {"name": "web", "uid": uid}, "spec": {"nics": nics}, "status": {"host": host}}


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        (None, "free again when that instance, or that card of it, is gone"),
        (holder({"name": "eth0"}), "It was the next free one of the pool"),
        (holder({"name": "eth0", "ip": "10.0.0.9"}), "spec.nics[eth0].ip asks for it"),
        (holder({"name": "other"}), "The card is no longer in the instance's spec"),
        (holder({"name": "eth0"}, uid="later"), "an earlier instance of that name"),
        (holder({"name": "eth0"}, host="node-1"), "The DHCP server of host node-1 gives it"),
    ],
)
def test_address_says_who_has_it_and_until_when(instance: JSON | None, said: str) -> None:
    lines = list(of_address(doc("lan.10.0.0.9", **LEASE), instance))
    assert lines[0] == "Card eth0 (52:54:00:00:00:01) of instance a/web has it, of AddressPool lan."
    assert said in "\n".join(lines)


RULES = [{"verbs": ["get", "list"], "kinds": ["instances", "images"]}]
TEAM = doc(
    "team", members=["alice", "bob"], roles=["reader", "gone"], namespaces=["a"], visibility={"instances": "Group"}
)
ROLE = doc("reader", rules=RULES)


@pytest.mark.parametrize(
    ("user", "groups", "said"),
    [
        (
            doc("alice"),
            [TEAM],
            "By group team, in namespace a: roles reader, gone (does not exist, so it grants nothing).",
        ),
        (doc("alice"), [TEAM], "reader of group team: get, list on instances, images."),
        (doc("alice"), [TEAM], "In group team members see each other's instances, and of other kinds each his own"),
        (doc("carol"), [TEAM], "It is in no group, so it may do nothing with any object: members: [carol] of a Group."),
        (doc("alice", disabled=True), [TEAM], "It is disabled: it may do nothing, and keeps what it owns"),
        (doc("alice"), [doc("idle", members=["alice"])], "By group idle, in no namespace"),
        (doc("alice"), [doc("idle", members=["alice"])], "no role"),
        (doc("alice"), [doc("idle", members=["alice"])], "each member sees his own objects and nobody else's"),
    ],
)
def test_user_says_which_rule_of_which_role_of_which_group_counts(user: JSON, groups: list[JSON], said: str) -> None:
    assert said in "\n".join(of_user(user, groups, [ROLE]))


def test_nothing_is_said_of_groups_that_are_not_seen() -> None:
    assert list(of_user(doc("alice"), None, None)) == []
    assert list(of_namespace(doc("a"), None)) == []
    assert "No group" not in "".join(of_role(ROLE, None, ["instances", "images"]))
    assert "does not exist" not in "".join(of_group(TEAM, None, None, None))


def test_group_says_who_is_in_it_and_what_of_it_comes_to_nothing() -> None:
    users = [doc("alice"), doc("bob", disabled=True)]
    lines = "\n".join(of_group(TEAM, users, [ROLE], []))
    assert "Its members: alice, bob (disabled)." in lines
    assert "They have, in namespace a: roles reader, gone (does not exist, so it grants nothing)." in lines
    assert "There is no namespace a, or none that you may see." in lines
    assert "bob (does not exist)" in "\n".join(of_group(TEAM, users[:1], [ROLE], []))
    assert "It has no members, so its roles are nobody's" in "\n".join(of_group(doc("empty"), users, [ROLE], []))


def test_role_says_what_it_grants_and_to_whom() -> None:
    lines = "\n".join(of_role(ROLE, [TEAM], ["instances"]))
    assert "It grants get, list on instances, images." in lines
    assert "There is no kind images here; that grants nothing." in lines
    assert "Group team gives it to 2 members, in namespace a." in lines
    assert "No group has it, so it grants nothing to anybody: roles: [reader] of a Group." in "\n".join(
        of_role(ROLE, [], ["instances", "images"])
    )
    assert "It has no rules, so it grants nothing." in list(of_role(doc("empty"), [], []))
    many = [doc(f"team-{n}", roles=["reader"]) for n in range(10)]
    assert "and 2 more groups: nanoctl get groups" in list(of_role(ROLE, many, ["instances", "images"]))


def test_namespace_says_who_works_there() -> None:
    assert list(of_namespace(doc("a"), [TEAM])) == ["At work here: group team, and the administrator."]
    assert list(of_namespace(doc("b"), [TEAM])) == ["No group names it, so only the administrator works here."]


def test_storage_pool_that_no_pool_names_says_so() -> None:
    pool = doc("ssd") | {"status": {"volumes": 2, "allocated": "4Gi", "capacity": "8Gi"}}
    lines = list(of_storage_pool(pool, []))
    assert lines[0] == "Its 2 volumes may grow to 4Gi; its hosts have 8Gi."
    assert "No ComputePool names it" in lines[1]
    assert len(list(of_storage_pool(pool, ["computepool/default"]))) == 1


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A pool that names a storage pool that is not there, a host that is disabled, one instance and its image."""
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "ssd", "addressPool": "lan"})
        made.creates("addresspools", "lan", spec={"subnet": "10.20.0.0/24"})
        made.creates("hosts", "node-1", spec={"computePool": "default", "enabled": False})
        made.creates("images", "mini", "shared", spec={"source": {"upload": {}}, "systemTemplate": "linux"})
        made.says("run", "web-1", "--image", "shared/mini")
        waits = {"type": "Scheduled", "status": "False", "reason": "ImageNotReady", "params": {"image": "shared/mini"}}
        made.status("instances", "web-1", "default", phase="Pending", conditions=[waits])
        yield made


def test_pool_says_what_it_lacks(begun: Cluster) -> None:
    said = begun.says("why", "computepool/default")
    assert "StoragePool ssd does not exist, so no disk can be made." in said
    assert "AddressPool lan does not exist" not in said
    assert "Host node-1 is disabled: nothing new is placed on it." in said
    assert "It is named by computepool/default" in begun.says("why", "addresspool/lan")


def test_image_says_who_waits_for_it_and_who_names_it(begun: Cluster) -> None:
    said = begun.says("why", "image/mini", "-n", "shared")
    assert "Waiting for it: instance default/web-1." in said
    assert "It is named by instance/web-1 (default), and cannot be deleted as long as that is so." in said
    assert "It is named by image/mini (shared)" in begun.says("why", "systemtemplate/linux")


def test_storage_pool_that_gets_full_is_not_as_desired(begun: Cluster) -> None:
    begun.creates("storagepools", "tight", spec={"type": "Local"})
    full = {"type": "Ready", "status": "True", "reason": "StorageNearlyFull", "message": "9 percent free, below 15."}
    begun.status("storagepools", "tight", conditions=[full])
    said = begun.says("why", "storagepool/tight")
    assert "Everything is as desired" not in said
    assert "9 percent free" in said
    assert "make room on its hosts" in said


def test_who_may_see_no_groups_is_told_nothing_about_them(begun: Cluster, tmp_path: Path) -> None:
    rules = [{"kinds": ["systemtemplates", "namespaces"], "verbs": ["get", "list"]}]
    begun.creates("users", "bob")
    begun.creates("roles", "narrow", spec={"rules": rules})
    begun.creates("groups", "few", spec={"members": ["bob"], "roles": ["narrow"], "namespaces": ["default"]})
    (tmp_path / "bob").write_text(begun.says("kubeconfig", "--user", "bob"))
    his = ("--kubeconfig", str(tmp_path / "bob"))
    assert "group" not in begun.says("why", "namespace/default", *his).lower()
    assert "systemtemplate/linux" in begun.says("why", "systemtemplate/linux", *his)
    assert "By group few, in namespace default: role narrow." in begun.says("why", "user/bob")
