"""`nanoctl disk`, `nic` and `media`: what each writes, and what it says about when that takes effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nanovirt.portal.cli.running import manifest
from tests.portal.cli_world import Cluster, cluster

JSON = dict[str, Any]
DISKS = [{"name": "system", "size": "10Gi"}]
HARDWARE = {"machine": "q35", "diskBus": "Virtio", "nicModel": "Virtio", "disks": {"system": "10Gi", "data": "5Gi"}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cli")) as made:
        made.creates("computepools", "default", spec={"storagePool": "local", "addressPool": "lan"})
        yield made


@pytest.fixture
def web(running: Cluster) -> Iterator[Cluster]:
    """One running instance with one disk."""
    doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "web-1"}}
    running.says("apply", "-f", "-", stdin=json.dumps(doc | {"spec": {"disks": DISKS, "bootOrder": ["system"]}}))
    running.status("instances", "web-1", "default", phase="Running", placement="web-1-1", hardware=HARDWARE)
    yield running
    running.removes("instances", "web-1", "default")


def spec(cluster: Cluster) -> JSON:
    found: JSON = cluster.object("instances", "web-1", "default")["spec"]
    return found


def test_disk_is_added_grown_and_removed_with_acceptance(web: Cluster) -> None:
    assert web.says("disk", "add", "web-1", "data", "--size", "5Gi") == "instance/web-1 disk data added, at once\n"
    assert web.says("disk", "grow", "web-1", "data", "6Gi") == "instance/web-1 disk data has 6Gi, at once\n"
    assert [one["size"] for one in spec(web)["disks"]] == ["10Gi", "6Gi"]
    refused = web.nanoctl("disk", "remove", "web-1", "data")
    assert (refused.exit_code, "add --accept-data-loss" in refused.output) == (2, True)
    said = web.says("disk", "remove", "web-1", "data", "--accept-data-loss")
    assert said == "instance/web-1 disk data removed, and its data are gone\n"
    assert [one["name"] for one in spec(web)["disks"]] == ["system"]


def test_retained_disk_goes_without_loss(web: Cluster) -> None:
    web.says("disk", "add", "web-1", "data", "--size", "5Gi", "--retain")
    assert web.says("disk", "remove", "web-1", "data") == "instance/web-1 disk data removed, at once\n"


def test_rebuild_raises_the_number(web: Cluster) -> None:
    said = web.says("disk", "rebuild", "web-1", "system", "--image", "shared/mini", "--accept-data-loss")
    assert said.endswith("when it starts next at the latest: its data go then\n"), "a disk in use is not gone yet"
    assert (spec(web)["disks"][0]["rebuild"], spec(web)["disks"][0]["source"]) == (1, {"image": "shared/mini"})


def test_card_is_added_beside_the_one_of_which_nothing_was_said(web: Cluster) -> None:
    said = web.says("nic", "add", "web-1", "out", "--network", "default", "--mtu", "1400", "--vlan", "40")
    assert said == "instance/web-1 nic out added, at once\n"
    shown = [
        {name: one[name] for name in ("name", "addressPool", "network", "mtu", "vlan") if one.get(name)}
        for one in spec(web)["nics"]
    ]
    assert shown == [
        {"name": "nic0", "addressPool": "lan"},
        {"name": "out", "network": "default", "mtu": 1400, "vlan": 40},
    ]
    web.says("nic", "remove", "web-1", "nic0")
    assert [one["name"] for one in spec(web)["nics"]] == ["out"]


@pytest.fixture
def images(running: Cluster) -> Iterator[None]:
    """A medium that is there, one whose bytes have not come, and what is no medium."""
    for name, kind, phase in (("rescue", "Media", "Ready"), ("drivers", "Media", "Pending"), ("mini", "Disk", "Ready")):
        running.creates("images", name, "shared", spec={"type": kind, "source": {"upload": {}}})
        running.status("images", name, "shared", phase=phase)
    yield
    for name in ("rescue", "drivers", "mini"):
        running.removes("images", name, "shared")


@pytest.mark.usefixtures("images")
def test_drive_takes_media_alone_and_says_what_it_waits_for(web: Cluster) -> None:
    refused = web.nanoctl("media", "insert", "web-1", "shared/mini")
    assert (refused.exit_code, "shared/mini is an image of type Disk; a drive takes" in refused.stderr) == (2, True)
    assert "media" not in spec(web) or spec(web)["media"] == []
    said = web.says("media", "insert", "web-1", "shared/nothing")
    assert said.endswith("cd0, as soon as there is an Image shared/nothing: nanoctl get images -n shared\n")
    said = web.says("media", "insert", "web-1", "shared/drivers")
    assert said.endswith("cd0, as soon as that image is ready: nanoctl why image/drivers -n shared\n")


@pytest.mark.usefixtures("images")
def test_drive_that_is_empty_or_never_came_says_so_when_it_is_ejected(web: Cluster) -> None:
    assert "there are: none" in web.nanoctl("media", "eject", "web-1").stderr
    web.says("media", "insert", "web-1", "shared/nothing")
    waits = [{"path": "spec.media[cd0]", "desired": "shared/nothing", "operation": "Refused"}]
    status = {"phase": "Running", "placement": "web-1-1", "hardware": HARDWARE, "restartAwaitingChanges": waits}
    web.status("instances", "web-1", "default", **status)
    assert web.says("media", "eject", "web-1").endswith("cd0 emptied, after a restart: nanoctl restart web-1\n"), (
        "an empty drive cannot be plugged in"
    )
    assert web.says("media", "eject", "web-1") == "instance/web-1 cd0 is empty already\n"
    assert web.says("media", "eject", "web-1", "--remove").endswith("cd0 removed, at once\n")


def test_card_of_a_pool_that_is_not_there_waits_for_it(web: Cluster) -> None:
    told = web.nanoctl("nic", "add", "web-1", "more", "--pool", "nope")
    assert told.stdout == "instance/web-1 nic more added, as soon as that is there: nanoctl why instance/web-1\n"
    assert "AddressPool nope does not exist" in told.stderr


def test_change_of_a_machine_without_a_host_counts_when_it_starts(running: Cluster) -> None:
    doc = {"apiVersion": "nano/v1", "kind": "Instance", "metadata": {"name": "waits"}, "spec": {"disks": DISKS}}
    running.says("apply", "-f", "-", stdin=json.dumps(doc))
    said = running.says("disk", "add", "waits", "data", "--size", "5Gi")
    assert said == "instance/waits disk data added, when it starts next\n"
    running.removes("instances", "waits", "default")


@pytest.mark.usefixtures("images")
def test_medium_is_inserted_and_ejected(web: Cluster) -> None:
    assert web.says("media", "insert", "web-1", "shared/rescue").endswith("inserted into cd0, at once\n")
    assert spec(web)["media"] == [{"name": "cd0", "image": "shared/rescue"}]
    web.says("media", "eject", "web-1")
    assert spec(web)["media"] == [{"name": "cd0"}]
    web.says("media", "eject", "web-1", "--remove")
    assert spec(web)["media"] == []


def test_what_is_not_there_is_said_with_what_is(web: Cluster) -> None:
    said = web.nanoctl("disk", "grow", "web-1", "date", "9Gi")
    assert (said.exit_code, "there are: system" in said.output) == (2, True)


def test_wrong_words_are_refused_with_the_fix_and_change_nothing(web: Cluster) -> None:
    before = spec(web)
    for words, fix in (
        (("disk", "grow", "web-1", "system", "lots"), "SIZE: 'lots' is not an amount like '4Gi'"),
        (("disk", "grow", "web-1", "system", "1GB"), "SIZE: '1GB' is not an amount like '4Gi'"),
        (("disk", "add", "web-1", "system"), "system is there already among its disks"),
        (("nic", "add", "web-1", "nic1"), "--pool POOL or --network NETWORK"),
        (("nic", "add", "web-1", "nic1", "--pool", "lan", "--network", "default"), "one of them"),
    ):
        said = web.nanoctl(*words)
        assert (said.exit_code, fix in said.output) == (2, True), said.output
    assert spec(web) == before


def test_apply_takes_the_word_of_a_refusal(web: Cluster) -> None:
    doc = json.dumps(
        {
            "apiVersion": "nano/v1",
            "kind": "Instance",
            "metadata": {"name": "web-1"},
            "spec": {"disks": [DISKS[0] | {"rebuild": 1}]},
        }
    )
    refused = web.nanoctl("apply", "-f", "-", stdin=doc)
    assert "system@rebuild-1" in refused.output
    assert web.says("apply", "--accept-data-loss", "system@rebuild-1", "-f", "-", stdin=doc).endswith("configured\n")
    assert spec(web)["disks"][0]["rebuild"] == 1


def test_run_says_what_was_asked_for_and_nothing_else() -> None:
    plain = {
        "name": "a",
        "image": "i",
        "cpus": 1,
        "memory": "1Gi",
        "disk": None,
        "nics": (),
        "networks": (),
        "pool": None,
    }
    plain |= {"host": None, "labels": (), "stopped": False}
    assert manifest("default", **plain)["spec"] == {  # type: ignore[arg-type]
        "cpus": 1,
        "memory": "1Gi",
        "disks": [{"name": "system", "source": {"image": "i"}}],
    }
    full = plain | {"more": ("data=5Gi",), "media": ("shared/cd",), "boot": ("cd0",), "hostname": "web", "keys": ("k",)}
    full |= {"cpu_priority": "High", "disk_iops": 5, "network_limit": "1M", "max_cpus": 8, "template": "legacy"}
    made = manifest("default", **full)["spec"]  # type: ignore[arg-type]
    assert made["disks"][1] == {"name": "data", "size": "5Gi"}
    assert (made["media"], made["bootOrder"]) == ([{"name": "cd0", "image": "shared/cd"}], ["cd0"])
    assert made["guest"] == {"hostname": "web", "admin": {"sshKeys": ["k"]}}
    assert made["qos"] == {
        "cpu": {"priority": "High"},
        "disk": {"readIops": 5, "writeIops": 5},
        "network": {"inboundBitsPerSecond": "1M", "outboundBitsPerSecond": "1M"},
    }
    assert (made["maxCpus"], made["systemTemplate"]) == (8, "legacy")
