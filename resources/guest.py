"""What a guest is told about itself at its start, and what its agent tells."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.fields import Name, shaped
from nanovirt.resources.kind import Status
from nanovirt.resources.metadata import Model
from nanovirt.resources.secret import SecretText

FROZEN_SECONDS = 30
"""How long a guest is frozen unless somebody says how long."""
FROZEN_MAX = 60
"""Seconds for which a guest may be frozen: what it wants to write waits meanwhile."""

Hostname = Annotated[
    str,
    shaped(
        r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
        "a host name such as web-1: letters, digits and '-', at most 63",
    ),
]
TimeZone = Annotated[
    str,
    shaped(r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}$", "a time zone such as Asia/Shanghai"),
    Field(max_length=64),
]
ADMIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
AdminName = Annotated[str, shaped(rf"^{ADMIN_NAME.pattern}$", "a user of the guest such as root or ops")]
SshKey = Annotated[
    str,
    shaped(
        r"^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+)"
        r" [A-Za-z0-9+/]+={0,3}( [^\x00-\x1f\x7f]*)?$",
        "a public key line such as 'ssh-ed25519 AAAA... alice'",
    ),
    Field(max_length=8192),
]


class Admin(Model):
    """Who administers the guest; the password stands in a Secret (key `password`)."""

    name: AdminName = "root"
    """The user, such as root or ops; others than root may use `sudo`."""
    password_secret: Name | None = None
    """A Secret of the namespace, whose key `password` is the password."""
    ssh_keys: Annotated[tuple[SshKey, ...], Field(max_length=64)] = ()
    """Public keys to log in with, each a line such as `ssh-ed25519 AAAA... alice`."""


class Guest(Model):
    """What the guest is told about itself; `userDataSecret` names a Secret with the key `userData`."""

    hostname: Hostname | None = None
    """What it is called; without, as the instance."""
    time_zone: TimeZone | None = None
    """Such as Asia/Shanghai."""
    admin: Admin | None = None
    """Who logs in, and with what."""
    user_data_secret: Name | None = None
    """A Secret of the namespace, whose key `userData` cloud-init carries out."""


class GuestSecrets(Status):
    """What of a seed is secret, as the agent of the instance's host is told it and nobody else."""

    password: SecretText | None = None
    user_data: SecretText | None = None


class GuestAddress(Model):
    """An address of a card, as the guest says."""

    mac: str
    ip: str


class GuestReport(Model):
    """What the guest agent told last (hostile input, bounded where it is read): what changes with an event only."""

    agent: Literal["Connected", "Disconnected"] = "Disconnected"
    os: str = ""
    kernel: str = ""
    hostname: str = ""
    time_zone: str = ""
    addresses: tuple[GuestAddress, ...] = ()


class GuestFileSystem(Model):
    """A file system as the guest has it mounted; bytes."""

    mounted: str
    type: str = ""
    total: int = 0
    used: int = 0


class GuestDetails(Status):
    """All that its agent tells, as the host knows it; never stored."""

    report: GuestReport
    file_systems: tuple[GuestFileSystem, ...] = ()
    users: int = 0
    frozen: bool = False
    """Whether its file systems stand still; its agent tells nothing else meanwhile."""
