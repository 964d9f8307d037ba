"""Sets of fields: the paths at which a document says something, and their form as Kubernetes' FieldsV1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from nanovirt.resources.codec import JSON
from nanovirt.resources.metadata import RESERVED_PREFIX
from nanovirt.resources.shapes import Shape

Path = tuple[str, ...]
"""Steps as FieldsV1 writes them: `f:NAME` a field, `k:{"name":"root"}` an item of a list, `v:"text"` an item itself."""
Fields = frozenset[Path]
Values = Mapping[Path, Any]


def values_of(shape: Shape, doc: Any) -> Values:
    """Every path that can be owned and where `doc` says something, with what it says: leaves, keys of maps, items."""
    return {path: value for path, value in _walk(shape, doc, ()) if not _unownable(path, value)}


def fields_of(shape: Shape, doc: Any) -> Fields:
    """The paths alone."""
    return frozenset(values_of(shape, doc))


def _unownable(path: Path, value: Any) -> bool:
    """Labels and finalizers that only the server gives and takes; and empty metadata, which are never stored."""
    return path[0] == "f:metadata" and (
        path[-1][2:].lstrip('"').startswith(RESERVED_PREFIX) or (not value and isinstance(value, dict | list))
    )


def _walk(shape: Shape, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    marks = shape.marks(value) if isinstance(value, list) and value else None
    if isinstance(value, dict) and value and shape.open:
        for name, below in value.items():
            if below is None or (shape.names and name not in shape.names):
                continue
            if not shape.names:
                yield (*path, f"f:{name}"), below
            yield from _walk(shape.below(name), below, (*path, f"f:{name}"))
    elif marks and shape.items is not None:
        for mark, item in zip(marks, value, strict=True):
            yield (*path, mark), item
            if shape.key:
                yield from _walk(shape.items, item, (*path, mark))
    elif path:
        yield path, value


def differing(one: Values, other: Values) -> Fields:
    """The paths of `one` that `other` has not, or at which they differ.

    Two objects are alike, whatever is in them: that has paths of its own.
    """
    return frozenset(path for path, value in one.items() if path not in other or _differ(value, other[path]))


def _differ(one: Any, other: Any) -> bool:
    return bool(one != other) and not (isinstance(one, dict) and isinstance(other, dict))


def without(shape: Shape, doc: JSON, gone: Iterable[Path]) -> JSON:
    """`doc` as it would be if it had nothing at the paths `gone`."""
    left: JSON = _without(shape, doc, encode(gone))
    return left


def _without(shape: Shape, value: Any, gone: JSON) -> Any:
    if isinstance(value, dict):
        steps = [(f"f:{name}", name) for name in value]
        return {
            name: _without(shape.below(name), value[name], gone[step]) if step in gone else value[name]
            for step, name in steps
            if not _ends(gone, step)
        }
    marks = shape.marks(value) if isinstance(value, list) else None
    if marks is None or shape.items is None:
        return value
    return [
        _without(shape.items, item, gone[mark]) if mark in gone else item
        for mark, item in zip(marks, value, strict=True)
        if not _ends(gone, mark)
    ]


def _ends(tree: JSON, step: str) -> bool:
    return step in tree and (not tree[step] or "." in tree[step])


# --- FieldsV1 -------------------------------------------------------------------------------------------


def encode(fields: Iterable[Path]) -> JSON:
    """The FieldsV1 document, its names in order; `.` stands for what is in the set and has something below it."""
    tree: JSON = {}
    for path in sorted(fields):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node["."] = {}
    return _trimmed(tree)


def _trimmed(node: JSON) -> JSON:
    return {} if node.keys() == {"."} else {step: _trimmed(below) for step, below in node.items()}


def decode(doc: Any) -> Fields:
    """The set behind a FieldsV1 document. Raises ValueError when it is none."""
    return frozenset(_paths(doc, ()))


def _paths(node: Any, path: Path) -> Iterator[Path]:
    if not isinstance(node, dict):
        raise ValueError("fieldsV1 holds objects in objects and nothing else")  # noqa: TRY004 - what decode promises
    if path and (not node or "." in node):
        yield path
    for step, below in node.items():
        if step != ".":
            _meaning(step)
            yield from _paths(below, (*path, step))


def _meaning(step: str) -> tuple[str, Any]:
    """The letter of a step, and the name, key or item that it stands for. Raises ValueError."""
    letter, colon, text = step.partition(":")
    if not colon or letter not in ("f", "k", "v"):
        raise ValueError(f"{step[:60]!r} is no step of fieldsV1: they begin with f:, k: or v:")
    if letter == "f":
        return letter, text
    meant = orjson.loads(text)
    if letter == "k" and not isinstance(meant, dict):
        raise ValueError(f"{step[:60]!r} names no key of an item")
    return letter, meant


def path_text(path: Path) -> str:
    """`.spec.disks[name="root"].size`, as kubectl shows it."""
    return "".join(_step_text(*_meaning(step)) for step in path)


def _step_text(letter: str, meant: Any) -> str:
    if letter == "f":
        return f".{meant}"
    if letter == "v":
        return f"[={orjson.dumps(meant).decode()}]"
    return "[" + ",".join(f"{name}={orjson.dumps(value).decode()}" for name, value in meant.items()) + "]"
