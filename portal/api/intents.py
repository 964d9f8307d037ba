"""What the body of a transaction asks for: each write with its verb and what it is about, or what is wrong with it."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.writing import Deletion
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Invalid, Malformed, NanoError, TooLarge
from nanovirt.resources.kind import GROUP_VERSION, Document, Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import by_kind

KIND = "Transaction"
WRITES_MAX = 10_000
NAMED = frozenset(("apiVersion", "kind", "namespace", "name"))
FIELDS = {
    "create": frozenset(("object",)),
    "update": frozenset(("object",)),
    "patch": NAMED | {"patch"},
    "delete": NAMED | {"preconditions"},
    "expect": NAMED | {"resourceVersion", "absent"},
}
"""The fields of a write beside its verb."""


class Intent(NamedTuple):
    """One write: `doc` is the object or the merge patch; `revision` None with `expect` demands that it is absent.

    `owner`: whose a new object will be, if not that of the one who writes; `lenient`: what it refers to may be missing.
    """

    verb: str
    target: Target
    doc: JSON
    deletion: Deletion = Deletion()
    revision: int | None = None
    owner: str = ""
    lenient: bool = False


def writes_of(doc: JSON) -> list[Any]:
    """The writes in the body of a transaction. Raises Malformed, Invalid, TooLarge."""
    for field, wanted in (("apiVersion", GROUP_VERSION), ("kind", KIND)):
        if doc.get(field, wanted) != wanted:
            raise Malformed(f"a transaction has {field} {wanted!r}, not {str(doc[field])[:80]!r}")
    _known(doc, frozenset(("apiVersion", "kind", "metadata", "writes")))
    writes = doc.get("writes")
    if not isinstance(writes, list):
        raise Invalid("writes", "it must be a list of writes like {verb: create, object: {...}}")
    if not writes:
        raise Invalid("writes", "there is nothing to write")
    if len(writes) > WRITES_MAX:
        raise TooLarge(f"the transaction has {len(writes)} writes; the limit is {WRITES_MAX}")
    return writes


def intents(writes: list[Any]) -> list[Intent | NanoError]:
    """Each write as an Intent, or as the error that refuses it."""
    found: list[Intent | NanoError] = []
    for one in writes:
        try:
            found.append(_intent(one))
        except NanoError as error:
            found.append(error)
    return found


def _intent(write: Any) -> Intent:
    if not isinstance(write, dict):
        raise Invalid("", "a write is an object like {verb: create, object: {...}}")
    verb = write.get("verb")
    if not isinstance(verb, str) or verb not in FIELDS:
        known = ", ".join(FIELDS)
        raise Invalid("verb", f"{str(verb)[:40]!r} is no verb of a transaction; known are {known}")
    _known(write, FIELDS[verb] | {"verb"})
    if verb in ("create", "update"):
        doc = _object(write, "object")
        metadata = doc.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise Invalid("metadata", "it must be an object with fields")
        return Intent(verb, _target(doc, metadata, "metadata.", generated=verb == "create"), doc)
    target = _target(write, write, "")
    if verb == "patch":
        return Intent(verb, target, _object(write, "patch"))
    if verb == "delete":
        return Intent(verb, target, {}, _deletion(write))
    absent = write.get("absent", False)
    if absent is not True and (absent is not False or "resourceVersion" not in write):
        raise Invalid("resourceVersion", Reason.OneMemberRequired, members="resourceVersion, absent: true")
    return Intent(verb, target, {}, Deletion(), None if absent else _revision(write["resourceVersion"]))


def _object(write: JSON, field: str) -> JSON:
    found = write.get(field)
    if not isinstance(found, dict):
        raise Invalid(field, Reason.FieldValueRequired if found is None else "it must be an object with fields")
    return found


def _target(typed: JSON, named: JSON, below: str, *, generated: bool = False) -> Target:
    """What `kind` of `typed`, and `namespace` and `name` of `named`, mean."""
    cls = _kind(typed)
    facts = cls.facts
    namespace, name = named.get("namespace") or "", named.get("name") or ""
    if not isinstance(namespace, str) or not isinstance(name, str):
        raise Invalid(f"{below}name", "names are texts")
    if facts.namespaced and not namespace:
        raise Invalid(f"{below}namespace", Reason.FieldValueRequired)
    if namespace and not facts.namespaced:
        raise Invalid(f"{below}namespace", f"a {facts.kind} has no namespace")
    if not name and not (generated and named.get("generateName")):
        raise Invalid(f"{below}name", Reason.FieldValueRequired)
    return Target(cls, Key(facts.plural, namespace, name), "")


def _kind(doc: JSON) -> type[Document]:
    kind, version = doc.get("kind"), doc.get("apiVersion")
    cls = by_kind(kind) if isinstance(kind, str) else None
    if cls is None:
        raise Invalid("kind", f"there is no kind {str(kind)[:80]!r}" if kind else Reason.FieldValueRequired)
    if version not in (None, cls.facts.group_version):
        raise Invalid("apiVersion", f"{cls.facts.kind} is in {cls.facts.group_version}, not {str(version)[:80]!r}")
    return cls


def _deletion(write: JSON) -> Deletion:
    wanted = write.get("preconditions", {})
    if not isinstance(wanted, dict):
        raise Invalid("preconditions", "it must be an object with fields")
    _known(wanted, frozenset(("uid", "resourceVersion")), "preconditions.")
    revision = wanted.get("resourceVersion")
    return Deletion(
        uid=str(wanted.get("uid") or ""),
        revision=None if revision is None else _revision(revision, "preconditions.resourceVersion"),
    )


def _revision(said: Any, field: str = "resourceVersion") -> int:
    if not isinstance(said, str) or not said.isascii() or not said.isdigit() or len(said) > 15:
        raise Invalid(field, f"{str(said)[:40]!r} is no resourceVersion that this server gave")
    return int(said)


def _known(doc: JSON, fields: frozenset[str], below: str = "") -> None:
    """Raise Invalid for the first field that has no meaning here: a transaction does nothing that is only half read."""
    for field in doc:
        if field not in fields:
            raise Invalid(f"{below}{field}", Reason.FieldUnknown, known=", ".join(sorted(fields)))
