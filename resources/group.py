"""A group: its members have its roles in its namespaces, and see of each other's objects what `visibility` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Name, ShortName, Text, Title, shaped
from nanovirt.resources.kind import CLUSTER, LATER, Column, Nothing, Refers, Resource, Spec

Plural = Annotated[str, shaped(r"^[a-z]{1,40}$", "a plural such as instances")]
Visibility = Literal["Owner", "Group"]


class GroupSpec(Spec):
    """`visibility` by plural: whether an object is for its owner (the default) or for every member of the group."""

    display_name: Title = ""
    description: Text = ""
    members: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    roles: Annotated[tuple[Name, ...], Field(max_length=20)] = ()
    namespaces: Annotated[tuple[ShortName, ...], Field(max_length=100)] = ()
    visibility: Annotated[dict[Plural, Visibility], Field(max_length=64)] = Field(default_factory=dict)
    quota: Annotated[dict[str, Any] | None, LATER] = None


class Group(
    Resource[GroupSpec, Nothing],
    plural="groups",
    scope=CLUSTER,
    columns=(
        Column("Members", ".spec.members[*]"),
        Column("Roles", ".spec.roles[*]"),
        Column("Namespaces", ".spec.namespaces[*]"),
    ),
    refers=(
        Refers("spec.members[]", "users"),
        Refers("spec.roles[]", "roles"),
        Refers("spec.namespaces[]", "namespaces"),
    ),
    categories=(),
):
    """Each group stands by itself: what it lets its members do, they can do to what it lets them see."""

    spec: GroupSpec = Field(default_factory=GroupSpec)
    status: Nothing = Field(default_factory=Nothing)

    def problems(self) -> Iterator[Cause]:
        """No name twice in a list."""
        for field in ("members", "roles", "namespaces"):
            yield from twice(f"spec.{field}", getattr(self.spec, field), key="")
