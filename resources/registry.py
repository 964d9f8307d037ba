"""All kinds of Nano, and how to find one by any of its names."""

from __future__ import annotations

from nanovirt.resources import (
    address,
    address_pool,
    applied,
    compute_pool,
    credential,
    event,
    group,
    hold,
    host,
    image,
    instance,
    instance_set,
    namespace,
    placement,
    role,
    secret,
    security_group,
    shipped,
    storage_pool,
    system_template,
    user,
    volume,
)
from nanovirt.resources.kind import KINDS, Document

MODULES = (
    namespace, event, host, compute_pool, storage_pool, address_pool, address, system_template, image, volume,
    instance, instance_set, placement, secret, security_group, user, group, role, credential, applied, hold, shipped,
)  # fmt: skip
"""Imported so that every kind is registered; the order is the order of discovery and of export."""

SHARED = "shared"
DEFAULT = "default"


SERVED = {plural: one for plural, one in KINDS.items() if not one.facts.internal}
BY_KIND = {one.facts.kind: one for one in SERVED.values()}


def kinds() -> dict[str, type[Document]]:
    """Every kind that the API serves, by its plural; the store knows a few more."""
    return SERVED


def by_kind(kind: str) -> type[Document] | None:
    """The kind with that CamelCase name, or None."""
    return BY_KIND.get(kind)


def by_any_name(word: str) -> type[Document] | None:
    """The kind that a person means by `word`: plural, singular, short name, in any case."""
    word = word.lower()
    for one in SERVED.values():
        if word in (one.facts.plural, one.facts.singular, *one.facts.short):
            return one
    return None
