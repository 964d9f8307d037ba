"""Who may do what: one door for requests, watches and reviews alike; what is not allowed here is forbidden."""

from __future__ import annotations

from nanovirt.portal.identity import SYSTEM, Subject
from nanovirt.portal.pki import ADMINS, HOST_PREFIX, HOSTS
from nanovirt.resources.errors import Forbidden, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Entry

HOST_RIGHTS = frozenset(
    {
        ("get", "hosts", ""),
        ("create", "hosts", "report"),
        ("get", "placements", ""),
        ("list", "placements", ""),
        ("watch", "placements", ""),
        ("get", "placements", "image"),
        ("update", "placements", "status"),
        ("patch", "placements", "status"),
    }
)
"""All that an agent may do, and only to its own Host and to the Placements on it (security.md 3)."""


def authorize(
    subject: Subject, verb: str, plural: str, subresource: str = "", key: Key | None = None, entry: Entry | None = None
) -> None:
    """Let pass, or raise Forbidden; NotFound when `entry` is there but not for this subject to see.

    `verb` as Kubernetes names them: get list watch create update patch delete deletecollection. A request for one
    object gives its `key`, and its `entry` unless there is no such object: whose it is stands in the object. Lists and
    watches must show only what is `visible`.
    """
    if _unlimited(subject):
        return
    if not _host_may(subject, verb, plural, subresource, key):
        what = "/".join(part for part in (plural, subresource) if part)
        where = f' "{key.name}"' if key else ""
        raise Forbidden(f"{subject.name} may not {verb} {what}{where}")
    if entry is not None and not visible(subject, plural, entry):
        raise NotFound(plural, key.name if key else "")


def visible(subject: Subject, plural: str, entry: Entry) -> bool:
    """Whether the subject may see that object at all; absent and invisible look the same."""
    if _unlimited(subject):
        return True
    if not _host(subject):
        return False
    if plural == "hosts":
        return subject.name == f"{HOST_PREFIX}{entry.uid}"
    return plural == "placements" and bool(entry.row.host == subject.host)


def visibility_class(subject: Subject) -> str:
    """Subjects of one class see the same objects, so that a change is filtered once for all of their watches."""
    if _unlimited(subject):
        return "all"
    return f"host/{subject.host}/{subject.name}" if _host(subject) else "none"


def forced_selector(subject: Subject, plural: str) -> str:
    """The field selector that the server adds to a list or watch, or "" for none."""
    return f"spec.host={subject.host}" if _host(subject) and plural == "placements" else ""


def _unlimited(subject: Subject) -> bool:
    return ADMINS in subject.groups or subject == SYSTEM


def _host(subject: Subject) -> bool:
    return HOSTS in subject.groups and bool(subject.host) and not _unlimited(subject)


def _host_may(subject: Subject, verb: str, plural: str, subresource: str, key: Key | None) -> bool:
    if not _host(subject) or (verb, plural, subresource) not in HOST_RIGHTS:
        return False
    if plural == "hosts":
        return key is not None and key.name == subject.host
    return verb in {"list", "watch"} or (key is not None and bool(key.name))
