"""What a subject may ask about itself: who it is, whether it may do something, and what it may do."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Any

from nanovirt.portal.api.admission import refuse_system
from nanovirt.portal.api.paths import GROUP
from nanovirt.portal.authorization import authorize, unlimited
from nanovirt.portal.identity import Subject
from nanovirt.portal.membership import Rights
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Forbidden, Malformed, NotFound
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.registry import by_any_name, kinds
from nanovirt.resources.role import READING
from nanovirt.resources.store import Store

REVIEWS = {
    "authorization.k8s.io/v1/selfsubjectaccessreviews": "SelfSubjectAccessReview",
    "authorization.k8s.io/v1/selfsubjectrulesreviews": "SelfSubjectRulesReview",
    "authentication.k8s.io/v1/selfsubjectreviews": "SelfSubjectReview",
    "authentication.k8s.io/v1/tokenreviews": "TokenReview",
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def review(kind: str, doc: JSON, subject: Subject, store: Store, authorization: str = "") -> JSON:
    """The review with its answer in `status`; the subject is always the caller, `authorization` his header."""
    group = next(path for path, name in REVIEWS.items() if name == kind).rpartition("/")[0]
    spec: Any = doc.get("spec") or {}
    if not isinstance(spec, dict):
        raise Malformed("spec must be an object")
    answer: JSON = {"kind": kind, "apiVersion": group, "metadata": {"creationTimestamp": None}}
    if kind == "SelfSubjectReview":
        return {**answer, "status": {"userInfo": {"username": subject.name, "groups": list(subject.groups)}}}
    if kind == "TokenReview":  # without the token, which the client knows
        return {**answer, "spec": {}, "status": _token(spec, subject, authorization)}
    if kind == "SelfSubjectAccessReview":
        return {**answer, "spec": spec, "status": _access(spec, subject, store)}
    return {**answer, "spec": spec, "status": _rules(subject, str(spec.get("namespace") or ""))}


def _token(spec: JSON, subject: Subject, authorization: str) -> JSON:
    """Whose token it is, if it is the caller's own: nobody finds out about others' by trying."""
    token = str(spec.get("token") or "")
    if not hmac.compare_digest(f"Bearer {token}".encode(), authorization.encode()):
        return {"authenticated": False, "error": "only the token that the request itself came with is looked at"}
    return {"authenticated": True, "user": {"username": subject.name, "groups": list(subject.groups)}}


def _access(spec: JSON, subject: Subject, store: Store) -> JSON:
    asked: Any = spec.get("resourceAttributes")
    if not isinstance(asked, dict):
        return {"allowed": True, "reason": "anybody who is recognized may read the discovery documents"}
    word = str(asked.get("resource") or "")
    cls = by_any_name(word)
    if word == "*":
        everything = unlimited(subject)
        return {"allowed": everything, "reason": "administrator" if everything else "no right to everything"}
    if cls is None:
        return {"allowed": False, "reason": f"there is no resource {word[:80]}"}
    why = _refused(str(asked.get("verb") or ""), cls.facts.plural, asked, subject, store)
    return {"allowed": False, "reason": why} if why else {"allowed": True, "reason": ""}


def _refused(verb: str, plural: str, asked: JSON, subject: Subject, store: Store) -> str:
    """Why the request would be answered with 403; what one may not see is answered for as if it were not there."""
    namespace = str(asked.get("namespace") or "") if KINDS[plural].facts.namespaced else ""
    key = Key(plural, namespace, str(asked.get("name") or ""))
    subresource = str(asked.get("subresource") or "")
    if (verb, subresource) == ("get", "timeline"):  # who may see an object may see what it was
        subresource = ""
    try:
        authorize(subject, verb, plural, subresource, key, store.peek(key) if key.name else None)
        if verb not in READING and not subresource:
            refuse_system(KINDS[plural], verb)
    except Forbidden as error:
        return str(error)
    except NotFound:
        return ""
    return ""


def _rules(subject: Subject, namespace: str) -> JSON:
    rules = list(_tried(subject) if subject.rights is None else _granted(subject.rights, namespace))
    paths = {"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/openapi/*", "/version"]}
    return {"resourceRules": rules, "nonResourceRules": [paths], "incomplete": False}


def _granted(rights: Rights, namespace: str) -> Iterator[JSON]:
    """What a user may do in that namespace (in any, when it is ""), kind by kind."""
    verbs: dict[str, list[str]] = {"users/token": ["create", "delete", "get"]}
    for (verb, plural, subresource), reach in sorted(rights.table.items()):
        facts = KINDS[plural].facts
        if reach and (not namespace or not facts.namespaced or namespace in reach):
            verbs.setdefault("/".join(part for part in (plural, subresource) if part), []).append(verb)
    for resource, granted in verbs.items():
        group = GROUP if "/" in KINDS[resource.partition("/")[0]].facts.group_version else ""
        yield {"verbs": granted, "apiGroups": [group], "resources": [resource]}


def _tried(subject: Subject) -> Iterator[JSON]:
    for plural, cls in kinds().items():
        verbs = [verb for verb in VERBS if _may(subject, verb, plural)]
        group = GROUP if "/" in cls.facts.group_version else ""
        if verbs:
            yield {"verbs": verbs, "apiGroups": [group], "resources": [plural]}


def _may(subject: Subject, verb: str, plural: str) -> bool:
    try:
        authorize(subject, verb, plural, "", Key(plural, "", subject.host) if subject.host else None)
    except (Forbidden, NotFound):
        return False
    return True
