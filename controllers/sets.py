"""The controller that makes and deletes the instances of a set, and says in its status how they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from nanovirt.controllers.actions import Action, LookAgain, Transact, owner_of, set_status
from nanovirt.controllers.indexes import Member
from nanovirt.controllers.news import turned
from nanovirt.controllers.world import World
from nanovirt.resources.codec import dump
from nanovirt.resources.conditions import Condition, condition, find, settle
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import (
    FAILED_MAX,
    INDEX_MAX,
    SET_LABEL,
    TEMPLATE_LABEL,
    FailedMember,
    InstanceSet,
    InstanceSetStatus,
)
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import RESERVED_PREFIX, ObjectMeta, OwnerReference
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Delete, Entry, Op

NAME = "sets"
READS = ("instancesets", "instances", "events")
WRITES = ("instancesets/status", "instances/create", "instances/delete", "events")

STEP, STEP_BYTES = 50, 2**20
"""So many members, and bytes of them, are made or deleted at once; then others get their turn."""
PASSING = ("", "Provisioning", "Starting", "Stopping", "Deleting")
"""Reasons for not being ready that end by themselves."""
SAID, NAMES_MAX = 300, 10
"""Characters of a member's reason, and names in a list."""

Members = Mapping[Key, Member]


def plan(one: InstanceSet | None, world: World, now: datetime) -> Iterator[Action]:
    """Make or delete some members, and say how all are; nothing for a set that goes, since the members go with it."""
    if one is None or one.deleting:
        return
    members = world.members.of(one.metadata.uid)
    going, coming = excess(one, members), lacking(one, members, world, STEP + 1)
    ops: list[Op] = [Delete(key) for key in going[:STEP]]
    ops += _made(one, coming)
    more = len(going) + len(coming) > len(ops)
    mark = one.spec.template.mark
    for op in ops:
        had = members.get(op.key)
        members[op.key] = had._replace(leaving=True) if had else Member(template=mark)
    status = _status(one, mark, members, world)
    after = status.model_copy(update={"conditions": settle(now, one.status.conditions, status.conditions)})
    if after != one.status:
        ops.append(set_status(one, after))
        ops += turned(one, NAME, one.status.conditions, after.conditions, world, now)
    if ops:
        yield Transact(tuple(ops))
    if more:
        yield LookAgain(0.0)


def excess(one: InstanceSet, members: Members) -> list[Key]:
    """The members to delete: those that are not ready or have no place before healthy ones, the highest index first.

    None whose deletionProtection is on.
    """
    live = [key for key, member in members.items() if not member.leaving]
    surplus = len(live) - one.spec.replicas
    if surplus <= 0:
        return []
    names = one.naming

    def worth(key: Key) -> tuple[bool, bool, int]:
        return members[key].ready, members[key].placed, -names.index_of(key.name)

    return sorted((key for key in live if not members[key].protected), key=worth)[:surplus]


def lacking(one: InstanceSet, members: Members, world: World, most: int) -> list[Key]:
    """The first members to make: those with the lowest indexes that nobody has; names that are given up are awaited."""
    found: list[Key] = []
    left = one.spec.replicas - sum(not member.leaving for member in members.values())
    names, space = one.naming, one.metadata.namespace
    for index in range(1, INDEX_MAX + 1):
        if left <= 0 or len(found) == most:
            break
        key = Key("instances", space, names.name(index))
        member = members.get(key)
        there = world.peek(key)
        if there is None:
            found.append(key)
        left -= there is None or (member.leaving if member is not None else _going(one, there))
    return found


def _going(one: InstanceSet, other: Entry) -> bool:
    """Whether an instance that is no member goes away: a member of the set that had this name before goes with that."""
    return other.deleting or (other.labels.get(SET_LABEL) == one.metadata.name and bool(other.owners))


