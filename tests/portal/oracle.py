"""Who may do what, said a second time from the rules in docs/security.md; shares no code with the product."""

from __future__ import annotations

from dataclasses import dataclass

READ = {"get", "list", "watch"}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
IN_NAMESPACES = {"instances", "instancesets", "images", "secrets", "securitygroups", "events", "placements", "volumes"}
LIKE_NAMESPACED = {"namespaces", "addresses"}
WRITTEN_BY_USERS = {"instances", "instancesets", "images", "secrets", "securitygroups", "events"}
NEVER = {"owner", "token"}
ONE_WRITER = {"owner", "token", "status", "report"}


@dataclass(frozen=True)
class Member:
    """One in one group: at home in one namespace, with roles as (kinds, verbs) and one visibility for all kinds.

    `also`: the same person as a member of other groups with the same home.
    """

    rules: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    shows_all: bool
    also: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Thing:
    """What is asked about: its kind, the sub-resource, where it stands (home, shared, away), and whose it is."""

    kind: str
    sub: str
    space: str
    owner: str


def granted(who: Member, verb: str, kind: str, sub: str) -> bool:
    """A role says so, and it is something that roles can say."""
    word = f"{kind}/{sub}" if sub else kind
    if not any(word in kinds and verb in verbs for kinds, verbs in who.rules):
        return False
    if kind == "credentials":
        return False
    if verb in READ:
        return sub not in NEVER
    if (verb, kind, sub) == ("delete", "volumes", ""):
        return True
    return kind in WRITTEN_BY_USERS and sub not in ONE_WRITER


def scope(who: Member, verb: str, thing: Thing) -> str:
    """`all`, `own` or `none` of the objects of that kind at that place; the best that any group gives."""
    given = {_scope(one, verb, thing) for one in (who, *who.also)}
    return next(word for word in ("all", "own", "none") if word in given)


def _scope(who: Member, verb: str, thing: Thing) -> str:
    if not granted(who, verb, thing.kind, thing.sub):
        return "none"
    if thing.kind not in IN_NAMESPACES | LIKE_NAMESPACED:
        return "all"
    if thing.space == "home":
        return "all" if who.shows_all or thing.kind == "namespaces" else "own"
    return "all" if thing.space == "shared" and verb in READ else "none"


def reached(who: Member, verb: str, thing: Thing) -> bool:
    """Whether that very object is among them."""
    return scope(who, verb, thing) == "all" or (scope(who, verb, thing) == "own" and thing.owner == "mine")


def single(who: Member, verb: str, thing: Thing) -> str:
    """What a request for one object comes to: yes, Forbidden or NotFound; for one that is absent, before the store."""
    if thing.kind == "users" and thing.sub == "token" and verb in {"get", "create", "delete"}:
        return "yes" if thing.owner == "myself" else "Forbidden"
    somewhere = [Thing(thing.kind, thing.sub, space, thing.owner) for space in ("home", "shared", "away")]
    places = [thing] if thing.kind in IN_NAMESPACES else somewhere
    if all(scope(who, verb, one) == "none" for one in places):
        return "Forbidden"
    if thing.owner == "absent" or verb == "create" or reached(who, verb, thing):
        return "yes"
    seen = reached(who, "get", Thing(thing.kind, "", thing.space, thing.owner))
    return "Forbidden" if verb not in READ and seen else "NotFound"


def several(who: Member, verb: str, thing: Thing, *, everywhere: bool) -> str:
    """What a list, a watch or a deletion of all comes to for one object: Forbidden, or seen, or unseen."""
    places = ("home", "shared", "away") if everywhere or thing.kind not in IN_NAMESPACES else (thing.space,)
    if all(scope(who, verb, Thing(thing.kind, "", space, thing.owner)) == "none" for space in places):
        return "Forbidden"
    return "seen" if reached(who, verb, thing) else "unseen"
