"""Who may do what: one door for requests, watches and reviews alike; what is not allowed here is forbidden."""

from __future__ import annotations

from collections.abc import Callable

from nanovirt.portal.identity import SYSTEM, Subject
from nanovirt.portal.membership import Reach
from nanovirt.portal.pki import HOST_PREFIX, HOSTS
from nanovirt.resources.credentials import ADMINS
from nanovirt.resources.errors import Forbidden, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.role import READING
from nanovirt.resources.store import Entry

HOST_RIGHTS = frozenset(
    {
        ("get", "hosts", ""),
        ("create", "hosts", "report"),
        ("get", "placements", ""),
        ("list", "placements", ""),
        ("watch", "placements", ""),
        ("get", "placements", "image"),
        ("create", "placements", "console"),
        ("get", "placements", "secrets"),
        ("update", "placements", "status"),
        ("patch", "placements", "status"),
    }
)
"""All that an agent may do, and only to its own Host and to the Placements on it (security.md 3)."""
OWN_TOKEN = frozenset({("get", "users", "token"), ("create", "users", "token"), ("delete", "users", "token")})
"""What every user may do to the tokens of its own name, whatever its roles say."""
SEES_ALL = "all"


def authorize(
    subject: Subject, verb: str, plural: str, subresource: str = "", key: Key | None = None, entry: Entry | None = None
) -> None:
    """Let pass, or raise Forbidden; NotFound when `entry` is there but not for this subject to see.

    `verb` as Kubernetes names them: get list watch create update patch delete deletecollection. A request for one
    object gives its `key`, and its `entry` unless there is no such object: whose it is stands in the object. One for a
    collection gives a `key` without a name, for the namespace. Lists and watches must show only what is `visible`.
    """
    if unlimited(subject):
        return
    if subject.rights is not None:
        allowed = _user_may(subject, verb, plural, subresource, key)
    else:
        allowed = _host_may(subject, verb, plural, subresource, key)
    if allowed and (entry is None or key is None or _reaches(subject, verb, plural, subresource, key, entry)):
        return
    if allowed and key is not None and entry is not None and (verb in READING or not visible(subject, key, entry)):
        raise NotFound(plural, key.name)
    what = "/".join(part for part in (plural, subresource) if part)
    where = f' "{key.name}"' if key is not None and key.name else ""
    where += f" in namespace {key.namespace}" if key is not None and key.namespace else ""
    raise Forbidden(f"{subject.name} may not {verb} {what}{where}")


def visible(subject: Subject, key: Key, entry: Entry, verb: str = "get") -> bool:
    """Whether the subject may see that object at all, or do `verb` to it; absent and invisible look the same."""
    return unlimited(subject) or _reaches(subject, verb, key.plural, "", key, entry)


def sight_of(subject: Subject) -> Callable[[Key, Entry], bool] | None:
    """What the subject may see of what it refers to; None: everything."""
    return None if unlimited(subject) else lambda key, entry: visible(subject, key, entry)


def visibility_class(subject: Subject, verb: str = "", plural: str = "", namespace: str = "") -> str:
    """Subjects of one class see the same in a list or watch, so that a change is filtered once for all of them."""
    if unlimited(subject):
        return SEES_ALL
    if subject.rights is not None:
        whole = subject.rights.table.get((verb, plural, ""), {}).get(namespace)
        return SEES_ALL if whole else f"user/{subject.name}/{subject.rights.since}"
    return f"host/{subject.host}/{subject.name}" if _host(subject) else "none"


def forced_selector(subject: Subject, plural: str) -> str:
    """The field selector that the server adds to a list or watch, or "" for none."""
    return f"spec.host={subject.host}" if _host(subject) and plural == "placements" else ""


def unlimited(subject: Subject) -> bool:
    """Whether it is an administrator, or the system itself."""
    return ADMINS in subject.groups or subject == SYSTEM


def _reaches(subject: Subject, verb: str, plural: str, subresource: str, key: Key, entry: Entry) -> bool:
    """Whether an object lies within what the subject has a right to at all."""
    if subject.rights is None:
        return _host_reaches(subject, plural, entry)
    right = (verb, plural, subresource)
    if right in OWN_TOKEN:
        return key.name == subject.name
    others = subject.rights.table.get(right, {}).get(_space(key, entry))
    return others is not None and (others or entry.labels.get(OWNER_LABEL) == subject.name)


def _space(key: Key, entry: Entry) -> str:
    """The namespace that an object belongs to, also when its kind is cluster-scoped."""
    match key.plural:
        case "namespaces":
            return key.name
        case "addresses":
            return str(entry.row.instance).partition("/")[0]
        case _:
            return key.namespace


# --- users ----------------------------------------------------------------------------------------------


def _user_may(subject: Subject, verb: str, plural: str, subresource: str, key: Key | None) -> bool:
    """Whether the user has that right at all, and in that namespace."""
    assert subject.rights is not None
    right = (verb, plural, subresource)
    if right in OWN_TOKEN:
        return key is not None and key.name == subject.name
    reach: Reach = subject.rights.table.get(right, {})
    return bool(reach) and (key is None or not key.namespace or key.namespace in reach)


# --- hosts ----------------------------------------------------------------------------------------------


def _host(subject: Subject) -> bool:
    return HOSTS in subject.groups and bool(subject.host) and not unlimited(subject)


def _host_may(subject: Subject, verb: str, plural: str, subresource: str, key: Key | None) -> bool:
    if not _host(subject) or (verb, plural, subresource) not in HOST_RIGHTS:
        return False
    if plural == "hosts":
        return key is not None and key.name == subject.host
    return verb in {"list", "watch"} or (key is not None and bool(key.name))


def _host_reaches(subject: Subject, plural: str, entry: Entry) -> bool:
    if not _host(subject):
        return False
    if plural == "hosts":
        return subject.name == f"{HOST_PREFIX}{entry.uid}"
    return plural == "placements" and bool(entry.row.host == subject.host)
