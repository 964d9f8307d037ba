"""Views of the log: what was there at a revision, what differs between two, what happened to one object, newest first.

They are pure over records and sums of records, and may read for seconds. So nobody runs them on an event loop: past.py
asks, and `python -m nanovirt.resources.history` answers beside the server.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from nanovirt.resources.errors import Forgotten, Invalid, NanoError
from nanovirt.resources.log import Record, Sum
from nanovirt.resources.moments import made_at, resolve
from nanovirt.resources.recorded import Filed, Source
from nanovirt.resources.snapshots import name_of

JSON = dict[str, Any]
Name = tuple[str, str, str]
"""Plural, namespace, name."""
Lines = dict[Name, bytes]
"""By name, the line that a snapshot has of an object."""
_PR_SET_PDEATHSIG = 1
END = b"."
"""The line that says that an answer is whole."""


class Question(NamedTuple):
    """What is asked of the past: a view, at which revision or time, of which objects ("" is any).

    Views: `objects` at `at`; `differences` from `at` to `to`; `steps` of one object and `revisions`, both newest first
    and from `at` back. `word` is the kind in its singular, by which Events name it.
    """

    view: str
    at: str
    kind: str = ""
    namespace: str = ""
    name: str = ""
    to: str = ""
    word: str = ""

    def takes(self, name: Name) -> bool:
        """Whether that object is among those that are meant."""
        return all(not mine or mine == its for mine, its in zip(self[2:5], name, strict=True))

    @property
    def needle(self) -> bytes:
        """What stands in every record that writes one of them."""
        said = {"name": self.name, "kind": self.kind, "namespace": self.namespace}
        return next((_member(part, text) for part, text in said.items() if text), b"")


def answer(source: Source, asked: Question) -> Iterator[bytes]:
    """First a line `{"rev","at","since","sinceAt"}` (with `to`, `toAt` for differences), then one line for each thing.

    Nothing is yielded before all that may be refused has been: Invalid, Forgotten.
    """
    rev = resolve(source, asked.at)
    since = source.since()
    said: JSON = {"rev": rev, "at": made_at(source, rev), "since": since.rev, "sinceAt": since.at}
    match asked.view:
        case "objects":
            found = state(source, rev, asked.takes, asked.needle)
            yield orjson.dumps(said)
            yield from (found[name] for name in sorted(found))
        case "differences":
            to = resolve(source, asked.to)
            differing = differences(source, rev, to, asked)
            yield orjson.dumps(said | {"to": to, "toAt": made_at(source, to)})
            yield from differing
        case "steps":
            yield orjson.dumps(said)
            yield from steps(source, rev, asked)
        case "revisions":
            yield orjson.dumps(said)
            yield from revisions(source, rev)
        case _:
            raise Invalid("view", f"there is no view {asked.view!r}")


# --- states ---------------------------------------------------------------------------------------------


def state(source: Source, rev: int, takes: Callable[[Name], bool], needle: bytes = b"") -> Lines:
    """What there was at a revision, undecoded; `needle` stands in every record that writes something of it."""
    base = _base(source, rev)
    found: Lines = {}
    for line in base.lines() if base else ():
        said = name_of(line)
        if said and needle in said + b"}" and takes(name := _name(orjson.loads(said + b"}"))):
            found[name] = line
    for record in _until(source, base.rev if base else 0, rev):
        for write in writes(record, needle):
            if takes(name := _name(write)):
                _carry_out(found, name, write)
    return found


def _base(source: Source, rev: int) -> Sum | None:
    """What reading begins from; None: the first record. Forgotten: that is gone, or damaged."""
    base, since = source.base(rev), source.since()
    if base is None and since.rev:
        raise Forgotten(f"revision {rev}", *since)
    return base


def _until(source: Source, after: int, rev: int) -> Iterator[Record]:
    for record in source.read(after):
        if record.rev > rev:
            return
        yield record


def _carry_out(found: Lines, name: Name, write: JSON) -> None:
    if write["verb"] == "put":
        found[name] = orjson.dumps({part: value for part, value in write.items() if part != "verb"})
    else:
        found.pop(name, None)


def writes(record: Record, needle: bytes) -> Iterable[JSON]:
    """What a record writes; nothing when the needle is not in it."""
    return orjson.loads(record.body)["writes"] if needle in record.body else ()


def _name(write: JSON) -> Name:
    return write["kind"], write["namespace"], write["name"]


def _member(part: str, text: str) -> bytes:
    return b'"%b":%b' % (part.encode(), orjson.dumps(text))


# --- differences ----------------------------------------------------------------------------------------


def differences(source: Source, one: int, other: int, asked: Question) -> list[bytes]:
    """What is not the same at both revisions, in the order of names: `{kind, namespace, name, before, after}`.

    `before` and `after` are lines of a snapshot, or null where there is no such object.
    """
    low, high = sorted((one, other))
    touched: dict[Name, None] = {}
    for record in _until(source, low, high):
        touched.update((name, None) for write in writes(record, asked.needle) if asked.takes(name := _name(write)))
    if not touched:
        return []
    before, after = (state(source, rev, touched.__contains__, asked.needle) for rev in (one, other))
    return [
        b'%b,"before":%b,"after":%b}' % (_told(name), before.get(name, b"null"), after.get(name, b"null"))
        for name in sorted(touched)
        if before.get(name) != after.get(name)
    ]


def _told(name: Name) -> bytes:
    return orjson.dumps(dict(zip(("kind", "namespace", "name"), name, strict=True)))[:-1]


# --- one object over time -------------------------------------------------------------------------------


def steps(source: Source, upto: int, asked: Question) -> Iterator[bytes]:
    """Every write of one object, of the Placements of an instance, and of Events about it, newest first.

    `{rev, at, by, request, kind, namespace, name, before, after}`, as differences have it. After each part of the past
    comes a line `{"rev"}` alone: all above that revision has been told.
    """
    for low, high in _spans(source, upto):
        yield from reversed(list(_forward(source, low, high, asked)))
        yield orjson.dumps({"rev": low})


def _spans(source: Source, upto: int) -> Iterator[tuple[int, int]]:
    """The past in parts that each begin with a sum, or with the first record; newest first."""
    since = source.since()
    while upto > since.rev:
        base = source.base(upto - 1)
        low = base.rev if base else since.rev
        yield low, upto
        upto = low


def _forward(source: Source, low: int, high: int, asked: Question) -> Iterator[bytes]:
    named = re.compile(rb'"(?:name|instance)":"%b["-]' % re.escape(orjson.dumps(asked.name)[1:-1]))
    concerned = _concerning(asked)
    found: Lines = {}
    base = _base(source, low)
    for line in base.lines() if base else ():
        if named.search(line) and name_of(line) and concerned(write := orjson.loads(line)):
            found[_name(write)] = line
    for record in _until(source, low, high):
        if named.search(record.body):
            body = orjson.loads(record.body)
            for write in body["writes"]:
                if _name(write) in found or concerned(write):
                    yield _step(found, body, write)


def _step(found: Lines, body: JSON, write: JSON) -> bytes:
    name = _name(write)
    before = found.get(name, b"null")
    _carry_out(found, name, write)
    head = orjson.dumps({part: body[part] for part in ("rev", "at", "by", "request")})[:-1]
    return b'%b,%b,"before":%b,"after":%b}' % (head, _told(name)[1:], before, found.get(name, b"null"))


def _concerning(asked: Question) -> Callable[[JSON], bool]:
    """Whether a write is about the object, or tells of it."""
    space = asked.namespace or "default"

    def told(write: JSON) -> bool:
        doc = write.get("object", {})
        match write["kind"]:
            case asked.kind:
                return (asked.namespace, asked.name) == (write["namespace"], write["name"])
            case "placements" if asked.kind == "instances":
                return bool(write["namespace"] == space and doc.get("spec", {}).get("instance") == asked.name)
            case "events" if write["namespace"] == space:
                about = doc.get("involvedObject", {})
                return (asked.word, asked.name) == (about.get("kind"), about.get("name"))
            case _:
                return False

    return told


# --- revisions ------------------------------------------------------------------------------------------


def revisions(source: Source, upto: int) -> Iterator[bytes]:
    """Every revision from `upto` back: `{rev, at, by, request, writes: [[verb, plural, namespace, name]]}`."""
    since = source.since()
    starts = [start for start in source.starts() if since.rev < start <= upto]
    if since.rev < upto and (not starts or starts[0] > since.rev + 1):
        starts.insert(0, since.rev + 1)
    for at in range(len(starts) - 1, -1, -1):
        high = starts[at + 1] - 1 if at + 1 < len(starts) else upto
        yield from reversed([_head(record) for record in _until(source, starts[at] - 1, high)])


def _head(record: Record) -> bytes:
    body = orjson.loads(record.body)
    said = {part: body[part] for part in ("rev", "at", "by", "request")}
    return orjson.dumps(said | {"writes": [[write["verb"], *_name(write)] for write in body["writes"]]})


# --- beside the server ----------------------------------------------------------------------------------


def main() -> int:
    """`python -m nanovirt.resources.history DIRECTORY HEAD PARENT QUESTION`: the lines of the answer.

    A refusal is one line `{"refused", "with"}` instead; END follows. The questioner may go away at any moment.
    """
    directory, head, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    asked = Question(*orjson.loads(sys.argv[4]))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.nice(10)
    out = sys.stdout.buffer
    try:
        for line in _spoken(directory, head, asked):
            out.write(line + b"\n")
        out.write(END + b"\n")
        out.flush()
    except BrokenPipeError:
        os._exit(0)  # nothing is left to be flushed to anybody
    return 0


def _spoken(directory: Path, head: int, asked: Question) -> Iterator[bytes]:
    """The answer, or the line that refuses it; one that breaks off in the middle is an error of the process."""
    begun = False
    try:
        for line in answer(Filed(directory, head), asked):
            yield line
            begun = True
    except Forgotten as error:
        yield orjson.dumps({"refused": "Forgotten", "with": [error.params["asked"], error.oldest, error.at]})
    except Invalid as error:
        yield orjson.dumps({"refused": "Invalid", "with": [error.causes[0].field, error.causes[0].message]})
    except (NanoError, OSError, EOFError) as error:
        if begun:
            raise
        yield orjson.dumps({"refused": "Unavailable", "with": [str(error)]})


if __name__ == "__main__":
    sys.exit(main())
