"""What a guest is to be told at its start, and which Secrets stand behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from nanovirt.controllers.world import World
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacedGuest, PlacedSecret
from nanovirt.resources.secret import Secret


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
        password=_told(instance, admin.password_secret, "password", world) if admin is not None else None,
        user_data=_told(instance, guest.user_data_secret, "userData", world),
    )


def _told(instance: Instance, name: str | None, key: str, world: World) -> PlacedSecret | None:
    """Of a value one can only see that it was written anew."""
    if name is None:
        return None
    secret = world.read(Secret, name, instance.metadata.namespace)
    held = secret.spec.data.get(key) if secret is not None else None
    said = (instance.metadata.uid, name, key, held.reveal() if held is not None else "")
    return PlacedSecret(name=name, mark=hashlib.sha256(repr(said).encode()).hexdigest()[:16])
