"""Keeps the store as the directory says: looks at it at every hint and once a minute, and applies what counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from watchfiles import awatch

from nanovirt.portal.api import applying
from nanovirt.portal.api.intents import intents
from nanovirt.portal.api.requests import Options
from nanovirt.portal.api.transacting import Done, Transactor
from nanovirt.portal.api.writing import Writer
from nanovirt.portal.desired.looking import Look, look
from nanovirt.portal.desired.merging import MANAGER
from nanovirt.portal.desired.plan import (
    NAMED,
    Known,
    Note,
    Plan,
    Pruning,
    Read,
    Said,
    Seen,
    Write,
    counted,
    memory_of,
    plan,
    settled,
)
from nanovirt.portal.desired.standing import Standing
from nanovirt.portal.desired.telling import tell
from nanovirt.portal.desired.wishes import wishes
from nanovirt.portal.identity import Subject
from nanovirt.resources import hold
from nanovirt.resources.applied import Applied, AppliedSpec
from nanovirt.resources.codec import dump, load, trusted
from nanovirt.resources.errors import Conflict, NanoError, Stale
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Delete, Op, Store, Update, transact

log = logging.getLogger(__name__)

RESCAN_SECONDS = 60.0
SETTLE_SECONDS = 1.0
"""Between two looks that have to find a file the same."""
RETRY_SECONDS = 5.0
"""After there was nothing to watch."""
DEBOUNCE_MS = 200
PORTION, PORTION_BYTES = 200, 1 << 20
ATTEMPTS = 4
PASSES = (Reason.DirectoryBusy, Reason.DirectoryHeld)
"""What is over soon by itself: then the next look comes early."""
OUTRUN = ("Conflict", "AlreadyExists", "NotFound")
"""Somebody else may write, make or delete what is to be written; then it is decided anew, a few times."""


class Desired:
    """`run` must live as long as the directory counts; `prune` and `standing` are what people ask for."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        directory: Path,
        subject: Callable[[], Subject],
        clock: Callable[[], datetime],
        *,
        user: str,
        prune: bool = False,
        settle: float = SETTLE_SECONDS,
        rescan: float = RESCAN_SECONDS,
    ) -> None:
        """`subject`: as whom it writes, asked each time; `prune`: whether objects go when their file has gone."""
        self._store, self._transactor = store, Transactor(store, writer, clock)
        self._directory, self._subject, self._clock = directory, subject, clock
        self._always, self._settle, self._rescan = prune, settle, rescan
        self._before: Look | None = None
        self._looked = -settle
        self._read: dict[str, Read] = {}
        self._turn = asyncio.Lock()
        self._hint = asyncio.Event()
        self.standing = Standing(str(directory), user, prune=prune)

    async def run(self) -> None:
        """Look and apply, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hints())
            while True:
                self._hint.clear()
                pause = self._rescan if await self._looked_safely() else self._settle
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._hint.wait()

    async def _looked_safely(self) -> bool:
        """A file that meets a bug of ours must not end the server, again and again."""
        try:
            return await self.look()
        except Exception as error:
            log.exception("looking at the desired directory failed; will retry")
            self.standing.confess(error, self._clock())
            return True

    async def look(self) -> bool:
        """Look once, and apply what counts. Gives whether the directory has settled."""
        async with self._turn:
            seen = await self._seen()
            await self._bring_about(seen, Pruning(always=self._always))
            return seen.wrong not in PASSES and None not in seen.files.values() and self._calm(seen)

    async def prune(self, asked: Iterable[Key], *, force: bool) -> list[Key]:
        """Delete those objects as far as they have no file any more; gives which are gone, or are on their way."""
        keys = frozenset(asked)
        async with self._turn:
            plan_ = await self._bring_about(await self._seen(), Pruning(self._always, keys, force))
            return [one.key for one in plan_.writes if one.note is None]

    def _calm(self, seen: Seen) -> bool:
        return seen.calm or seen.wrong is not None

    async def _hints(self) -> None:
        """Tell the loop that something may have changed; whatever is missed here, it finds by itself."""
        directory = self._directory
        while True:
            self._hint.set()
            try:
                async for _ in awatch(directory, watch_filter=_counts(directory), debounce=DEBOUNCE_MS):
                    self._hint.set()
                    if self._moved():
                        break
            except OSError:  # it is not there, or the system watches too much already
                await asyncio.sleep(RETRY_SECONDS)

    def _moved(self) -> bool:
        """Whether another directory has the name by now: the one that is watched is out of use."""
        try:
            found = self._directory.stat()
        except OSError:
            return True
        return self._before is not None and self._before.inode not in ((0, 0), (found.st_dev, found.st_ino))

    async def _seen(self) -> Seen:
        loop, before = asyncio.get_running_loop(), self._before
        await asyncio.sleep(max(0.0, self._looked + self._settle - loop.time()))
        found = await asyncio.to_thread(look, self._directory)
        self._looked = loop.time()
        read: dict[str, Read] = {}
        for path in settled(found, before):
            sight = found.files[path]
            name = f"{sight.digest} {path}"
            if sight.why:
                continue
            known = self._read.get(name)
            read[name] = known if known is not None else await asyncio.to_thread(_read, path, sight.content)
        self._before = Look(
            {path: replace(sight, content=b"") for path, sight in found.files.items()}, inode=found.inode
        )
        self._read = read
        seen = counted(found, before, read, str(self._directory))
        return Seen(seen.path, calm=False, wrong=Reason.DirectoryHeld) if hold.held(self._store) else seen

    async def _bring_about(self, seen: Seen, pruning: Pruning) -> Plan:
        """Decide and write, until nobody comes between."""
        for attempt in range(ATTEMPTS):
            known = self._known()
            keys = known.keys() | {one.key for file in seen.files.values() if file is not None for one in file.wishes}
            view = {key: entry for key in keys if (entry := self._store.peek(key)) is not None}
            made = await asyncio.to_thread(plan, seen, known, view, pruning)
            try:
                revision = await self._write(made)
            except Stale as error:
                if attempt < ATTEMPTS - 1:
                    continue
                _refuse(made, error)
                revision = 0
            for line in self.standing.take(made, self._clock(), revision):
                log.warning("desired directory is not applied", extra={"detail": line})
            return made
        raise AssertionError("the last attempt ends the loop")

    def _known(self) -> dict[Key, Known]:
        found: dict[Key, Known] = {}
        for _, entry in self._store.peek_all("applied"):
            row = entry.row
            key = Key(row.plural, row.namespace or "", row.name)
            if row.plural in KINDS:
                found[key] = Known(
                    key, row.uid, row.generation, row.file, row.digest, tuple(row.contested or ()), entry
                )
        return found

    # --- writing ---

    async def _write(self, made: Plan) -> int:
        """Carry out the plan; its revision, or 0 when nothing was written. Raises Stale; all else is said in `made`."""
        done: Done | None = None
        while made.writes and done is None:
            try:
                done = await self._carried_out(made.writes)
            except Stale:
                raise
            except NanoError as error:
                if any(cause.reason in OUTRUN for cause in error.causes):
                    raise Conflict("desired", str(self._directory), str(error)) from error
                if not _without_deletions(made, error):
                    _refuse(made, error)
                    break
        try:
            await self._remember(made, done)
        except NanoError as error:
            log.warning("what was applied cannot be noted now", extra={"detail": str(error)})
        if done is None:
            return 0
        log.info("desired directory applied", extra={"revision": done.rev, "writes": len(made.writes)})
        return done.rev

    async def _carried_out(self, writes: list[Write]) -> Done:
        asked = Options(dry=False, validation="Strict")
        settle = applying.settling(lambda: MANAGER, self._clock)
        return await self._transactor.carry_out(self._subject(), intents([one.doc for one in writes]), asked, settle)

    async def _remember(self, made: Plan, done: Done | None) -> None:
        """Write down the bases of the next merges.

        Should the server end before that, nothing is lost: what both sides say alike is agreed upon, whoever said it.
        """
        ops: list[Op] = [Delete(known.kept_at) for known in made.forgotten]
        ops += [op for note in made.notes for op in self._noted(note, note.uid, note.generation or 0)]
        for write, result in zip(made.writes, done.results, strict=True) if done else ():
            if write.note is None:
                ops += [Delete(memory_of(write.key))] if self._store.peek(memory_of(write.key)) else []
            elif result.raw is not None:
                generation = load(result.raw)["metadata"]["generation"]
                wanted = write.note.generation
                ops += self._noted(write.note, result.uid, generation if wanted is None else wanted)
        for some in _portions(ops):
            await transact(self._store, some, MANAGER)

    def _noted(self, note: Note, uid: str, generation: int) -> list[Op]:
        wish, merged = note.wish, note.merged
        key = memory_of(wish.key)
        made = Applied(
            metadata=ObjectMeta(name=key.name),
            spec=AppliedSpec(
                plural=wish.key.plural,
                namespace=wish.key.namespace,
                name=wish.key.name,
                uid=uid,
                generation=generation,
                file=wish.file,
                digest=wish.digest,
                fields=tuple(sorted(merged.fields.items())),
                contested=merged.contested,
            ),
        )
        there = self._store.peek(key) is not None
        write: Op = Update(key, made.to_json()) if there else Create(key, made.to_json())
        before = tuple(note.before.contested) if note.before is not None else ()
        return [write, *self._told(note)] if merged.contested not in ((), before) else [write]

    def _told(self, note: Note) -> list[Op]:
        """The Event of a conflict, on the object that it is about."""
        entry = self._store.peek(note.wish.key)
        if entry is None:
            return []
        about = trusted(note.wish.cls, entry.raw)
        params = {"name": str(note.wish.key), "fields": ", ".join(note.merged.contested[:NAMED])}
        return [tell(self._store, about, params, self._clock())]


def _portions(ops: list[Op]) -> Iterator[list[Op]]:
    """So many at once that a revision holds them, and that others get their turn."""
    some: list[Op] = []
    size = 0
    for op in ops:
        size += len(dump(op.doc)) if isinstance(op, Create | Update) else 0
        some.append(op)
        if size > PORTION_BYTES or len(some) >= PORTION:
            yield some
            some, size = [], 0
    if some:
        yield some


def _read(path: str, content: bytes) -> Read:
    found, problems = wishes(path, content)
    return Read((), tuple(problems)) if problems else Read(tuple(found))


def _counts(directory: Path) -> Callable[[object, str], bool]:
    """Whether a change below the directory can matter: not in .git and the like."""

    def counts(_change: object, path: str) -> bool:
        below = Path(path)
        parts = below.relative_to(directory).parts if below.is_relative_to(directory) else ()
        return not any(part.startswith(".") for part in parts)

    return counts


def _without_deletions(made: Plan, error: NanoError) -> bool:
    """Whether only deletions were refused; they are taken out, and hold nothing else up."""
    guilty = _guilty(error)
    if not guilty or any(at >= len(made.writes) or made.writes[at].note is not None for at in guilty):
        return False
    detail = "; ".join(dict.fromkeys(line for lines in guilty.values() for line in lines))[:1000]
    made.pruning = Said(Reason.PruneRefused, {"count": len(made.vanished), "detail": detail})
    made.writes = [one for one in made.writes if one.note is not None]
    return True


def _guilty(error: NanoError) -> dict[int, list[str]]:
    """What is said of which write."""
    found: dict[int, list[str]] = {}
    for cause in error.causes:
        if cause.field.startswith("writes["):
            number, _, field = cause.field.removeprefix("writes[").partition("]")
            said = f"{field.removeprefix('.')}: {cause.message}" if field else cause.message
            found.setdefault(int(number), []).append(said)
    return found


def _refuse(made: Plan, error: NanoError) -> None:
    """Say of every file whether it is to blame that nothing was carried out."""
    guilty = _guilty(error)
    for at, write in enumerate(made.writes):
        if write.note is None:
            continue
        sayings = [one for one in made.files[write.note.wish.file] if not one.good]
        if at in guilty:
            detail = f"{write.note.wish.where}: {'; '.join(guilty[at])}"[:2000]
            sayings.append(Said(Reason.FileRefused, {"detail": detail}))
        elif not any(one.reason is Reason.FileWaits for one in sayings):
            sayings.append(Said(Reason.FileWaits, {}))
        made.files[write.note.wish.file] = sayings
    made.directory = Said(Reason.SetRefused, {"count": len(made.writes), "detail": str(error)[:2000]})
    made.writes = []
