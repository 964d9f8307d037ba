"""What a guest is told at its start: the files of a NoCloud seed, from a Placement and its secrets.

cloud-init reads them (cloudinit.readthedocs.io, NoCloud), and cloudbase-init does on Windows. Everything that may be
done again on a later start stands in a boothook, which cloud-init runs at every boot: a disk that came later is made
and mounted, a password, a time zone, an administrator and keys that were changed are set, and nothing of what a person
has put there since is undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from ipaddress import IPv4Network
from typing import Any

import yaml
from passlib.hash import sha512_crypt

from nanovirt.agent.disk_names import serial
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.placement import PlacedGuest, PlacedNic, PlacementSpec

FORM = 2
"""Raised when the same wish makes another seed than before."""
ROUNDS = 50_000
"""Of sha512-crypt, which every Linux understands."""
BOUNDARY = "==nano-seed=="
ANYWHERE = "0.0.0.0/0"
MULTIPART = ("mime-version:", "content-type:")

KEYS_END = "END OF KEYS"

DISKS = r"""
disk() { # SERIAL: the device of that disk
    for link in "/dev/disk/by-id/virtio-$1" "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_$1" \
        "/dev/disk/by-id/ata-QEMU_HARDDISK_$1"; do
        if [ -b "$link" ]; then readlink -f "$link"; return; fi
    done
    for block in /sys/block/*; do
        if [ "$(cat "$block/serial" 2>/dev/null)" = "$1" ]; then echo "/dev/${block##*/}"; return; fi
    done
}
blank() { # DEVICE: nothing that anybody knows stands on it, and its beginning is empty
    if command -v blkid >/dev/null; then
        blkid -p "$1" >/dev/null 2>&1
        [ $? -eq 2 ] || return 1
    fi
    [ "$(head -c 1048576 "$1" | tr -d '\000' | head -c 1 | wc -c)" -eq 0 ]
}
place() { # SERIAL FILESYSTEM PATH: made if it is blank, and mounted
    device=$(disk "$1")
    if [ -z "$device" ]; then echo "nano: disk $1 is missing"; return; fi
    if grep -q " $3 " /proc/mounts; then return; fi
    if blank "$device"; then
        "mkfs.$2" -q "$device" || return
        echo "nano: disk $1 formatted"
    fi
    mkdir -p "$3"
    if [ -w /etc/fstab ] && ! grep -q "[[:space:]]$3[[:space:]]" /etc/fstab; then
        uuid=$(blkid -o value -s UUID "$device" 2>/dev/null)
        [ -z "$uuid" ] || echo "UUID=$uuid $3 auto defaults,nofail 0 2" >>/etc/fstab
    fi
    mount "$device" "$3" && echo "nano: disk $1 mounted on $3"
}
command -v udevadm >/dev/null && udevadm settle --timeout=10
"""
LATER = r"""
later() { # SEEN MODULE: whether it is for this hook; at its first start cloud-init does it itself, and never again
    [ -e "$1" ] || [ -e "/var/lib/cloud/instance/sem/config_$2" ]
}
note() { # SEEN MARK
    mkdir -p /var/lib/cloud
    printf '%s\n' "$2" >"$1"
}
password() { # MARK USER:HASH: set once for each mark
    seen=/var/lib/cloud/nano-password
    if [ "$(cat "$seen" 2>/dev/null)" = "$1" ]; then return; fi
    if ! later "$seen" set_passwords || printf '%s\n' "$2" | chpasswd -e; then note "$seen" "$1"; fi
}
zone() { # NAME: set once for each
    seen=/var/lib/cloud/nano-zone
    if [ "$(cat "$seen" 2>/dev/null)" = "$1" ]; then return; fi
    if later "$seen" timezone && [ -e "/usr/share/zoneinfo/$1" ]; then
        ln -sf "/usr/share/zoneinfo/$1" /etc/localtime
        echo "$1" >/etc/timezone
    fi
    note "$seen" "$1"
}
account() { # USER: made if it came after the first start
    if later /nowhere users_groups && ! id "$1" >/dev/null 2>&1; then
        useradd -m -s /bin/bash "$1" || return
        if [ -d /etc/sudoers.d ]; then
            echo "$1 ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/90-nano
            chmod 440 /etc/sudoers.d/90-nano
        fi
    fi
}
keys() { # USER: those on the standard input come, those of a former start that are not among them go
    seen=/var/lib/cloud/nano-keys-$1
    mkdir -p /var/lib/cloud
    cat >"$seen.new"
    home=$(awk -F: -v user="$1" '$1 == user { print $6 }' /etc/passwd)
    if later "$seen" users_groups && [ -n "$home" ] && ! cmp -s "$seen" "$seen.new"; then
        held=$home/.ssh/authorized_keys
        [ -d "$home/.ssh" ] || { mkdir -m 700 "$home/.ssh" && chown "$1:" "$home/.ssh"; }
        cat "$seen" "$seen.new" 2>/dev/null >"$seen.all"
        { grep -vxF -f "$seen.all" "$held" 2>/dev/null; cat "$seen.new"; } >"$seen.held"
        cat "$seen.held" >"$held" && chmod 600 "$held" && chown "$1:" "$held"
        rm -f "$seen.all" "$seen.held"
    fi
    mv "$seen.new" "$seen"
}
"""


def digest(spec: PlacementSpec) -> str:
    """What the seed depends on: 32 letters and digits that stand on it, so that it is known again."""
    about = (
        FORM,
        spec.instance_uid,
        spec.hostname,
        spec.guest.model_dump_json(),
        tuple(nic.model_dump_json(exclude={"qos", "bridge", "vlan", "model", "rules"}) for nic in spec.nics),
        tuple((one.name, one.file_system.model_dump_json()) for one in spec.volumes if one.file_system),
    )
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32].upper()


def files(spec: PlacementSpec, secrets: GuestSecrets) -> dict[str, bytes]:
    """The files by name. Passwords are hashed here, which takes a tenth of a second; each time with another salt."""
    return {
        "meta-data": _yaml({"instance-id": spec.instance_uid, "local-hostname": spec.hostname}).encode(),
        "user-data": _user_data(spec, secrets),
        "network-config": _yaml(network(spec.nics)).encode(),
    }


def _yaml(doc: Any) -> str:
    text: str = yaml.safe_dump(doc, sort_keys=False, allow_unicode=True, width=10_000)
    return text


# --- network-config, version 2 ---------------------------------------------------------------------------------------


def network(nics: tuple[PlacedNic, ...]) -> dict[str, Any]:
    """Cards by their MAC; only the first with a gateway has the default route. VLANs are the host's affair."""
    way_out = next((nic.name for nic in nics if nic.lease and nic.lease.gateway), nics[0].name if nics else "")
    ethernets = {nic.name: _card(nic, out=nic.name == way_out) for nic in nics}
    return {"version": 2, "ethernets": ethernets}


