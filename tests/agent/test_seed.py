"""What a guest is told at its start: golden files of the seed, what it never holds, and the image that it stands on."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.hash import sha512_crypt

from nanovirt.agent import iso, seed
from nanovirt.agent.domain_disks import seeded
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.placement import PlacedGuest, PlacedSecret, PlacementSpec
from tests.agent.placements import MAC, UUID, spec, volume
from tests.conftest import Golden

PASSWORD = "correct-horse-battery"
KEY = "ssh-ed25519 AAAAC3Nza alice"
NOTHING = GuestSecrets()
STATIC = {"subnet": "10.20.0.0/24", "gateway": "10.20.0.1", "dns": ["10.20.0.1", "1.1.1.1"], "domain": "lab.example"}
SALT = re.compile(r"\$6\$rounds=\d+\$[^' \n]+")


def full(**changes: Any) -> PlacementSpec:
    """A machine that is told everything there is."""
    guest = {
        "hostname": "web-1",
        "timeZone": "Asia/Shanghai",
        "admin": "ops",
        "sshKeys": [KEY],
        "password": {"name": "login", "mark": "abc123"},
    }
    data = volume("data", image=False).model_copy(update={"file_system": None}).model_dump(by_alias=True)
    data["fileSystem"] = {"fileSystem": "Xfs", "mountPath": "/srv"}
    nics = [
        {"name": "lan", "mac": MAC, "ip": "10.20.0.50", "bridge": "br0", "lease": STATIC | {"provider": "CloudInit"}},
        {"name": "dmz", "mac": "52:54:00:00:00:02", "ip": "10.20.0.51", "bridge": "br0", "mtu": 9000, "lease": STATIC},
        {"name": "wild", "mac": "52:54:00:00:00:03", "bridge": "br1"},
    ]
    return spec(**({"guest": guest, "nics": nics, "volumes": [volume(), data]} | changes))


def secret(**values: str) -> GuestSecrets:
    return GuestSecrets.model_validate(values)


def parts(content: bytes) -> list[tuple[str, str]]:
    """Type and text of each part."""
    whole = message_from_bytes(content)
    return [
        (one.get_content_type(), one.get_payload(decode=True).decode())  # type: ignore[union-attr]
        for one in whole.walk()
        if not one.is_multipart()
    ]


def test_seed_is_the_golden_one(golden: Golden) -> None:
    for name, content in seed.files(full(), secret(password=PASSWORD, user_data="#!/bin/sh\ntrue\n")).items():
        golden(f"seed/{name}", SALT.sub("HASH", content.decode()))


def test_smallest_machine_is_told_its_name_and_to_ask_for_its_address() -> None:
    made = seed.files(spec(), NOTHING)
    assert yaml.safe_load(made["meta-data"]) == {"instance-id": spec().instance_uid, "local-hostname": "web-1"}
    assert yaml.safe_load(made["network-config"])["ethernets"] == {
        "nic0": {"match": {"macaddress": "52:54:00:00:00:01"}, "dhcp4": True}
    }
    kinds = [kind for kind, _ in parts(made["user-data"])]
    assert kinds == ["text/cloud-config"]


def test_only_the_first_card_with_a_gateway_has_the_way_out() -> None:
    cards = yaml.safe_load(seed.files(full(), NOTHING)["network-config"])["ethernets"]
    assert cards["lan"]["routes"] == [{"to": "0.0.0.0/0", "via": "10.20.0.1"}]
    assert cards["dmz"] == {
        "match": {"macaddress": "52:54:00:00:00:02"},
        "mtu": 9000,
        "dhcp4": True,
        "dhcp4-overrides": {"use-routes": False},
    }  # fmt: skip
    assert cards["wild"]["dhcp4-overrides"] == {"use-routes": False}


def test_password_reaches_the_seed_as_a_hash_only() -> None:
    made = seed.files(full(), secret(password=PASSWORD))
    assert not any(PASSWORD.encode() in content for content in made.values())
    config = yaml.safe_load(parts(made["user-data"])[0][1])
    [user] = config["chpasswd"]["users"]
    assert user["name"] == "ops"
    assert sha512_crypt.verify(PASSWORD, user["password"])
    assert user["password"] in parts(made["user-data"])[1][1], "and again for a start after the first one"


@given(password=st.text(min_size=1, max_size=60).filter(lambda text: "\0" not in text))
@settings(max_examples=25)
def test_no_password_leaves_its_place(password: str) -> None:
    made = seed.files(full(), secret(password=password))
    config = yaml.safe_load(parts(made["user-data"])[0][1])
    hashed = config["chpasswd"]["users"][0]["password"]
    assert re.fullmatch(r"\$6\$rounds=50000\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{86}", hashed)


@pytest.mark.parametrize(
    "text",
    ["#cloud-config\npackages: [nginx]\n", "#!/bin/sh\necho 你好\n", "#cloud-boothook\n#!/bin/sh\ntrue\n", "#include\nhttps://x/\n"],
)  # fmt: skip
def test_what_a_person_says_is_the_last_part_and_as_it_was(text: str) -> None:
    found = parts(seed.files(spec(), secret(user_data=text))["user-data"])
    assert found[-1] == ("text/plain", text), "cloud-init tells by the first line what it is"


def test_parts_of_a_person_stay_parts() -> None:
    several = (
        'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/x-shellscript\n\n'
        "#!/bin/sh\ntrue\n--b\nContent-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\n"
        "I2Nsb3VkLWNvbmZpZwo=\n--b--\n"
    )
    found = parts(seed.files(spec(), secret(user_data=several))["user-data"])
    assert found[1:] == [("text/x-shellscript", "#!/bin/sh\ntrue"), ("text/cloud-config", "#cloud-config\n")]


def test_boothook_is_a_script_that_a_shell_can_read(tmp_path: Path) -> None:
    hook = dict(parts(seed.files(full(), secret(password=PASSWORD))["user-data"]))["text/cloud-boothook"]
    file = tmp_path / "hook"
    file.write_text(hook)
    subprocess.run(["sh", "-n", file], check=True)
    assert "place data xfs /srv" in hook


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.model_copy(update={"hostname": "other"}),
        lambda made: made.model_copy(
            update={"guest": made.guest.model_copy(update={"password": PlacedSecret(name="login", mark="def456")})}
        ),
        lambda made: made.model_copy(update={"guest": made.guest.model_copy(update={"time_zone": "UTC"})}),
        lambda made: made.model_copy(update={"nics": made.nics[:1]}),
        lambda made: made.model_copy(update={"volumes": made.volumes[:1]}),
    ],
)
def test_digest_changes_with_what_is_told(change: Callable[[PlacementSpec], PlacementSpec]) -> None:
    assert seed.digest(change(full())) != seed.digest(full())


def test_digest_stays_with_everything_else() -> None:
    other = full(memory="2Gi", cpu=4, powerState="Stopped", epoch=3)
    assert seed.digest(other) == seed.digest(full())


def test_old_machine_has_a_seed_only_when_there_is_something_to_say() -> None:
    old: dict[str, Any] = {"domain": {"uuid": UUID, "name": "default.web-1", "machine": "i440fx", "diskBus": "Ide"}}
    assert not seeded(spec(**old))
    assert seeded(spec(**old, guest=PlacedGuest(hostname="web-1")))
    assert seeded(full(**old))
    assert seeded(spec())


# --- the image -------------------------------------------------------------------------------------------------------


def test_image_says_its_mark_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "seed.iso"
    assert iso.read_mark(file) == ""
    iso.write(file, "A" * 32, {"meta-data": b"one"})
    assert iso.read_mark(file) == "A" * 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    iso.write(file, "B" * 32, {"meta-data": b"two"})
    assert iso.read_mark(file) == "B" * 32
    assert [one.name for one in tmp_path.iterdir()] == ["seed.iso"]


def test_files_are_read_back_as_they_were(tmp_path: Path) -> None:
    file, wanted = tmp_path / "seed.iso", seed.files(full(), secret(password=PASSWORD, user_data="x" * 70_000))
    iso.write(file, seed.digest(full()), wanted)
    assert file.read_bytes()[16 * 2048 + 40 :][:32].strip() == b"cidata"
    for name, content in wanted.items():
        assert iso.read_file(file, name) == content


def test_image_in_a_folder_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match=r"nowhere/seed\.iso cannot be written"):
        iso.write(tmp_path / "nowhere/seed.iso", "A", {"meta-data": b""})


# --- the boothook, run by a shell whose guest is a folder ---


class Guest:
    """A folder with what a hook looks at; tools that would change this machine note what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "cloud", "etc/sudoers.d", "zones/Asia", "zones/Europe", "home/ops"):
            (folder / name).mkdir(parents=True)
        for zone in ("Asia/Shanghai", "Europe/Berlin"):
            (folder / "zones" / zone).touch()
        self.write("etc/passwd", f"ops:x:1000:1000::{folder}/home/ops:/bin/sh\n")
        for name, words in TOOLS.items():
            tool = folder / "bin" / name
            tool.write_text(f"#!/bin/sh\n{words.format(root=folder)}\n")
            tool.chmod(0o755)

    def starts(self, wanted: PlacementSpec, password: str) -> None:
        hook = seed._boothook(wanted, f"$6${password}")
        for path, place in (("/var/lib/cloud", "cloud"), ("/usr/share/zoneinfo", "zones"), ("/etc/", "etc/")):
            hook = hook.replace(path, f"{self.folder}/{place}")
        environment = {"PATH": f"{self.folder}/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["/bin/sh", "-u", "-c", hook], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""

    def began(self) -> None:
        """cloud-init has done what it does once."""
        for module in ("set_passwords", "timezone", "users_groups"):
            self.write(f"cloud/instance/sem/config_{module}", "")

    def read(self, name: str) -> str:
        file = self.folder / name
        return file.read_text() if file.exists() else ""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)


