"""A role: which verbs on which kinds; a Group says whose role it is and in which namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import ShortName, Text, Title, shaped
from nanovirt.resources.kind import CLUSTER, KINDS, Column, Nothing, Resource, Scope, Spec
from nanovirt.resources.metadata import Model
from nanovirt.resources.reasons import Reason

READING = ("get", "list", "watch")
IDENTITY = ("users", "groups", "roles")
"""Kinds that say who may do what: administrators alone write them, so nobody can grant what he lacks."""
ADMINISTRATIVE = ("owner", "token", "status", "report")
"""Sub-resources that no role opens for writing: each has one writer, and that is not a user."""

Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
KindName = Annotated[str, shaped(r"^[a-z]{1,40}(/[a-z]{1,40})?$", "a plural such as instances, or instances/console")]


class Rule(Model):
    """Every one of `verbs` on every one of `kinds` (plurals, or PLURAL/SUBRESOURCE); there are no wildcards."""

    kinds: Annotated[tuple[KindName, ...], Field(min_length=1, max_length=64)]
    verbs: Annotated[tuple[Verb, ...], Field(min_length=1, max_length=8)]


class RoleSpec(Spec):
    """Rules add up. `menus` are what the portal shows; they grant nothing."""

    display_name: Title = ""
    description: Text = ""
    rules: Annotated[tuple[Rule, ...], Field(max_length=64)] = ()
    menus: Annotated[tuple[ShortName, ...], Field(max_length=64)] = ()


class Role(
    Resource[RoleSpec, Nothing],
    plural="roles",
    scope=CLUSTER,
    columns=(Column("Name for people", ".spec.displayName"), Column("Kinds", ".spec.rules[*].kinds[*]", "string", 1)),
    categories=(),
):
    """`operator` and `viewer` are shipped, and follow the release unless edited; the administrator is no Role."""

    spec: RoleSpec = Field(default_factory=RoleSpec)
    status: Nothing = Field(default_factory=Nothing)

    def problems(self) -> Iterator[Cause]:
        """Nothing that no role can grant."""
        for at, rule in enumerate(self.spec.rules):
            for kind in rule.kinds:
                refused = [verb for verb in rule.verbs if not grantable(verb, *_parts(kind))]
                if refused:
                    said = ", ".join(refused)
                    yield Cause.of(f"spec.rules[{at}].verbs", Reason.NotGrantable, verbs=said, kind=kind)

    def grants(self) -> Iterator[tuple[str, str, str]]:
        """Each (verb, plural, sub-resource) that the role grants."""
        for rule in self.spec.rules:
            for kind in rule.kinds:
                for verb in rule.verbs:
                    if grantable(verb, *_parts(kind)):
                        yield (verb, *_parts(kind))


def grantable(verb: str, plural: str, subresource: str = "") -> bool:
    """Whether a role can grant that at all.

    Cluster-scoped kinds can be read only, what the system writes too, but for the deletion of kept Volumes; a kind that
    does not exist (yet) grants nothing.
    """
    if verb in READING:
        return subresource not in ("token", "owner")
    cls = KINDS.get(plural)
    if plural in IDENTITY or subresource in ADMINISTRATIVE:
        return False
    if cls is None:
        return True
    if cls.facts.system:
        return bool(cls.facts.removable) and (verb, subresource) == ("delete", "")
    return cls.facts.scope is Scope.NAMESPACED


def _parts(kind: str) -> tuple[str, str]:
    plural, _, subresource = kind.partition("/")
    return plural, subresource
