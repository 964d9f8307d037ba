"""The directory `export/`: one readable JSON file for each object, written behind the commits and never read."""

from __future__ import annotations

import asyncio
import logging
import os
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import orjson

from nanovirt.resources.codec import JSON, load
from nanovirt.resources.errors import Rejected
from nanovirt.resources.kind import KINDS, Facts, Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.store import Change, Commit, Entry, Store
from nanovirt.resources.wire import LAST_APPLIED

log = logging.getLogger(__name__)

MARKER = "EXPORT.json"
WHAT = "Nano writes one file for each object here, and removes it with the object; changes to these files are not read."
PAUSE_SECONDS = 1.0
"""What changes within so long is written once."""
BATCH, SHARE = 20, 10
"""Files that a thread writes at once; it works for one part in so many of the time, for others want the interpreter."""
RETRY_SECONDS = 30.0
FILE_NAME_MAX = 240
KEPT = ("name", "namespace", "labels", "annotations")
"""What of the metadata is a wish; the rest changes with every write, or means nothing elsewhere."""


class Export:
    """`run` must live as long as files are wanted. An object is due once, however often it changes."""

    def __init__(self, store: Store, directory: Path, *, pause: float = PAUSE_SECONDS) -> None:
        """`directory` becomes Nano's own. Raises Rejected when it holds something else."""
        self._store, self._directory, self._pause = store, directory, pause
        self._due: dict[Key, Entry | None] = {}
        self._changed = asyncio.Event()
        self._written: dict[Path, bytes] = {}
        """File -> digest of what is in it; as long as nobody else writes there."""
        self.revision = 0
        """What the files are as of, once they have been written."""
        self._told = store.committed
        self._claim()
        store.subscribe(self._follow)

    def _claim(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            others = [one.name for one in self._directory.iterdir() if not one.name.startswith(".")]
        except OSError as error:
            raise Rejected(f"{self._directory} cannot be written: {error.strerror}") from error
        if others and MARKER not in others:
            raise Rejected(
                f"{self._directory} holds {others[0]} and no {MARKER}, so it is not Nano's; "
                "export into a directory that is empty"
            )

    def _follow(self, commit: Commit) -> None:
        self._told = commit.rev
        for change in commit.changes:
            if not _irrelevant(change):
                self._due[change.key] = change.after
                self._changed.set()

    async def run(self) -> None:
        """Write everything once, and then what changes, for ever."""
        while True:
            try:
                await self._all()
                while True:
                    await self._changed.wait()
                    await asyncio.sleep(self._pause)
                    await self._drain()
            except OSError as error:
                log.warning("export failed; will retry", extra={"path": str(self._directory), "why": str(error)})
                await asyncio.sleep(RETRY_SECONDS)

    async def _all(self) -> None:
        """Every object anew; files whose objects went while nobody wrote are removed."""
        self._written.clear()
        found = {key: entry for plural in kinds() if _exported(plural) for key, entry in self._store.list(plural)}
        self._due = {**found, **self._due}
        await asyncio.to_thread(self._sweep, {self._directory / file_of(key) for key in found})
        await self._drain()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed.clear()
        revision = self._told
        while self._due:
            some = dict(islice(self._due.items(), BATCH))
            began = loop.time()
            await asyncio.to_thread(self._write, some)
            for key, entry in some.items():
                if self._due.get(key) is entry:
                    del self._due[key]
            revision = self._told
            await asyncio.sleep((loop.time() - began) * (SHARE - 1))
        await asyncio.to_thread(self._mark, revision)
        self.revision = revision

    # --- in a thread: only one at a time ---

    def _write(self, some: dict[Key, Entry | None]) -> None:
        for key, entry in some.items():
            path = self._directory / file_of(key)
            if entry is None:
                self._written.pop(path, None)
                path.unlink(missing_ok=True)
            else:
                self._put(path, render(KINDS[key.plural].facts, load(entry.raw)))

    def _put(self, path: Path, content: bytes) -> None:
        """Replace a file by one with that content, unless it has it: a reader sees the old one or the new one."""
        digest = blake2b(content, digest_size=16).digest()
        known = self._written.get(path)
        if known == digest or (known is None and _content(path) == content):
            self._written[path] = digest
            return
        unborn = self._directory / ".new"
        unborn.unlink(missing_ok=True)
        with os.fdopen(os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        try:
            unborn.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            unborn.replace(path)
        self._written[path] = digest

    def _mark(self, revision: int) -> None:
        self._put(self._directory / MARKER, _text({"what": WHAT, "revision": str(revision)}))

    def _sweep(self, wanted: set[Path]) -> None:
        for plural in kinds():
            for folder, _, names in os.walk(self._directory / plural, topdown=False):
                gone = [Path(folder, name) for name in names if name.endswith(".json")]
                for path in gone:
                    if path not in wanted:
                        path.unlink(missing_ok=True)
                if not any(Path(folder).iterdir()):
                    Path(folder).rmdir()


def render(facts: Facts, doc: JSON) -> bytes:
    """The file of an object: what somebody wants, with its names in order; no status, and no value of a Secret."""
    metadata = {name: doc["metadata"][name] for name in KEPT if doc["metadata"].get(name)}
    if LAST_APPLIED in metadata.get("annotations", {}):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED}
    shown: JSON = {"apiVersion": facts.group_version, "kind": facts.kind, "metadata": metadata}
    if "spec" in doc:
        hidden = ("data",) if facts.sealed else ()
        shown["spec"] = {name: value for name, value in doc["spec"].items() if name not in hidden}
    return _text({name: value for name, value in shown.items() if value})


def file_of(key: Key) -> Path:
    """`instances/default/web-1.json`; what would be too long for a file system ends in a hash."""
    name = key.name
    if len(name) > FILE_NAME_MAX:
        name = f"{name[:200]}~{blake2b(name.encode(), digest_size=8).hexdigest()}"
    return Path(key.plural, key.namespace, f"{name}.json")


def _exported(plural: str) -> bool:
    facts = KINDS[plural].facts
    return not (facts.internal or facts.operation)


def _irrelevant(change: Change) -> bool:
    """Whether no file changes: nearly always it is only the status that did."""
    key, before, after = change
    if not _exported(key.plural):
        return True
    if before is None or after is None or before.uid != after.uid:
        return False
    same = before.generation == after.generation and before.labels is after.labels
    return same and not any(b'"annotations"' in one.raw for one in (before, after))


def _text(doc: JSON) -> bytes:
    return orjson.dumps(doc, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
