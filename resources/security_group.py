"""Firewall rules that network cards share: ordered, first match wins, what answers an allowed packet is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.duplicates import twice
from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import ShortName, Subnet, Text, Title, shaped
from nanovirt.resources.kind import NAMESPACED, Column, Nothing, Resource, Spec
from nanovirt.resources.metadata import Model

Action = Literal["Accept", "Drop"]
Direction = Literal["Inbound", "Outbound"]
Protocol = Literal["Any", "TCP", "UDP", "ICMP"]
Ports = Annotated[str, shaped(r"^[0-9]{1,5}(-[0-9]{1,5})?$", 'a port such as "80", or a range such as "8000-8099"')]
WITH_PORTS = ("TCP", "UDP")
RULES_MAX, PORTS_MAX, REMOTES_MAX, ENTRIES_MAX = 64, 16, 64, 512
"""In a group, in a rule, in a rule, and ports and remotes of a group together: a card carries those of 8 groups."""


class SecurityRule(Model):
    """What happens to a packet that matches; without `ports` every port, without `remotes` every address does.

    `remotes` are the other side: senders of what comes in, receivers of what goes out.
    """

    name: ShortName
    direction: Direction
    action: Action = "Accept"
    protocol: Protocol = "Any"
    ports: Annotated[tuple[Ports, ...], Field(max_length=PORTS_MAX)] = ()
    remotes: Annotated[tuple[Subnet, ...], Field(max_length=REMOTES_MAX)] = ()


class SecurityGroupSpec(Spec):
    """`inbound` and `outbound` say what happens to a packet that no rule matches."""

    display_name: Title = ""
    description: Text = ""
    inbound: Action = "Drop"
    outbound: Action = "Accept"
    rules: Annotated[tuple[SecurityRule, ...], Field(max_length=RULES_MAX)] = ()


class SecurityGroup(
    Resource[SecurityGroupSpec, Nothing],
    plural="securitygroups",
    short="sg",
    scope=NAMESPACED,
    columns=(
        Column("Inbound", ".spec.inbound"),
        Column("Outbound", ".spec.outbound"),
        Column("Rules", ".spec.rules[*].name"),
    ),
):
    """Named by cards of its own namespace, and of all when it stands in `shared`; an edit reaches all of them."""

    spec: SecurityGroupSpec = Field(default_factory=SecurityGroupSpec)
    status: Nothing = Field(default_factory=Nothing)

    def problems(self) -> Iterator[Cause]:
        """Names that stand twice, ports where there are none, and more entries than a card should carry."""
        rules = self.spec.rules
        yield from twice("spec.rules", [one.name for one in rules])
        for index, one in enumerate(rules):
            yield from _rule_problems(f"spec.rules[{index}]", one)
        entries = sum(len(one.ports) + len(one.remotes) for one in rules)
        if entries > ENTRIES_MAX:
            say = f"{entries} ports and remotes together; at most {ENTRIES_MAX} in a group"
            yield Cause.of("spec.rules", say)


def _rule_problems(field: str, rule: SecurityRule) -> Iterator[Cause]:
    if rule.ports and rule.protocol not in WITH_PORTS:
        say = f"{rule.protocol} has no ports; leave them out, or write protocol TCP or UDP"
        yield Cause.of(f"{field}.ports", say)
    for index, written in enumerate(rule.ports):
        first, last = span(written)
        if not 1 <= first <= last <= 65535:
            say = f"{written}: ports go from 1 to 65535, the lower one first"
            yield Cause.of(f"{field}.ports[{index}]", say)


def span(ports: str) -> tuple[int, int]:
    """The first and the last port of `80` or `8000-8099`."""
    first, _, last = ports.partition("-")
    return int(first), int(last or first)