def _made(one: InstanceSet, keys: list[Key]) -> Iterator[Op]:
    """The first of the members to make: as many as there is time and room for at once."""
    if not keys:
        return
    doc = member_of(one, "").to_json()
    most = max(1, min(STEP, STEP_BYTES // len(dump(doc))))
    for key in keys[:most]:
        yield Create(key, {**doc, "metadata": {**doc["metadata"], "name": key.name}})


def member_of(one: InstanceSet, name: str) -> Instance:
    """A new member."""
    metadata, template = one.metadata, one.spec.template
    said = {name: text for name, text in template.metadata.labels.items() if not name.startswith(RESERVED_PREFIX)}
    ours = {SET_LABEL: metadata.name, TEMPLATE_LABEL: template.mark, **owner_of(one)}
    owner = OwnerReference(
        api_version=one.facts.group_version,
        kind=one.facts.kind,
        name=metadata.name,
        uid=metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    return Instance(
        metadata=ObjectMeta(
            name=name,
            namespace=metadata.namespace,
            labels=said | ours,
            annotations=template.metadata.annotations,
            owner_references=(owner,),
        ),
        spec=template.spec,
    )


# --- status ---------------------------------------------------------------------------------------------


def _status(one: InstanceSet, mark: str, members: Members, world: World) -> InstanceSetStatus:
    live = {key: member for key, member in members.items() if not member.leaving}
    older = sum(member.template != mark for member in live.values())
    return InstanceSetStatus(
        observed_generation=one.metadata.generation,
        replicas=len(members),
        ready_replicas=sum(member.ready for member in live.values()),
        outdated_replicas=older,
        selector=one.selector,
        failed=tuple(_failed(one, live, world)),
        conditions=(_ready(one, members, live), _current(one, older), _names(one, members, world)),
    )


def _failed(one: InstanceSet, live: Members, world: World) -> Iterator[FailedMember]:
    names = one.naming
    bad = (key for key, member in live.items() if not member.ready and member.reason not in PASSING)
    for key in sorted(bad, key=lambda key: names.index_of(key.name))[:FAILED_MAX]:
        found = world.read(Instance, key.name, key.namespace)
        ready = find(found.status.conditions, "Ready") if found is not None else None
        said = ready.message[:SAID] if ready is not None else ""
        yield FailedMember(name=key.name, reason=live[key].reason, message=said)


def _ready(one: InstanceSet, members: Members, live: Members) -> Condition:
    generation, replicas = one.metadata.generation, one.spec.replicas
    surplus = len(live) - replicas
    kept = surplus - sum(not member.protected for member in live.values())
    ready = sum(member.ready for member in live.values())
    if surplus < 0:
        return condition("Ready", "False", Reason.MembersMissing, generation, present=len(live), replicas=replicas)
    if kept > 0:
        return condition("Ready", "False", Reason.MembersProtected, generation, count=kept)
    if len(members) > replicas:
        return condition("Ready", "False", Reason.MembersLeaving, generation, count=len(members) - replicas)
    if ready < replicas:
        return condition("Ready", "False", Reason.MembersNotReady, generation, ready=ready, replicas=replicas)
    return condition("Ready", "True", Reason.MembersReady, generation, replicas=replicas)


def _current(one: InstanceSet, older: int) -> Condition:
    generation = one.metadata.generation
    if older:
        return condition("TemplateCurrent", "False", Reason.TemplateOlder, generation, count=older)
    return condition("TemplateCurrent", "True", Reason.TemplateCurrent, generation)


def _names(one: InstanceSet, members: Members, world: World) -> Condition:
    """Whether an instance that is no member has a name that a member would have had."""
    names, space, generation = one.naming, one.metadata.namespace, one.metadata.generation
    top = max((names.index_of(key.name) for key in members), default=0)
    before = (Key("instances", space, names.name(index)) for index in range(1, top))
    between = (key for key in before if key not in members)
    taken = [key.name for key in between if (other := world.peek(key)) is not None and not _going(one, other)]
    if not taken:
        return condition("NamesFree", "True", Reason.NamesFree, generation)
    more = f" and {len(taken) - NAMES_MAX} more" if len(taken) > NAMES_MAX else ""
    said = ", ".join(taken[:NAMES_MAX]) + more
    return condition("NamesFree", "False", Reason.NamesTaken, generation, names=said)