def _static(nic: PlacedNic) -> bool:
    return nic.lease is not None and nic.ip is not None and nic.lease.provider == "CloudInit"


def _card(nic: PlacedNic, *, out: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"match": {"macaddress": nic.mac}}
    if nic.mtu is not None:
        made["mtu"] = nic.mtu
    if nic.lease is None or nic.ip is None or not _static(nic):
        return made | {"dhcp4": True} | ({} if out else {"dhcp4-overrides": {"use-routes": False}})
    lease = nic.lease
    made["addresses"] = [f"{nic.ip}/{IPv4Network(lease.subnet).prefixlen}"]
    if out and lease.gateway is not None:
        made["routes"] = [{"to": ANYWHERE, "via": str(lease.gateway)}]
    servers = {"addresses": [str(one) for one in lease.dns]} if lease.dns else {}
    search = {"search": [lease.domain]} if lease.domain else {}
    return made | ({"nameservers": servers | search} if servers or search else {})


# --- user-data -------------------------------------------------------------------------------------------------------


def _user_data(spec: PlacementSpec, secrets: GuestSecrets) -> bytes:
    """Several parts in one, as cloud-init takes them; what a person says comes last and wins key by key."""
    hashed = "" if secrets.password is None else _hashed(secrets.password.reveal())
    lines = ["MIME-Version: 1.0", f'Content-Type: multipart/mixed; boundary="{BOUNDARY}"', ""]
    parts = [("text/cloud-config", "#cloud-config\n" + _yaml(_config(spec, hashed)))]
    hook = _boothook(spec, hashed)
    if hook:
        parts.append(("text/cloud-boothook", hook))
    if secrets.user_data is not None:
        parts += _persons(secrets.user_data.reveal())
    for kind, text in parts:
        lines += [
            f"--{BOUNDARY}",
            f'Content-Type: {kind}; charset="utf-8"',
            "Content-Transfer-Encoding: 8bit",
            "",
            text,
        ]
    return "\n".join([*lines, f"--{BOUNDARY}--", ""]).encode()


