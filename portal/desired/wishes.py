"""What a file wishes for: each of its documents as an object with the values that it says, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from nanovirt.portal.api import admission, strictness
from nanovirt.portal.cli.manifests import Manifest, documents
from nanovirt.resources.codec import BODY_MAX, JSON, dump
from nanovirt.resources.errors import Cause, Invalid, Malformed, NanoError, TooLarge
from nanovirt.resources.field_sets import Path, fields_of, values_of
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import DEFAULT, by_kind
from nanovirt.resources.shapes import OWNED_METADATA, UNOWNED, shape_of

Values = Mapping[Path, Any]
"""Path -> what is said there; {} where an object or an item is, whatever is in it."""


@dataclass(frozen=True)
class Wish:
    """One object as a file wants it: `doc` as it is written, `said` what it says of fields that can be owned."""

    key: Key
    file: str
    where: str
    """`web.yaml:12 (document 2, Instance web-1)`."""
    doc: JSON
    said: JSON
    values: Values
    digest: str

    @property
    def cls(self) -> type[Document]:
        """Its kind."""
        return KINDS[self.key.plural]


def wishes(file: str, content: bytes) -> tuple[list[Wish], list[str]]:
    """All that a file wishes for, and all that is wrong with it: then nothing of it counts."""
    found: list[Wish] = []
    problems: list[str] = []
    for manifest, problem in documents(file, content):
        if problem or manifest is None:
            problems.append(problem)
            continue
        try:
            found.append(_wish(manifest))
        except NanoError as error:
            problems += _told(manifest, error)
    if not found and not problems:
        problems.append(f"{file}:1 holds no object; a file that is being written looks like that, so remove it instead")
    seen: dict[Key, Wish] = {}
    for one in found:
        if one.key in seen:
            problems.append(f"{one.where} stands already at {seen[one.key].where}")
        seen[one.key] = one
    return found, problems


def _wish(manifest: Manifest) -> Wish:
    cls, doc = _kind(manifest.doc), manifest.doc
    facts, metadata = cls.facts, doc["metadata"]
    namespace = metadata.get("namespace") or (DEFAULT if facts.namespaced else "")
    if not isinstance(namespace, str):
        raise Invalid("metadata.namespace", "it is a text")
    if namespace and not facts.namespaced:
        raise Invalid("metadata.namespace", f"a {facts.kind} has no namespace")
    key = Key(facts.plural, namespace, manifest.name)
    if causes := list(admission.bad_name(key)):
        raise Invalid.of(causes)
    placed = {**doc, "metadata": {**metadata, **({"namespace": namespace} if namespace else {})}}
    placed.pop("status", None)
    size = len(dump(placed))
    if size > BODY_MAX:
        raise TooLarge(f"the object has {size} bytes; the limit is {BODY_MAX}")
    made, _ = strictness.read(cls, {**placed, "metadata": dict(placed["metadata"])}, "Strict")
    said = made.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    owned = {name: value for name, value in said.get("metadata", {}).items() if name in OWNED_METADATA}
    said = {"metadata": owned, **{name: value for name, value in said.items() if name not in UNOWNED}}
    values = _values(cls, said, made.to_json())
    digest = blake2b(dump({"": sorted([list(path), value] for path, value in values.items())}), digest_size=16)
    return Wish(key, manifest.file, manifest.where(), placed, said, values, digest.hexdigest())


def _values(cls: type[Document], said: JSON, whole: JSON) -> Values:
    """What is said, each value as the server will complete it: in a list that is one value, items have defaults."""
    shape = shape_of(cls)
    full = values_of(shape, whole)
    return {path: plain(full[path]) for path in fields_of(shape, said) if path in full}


def plain(value: Any) -> Any:
    """Two objects are alike, whatever is in them: that has paths of its own."""
    return {} if isinstance(value, dict) else value


def _kind(doc: JSON) -> type[Document]:
    cls = by_kind(doc["kind"])
    if cls is None or cls.facts.group_version != doc["apiVersion"]:
        raise Invalid("kind", f"there is no kind {doc['kind'][:80]} in {doc['apiVersion'][:80]}")
    facts = cls.facts
    if facts.system:
        raise Invalid("kind", Reason.SystemWritten, kind=facts.kind, owner=facts.system)
    if facts.operation:
        raise Invalid("kind", Reason.OperationNotDesired, kind=facts.kind)
    if facts.sealed:
        raise Invalid("kind", Reason.SecretNotDesired)
    return cls


def _told(manifest: Manifest, error: NanoError) -> Iterator[str]:
    causes = error.causes if isinstance(error, Invalid | Malformed) else ()
    for cause in causes or (Cause("", "", str(error), {}),):
        yield f"{manifest.where(cause.field)}: {cause.field + ': ' if cause.field else ''}{cause.message}"
