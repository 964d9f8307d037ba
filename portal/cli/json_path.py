"""The paths of kubectl's JSONPath: fields, indexes, slices, wildcards, filters, and `..` for anywhere below.

Source: kubernetes.io/docs/reference/kubectl/jsonpath. As there, what is not there yields nothing, and a filter compares
one field with one value. There are no regular expressions, and no `&&`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson

from nanovirt.portal.cli import Misused

Step = Callable[[Any], Iterator[Any]]
"""From one value to those that a part of a path leads to."""
Path = tuple[Step, ...]

DOTTED = re.compile(r"(\.\.|\.)?((?:\\.|[^\s.\[\]{}()'\"\\,|=<>!?@$])+)")
"""`.name`, with `\\.` for a dot that belongs to the name."""
QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
SLICE = re.compile(r"(-?\d{1,9})?(?:(:)(-?\d{1,9})?(?::(\d{1,9}))?)?")
FILTER = re.compile(
    r"\?\(\s*@(?P<path>.*?)\s*"
    r"(?:(?P<sign>==|!=|<=|>=|<|>)\s*(?P<value>'[^']*'|\"[^\"]*\"|[^=<>!'\"]+?))?\s*\)"
)
SIGNS = {
    "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
WORDS = {"true": True, "false": False, "null": None}


def parse(said: str) -> Path:
    """The path in `said`, which may begin with `$` or `@`. Raises Misused with what of it is not understood."""
    rest = said.strip()
    rest = rest[1:] if rest[:1] in ("$", "@") else rest
    steps: list[Step] = []
    while rest and rest != ".":
        found, taken = _bracket(rest, said) if rest.startswith("[") else _dotted(rest, said)
        steps += found
        rest = rest[taken:]
    return tuple(steps)


def relaxed(said: str) -> Path:
    """A path as people write it where nothing but a path can stand: `{.a.b}`, `.a.b` or `a.b`."""
    bare = said.strip()
    if bare.startswith("{") and bare.endswith("}"):
        bare = bare[1:-1]
    return parse(bare)


def values(found: Any, path: Path) -> Iterator[Any]:
    """What the path leads to in a JSON document, in its order; nothing where it leads nowhere."""
    if not path:
        yield found
        return
    for one in path[0](found):
        yield from values(one, path[1:])


def text(value: Any) -> str:
    """A value as kubectl prints it: text as it is, `true`, and what holds others as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# --- parsing --------------------------------------------------------------------------------------------


def _dotted(rest: str, said: str) -> tuple[list[Step], int]:
    if rest.startswith("..["):
        return [_below], 2
    match = DOTTED.match(rest)
    if match is None:
        raise Misused(f"path {said!r}: {rest!r} is not understood; paths look like .status.conditions[0].type")
    name = re.sub(r"\\(.)", r"\1", match[2])
    step: Step = _every if match[2] == "*" else partial(_field, name)
    return ([_below, step] if match[1] == ".." else [step]), match.end()


def _bracket(rest: str, said: str) -> tuple[list[Step], int]:
    end = _closing(rest)
    if not end:
        raise Misused(f"path {said!r}: {rest!r} lacks its ']'")
    inside = rest[1:end].strip()
    if inside.startswith("?"):
        return [_filter(inside, said)], end + 1
    return [partial(_several, tuple(_member(one.strip(), said) for one in split(inside, ",")))], end + 1


def _member(one: str, said: str) -> Path:
    if one == "*":
        return (_every,)
    if quoted := QUOTED.fullmatch(one):
        name = quoted[1] if quoted[1] is not None else quoted[2]
        plain = re.sub(r"\\(.)", r"\1", name)
        return (partial(_named, plain, _steps_in(name)),)
    match = SLICE.fullmatch(one)
    if not one or match is None or int(match[4] or 1) == 0:
        raise Misused(
            f"path {said!r}: [{one}] is not understood; write [*], [0], [-1], [0:2], ['name'] or [?(@.name==\"value\")]"
        )
    first, colon, last, pace = match.groups()
    if not colon:
        return (partial(_index, int(first)),)
    ends = [None if end is None else int(end) for end in (first, last, pace)]
    return (partial(_cut, slice(*ends)),)


