"""From the SecurityGroups that a card names to the rules that its host applies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.world import World
from nanovirt.resources.devices import Nic
from nanovirt.resources.fields import resolve
from nanovirt.resources.placement import PlacedNic, PlacedRule
from nanovirt.resources.reasons import Reason
from nanovirt.resources.security_group import Direction, SecurityGroup

DIRECTIONS: tuple[Direction, ...] = ("Inbound", "Outbound")


def check_groups(nic: Nic, namespace: str, world: World) -> None:
    """Raises Missing when one of the card's groups is not there."""
    for name, group in zip(nic.security_groups, _groups(nic, namespace, world), strict=True):
        if group is None:
            raise Missing(Reason.SecurityGroupNotFound, group=name)


def rules(nic: Nic, namespace: str, world: World) -> tuple[PlacedRule, ...]:
    """The rules of the first group, then those of the second, and so on; then, for each direction, what happens to
    all else: it is dropped if one of the groups says so. None for a card without groups.
    """
    groups = [group for group in _groups(nic, namespace, world) if group is not None]
    if not groups:
        return ()
    return (*(rule for group in groups for rule in _own(group)), *(_last(each, groups) for each in DIRECTIONS))


def guarded(placed: PlacedNic, nic: Nic, namespace: str, world: World) -> PlacedNic:
    """The card with the rules as its groups, which are there, now have them."""
    found = rules(nic, namespace, world)
    return placed if found == placed.rules else placed.model_copy(update={"rules": found})


def _groups(nic: Nic, namespace: str, world: World) -> Iterator[SecurityGroup | None]:
    for name in nic.security_groups:
        space, last = resolve(name, namespace)
        yield world.read(SecurityGroup, last, space)


def _own(group: SecurityGroup) -> Iterator[PlacedRule]:
    for one in group.spec.rules:
        yield PlacedRule(**{field: getattr(one, field) for field in PlacedRule.model_fields})


def _last(direction: Direction, groups: Sequence[SecurityGroup]) -> PlacedRule:
    said = {group.spec.inbound if direction == "Inbound" else group.spec.outbound for group in groups}
    return PlacedRule(direction=direction, action="Drop" if "Drop" in said else "Accept")
