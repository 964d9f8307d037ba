"""The kinds that the server has, as it tells them itself, and which of them a person means by a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from nanovirt.portal.cli import Misused
from nanovirt.portal.cli.connection import Connection
from nanovirt.resources import wire
from nanovirt.resources.errors import Malformed

ROOTS = {"nano/v1": "/apis/nano/v1", "v1": "/api/v1"}
BEFORE = (
    "Namespace", "User", "Role", "Group", "StoragePool", "AddressPool", "ComputePool", "SystemTemplate", "Host",
    "Secret", "SecurityGroup", "Image",
)  # fmt: skip
"""Kinds that others refer to, in the order in which a set of manifests is sent; all else follows."""


class Kind(NamedTuple):
    """One kind as discovery describes it."""

    kind: str
    plural: str
    singular: str
    short: tuple[str, ...]
    namespaced: bool
    group_version: str
    categories: tuple[str, ...]
    verbs: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What people call it."""
        return (self.plural, self.singular, *self.short)

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of an object, or of all when the name is ""."""
        return wire.path(self.group_version, self.plural, namespace if self.namespaced else "", name, subresource)


class Target(NamedTuple):
    """One object, or all objects of a kind when the name is ""."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        """`instance/web-1`."""
        return f"{self.kind.singular}/{self.name}" if self.name else self.kind.plural


class Catalogue:
    """The kinds of one server."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)

    @classmethod
    def read(cls, connection: Connection) -> Catalogue:
        """Ask the server."""
        return cls(
            _kind(group, found)
            for group, path in ROOTS.items()
            for found in connection.get(path).get("resources") or ()
            if "/" not in found["name"]
        )

    def named(self, word: str) -> Kind:
        """The kind that a word means, in any case. Raises Malformed with the words that are known."""
        plain = word.lower().partition(".")[0]
        for kind in self.kinds:
            if plain in kind.words:
                return kind
        known = ", ".join(sorted(one.plural for one in self.kinds))
        raise Malformed(f"there is no kind {word!r}; known are {known}; one object is KIND/NAME, as in instance/web-1")

    def all_named(self, words: str) -> list[Kind]:
        """The kinds in a list like `instances,images`, or those of a category such as `all`."""
        return list(dict.fromkeys(kind for word in words.split(",") for kind in self._one_or_category(word)))

    def _one_or_category(self, word: str) -> list[Kind]:
        return [kind for kind in self.kinds if word in kind.categories] or [self.named(word)]

    def of(self, api_version: str, kind: str) -> Kind | None:
        """The kind that a manifest names."""
        return next((one for one in self.kinds if (one.group_version, one.kind) == (api_version, kind)), None)

    def targets(self, arguments: Iterable[str]) -> list[Target]:
        """What `KIND`, `KIND NAME...`, `KIND,KIND` or `KIND/NAME...` name. Raises Misused for a mixture."""
        given = [one for one in arguments if one]
        if not given:
            raise Misused(f"say what: a kind ({', '.join(sorted(one.plural for one in self.kinds))}) or KIND/NAME")
        with_slash = ["/" in one for one in given]
        if all(with_slash):
            return [self._with_slash(one) for one in given]
        if any(with_slash):
            space, _, name = given[-1].partition("/")
            if not with_slash[0] and name and not any(space.lower() in one.words for one in self.kinds):
                raise Misused(f"{given[-1]!r} is no name; for one in namespace {space}: {given[0]}/{name} -n {space}")
            raise Misused("write either KIND NAME... or KIND/NAME..., not both")
        kinds = self.all_named(given[0])
        return [Target(kind, name) for kind in kinds for name in given[1:] or ("",)]

    def _with_slash(self, text: str) -> Target:
        word, _, name = text.partition("/")
        if not name or "/" in name:
            raise Misused(f"{text!r} is not KIND/NAME")
        return Target(self.named(word), name)


def rank(kind: str) -> int:
    """Where a kind stands in the order of sending; deletion goes the other way round."""
    return BEFORE.index(kind) if kind in BEFORE else len(BEFORE)


def _kind(group_version: str, found: dict[str, Any]) -> Kind:
    return Kind(
        kind=found["kind"],
        plural=found["name"],
        singular=found.get("singularName") or found["kind"].lower(),
        short=tuple(found.get("shortNames") or ()),
        namespaced=bool(found.get("namespaced")),
        group_version=group_version,
        categories=tuple(found.get("categories") or ()),
        verbs=tuple(found.get("verbs") or ()),
    )


def words_known_here() -> Iterator[str]:
    """What completion offers without asking a server."""
    yield from (
        "instances", "instancesets", "images", "hosts", "computepools", "storagepools", "addresspools", "addresses",
        "volumes", "placements", "systemtemplates", "namespaces", "events", "secrets", "securitygroups",
        "users", "groups", "roles",
    )  # fmt: skip