def _steps_in(name: str) -> Path:
    """What a quoted name is as a path; nothing when it is none, as it may still be a key."""
    try:
        return parse(f".{name}") if "." in name.replace("\\.", "") else ()
    except Misused:
        return ()


def _filter(inside: str, said: str) -> Step:
    match = FILTER.fullmatch(inside)
    if match is None or any(sign in QUOTED.sub("''", inside) for sign in ("&&", "||", "=~")):
        raise Misused(f'path {said!r}: [{inside}] is not understood; write one comparison: [?(@.name=="value")]')
    path = parse(match["path"])
    if match["sign"] is None:
        return partial(_having, path)
    wanted = _literal(match["value"], said)
    if wanted is None and match["sign"] not in ("==", "!="):
        raise Misused(f"path {said!r}: [{inside}] is not understood; null is neither more nor less: write == or !=")
    return partial(_comparing, path, SIGNS[match["sign"]], wanted)


def _literal(word: str, said: str) -> Any:
    if quoted := QUOTED.fullmatch(word):
        return quoted[1] if quoted[1] is not None else quoted[2]
    if word in WORDS:
        return WORDS[word]
    try:
        return float(word)
    except ValueError:
        raise Misused(f'path {said!r}: write the value {word} in quotes: "{word}"') from None


def split(said: str, mark: str) -> list[str]:
    """The parts between marks, but for those in quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for one in said:
        if quote:
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
        else:
            depth += (one in "[({") - (one in "])}")
        if one == mark and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += one
    return parts


def _closing(rest: str) -> int:
    """Where the bracket that `rest` begins with is closed; 0 when it is not."""
    depth, quote = 0, ""
    for at, one in enumerate(rest):
        if quote:
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
        else:
            depth += (one == "[") - (one == "]")
            if not depth:
                return at
    return 0


# --- steps ----------------------------------------------------------------------------------------------


def _field(name: str, found: Any) -> Iterator[Any]:
    if isinstance(found, dict) and name in found:
        yield found[name]


def _named(name: str, path: Path, found: Any) -> Iterator[Any]:
    """`['a.b']`: the key of that name, or else, as kubectl reads it, the path."""
    if isinstance(found, dict) and name in found:
        yield found[name]
    elif path:
        yield from values(found, path)


def _every(found: Any) -> Iterator[Any]:
    if isinstance(found, dict | list):
        yield from found.values() if isinstance(found, dict) else found


def _below(found: Any) -> Iterator[Any]:
    yield found
    for one in _every(found):
        yield from _below(one)


def _index(at: int, found: Any) -> Iterator[Any]:
    if isinstance(found, list) and -len(found) <= at < len(found):
        yield found[at]


def _cut(part: slice, found: Any) -> Iterator[Any]:
    if isinstance(found, list):
        yield from found[part]


def _several(members: tuple[Path, ...], found: Any) -> Iterator[Any]:
    for one in members:
        yield from values(found, one)


def _having(path: Path, found: Any) -> Iterator[Any]:
    yield from (one for one in _every(found) if any(True for _ in values(one, path)))


def _comparing(path: Path, holds: Callable[[Any, Any], bool], wanted: Any, found: Any) -> Iterator[Any]:
    for one in _every(found):
        if any(_alike(value, wanted) and holds(value, wanted) for value in values(one, path)):
            yield one


def _alike(value: Any, wanted: Any) -> bool:
    """Whether the two can be compared: numbers with numbers, text with text, true with true, and all with null."""
    if wanted is None:
        return True
    if isinstance(value, bool) or isinstance(wanted, bool):
        return isinstance(value, bool) and isinstance(wanted, bool)
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return True
    return isinstance(value, str) and isinstance(wanted, str)
