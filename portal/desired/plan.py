"""What a look at the directory leads to, purely: the writes, what to remember of them, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from nanovirt.portal.desired.looking import Look, Sight, twins
from nanovirt.portal.desired.merging import Live, Merged, merge
from nanovirt.portal.desired.wishes import Values, Wish
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.errors import Invalid
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Entry

SHARE, LEAST = 10, 3
"""One in so many objects may be deleted at once, and in any case so many."""
UNKNOWN = 0
"""No object is of that generation."""
NAMED = 10
"""Objects or fields that a sentence names."""


class Said(NamedTuple):
    """One statement of the closed list; `good`: whether all is well."""

    reason: Reason
    params: JSON
    good: bool = False


APPLIED = Said(Reason.DirectoryApplied, {}, good=True)
NOTHING = Said(Reason.NothingVanished, {}, good=True)


@dataclass(frozen=True)
class Read:
    """A file that has settled: its wishes, or what is wrong with it."""

    wishes: Sequence[Wish] = ()
    problems: Sequence[str] = ()
    unsafe: str = ""

    @property
    def usable(self) -> bool:
        """Whether its wishes are all that it says."""
        return not (self.problems or self.unsafe)


@dataclass(frozen=True)
class Seen:
    """The directory, once it is known what counts: path -> Read, or None for a file that is still changing.

    `calm`: nothing has come, gone or changed between two looks.
    """

    path: str
    files: Mapping[str, Read | None] = field(default_factory=dict)
    calm: bool = True
    wrong: Reason | None = None
    """Why nothing of it counts at all, in the `detail`."""
    detail: str = ""


@dataclass(frozen=True)
class Known:
    """What is remembered of an object that was applied; `entry` is how that is stored."""

    key: Key
    uid: str
    generation: int
    file: str
    digest: str
    contested: Sequence[str]
    entry: Entry

    @property
    def kept_at(self) -> Key:
        """Where this memory stands."""
        return memory_of(self.key)

    @cached_property
    def base(self) -> Values:
        """What the file said when it was applied."""
        return {tuple(path): value for path, value in load(self.entry.raw)["spec"]["fields"]}


def memory_of(key: Key) -> Key:
    """Where that stands for an object."""
    return Key("applied", "", str(key))


@dataclass(frozen=True)
class Pruning:
    """What may be deleted when its file is gone: nothing unless `always`, or a person has named it in `asked`."""

    always: bool = False
    asked: frozenset[Key] = frozenset()
    force: bool = False
    """That person wants all of it gone, however much, and whatever the API side has changed in it."""


@dataclass(frozen=True)
class Note:
    """What is to be remembered of an object: what its file says, with the `generation` that the file knows of.

    None: the one that the write leads to. An object that is of another one has been changed by the API side.
    """

    wish: Wish
    merged: Merged
    generation: int | None
    uid: str = ""
    before: Known | None = None


@dataclass(frozen=True)
class Write:
    """One write of the transaction, with what is to be remembered when it is done (None: it is a deletion)."""

    key: Key
    doc: JSON
    note: Note | None = None


@dataclass
class Plan:
    """The decision: `writes` go out as one transaction; `notes` and `forgotten` are remembered in any case."""

    writes: list[Write] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    """Of objects that need no write."""
    forgotten: list[Known] = field(default_factory=list)
    files: dict[str, list[Said]] = field(default_factory=dict)
    directory: Said = APPLIED
    vanished: list[Key] = field(default_factory=list)
    """Objects that have lost their file and are still there."""
    pruning: Said = NOTHING


def counted(look: Look, before: Look | None, read: Mapping[str, Read], path: str) -> Seen:
    """What counts of a look: files that were the same in the one `before`. `read`: digest and path -> what they say."""
    if look.missing or look.unsafe or look.busy:
        wrong = Reason.DirectoryMissing if look.missing else Reason.DirectoryBusy
        return Seen(path, calm=False, wrong=Reason.DirectoryUnsafe if look.unsafe else wrong, detail=look.unsafe)
    same = settled(look, before)
    files = {name: _counted(name, look.files[name], read) if name in same else None for name in look.files}
    # Two looks at one directory: what has its name meanwhile may be half of a checkout.
    calm = before is not None and before.files.keys() == files.keys() and look.inode == before.inode
    return Seen(path, files, calm and None not in files.values())


def settled(look: Look, before: Look | None) -> set[str]:
    """The files that two looks have found the same."""
    earlier = before.files if before is not None else {}
    return {name for name, one in look.files.items() if name in earlier and earlier[name].digest == one.digest}


def _counted(name: str, sight: Sight, read: Mapping[str, Read]) -> Read:
    return Read(unsafe=sight.why) if sight.why else read[f"{sight.digest} {name}"]


def plan(seen: Seen, known: Mapping[Key, Known], view: Mapping[Key, Entry], pruning: Pruning) -> Plan:
    """What to do. `view`: every object that a wish or a memory names, as the pending state has it."""
    made = Plan()
    if seen.wrong is not None:
        made.directory = Said(seen.wrong, {"path": seen.path, "detail": seen.detail})
        made.pruning = _vanished(seen, known, view, pruning, made, {one for one in known if one in view})
        return made
    wishes = dict(_good(seen, made))
    wishes = {key: one for key, one in wishes.items() if not _of_broken_file(one, seen, known.get(key), made)}
    for key, wish in wishes.items():
        said = _settle(wish, known.get(key), view.get(key), made)
        if said is not None:
            made.files[wish.file].append(said)
    for path, sayings in made.files.items():
        if not sayings:
            count = sum(1 for one in wishes.values() if one.file == path)
            sayings.append(Said(Reason.FileApplied, {"count": count}, good=True))
    gone = known.keys() - wishes.keys()
    made.pruning = _vanished(seen, known, view, pruning, made, gone)
    bad = sum(1 for sayings in made.files.values() if not all(one.good for one in sayings))
    if bad:
        made.directory = Said(Reason.DirectoryIncomplete, {"path": seen.path, "count": bad})
    else:
        made.directory = Said(Reason.DirectoryApplied, {"path": seen.path}, good=True)
    return made


def _good(seen: Seen, made: Plan) -> Iterator[tuple[Key, Wish]]:
    """The wishes of the files that count; says of all others why they do not."""
    clashing = twins(list(seen.files))
    places: dict[Key, list[str]] = {}
    for path, file in sorted(seen.files.items()):
        made.files[path] = []
        if path in clashing:
            made.files[path].append(Said(Reason.FileNamesClash, {"other": clashing[path]}))
        if file is None:
            made.files[path].append(Said(Reason.FileSettling, {}))
        elif file.unsafe:
            made.files[path].append(Said(Reason.FileUnsafe, {"detail": file.unsafe}))
        elif file.problems:
            made.files[path].append(Said(Reason.FileBroken, {"detail": "; ".join(file.problems[:NAMED])}))
        for wish in file.wishes if file is not None else ():
            places.setdefault(wish.key, []).append(path)
    for key, paths in places.items():
        for path in paths if len(paths) > 1 else ():
            made.files[path].append(Said(Reason.ObjectDefinedTwice, {"name": str(key), "files": ", ".join(paths)}))
    for path, file in seen.files.items():
        if file is not None and not made.files[path]:
            yield from ((wish.key, wish) for wish in file.wishes)


def _of_broken_file(wish: Wish, seen: Seen, known: Known | None, made: Plan) -> bool:
    """Whether the object stood in another file that cannot be read now, and so may stand there still."""
    if known is None or known.file == wish.file or known.file not in seen.files:
        return False
    there = seen.files[known.file]
    if there is not None and there.usable:
        return False
    made.files[wish.file].append(Said(Reason.ObjectOfBrokenFile, {"name": str(wish.key), "file": known.file}))
    return True


def _settle(wish: Wish, known: Known | None, entry: Entry | None, made: Plan) -> Said | None:
    """Decide about one object; what to say of it, if it is not as the file says."""
    name = str(wish.key)
    if entry is None and known is None:
        note = Note(wish, Merged(None, wish.values), None)
        made.writes.append(Write(wish.key, {"verb": "create", "object": wish.doc}, note))
        return None
    if entry is None or entry.deleting or (known is not None and known.uid != entry.uid):
        return Said(Reason.DeletedByApi, {"name": name})
    if known is not None and _unchanged(known, wish, entry):
        return None
    try:
        merged = merge(known.base if known is not None else {}, wish, Live(wish.cls, load(entry.raw)))
    except Invalid as error:
        return Said(Reason.FileBroken, {"detail": f"{wish.where}: {error}"})
    before = known.generation if known is not None else UNKNOWN
    abreast = merged.agreed or before == entry.generation
    if merged.patch is not None:
        note = Note(wish, merged, None if abreast else before, entry.uid, known)
        made.writes.append(Write(wish.key, _patch(wish, entry, merged.patch), note))
    else:
        note = Note(wish, merged, entry.generation if abreast else before, entry.uid, known)
        if _differs(note):
            made.notes.append(note)
    if merged.contested:
        return Said(Reason.ApiSideWins, {"name": name, "fields": ", ".join(merged.contested[:NAMED])})
    if merged.kept:
        return Said(Reason.ApiSideAhead, {"name": name, "fields": ", ".join(merged.kept[:NAMED])})
    return None


def _unchanged(known: Known, wish: Wish, entry: Entry) -> bool:
    same = known.digest == wish.digest and known.file == wish.file
    return same and known.generation == entry.generation and not known.contested


def _differs(note: Note) -> bool:
    """Whether there is something new to remember."""
    known, wish = note.before, note.wish
    if known is None:
        return True
    mine = (known.digest, known.file, tuple(known.contested), known.generation)
    # The base can change alone: contested before, and agreed upon now.
    return mine != (wish.digest, wish.file, note.merged.contested, note.generation)


def _patch(wish: Wish, entry: Entry, patch: JSON) -> JSON:
    """A write that is refused when somebody else has written meanwhile."""
    expected = {"resourceVersion": str(entry.rev), "uid": entry.uid}
    return {**_named(wish.key), "verb": "patch", "patch": {**patch, "metadata": patch.get("metadata", {}) | expected}}


def _named(key: Key) -> JSON:
    facts = KINDS[key.plural].facts
    space = {"namespace": key.namespace} if key.namespace else {}
    return {"apiVersion": facts.group_version, "kind": facts.kind, **space, "name": key.name}


# --- objects without a file -----------------------------------------------------------------------------


def _vanished(
    seen: Seen, known: Mapping[Key, Known], view: Mapping[Key, Entry], pruning: Pruning, made: Plan, gone: Iterable[Key]
) -> Said:
    """Decide about what stands in no file that counts; while any file is in doubt, that is nobody's fault yet."""
    in_doubt = {path for path, file in seen.files.items() if file is None or not file.usable}
    calm = seen.calm and not in_doubt
    calm = calm and not any(one.reason in IN_DOUBT for sayings in made.files.values() for one in sayings)
    left = _left(known, view, gone)
    if calm:
        made.forgotten += [known[key] for key in sorted(gone) if key not in left]
    else:
        left = {key: entry for key, entry in left.items() if known[key].file not in in_doubt}
    made.vanished = sorted(left)
    count = len(left)
    if not left:
        return NOTHING
    if not calm:
        return Said(Reason.PruneWaits, {"count": count})
    touched = {key for key, entry in left.items() if entry.generation != known[key].generation}
    wanted = set(left) if pruning.always else set(left) & pruning.asked
    chosen = set(left) & pruning.asked if pruning.force else wanted - touched
    limit = max(LEAST, len(known) // SHARE)
    if len(wanted) > limit and not pruning.force:
        return Said(Reason.PruneHeld, {"count": count, "total": len(known), "limit": limit})
    made.writes += [_deletion(key, left[key]) for key in sorted(chosen)]
    if len(chosen) == count:
        return NOTHING
    return Said(Reason.PruneContested if wanted & touched else Reason.PruneOff, {"count": count - len(chosen)})


IN_DOUBT = (Reason.FileNamesClash, Reason.ObjectDefinedTwice, Reason.ObjectOfBrokenFile)


def _left(known: Mapping[Key, Known], view: Mapping[Key, Entry], gone: Iterable[Key]) -> dict[Key, Entry]:
    """Those of them that are still the same objects; the others have been deleted by the API side."""
    return {
        key: view[key] for key in gone if key in view and view[key].uid == known[key].uid and not view[key].deleting
    }


def _deletion(key: Key, entry: Entry) -> Write:
    expected = {"uid": entry.uid, "resourceVersion": str(entry.rev)}
    return Write(key, {**_named(key), "verb": "delete", "preconditions": expected})
