"""How the directory stands, as `nanoctl desired status` and the API tell it: conditions of it and of each file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from nanovirt.portal.desired.plan import Plan, Said
from nanovirt.resources.codec import JSON
from nanovirt.resources.conditions import Condition, Truth, condition, settle
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.kind import GROUP_VERSION, KINDS, Key
from nanovirt.resources.reasons import Reason

KIND = "DesiredStatus"
PASSING = tuple(
    reason.name
    for reason in (
        Reason.FileSettling,
        Reason.FileWaits,
        Reason.DirectoryIncomplete,
        Reason.DirectoryBusy,
        Reason.DirectoryHeld,
    )
)


class Standing:
    """The last thing that can be said, each condition with the time since when it holds."""

    def __init__(self, path: str, user: str, *, prune: bool) -> None:
        self._path, self._user, self._prune = path, user, prune
        self._conditions: Mapping[str, tuple[Condition, ...]] = {}
        self._vanished: list[Key] = []
        self._looked: datetime | None = None
        self._revision = 0

    def take(self, plan: Plan, now: datetime, revision: int) -> list[str]:
        """What came of a look; `revision` 0: nothing was written. Gives what has become bad since the last one."""
        said = {"": [("Ready", plan.directory), ("Pruned", plan.pruning)]}
        said |= {path: [("Applied", one) for one in sayings] for path, sayings in sorted(plan.files.items())}
        before = self._conditions
        self._conditions = {path: _conditions(now, before.get(path, ()), some) for path, some in said.items()}
        self._vanished, self._looked = plan.vanished, now
        self._revision = revision or self._revision
        if plan.directory.reason is Reason.DirectoryMissing and not plan.vanished:
            return []  # nobody has made one yet
        known = {(path, one.message) for path, some in before.items() for one in some}
        bad = [(path, one) for path, some in self._conditions.items() for one in some if _worth_saying(one)]
        return [f"{path or self._path}: {one.message}" for path, one in bad if (path, one.message) not in known]

    def confess(self, error: Exception, now: datetime) -> None:
        """Say that a bug keeps the directory from being looked at."""
        detail = f"{type(error).__name__}: {error}"[:300]
        said = [("Ready", Said(Reason.InternalError, {"detail": detail}))]
        self._conditions = {**self._conditions, "": _conditions(now, self._conditions.get("", ()), said)}

    def told(self) -> JSON:
        """The document."""
        files = [
            {"path": path, "conditions": [one.to_json() for one in some]}
            for path, some in self._conditions.items()
            if path
        ]
        return {
            "apiVersion": GROUP_VERSION,
            "kind": KIND,
            "metadata": {},
            "directory": self._path,
            "user": self._user,
            "prune": self._prune,
            "lookedAt": rfc3339(self._looked.replace(microsecond=0)) if self._looked else None,
            "revision": str(self._revision) if self._revision else "",
            "conditions": [one.to_json() for one in self._conditions.get("", ())],
            "files": files,
            "vanished": [named(key) for key in self._vanished],
        }


def named(key: Key) -> JSON:
    """An object by kind, namespace and name."""
    return {"kind": KINDS[key.plural].facts.kind, "namespace": key.namespace, "name": key.name}


def _conditions(now: datetime, before: Iterable[Condition], said: list[tuple[str, Said]]) -> tuple[Condition, ...]:
    return settle(now, before, [condition(kind, _truth(one), one.reason, **one.params) for kind, one in said])


def _worth_saying(said: Condition) -> bool:
    """Whether a person is needed: not for what passes, nor for what is said of a file already."""
    return said.status != "True" and said.reason not in PASSING


def _truth(said: Said) -> Truth:
    return "True" if said.good else "False"
