"""For `why`: through which group and role a user may do something, and to whom a role gives anything at all.

`None` for a list of objects means that who asks may not see them; then nothing is said of what they would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

JSON = dict[str, Any]
Seen = Sequence[JSON] | None
FEW = 8
READING = "what stands in none or in `shared`"


def of_user(user: JSON, groups: Seen, roles: Seen) -> Iterator[str]:
    """Each rule that counts for the user, with the group and the role that it comes from."""
    name = user["metadata"]["name"]
    if _spec(user).get("disabled"):
        yield "It is disabled: it may do nothing, and keeps what it owns, until spec.disabled is false again."
    if groups is None:
        return
    mine = [group for group in groups if name in _list(group, "members")]
    if not mine:
        yield f"It is in no group, so it may do nothing with any object: members: [{name}] of a Group."
    for group in mine:
        title = f"group {_name(group)}"
        yield f"By {title}, {_where(group)}: {_roles(group, roles)}."
        for role in _there(group, roles):
            yield from (f"{_name(role)} of {title}: {_rule(rule)}." for rule in _spec(role).get("rules") or ())
        yield _sight(group)


def of_group(group: JSON, users: Seen, roles: Seen, namespaces: Seen) -> Iterator[str]:
    """Who is in it, what it gives them, where, and what of that comes to nothing."""
    members = _list(group, "members")
    if not members:
        yield "It has no members, so its roles are nobody's: members: [NAME] of it."
    else:
        off = {_name(one) for one in users or () if _spec(one).get("disabled")}
        there = {_name(one) for one in users} if users is not None else set(members)
        said = [f"{one} ({_lack(one, there)})" if one in off or one not in there else one for one in members]
        yield f"Its members: {few(said)}."
    yield f"They have, {_where(group)}: {_roles(group, roles)}."
    if namespaces is not None:
        there = {_name(one) for one in namespaces}
        yield from (
            f"There is no namespace {one}, or none that you may see."
            for one in _list(group, "namespaces")
            if one not in there
        )
    yield _sight(group)


def of_role(role: JSON, groups: Seen, plurals: Iterable[str]) -> Iterator[str]:
    """What it grants, to whom, and which of its rules are about nothing."""
    rules = _spec(role).get("rules") or ()
    if not rules:
        yield "It has no rules, so it grants nothing."
    yield from (f"It grants {_rule(rule)}." for rule in rules)
    known = set(plurals)
    unknown = {kind for rule in rules for kind in rule["kinds"] if kind.partition("/")[0] not in known}
    if unknown:
        yield f"There is no kind {few(sorted(unknown))} here; that grants nothing."
    if groups is None:
        return
    having = [group for group in groups if _name(role) in _list(group, "roles")]
    for group in having[:FEW]:
        count = len(_list(group, "members"))
        yield f"Group {_name(group)} gives it to {count} member{'' if count == 1 else 's'}, {_where(group)}."
    if len(having) > FEW:
        yield f"and {len(having) - FEW} more groups: nanoctl get groups"
    if not having:
        yield f"No group has it, so it grants nothing to anybody: roles: [{_name(role)}] of a Group."


def of_namespace(namespace: JSON, groups: Seen) -> Iterator[str]:
    """Who has rights there."""
    if groups is None:
        return
    there = [_name(group) for group in groups if _name(namespace) in _list(group, "namespaces")]
    if there:
        yield f"At work here: group {few(there)}, and the administrator."
    else:
        yield "No group names it, so only the administrator works here."


def few(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def _name(doc: JSON) -> str:
    return str(doc["metadata"]["name"])


def _spec(doc: JSON) -> JSON:
    return doc.get("spec") or {}


def _list(group: JSON, field: str) -> list[str]:
    return list(_spec(group).get(field) or ())


def _lack(name: str, there: set[str]) -> str:
    return "disabled" if name in there else "does not exist"


def _where(group: JSON) -> str:
    spaces = _list(group, "namespaces")
    if not spaces:
        return f"in no namespace (it names none; only {READING} can be read)"
    return f"in {'namespace' if len(spaces) == 1 else 'namespaces'} {few(spaces)}"


def _roles(group: JSON, roles: Seen) -> str:
    names = _list(group, "roles")
    if not names:
        return "no role"
    there = {_name(one) for one in roles} if roles is not None else set(names)
    said = [one if one in there else f"{one} (does not exist, so it grants nothing)" for one in names]
    return f"role{'s' if len(names) > 1 else ''} {few(said)}"


def _there(group: JSON, roles: Seen) -> list[JSON]:
    names = _list(group, "roles")
    return [role for role in roles or () if _name(role) in names]


def _rule(rule: JSON) -> str:
    return f"{', '.join(rule['verbs'])} on {', '.join(rule['kinds'])}"


def _sight(group: JSON) -> str:
    seen = [plural for plural, who in sorted((_spec(group).get("visibility") or {}).items()) if who == "Group"]
    if not seen:
        return f"In group {_name(group)} each member sees his own objects and nobody else's (spec.visibility)."
    of_others = f"members see each other's {few(seen)}, and of other kinds each his own"
    return f"In group {_name(group)} {of_others} (spec.visibility)."
