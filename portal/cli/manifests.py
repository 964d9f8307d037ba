"""Reading manifests: files, folders and standard input into documents that know their file, number and lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from nanovirt.resources.errors import Malformed
from nanovirt.resources.yaml_values import LOADER, doubt

JSON = dict[str, Any]
SUFFIXES = (".yaml", ".yml", ".json")
SIZE_MAX = 64 << 20
"""Bytes of one file, or of standard input."""
DEPTH_MAX = 50
NODES_MAX = 1_000_000
"""Values that one document may have."""


class BadManifests(Malformed):
    """What is wrong with a set of manifests: every error of every file, one to a line; `so`: what did not happen."""

    def __init__(self, problems: Iterable[str], so: str = "nothing was sent") -> None:
        found = list(dict.fromkeys(problems))
        several = f"{len(found)} errors, and {so}:\n  " if len(found) > 1 else ""
        super().__init__(several + "\n  ".join(found) + ("" if several else f" ({so})"))


@dataclass(frozen=True)
class Manifest:
    """One document: `number` counts from 1 within `file`; `node` knows the line of each field."""

    file: str
    number: int
    doc: JSON
    node: yaml.Node

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.doc["metadata"].get("name", ""))

    def where(self, path: str = "") -> str:
        """`web.yaml:12 (document 2, Instance web-1)`, at the line of a field such as `spec.disks[0].size`."""
        metadata = self.doc.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        said = " ".join(str(one) for one in (self.doc.get("kind"), name) if one)
        return f"{self.file}:{line_of(self.node, path)} (document {self.number}{', ' + said if said else ''})"


def line_of(node: yaml.Node, path: str) -> int:
    """The line (from 1) of the field at a JSON path, or of the nearest one above it that is there."""
    for step in path.replace("[", ".[").split("."):
        found = _below(node, step)
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1


def _below(node: yaml.Node, step: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and step.startswith("[") and step[1:-1].isdigit():
        index = int(step[1:-1])
        return node.value[index] if index < len(node.value) else None
    return None


def read_all(sources: Iterable[str]) -> list[Manifest]:
    """Every document of files, folders (in order of names) and `-`. BadManifests tells all that is wrong at once."""
    found: list[Manifest] = []
    problems: list[str] = []
    for source in sources:
        for name, content in _contents(source, problems):
            for manifest, problem in documents(name, content):
                problems += [problem] if problem else []
                found += [manifest] if manifest else []
    problems += _twice(found)
    if problems:
        raise BadManifests(problems)
    if not found:
        raise BadManifests([f"there is no manifest in {', '.join(sources)}"])
    return found


def _contents(source: str, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    if source == "-":
        yield from _bounded("stdin", sys.stdin.buffer, problems)
        return
    if source.startswith(("http://", "https://")):
        problems.append(f"{source}: addresses are not read; write `curl -fsS {source} | nanoctl apply -f -`")
        return
    path = Path(source)
    files = [path]
    if path.is_dir():
        files = sorted(
            one
            for one in path.rglob("*")
            if one.suffix in SUFFIXES and one.is_file()
            if not any(part.startswith(".") for part in one.relative_to(path).parts)  # .git, .github and their like
        )
        problems += [] if files else [f"{source} holds no file that ends in {', '.join(SUFFIXES)}"]
    for file in files:
        try:
            with file.open("rb") as opened:
                yield from _bounded(str(file), opened, problems)
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")


def _bounded(name: str, source: IO[bytes], problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """What a source holds, unless that is more than any set of manifests: half of it would be another set."""
    content = source.read(SIZE_MAX + 1)
    if len(content) > SIZE_MAX:
        problems.append(f"{name} is larger than {SIZE_MAX >> 20} MiB")
    else:
        yield name, content


def documents(file: str, content: bytes) -> Iterator[tuple[Manifest | None, str]]:
    """Each document, or what is wrong with it."""
    try:
        _check_depth(content)
        nodes = [node for node in yaml.compose_all(content, Loader=LOADER) if not _empty(node)]
    except (yaml.YAMLError, ValueError) as error:
        yield None, f"{file}:{_line(error) or 1} {_told(error)}"
        return
    for number, node in enumerate(nodes, 1):
        try:
            _check_size(node)
            doubts = list(_doubts(node, "", set()))
            doc = None if doubts else _constructed(node)
        except (yaml.YAMLError, ValueError) as error:
            yield None, f"{file}:{_line(error) or node.start_mark.line + 1} (document {number}) {_told(error)}"
            continue
        if doubts:
            yield from ((None, f"{file}:{line} (document {number}) {path}: {said}") for line, path, said in doubts)
            continue
        yield from (
            _items(Manifest(file, number, doc, node))
            if isinstance(doc, dict)
            else [
                (
                    None,
                    f"{file}:{node.start_mark.line + 1} (document {number}) is {_kind_of(doc)}, not a mapping",
                )
            ]
        )


def _kind_of(doc: Any) -> str:
    return "a list" if isinstance(doc, list) else "a text" if isinstance(doc, str) else f"the value {doc}"


def _check_depth(content: bytes) -> None:
    """Refuse what nests deeper than any object may: libyaml's composer would end the whole process."""
    depth = 0
    for event in yaml.parse(content, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise TooDeepError(event.start_mark)


def _items(manifest: Manifest) -> Iterator[tuple[Manifest | None, str]]:
    """The manifest itself, or those in a `kind: List`."""
    items = manifest.doc.get("items")
    if manifest.doc.get("kind") != "List" or not isinstance(items, list):
        yield manifest, _problem(manifest)
        return
    for index, item in enumerate(items):
        node = _below(_below(manifest.node, "items") or manifest.node, f"[{index}]") or manifest.node
        if isinstance(item, dict):
            one = Manifest(manifest.file, manifest.number, item, node)
            yield one, _problem(one)
        else:
            yield None, f"{manifest.where()} items[{index}] is not a mapping"


def _problem(manifest: Manifest) -> str:
    doc = manifest.doc
    for field in ("apiVersion", "kind"):
        if not isinstance(doc.get(field), str) or not doc[field]:
            return f"{manifest.where(field)} has no {field}"
    metadata = doc.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None or name == "":
        return f"{manifest.where('metadata')} has no metadata.name"
    if not isinstance(name, str):
        return f"{manifest.where('metadata.name')} has a metadata.name that YAML reads as {name!r}; put it in quotes"
    return ""


def _twice(found: Iterable[Manifest]) -> Iterator[str]:
    seen: dict[tuple[str, str, str], Manifest] = {}
    for one in found:
        if isinstance(one.doc.get("metadata"), dict):
            key = (str(one.doc.get("kind")), str(one.doc["metadata"].get("namespace")), one.name)
            if all(key) and key in seen:
                yield f"{one.where()} stands already at {seen[key].where()}"
            seen[key] = one


def _empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"))


def _check_size(node: yaml.Node) -> None:
    """Refuse what stands for too many values: PyYAML itself lets a few documents fill all memory."""
    if _size(node, {}) > NODES_MAX:
        raise ValueError(f"its aliases make more than {NODES_MAX} values of it")


def _constructed(node: yaml.Node) -> Any:
    """The value of a node, which has been looked at first: its size, and that all readers agree on it."""
    loader = Plain("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _doubts(node: yaml.Node, path: str, seen: set[int]) -> Iterator[tuple[int, str, str]]:
    """Line, path and what is to be said of each value that readers of YAML do not agree on."""
    if said := doubt(node):
        yield node.start_mark.line + 1, path, said
    elif not isinstance(node, yaml.ScalarNode) and id(node) not in seen:  # else it was looked at where it stands
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = f"{path}.{key.value}".removeprefix(".")
                yield from _doubts(key, below, seen)
                yield from _doubts(value, below, seen)
        else:
            for at, one in enumerate(node.value):
                yield from _doubts(one, f"{path}[{at}]", seen)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, aliases written out. ValueError for loops, and for keys that stand twice.

    Keys are texts: a key of aliases, told by its path, would fill all memory.

    YAML lets the last of several equal keys win in silence.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError(f"the alias at line {node.start_mark.line + 1} refers to itself")
        return known[id(node)]
    known[id(node)] = 0
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError(f"a key of the mapping at line {node.start_mark.line + 1} is no text")
        keys = [str(key.value) for key, _ in node.value]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice in the mapping at line {node.start_mark.line + 1}")
        below = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    known[id(node)] = 1 + sum(_size(one, known) for one in below)
    return known[id(node)]


class TooDeepError(yaml.MarkedYAMLError):
    """More levels than any object has, at `mark`."""

    def __init__(self, mark: Any) -> None:
        super().__init__(problem=f"nested deeper than {DEPTH_MAX} levels", problem_mark=mark)


class Plain(yaml.SafeLoader):
    """Safe YAML whose times stay text, as they are in JSON."""

    def as_text(self, node: yaml.ScalarNode) -> str:
        """The scalar as it is written."""
        return str(self.construct_scalar(node))


Plain.add_constructor("tag:yaml.org,2002:timestamp", Plain.as_text)


def _line(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark is not None else 0


def _told(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"cannot be read: {error}"
    context = f"{error.context}: " if error.context else ""
    return f"cannot be read: {context}{error.problem}"
