"""Output that people lay out themselves, as kubectl has it: `-o jsonpath=TEMPLATE` and `-o custom-columns=COLUMNS`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from nanovirt.portal.cli import Misused, json_path, tables

JSON = dict[str, Any]
PLAIN = ("json", "yaml", "name", "wide")
OWN = ("jsonpath", "custom-columns")
ADVICE = {
    "go-template": "templates of Go are not known here: write -o jsonpath='{.status.phase}', or -o json for jq",
    "jsonpath-as-json": "write -o json, or -o jsonpath='{.status}'",
    "jsonpath-file": 'write -o jsonpath="$(cat FILE)"',
    "custom-columns-file": "write -o custom-columns=NAME:.metadata.name,PHASE:.status.phase",
}
ADVICE["go-template-file"] = ADVICE["template"] = ADVICE["templatefile"] = ADVICE["go-template"]
ABSENT = "<none>"
ACTION = re.compile(r"""\{((?:'[^']*'|"(?:\\.|[^"\\])*"|[^'"}])*)\}""")
ESCAPES = re.compile(r"\\(n|t|r|\\|\"|')")
LETTERS = {"n": "\n", "t": "\t", "r": "\r"}


class Output(click.ParamType[str]):
    """One of PLAIN, or `jsonpath=TEMPLATE` or `custom-columns=COLUMNS`, parsed at once to say what is wrong."""

    name = "output"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word, equals, rest = str(value).partition("=")
        if word in ADVICE:
            self.fail(ADVICE[word], param, ctx)
        if word in PLAIN and not equals:
            return word
        if word not in OWN:
            self.fail(f"{value!r} is none of {', '.join(PLAIN)}, jsonpath=TEMPLATE, custom-columns=COLUMNS", param, ctx)
        if not rest:
            example = "jsonpath='{.status.phase}'" if word == "jsonpath" else "custom-columns=NAME:.metadata.name"
            self.fail(f"say what to print: -o {example}", param, ctx)
        try:
            template(rest) if word == "jsonpath" else columns(rest)
        except Misused as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The words, with `=` where something follows."""
        del ctx, param
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell that completes needs it

        words = (*PLAIN, *(f"{one}=" for one in OWN))
        return [CompletionItem(one) for one in words if one.startswith(incomplete)]


# --- jsonpath -------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """What is printed as it stands."""

    said: str


class Path(NamedTuple):
    """What is looked up; several values stand one space apart."""

    steps: json_path.Path


class Range(NamedTuple):
    """What is printed once for each value of a path, which is `.` and `@` inside."""

    steps: json_path.Path
    body: tuple[Part, ...]


Part = Text | Path | Range


def template(said: str) -> tuple[Part, ...]:
    """The parts of a template. Raises Misused with what of it is not understood."""
    open_: list[tuple[json_path.Path, list[Part]]] = [((), [])]
    at = 0
    for match in ACTION.finditer(said):
        _literal(open_[-1][1], said[at : match.start()])
        at = match.end()
        inside = match[1].strip()
        if inside == "end":
            if len(open_) == 1:
                raise Misused("jsonpath: {end} ends no {range ...}")
            steps, body = open_.pop()
            open_[-1][1].append(Range(steps, tuple(body)))
        elif inside.startswith("range ") or inside == "range":
            if inside == "range":
                raise Misused("jsonpath: write what to go through: {range .items[*]}...{end}")
            open_.append((json_path.parse(inside.removeprefix("range ")), []))
        elif inside[:1] in ("'", '"') and inside[-1:] == inside[:1] and len(inside) > 1:
            open_[-1][1].append(Text(ESCAPES.sub(lambda found: LETTERS.get(found[1], found[1]), inside[1:-1])))
        else:
            if not inside:
                raise Misused("jsonpath: {} says nothing; the whole object is {@}")
            open_[-1][1].append(Path(json_path.parse(inside)))
    _literal(open_[-1][1], said[at:])
    if len(open_) > 1:
        raise Misused("jsonpath: {range ...} lacks its {end}")
    parts = tuple(open_[0][1])
    if all(isinstance(one, Text) for one in parts) and re.match(r"[.$@]?\w*[.\[]", said):
        raise Misused(f"jsonpath: write paths in braces: '{{{said}}}'")
    return parts


def _literal(parts: list[Part], said: str) -> None:
    if "{" in said or "}" in said:
        raise Misused(f"jsonpath: a brace in {said!r} has no other; a brace itself is {{'{{'}}")
    if said:
        parts.append(Text(said))


def filled(parts: Sequence[Part], doc: Any) -> str:
    """The template with what it names in `doc`."""
    return "".join(_filled(parts, doc))


def _filled(parts: Sequence[Part], doc: Any) -> Iterator[str]:
    for part in parts:
        match part:
            case Text(said):
                yield said
            case Path(steps):
                yield " ".join(_shown(one) for one in json_path.values(doc, steps))
            case Range(steps, body):
                for one in json_path.values(doc, steps):
                    yield from _filled(body, one)


def _shown(value: Any) -> str:
    """A value; on a terminal without what would drive it."""
    said = json_path.text(value)
    return "\t".join(map(tables.printable, said.split("\t"))) if sys.stdout.isatty() else said


# --- columns --------------------------------------------------------------------------------------------


def columns(said: str) -> list[tuple[str, json_path.Path]]:
    """Headings and paths of `NAME:.metadata.name,PHASE:.status.phase`. Raises Misused."""
    made = []
    for one in json_path.split(said, ","):
        heading, colon, path = one.partition(":")
        if not heading or not colon or not path.strip():
            raise Misused(f"custom-columns: {one!r}: write HEADING:PATH, such as PHASE:.status.phase")
        made.append((heading, json_path.relaxed(path)))
    return made


def grid(found: Sequence[JSON], wanted: Sequence[tuple[str, json_path.Path]]) -> tables.Grid:
    """A row for each object; several values of one cell are separated by commas."""
    rows = [[_cell(doc, path) for _, path in wanted] for doc in found]
    return tables.Grid([heading for heading, _ in wanted], rows)


def _cell(doc: JSON, path: json_path.Path) -> str:
    return tables.text(",".join(json_path.text(one) for one in json_path.values(doc, path)) or ABSENT)