TOOLS = {
    "chpasswd": "cat >>{root}/passwords",
    "chown": "true",
    "id": 'grep -q "^$1:" {root}/etc/passwd',
    "useradd": 'for name; do :; done; echo "$name:x:1001:1001::{root}/home/$name:/bin/bash" >>{root}/etc/passwd\n'
    "mkdir -p {root}/home/$name",
}
ALICE, BOB, OWN = "ssh-ed25519 AAAA alice", "ssh-ed25519 BBBB bob", "ssh-rsa CCCC her own"
HELD = "home/ops/.ssh/authorized_keys"


def admin(mark: str, zone: str, *keys: str, name: str = "ops") -> PlacementSpec:
    return spec(guest={"admin": name, "password": {"name": "login", "mark": mark}, "timeZone": zone, "sshKeys": keys})


def test_first_start_leaves_to_cloud_init_what_it_does_once(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.starts(admin("1", "Asia/Shanghai", ALICE), "one")
    assert (guest.read("passwords"), guest.read("etc/timezone"), guest.read(HELD)) == ("", "", "")


def test_later_start_sets_what_was_changed_and_undoes_nothing_of_a_person(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.starts(admin("1", "Asia/Shanghai", ALICE), "one")
    guest.began()
    guest.write(HELD, f"{ALICE}\n{OWN}\n")
    guest.starts(admin("1", "Asia/Shanghai", ALICE), "one")
    assert (guest.read("passwords"), guest.read("etc/timezone")) == ("", "")
    assert guest.read(HELD) == f"{ALICE}\n{OWN}\n"
    guest.starts(admin("2", "Europe/Berlin", BOB), "two")
    assert (guest.read("passwords"), guest.read("etc/timezone")) == ("ops:$6$two\n", "Europe/Berlin\n")
    assert guest.read(HELD) == f"{OWN}\n{BOB}\n"
    guest.write("etc/timezone", "Asia/Shanghai\n")
    guest.write(HELD, "")
    guest.starts(admin("2", "Europe/Berlin", BOB), "two")
    assert (guest.read("passwords"), guest.read("etc/timezone"), guest.read(HELD)) == (
        "ops:$6$two\n", "Asia/Shanghai\n", "",
    )  # fmt: skip


def test_what_was_wished_only_after_the_first_start_is_set_at_the_next(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.began()
    guest.starts(admin("1", "Asia/Shanghai", ALICE, BOB, name="new"), "one")
    assert (guest.read("passwords"), guest.read("etc/timezone")) == ("new:$6$one\n", "Asia/Shanghai\n")
    assert guest.read("home/new/.ssh/authorized_keys") == f"{ALICE}\n{BOB}\n"
    assert guest.read("etc/sudoers.d/90-nano") == "new ALL=(ALL) NOPASSWD:ALL\n"
