"""A person, or a program that acts for one; how it proves who it is stands in no field of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import Field

from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Text, Title, shaped
from nanovirt.resources.kind import CLUSTER, Column, Nothing, Resource, Spec
from nanovirt.resources.metadata import LABEL_VALUE_MAX
from nanovirt.resources.reasons import Reason

RESERVED = ("admin",)
"""Names that others have already: `admin` is the administrator whom the kubeconfig of the data folder names."""

Email = Annotated[str, shaped(r"^$|^[^\s@<>\x00-\x1f\x7f]{1,64}@[^\s@<>\x00-\x1f\x7f]{1,190}$", "an e-mail address")]


class UserSpec(Spec):
    """What an administrator says about a user; `disabled` ends every right at once and keeps what the user owns."""

    display_name: Title = ""
    email: Email = ""
    description: Text = ""
    disabled: bool = False


class UserRow(NamedTuple):
    """What the door needs at each request."""

    disabled: bool


class User(
    Resource[UserSpec, Nothing],
    plural="users",
    scope=CLUSTER,
    row=UserRow,
    columns=(
        Column("Name for people", ".spec.displayName"),
        Column("Email", ".spec.email"),
        Column("Disabled", ".spec.disabled", "boolean"),
    ),
    selectable=("spec.disabled",),
    categories=(),
):
    """Its name is what the label `nano/owner` of its objects says, so it fits into one."""

    spec: UserSpec = Field(default_factory=UserSpec)
    status: Nothing = Field(default_factory=Nothing)

    def problems(self) -> Iterator[Cause]:
        """The name is short enough for a label, and not taken by the system."""
        name = self.metadata.name
        if name in RESERVED:
            yield Cause.of("metadata.name", Reason.NameReserved, name=name)
        if len(name) > LABEL_VALUE_MAX:
            said = f"the name of a user has at most {LABEL_VALUE_MAX} characters"
            yield Cause.of("metadata.name", said)