def _persons(text: str) -> list[tuple[str, str]]:
    """What the person says; cloud-init tells by the first line what it is, unless it is in several parts itself."""
    if not text.lstrip().lower().startswith(MULTIPART):
        return [("text/plain", text)]
    parsed = Parser().parsestr(text.lstrip())
    return [(part.get_content_type(), _content(part)) for part in parsed.walk() if not part.is_multipart()]


def _content(part: Message) -> str:
    raw = part.get_payload(decode=True)
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


def _hashed(password: str) -> str:
    made: str = sha512_crypt.using(rounds=ROUNDS).hash(password)
    return made


def _config(spec: PlacementSpec, hashed: str) -> dict[str, Any]:
    guest = spec.guest
    domain = next((nic.lease.domain for nic in spec.nics if nic.lease and nic.lease.domain), "")
    made: dict[str, Any] = {"hostname": spec.hostname}
    if domain:
        made["fqdn"] = f"{spec.hostname}.{domain}"
    made |= {"preserve_hostname": False, "manage_etc_hosts": "localhost"}
    if guest.time_zone is not None:
        made["timezone"] = guest.time_zone
    made["updates"] = {"network": {"when": ["boot-new-instance", "boot"]}}  # cards come, go and move
    made |= {"growpart": {"mode": "auto", "devices": ["/"]}, "resize_rootfs": True}
    if guest.admin is not None:
        made |= {"disable_root": guest.admin != "root", "users": [_user(guest, hashed)]}
    if guest.admin is not None and hashed:
        user = {"name": guest.admin, "password": hashed, "type": "hash"}
        made["chpasswd"] = {"expire": False, "users": [user]}
    return made


def _user(guest: PlacedGuest, hashed: str) -> dict[str, Any]:
    user: dict[str, Any] = {"name": guest.admin, "lock_passwd": not hashed}
    if guest.admin != "root":
        user |= {"shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL"}
    return user | ({"ssh_authorized_keys": list(guest.ssh_keys)} if guest.ssh_keys else {})


def _boothook(spec: PlacementSpec, hashed: str) -> str:
    told = list(_told(spec.guest, hashed))
    words = [*([LATER] if told else []), *told, *_places(spec)]
    return "\n".join(["#cloud-boothook", "#!/bin/sh", *words, "exit 0", ""]) if words else ""


def _told(guest: PlacedGuest, hashed: str) -> Iterator[str]:
    """What cloud-init does once in the life of a guest. No name, zone or key holds a quote, or is the end of a list."""
    if guest.time_zone is not None:
        yield f"zone {guest.time_zone}"
    if guest.admin is None:
        return
    yield f"account {guest.admin}"
    yield "\n".join([f"keys {guest.admin} <<'{KEYS_END}'", *guest.ssh_keys, KEYS_END])
    if guest.password is not None and hashed:
        yield f"password {guest.password.mark} '{guest.admin}:{hashed}'"


def _places(spec: PlacementSpec) -> Iterator[str]:
    """Serials, file systems and paths hold nothing that a shell would take for more than letters."""
    found = [one for one in spec.volumes if one.file_system is not None]
    if found:
        yield DISKS
    for one in found:
        assert one.file_system is not None
        yield f"place {serial(one.name)} {one.file_system.file_system.lower()} {one.file_system.mount_path}"
