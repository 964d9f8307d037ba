"""What the body of a transaction asks for: each write with its verb and what it is about, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from nanovirt.portal.api.paths import Target
from nanovirt.portal.api.writing import Deletion, Transform
from nanovirt.resources import patching
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.errors import Invalid, Malformed, NanoError, TooLarge
from nanovirt.resources.kind import GROUP_VERSION, Document, Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import by_kind

KIND = "Transaction"
WRITES_MAX = 10_000
OPERATIONS_MAX = 10_000
"""Operations of all JSON patches of a set; they may copy as often as those of a single request."""
STATUS = "status"
NAMED = frozenset(("apiVersion", "kind", "namespace", "name"))
FIELDS = {
    "create": frozenset(("object",)),
    "update": frozenset(("object", "subresource")),
    "apply": frozenset(("object", "fieldManager", "force")),
    "patch": NAMED | {"patch", "patchType", "subresource"},
    "delete": NAMED | {"preconditions"},
    "expect": NAMED | {"resourceVersion", "absent"},
}
"""The fields of a write beside its verb."""
KNOWN = {verb: fields | {"verb"} for verb, fields in FIELDS.items()}


class Hand(NamedTuple):
    """By whom a set applies what it applies, unless a write says otherwise."""

    manager: str = ""
    force: bool = False


NOBODY = Hand()


class Intent(NamedTuple):
    """One write: `doc` is the object, or a merge patch, and `operations` are a JSON patch.

    `revision` None with `expect` demands that it is absent. `hand` applies.

    `owner`: whose a new object will be, if not that of the one who writes; `lenient`: what it refers to may be missing.
    """

    verb: str
    target: Target
    doc: JSON
    deletion: Deletion = Deletion()
    revision: int | None = None
    operations: Sequence[JSON] | None = None
    hand: Hand = NOBODY
    owner: str = ""
    lenient: bool = False

    @property
    def transform(self) -> Transform:
        """What an update or patch makes of the stored bytes; it may be asked twice, and leaves itself as it was."""
        if self.verb == "update":
            return lambda _raw: copied(self.doc)
        if self.operations is None:
            return lambda raw: patching.merge(load(raw), self.doc)
        return self._patched

    def _patched(self, raw: bytes) -> JSON:
        assert self.operations is not None
        try:
            return patching.json_patch(load(raw), deepcopy([*self.operations]))
        except Invalid as error:
            raise Invalid.of([one._replace(field=f"patch{one.field}") for one in error.causes]) from error


def right_of(write: JSON) -> tuple[str, str]:
    """Verb and sub-resource of a write that has been carried out, as a single request would have them."""
    verb: str = write["verb"]
    return {"apply": "patch", "expect": "get"}.get(verb, verb), write.get("subresource", "")


def copied(doc: JSON) -> JSON:
    """Preparing fills a document in, and may happen twice."""
    return {**doc, "metadata": dict(doc["metadata"])}


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


def intents(writes: list[Any], hand: Hand = NOBODY) -> list[Intent | NanoError]:
    """Each write as an Intent, or as the error that refuses it. Raises TooLarge when they patch too much together."""
    found: list[Intent | NanoError] = []
    for one in writes:
        try:
            found.append(_intent(one, hand))
        except NanoError as error:
            found.append(error)
    _check_work([one.operations for one in found if isinstance(one, Intent) and one.operations is not None])
    return found


def _check_work(patches: list[Sequence[JSON]]) -> None:
    """Each write may be small, and all of them together keep everybody else waiting."""
    count = sum(map(len, patches))
    copies = sum(one.get("op") == "copy" for found in patches for one in found)
    for said, made, limit in (("have", count, OPERATIONS_MAX), ("copy", copies, patching.COPIES_MAX)):
        if made > limit:
            what = "operations" if said == "have" else "times"
            raise TooLarge(f"the JSON patches of the set {said} {made} {what}; the limit is {limit}")


def _intent(write: Any, hand: Hand) -> Intent:
    if not isinstance(write, dict):
        raise Invalid("", "a write is an object like {verb: create, object: {...}}")
    verb = write.get("verb")
    if not isinstance(verb, str) or verb not in FIELDS:
        known = ", ".join(FIELDS)
        raise Invalid("verb", f"{str(verb)[:40]!r} is no verb of a transaction; known are {known}")
    _known(write, KNOWN[verb])
    if "object" in KNOWN[verb]:
        doc = _object(write, "object")
        metadata = doc.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise Invalid("metadata", "it must be an object with fields")
        target = _target(doc, metadata, "metadata.", generated=verb == "create")
        if "subresource" in write:
            target = _half(write, target)
        return Intent(verb, target, doc, hand=_hand(write, hand) if verb == "apply" else NOBODY)
    target = _half(write, _target(write, write, ""))
    if verb == "patch":
        return _patch(write, target)
    if verb == "delete":
        return Intent(verb, target, {}, _deletion(write))
    absent = write.get("absent", False)
    if absent is not True and (absent is not False or "resourceVersion" not in write):
        raise Invalid("resourceVersion", Reason.OneMemberRequired, members="resourceVersion, absent: true")
    return Intent(verb, target, {}, Deletion(), None if absent else _revision(write["resourceVersion"]))


def _patch(write: JSON, target: Target) -> Intent:
    match write.get("patchType", "merge"):
        case "merge":
            return Intent("patch", target, _object(write, "patch"))
        case "json":
            try:
                return Intent("patch", target, {}, operations=patching.checked(write.get("patch")))
            except Malformed as error:
                raise Invalid("patch", str(error)) from error
        case other:
            raise Invalid("patchType", f"{str(other)[:40]!r} is none; known are merge and json")


def _half(write: JSON, target: Target) -> Target:
    """The object, or its status."""
    said = write.get("subresource", "")
    if said == "":
        return target
    if said != STATUS:
        raise Invalid("subresource", f"{str(said)[:40]!r} is not written in a set; known is {STATUS}")
    return target._replace(subresource=said)


def _hand(write: JSON, hand: Hand) -> Hand:
    manager, force = write.get("fieldManager", hand.manager), write.get("force", hand.force)
    if not isinstance(manager, str):
        raise Invalid("fieldManager", "a name is a text")
    if not isinstance(force, bool):
        raise Invalid("force", "it is true or false")
    return Hand(manager, force)


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
    if doc.keys() <= fields:
        return
    strange = next(field for field in doc if field not in fields)
    raise Invalid(f"{below}{strange}", Reason.FieldUnknown, known=", ".join(sorted(fields)))
