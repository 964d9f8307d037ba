"""What releases have given this store of what Nano ships as objects. No route serves this kind."""

from __future__ import annotations

from pydantic import Field

from nanovirt.resources.kind import CLUSTER, Key, Nothing, Resource, Spec
from nanovirt.resources.metadata import Model

SHIPPED = Key("shipped", "", "defaults")
"""There is one."""


class Delivery(Model):
    """Digests of specs: `left` is what a release last left there, "" if none has; `withheld` what it kept back."""

    left: str = ""
    withheld: str = ""


class ShippedSpec(Spec):
    """By key (`roles/operator`) what this store has been given at some time, whatever became of it since.

    `edition`: of the release that wrote this, the highest that has served the store.
    """

    edition: int
    objects: dict[str, Delivery] = Field(default_factory=dict)


class Shipped(Resource[ShippedSpec, Nothing], plural="shipped", scope=CLUSTER, categories=(), internal=True):
    """Named `defaults`; it is written in the transaction that makes or renews the objects."""

    spec: ShippedSpec
    status: Nothing = Nothing()
