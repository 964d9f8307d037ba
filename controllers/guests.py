"""What a guest is to be told at its start, and which Secrets stand behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from nanovirt.controllers.world import World
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacedGuest
from nanovirt.resources.secret import Secret

TOLD = ("password", "userData")
"""The keys of a Secret that a guest is told."""


def secrets_of(instance: Instance) -> Iterator[str]:
    """The Secrets that the guest's seed is made with."""
    guest = instance.spec.guest
    if guest.admin is not None and guest.admin.password_secret is not None:
        yield guest.admin.password_secret
    if guest.user_data_secret is not None:
        yield guest.user_data_secret


def missing_secret(instance: Instance, world: World) -> str | None:
    """One that is not there."""
    space = instance.metadata.namespace
    return next((name for name in secrets_of(instance) if not world.there(Key("secrets", space, name))), None)


def guest_of(instance: Instance, world: World) -> PlacedGuest:
    """What the Placement carries: of Secrets only by what a change of them is known."""
    guest = instance.spec.guest
    admin = guest.admin
    return PlacedGuest(
        hostname=guest.hostname,
        time_zone=guest.time_zone,
        admin=admin.name if admin is not None else None,
        ssh_keys=admin.ssh_keys if admin is not None else (),
        secrets=_mark(instance, world),
    )


def _mark(instance: Instance, world: World) -> str:
    """Of values one can only see that they were written anew; "" when there are none."""
    found = [(name, world.read(Secret, name, instance.metadata.namespace)) for name in secrets_of(instance)]
    if not found:
        return ""
    said = [
        (name, [(key, one.reveal()) for key, one in sorted(made.spec.data.items()) if key in TOLD])
        for name, made in found
        if made
    ]
    return hashlib.sha256(repr((instance.metadata.uid, said)).encode()).hexdigest()[:16]
