"""A number of instances that are alike: made from one template, named by one rule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import Field

from nanovirt.resources import fields
from nanovirt.resources.codec import dump
from nanovirt.resources.conditions import Condition
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Text, Title
from nanovirt.resources.instance import Instance, InstanceSpec, spec_problems
from nanovirt.resources.kind import NAMESPACED, Column, Refers, Resource, Scaling, Spec, Status
from nanovirt.resources.metadata import Annotations, Labels, Model
from nanovirt.resources.reasons import Reason

SET_LABEL, TEMPLATE_LABEL = "nano/instance-set", "nano/template"
"""Labels of a member: the name of its set, and which template it was made from."""
NAME, INDEX = "{name}", "{index}"
REPLICAS_MAX, INDEX_MAX = 1000, 9999
FAILED_MAX = 10
MEMBERS_BYTES = 16 << 20
"""What all members may have together as their template says them: a small manifest must not fill the store."""


class TemplateMeta(Model):
    """Labels and annotations of every member; labels under `nano/` are the server's and are left out."""

    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)


class InstanceTemplate(Model):
    """What a new member is made from."""

    metadata: TemplateMeta = Field(default_factory=TemplateMeta)
    spec: InstanceSpec = Field(default_factory=InstanceSpec)

    @property
    def mark(self) -> str:
        """The same for templates that say the same; what has its default value does not count."""
        said = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        return hashlib.blake2s(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()


class InstanceSetSpec(Spec):
    """The wish. In `nameRule` {name} stands for the set's name and {index} for 1, 2, 3 ..."""

    display_name: Title = ""
    description: Text = ""
    replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = 1
    name_rule: Annotated[str, Field(max_length=80)] = f"{NAME}-{INDEX}"
    template: InstanceTemplate = Field(default_factory=InstanceTemplate)


class FailedMember(Model):
    """A member that does not get ready by itself, and why."""

    name: str
    reason: str
    message: str = ""


class InstanceSetStatus(Status):
    """`replicas` counts every member that is there, also one that is going away; `failed` names the first ten."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    outdated_replicas: int = 0
    selector: str = ""
    failed: tuple[FailedMember, ...] = ()
    conditions: tuple[Condition, ...] = ()


class InstanceSetRow(NamedTuple):
    """By which names other instances matter to it."""

    name_rule: str


class InstanceSet(
    Resource[InstanceSetSpec, InstanceSetStatus],
    plural="instancesets",
    short="iset",
    scope=NAMESPACED,
    row=InstanceSetRow,
    columns=(
        Column("Desired", ".spec.replicas", "integer"),
        Column("Current", ".status.replicas", "integer"),
        Column("Ready", ".status.readyReplicas", "integer"),
        Column("Outdated", ".status.outdatedReplicas", "integer", 1),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", 1),
        Column("Selector", ".status.selector", "string", 1),
    ),
    refers=tuple(Refers(f"spec.template.{one.path}", one.plural) for one in Instance.facts.refers),
    immutable=("spec.nameRule",),
    categories=("nano", "all"),
    scaling=Scaling(),
):
    """Owns its Instances: makes and deletes them, and never rewrites one."""

    spec: InstanceSetSpec = Field(default_factory=InstanceSetSpec)
    status: InstanceSetStatus = Field(default_factory=InstanceSetStatus)

    @property
    def naming(self) -> Naming:
        """The names of its members."""
        return naming(self.spec.name_rule, self.metadata.name)

    @property
    def selector(self) -> str:
        """The label selector of its members."""
        return f"{SET_LABEL}={self.metadata.name}"

    def problems(self) -> Iterator[Cause]:
        """A rule that names nothing, what only one machine can have, and whatever an Instance must not be."""
        yield from _rule_problems(self.spec.name_rule, self.metadata.name)
        at, spec = "spec.template.spec", self.spec.template.spec
        yield from spec_problems(spec, at)
        for index, nic in enumerate(spec.nics or ()):
            for field, value in (("ip", nic.ip), ("mac", nic.mac)):
                if value is not None:
                    yield Cause.of(f"{at}.nics[{index}].{field}", Reason.NotInTemplate, what=field)
        if (size := len(dump(self.spec.template.to_json())) * self.spec.replicas) > MEMBERS_BYTES:
            yield Cause.of("spec.replicas", Reason.MembersTooLarge, size=size, limit=MEMBERS_BYTES)


class Naming(NamedTuple):
    """What stands before and after the index in the names of members."""

    prefix: str
    suffix: str

    def name(self, index: int) -> str:
        """The name of a member."""
        return f"{self.prefix}{index}{self.suffix}"

    def index_of(self, name: str) -> int:
        """Which member has that name; 0 if it is none of the rule's names."""
        if not (name.startswith(self.prefix) and name.endswith(self.suffix)):
            return 0
        number = name[len(self.prefix) : len(name) - len(self.suffix)]
        plain = number.isascii() and number.isdigit() and number[0] != "0" and len(number) <= len(str(INDEX_MAX))
        return int(number) if plain else 0


def readings(name: str) -> Iterator[Naming]:
    """Every rule that gives some member this name."""
    longest = len(str(INDEX_MAX))
    for start, end in ((at, at + digits) for at in range(len(name)) for digits in range(1, longest + 1)):
        rule = Naming(name[:start], name[end:])
        if end <= len(name) and rule.index_of(name):
            yield rule


def naming(rule: str, name: str) -> Naming:
    """What the rule of the set with that name means."""
    prefix, _, suffix = rule.replace(NAME, name).partition(INDEX)
    return Naming(prefix, suffix)


def _rule_problems(rule: str, name: str) -> Iterator[Cause]:
    if rule.count(INDEX) != 1:
        say = f"{rule!r} needs {INDEX} once, for example {NAME}-{INDEX}"
        yield Cause.of("spec.nameRule", say)
        return
    try:
        fields.label(naming(rule, name).name(INDEX_MAX))
    except ValueError as error:
        yield Cause.of("spec.nameRule", str(error))
