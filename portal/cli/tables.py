"""Tables as the server sends them, laid out for a terminal or, plainly and whole, for a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

JSON = dict[str, Any]
GAP, GAP_NARROW = 3, 2
"""Spaces between columns, and where they would not fit otherwise."""
LEAST = 24
"""Columns are not squeezed below this width: half an address or half a name is worth nothing."""
CONTROL = {"Cc", "Cf"}
COLOURS = {
    "Running": "green", "Ready": "green", "True": "green", "Active": "green", "Succeeded": "green", "Normal": None,
    "Failed": "red", "False": "red", "Warning": "red", "Revoked": "red",
    "Unknown": "magenta",
    "Pending": "yellow", "Provisioning": "yellow", "Starting": "yellow", "Stopping": "yellow", "Deleting": "yellow",
    "Uploading": "yellow", "Inspecting": "yellow", "Preparing": "yellow",
}  # fmt: skip


class Grid(NamedTuple):
    """Headings and rows of text, all of the same length."""

    headings: list[str]
    rows: list[list[str]]


def grid(table: JSON, *, wide: bool, namespaces: bool, prefix: str = "", columns: Sequence[JSON] = ()) -> Grid:
    """The grid of a server's Table; `columns` are those of an earlier Table of the same watch, which says them once."""
    defined = table.get("columnDefinitions") or columns
    shown = [index for index, one in enumerate(defined) if wide or not one.get("priority")]
    headings = [str(defined[index]["name"]).upper() for index in shown]
    rows = [[text(row["cells"][index]) for index in shown] for row in table.get("rows") or ()]
    if prefix:
        rows = [[f"{prefix}/{cells[0]}", *cells[1:]] for cells in rows]
    if namespaces:
        spaces = [(row.get("object") or {}).get("metadata", {}).get("namespace", "") for row in table.get("rows") or ()]
        headings, rows = ["NAMESPACE", *headings], [[space, *cells] for space, cells in zip(spaces, rows, strict=True)]
    return Grid(headings, rows)


def text(cell: Any) -> str:
    """A cell as text on one line."""
    match cell:
        case None | "":
            return "-"
        case bool():
            return "true" if cell else "false"
        case _:
            return printable(str(cell)).replace("\n", " ")


def printable(said: str) -> str:
    """Without control characters: what guests and people write must not drive the terminal."""
    if said.isprintable():
        return said
    return "".join("\N{REPLACEMENT CHARACTER}" if _controls(one) else one for one in said)


def _controls(one: str) -> bool:
    return one != "\n" and unicodedata.category(one) in CONTROL


def width(said: str) -> int:
    """Columns that a text takes in a terminal; Chinese characters take two."""
    return len(said) if said.isascii() else sum(_cells(one) for one in said)


def _cells(one: str) -> int:
    return 0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1


def columns_of_terminal() -> int:
    """How wide standard output is; 0 when it is no terminal and nothing is to be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def render(made: Grid, *, headings: bool = True, room: int | None = None, widths: Sequence[int] = ()) -> list[str]:
    """The lines of a grid within `room` columns (0: as wide as need be, no colours); `widths` are at least kept."""
    room = columns_of_terminal() if room is None else room
    needed = measure(made, widths)
    gap = GAP if not room or sum(needed) + GAP * (len(needed) - 1) <= room else GAP_NARROW
    sizes = fit(needed, room, gap)
    lines = [_line(cells, sizes, gap, colours=bool(room)) for cells in made.rows]
    return [_line(made.headings, sizes, gap, colours=False), *lines] if headings else lines


def measure(made: Grid, widths: Sequence[int] = ()) -> list[int]:
    """The width that each column needs."""
    needed = [max(width(cell) for cell in column) for column in zip(made.headings, *made.rows, strict=True)]
    return [max(pair) for pair in zip(needed, widths or needed, strict=True)]


def fit(sizes: list[int], room: int, gap: int) -> list[int]:
    """Narrow the widest columns but the first until all fit into `room`, as far as LEAST allows; no name is cut."""
    sizes = list(sizes)
    over = sum(sizes) + gap * (len(sizes) - 1) - room
    while room and over > 0 and len(sizes) > 1:
        widest = max(range(1, len(sizes)), key=lambda index: sizes[index])
        if sizes[widest] <= LEAST:
            break
        sizes[widest] -= 1
        over -= 1
    return sizes


def wrapped(made: Grid, room: int) -> Grid:
    """The grid with its last column broken into lines of words, so that all of it can be read within `room` columns."""
    left = room - sum(size + GAP for size in measure(made)[:-1])
    if not room or left < LEAST:
        return made
    rows: list[list[str]] = []
    for cells in made.rows:
        first, *others = textwrap.wrap(cells[-1], left) or [""]
        rows += [[*cells[:-1], first], *([*[""] * (len(cells) - 1), other] for other in others)]
    return Grid(made.headings, rows)


def _line(cells: Sequence[str], sizes: Sequence[int], gap: int, *, colours: bool) -> str:
    parts = [_padded(cell, size, colours=colours) for cell, size in zip(cells, sizes, strict=True)]
    return (" " * gap).join(parts).rstrip()


def _padded(cell: str, size: int, *, colours: bool) -> str:
    shown = cut(cell, size)
    padding = " " * (size - width(shown))
    colour = COLOURS.get(cell) if colours else None
    return (click.style(shown, fg=colour) if colour else shown) + padding


def cut(said: str, size: int) -> str:
    """A text of at most `size` columns, its end replaced by an ellipsis."""
    if width(said) <= size:
        return said
    kept, used = [], 0
    for one in said:
        used += _cells(one)
        if used > size - 1:
            break
        kept.append(one)
    return "".join(kept) + "…"
