"""What `start`, `stop`, `restart`, `reset`, `suspend`, `resume` write into an instance: a wish, or an order once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

JSON = dict[str, Any]
Change = tuple[JSON | None, str]
"""A merge patch (None: nothing to do) and what to say about it."""
VERBS = ("start", "stop", "restart", "reset", "suspend", "resume")
ENDED = ("Stopped", "Failed")
PAUSED = "MachinePaused"
"""Why a machine is Failed although it has not ended."""
PHASES = {
    "start": "Running",
    "stop": "Stopped",
    "restart": "Running",
    "reset": "Running",
    "suspend": "Suspended",
    "resume": "Running",
}
"""What each leads to."""


def change(verb: str, doc: JSON, now: datetime, *, force: bool = False) -> Change:
    """What that verb (one of VERBS) means for an instance as it is; `force` is for `stop` and `restart`."""
    match verb:
        case "start":
            return to_start(doc, now)
        case "stop":
            return to_stop(doc, now, force=force)
        case "suspend":
            return to_suspend(doc)
        case "resume":
            return to_resume(doc)
        case _:
            return to_restart(doc, now, force=force or verb == "reset")


def to_start(doc: JSON, now: datetime) -> Change:
    """The wish to run; for a machine that should run and has ended, an order to start it anew."""
    if _wish(doc) != "Running":
        return {"spec": {"powerState": "Running"}}, "resuming" if _phase(doc) == "Suspended" else "starting"
    if _ended(doc):
        return {"spec": {"restart": _order(doc, now, "Graceful")}}, "starting again"
    return None, _running_already(doc)


def to_stop(doc: JSON, now: datetime, *, force: bool) -> Change:
    """The wish to stop; by force, with an order to cut the power once: a hard restart whose start is not wished.

    The phase may lag behind a start, or be that of a refused step; an order for what is off counts as done.
    """
    wish = {} if _wish(doc) == "Stopped" else {"powerState": "Stopped"}
    off = not wish and _phase(doc) == "Stopped"
    if force and not off and not never_started(doc):
        return {"spec": {**wish, "restart": _order(doc, now, "Hard")}}, "stopping by force"
    if not wish:
        return None, _already(_phase(doc), "Stopped")
    grace = doc["spec"].get("stopGraceSeconds", 60)
    return {"spec": wish}, "stopping" + (" by force" if force else f", within {grace} s")


def to_restart(doc: JSON, now: datetime, *, force: bool) -> Change:
    """An order to start anew, once; a stopped machine is started, and one that has no host yet has nothing to end."""
    if _wish(doc) != "Running":
        was = _wish(doc).lower()
        return {"spec": {"powerState": "Running"}}, f"was {was}; " + ("starting" if was == "stopped" else "resuming")
    if never_started(doc):
        why = str(_condition(doc, "Scheduled").get("message", ""))
        return None, f"it has no host yet, so there is nothing to restart; it starts as soon as it can. {why}".strip()
    mode = "Hard" if force else "Graceful"
    return {"spec": {"restart": _order(doc, now, mode)}}, "restarting" + (" by force" if force else "")


def to_suspend(doc: JSON) -> Change:
    """The wish to stand still; a machine that is to be off stays off."""
    match _wish(doc):
        case "Suspended":
            return None, _already(_phase(doc), "Suspended")
        case "Stopped":
            return None, "is to be stopped, so there is nothing to suspend"
        case _:
            return {"spec": {"powerState": "Suspended"}}, "suspending"


def to_resume(doc: JSON) -> Change:
    """The wish to run, for a machine that stands still; one that was stopped is not started by it."""
    match _wish(doc):
        case "Suspended":
            return {"spec": {"powerState": "Running"}}, "resuming"
        case "Stopped":
            return None, "is to be stopped; start it instead"
        case _:
            return None, _running_already(doc)


def leads_nowhere(verb: str, doc: JSON) -> bool:
    """Whether it is to be stopped, and that verb does nothing about it: who waits for the effect waits in vain."""
    return verb in ("suspend", "resume") and _wish(doc) == "Stopped"


def never_started(doc: JSON) -> bool:
    """Whether it waits for a host, and is known to: what has just been made may have one in a moment."""
    return _condition(doc, "Scheduled").get("status", "True") != "True" and not doc["status"].get("placement")


def _condition(doc: JSON, kind: str) -> JSON:
    conditions = (doc.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _already(phase: str, wish: str) -> str:
    return f"is {wish} already" if phase == wish else f"should be {wish} already, and is {phase}"


def _running_already(doc: JSON) -> str:
    return "is paused on its host, and goes on by itself" if _paused(doc) else _already(_phase(doc), "Running")


def _ended(doc: JSON) -> bool:
    """Whether it is off; one that was paused behind Nano is Failed, and its guest is still there."""
    return _phase(doc) in ENDED and not _paused(doc)


def _paused(doc: JSON) -> bool:
    return bool(_condition(doc, "Ready").get("reason") == PAUSED)


def _wish(doc: JSON) -> str:
    return str(doc["spec"].get("powerState", "Running"))


def _phase(doc: JSON) -> str:
    return str((doc.get("status") or {}).get("phase") or "Pending")


def _order(doc: JSON, now: datetime, mode: str) -> JSON:
    """An order that is newer than the one before, whatever the clock of this machine says: an older one is ignored."""
    before = (doc["spec"].get("restart") or {}).get("at")
    if before is not None:
        now = max(now, datetime.fromisoformat(before) + timedelta(microseconds=1))
    return {"at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"), "mode": mode}
