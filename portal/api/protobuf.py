"""The little protobuf that kubectl insists on: request bodies of built-in types, and the wire format for OpenAPI v2."""

from __future__ import annotations

from collections.abc import Iterator

from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Malformed, UnsupportedMedia

MAGIC = b"k8s\0"
Fields = dict[int, list[bytes]]


def varint(number: int) -> bytes:
    """A base-128 number (protobuf encoding guide, Varints)."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def piece(field: int, value: bytes | str | bool) -> bytes:  # noqa: FBT001 - the value itself
    """One field: bytes and text with their length, a boolean as a number."""
    if isinstance(value, bool):
        return varint(field << 3) + varint(int(value))
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise Malformed("the protobuf body ends in the middle of a number")
        byte = raw[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _walk(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        match tag & 7:
            case 0:
                start = at
                _, at = _read_varint(raw, at)
                yield tag >> 3, raw[start:at]
            case 2:
                size, at = _read_varint(raw, at)
                if at + size > len(raw):
                    raise Malformed("the protobuf body ends in the middle of a field")
                yield tag >> 3, raw[at : at + size]
                at += size
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                raise Malformed("the protobuf body has a field of unknown type")


def _fields(raw: bytes) -> Fields:
    found: Fields = {}
    for field, value in _walk(raw):
        found.setdefault(field, []).append(value)
    return found


def _text(fields: Fields, field: int) -> str:
    return fields[field][-1].decode(errors="replace") if field in fields else ""


def _texts(raw: bytes, names: dict[int, str]) -> JSON:
    fields = _fields(raw)
    return {name: _text(fields, field) for field, name in names.items() if _text(fields, field)}


def _map(entries: list[bytes]) -> dict[str, str]:
    pairs = [_fields(entry) for entry in entries]
    return {_text(pair, 1): _text(pair, 2) for pair in pairs}


def document(body: bytes) -> JSON:
    """The document in an `application/vnd.kubernetes.protobuf` body. UnsupportedMedia for kinds that need JSON."""
    head, content = _opened(body)
    raw = _fields(content)
    kind = head.get("kind", "")
    doc: JSON = {**head, "metadata": _metadata(raw.get(1, [b""])[-1])}
    if kind == "SelfSubjectAccessReview":
        doc["spec"] = _access(raw.get(2, [b""])[-1])
    elif kind == "SelfSubjectRulesReview":
        doc["spec"] = _texts(raw.get(2, [b""])[-1], {1: "namespace"})
    elif kind not in ("Namespace", "SelfSubjectReview"):
        raise UnsupportedMedia(f"send {kind[:80] or 'objects'} as application/json")
    return doc


def delete_options(body: bytes) -> JSON:
    """The DeleteOptions in such a body, as far as they matter here. Raises Malformed."""
    _, content = _opened(body)
    raw = _fields(content)
    made: JSON = _texts(content, {4: "propagationPolicy"})
    if 2 in raw:
        made["preconditions"] = _texts(raw[2][-1], {1: "uid", 2: "resourceVersion"})
    if 3 in raw:
        made["orphanDependents"] = raw[3][-1] != b"\0"
    if 5 in raw:
        made["dryRun"] = [one.decode(errors="replace") for one in raw[5]]
    return made


def _opened(body: bytes) -> tuple[JSON, bytes]:
    """The envelope (runtime.Unknown): apiVersion and kind, and the bytes of the object."""
    if not body.startswith(MAGIC):
        raise Malformed("the body is no Kubernetes protobuf")
    unknown = _fields(body[len(MAGIC) :])
    return _texts(unknown.get(1, [b""])[-1], {1: "apiVersion", 2: "kind"}), unknown.get(2, [b""])[-1]


def _metadata(raw: bytes) -> JSON:
    fields = _fields(raw)
    made = _texts(raw, {1: "name", 2: "generateName", 3: "namespace"})
    for field, name in ((11, "labels"), (12, "annotations")):
        if field in fields:
            made[name] = _map(fields[field])
    return made


def _access(raw: bytes) -> JSON:
    fields = _fields(raw)
    made: JSON = {}
    if 1 in fields:
        names = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}
        made["resourceAttributes"] = _texts(fields[1][-1], names)
    if 2 in fields:
        made["nonResourceAttributes"] = _texts(fields[2][-1], {1: "path", 2: "verb"})
    return made
