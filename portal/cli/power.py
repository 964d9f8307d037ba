"""`nanoctl start`, `stop` and `restart`: the wish for power, written into the instance so that no crash loses it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Kind, Target
from nanovirt.portal.cli.completion import instance_names
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Met, Seconds, condition, until

JSON = dict[str, Any]
Change = tuple[JSON | None, str]
"""A merge patch (None: nothing to do) and what to say about it."""
ENDED = ("Stopped", "Failed")

_names = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=instance_names)
_wait = click.option("--wait", "waiting", is_flag=True, help="Wait until it is so.")
_timeout = click.option("--timeout", type=Seconds(), default=300, metavar="TIME", help="For --wait.  [default: 5m]")


@click.command(
    epilog=examples("""
        start web-1 web-2
        start web-1 --wait
    """)
)
@_names
@_wait
@_timeout
@connected
def start(session: Session, *, names: tuple[str, ...], waiting: bool, timeout: float) -> None:
    """Start instances."""
    _apply(session, names, to_start, in_phase("Running") if waiting else None, "Running", timeout)


@click.command(
    epilog=examples("""
        stop web-1
        stop web-1 --force --wait
    """)
)
@_names
@click.option("--force", is_flag=True, help="Cut the power at once: sets stopGraceSeconds to 0.")
@_wait
@_timeout
@connected
def stop(session: Session, *, names: tuple[str, ...], force: bool, waiting: bool, timeout: float) -> None:
    """Stop instances.

    The guest is asked to shut down, and loses its power when its grace time is over.
    """
    met = in_phase("Stopped") if waiting else None
    _apply(session, names, lambda doc: to_stop(doc, force=force), met, "Stopped", timeout)


@click.command(
    epilog=examples("""
        restart web-1
        restart web-1 --force
    """)
)
@_names
@click.option("--force", is_flag=True, help="Reset it, without asking the guest.")
@_wait
@_timeout
@connected
def restart(session: Session, *, names: tuple[str, ...], force: bool, waiting: bool, timeout: float) -> None:
    """Restart instances."""
    now = datetime.now(UTC)
    met = in_phase("Running") if waiting else None
    _apply(session, names, lambda doc: to_restart(doc, now, force=force), met, "Running", timeout)


def _apply(
    session: Session,
    names: tuple[str, ...],
    change: Callable[[JSON], Change],
    met: Met | None,
    wish: str,
    timeout: float,
) -> None:
    kind = session.catalogue.named("instances")
    targets = [_instance(session, kind, name) for name in names]
    for target, doc in [(target, session.get(target)) for target in targets]:
        patch, said = change(doc)
        if patch is not None:
            session.patch(target, patch)
        click.echo(f"{target} {said}")
    if met is not None:
        until(session, targets, met, wish, timeout, say=lambda target: click.echo(f"{target} is {wish}"))


def _instance(session: Session, kind: Kind, name: str) -> Target:
    if "/" not in name:
        return Target(kind, name)
    (target,) = session.targets((name,))
    if target.kind != kind:
        raise Misused(f"only instances are started and stopped, not {target.kind.plural}")
    return target


def to_start(doc: JSON, now: datetime | None = None) -> Change:
    """The wish to run; for a machine that should run and has ended, an order to start it anew."""
    if _wish(doc) != "Running":
        return {"spec": {"powerState": "Running"}}, "starting"
    phase = (doc.get("status") or {}).get("phase")
    if phase in ENDED:
        return {"spec": {"restart": _order(doc, now or datetime.now(UTC), "Graceful")}}, "starting again"
    return None, _already(phase, "Running")


def to_stop(doc: JSON, *, force: bool) -> Change:
    """The wish to stop; by force, with no grace from now on."""
    grace = doc["spec"].get("stopGraceSeconds", 60)
    if force and grace != 0:
        said = f"stopping by force; its stopGraceSeconds is 0 from now on (was {grace})"
        return {"spec": {"powerState": "Stopped", "stopGraceSeconds": 0}}, said
    if _wish(doc) == "Stopped":
        return None, _already((doc.get("status") or {}).get("phase"), "Stopped")
    return {"spec": {"powerState": "Stopped"}}, "stopping" + (" by force" if force else f", within {grace} s")


def to_restart(doc: JSON, now: datetime, *, force: bool) -> Change:
    """An order to start anew, once; a stopped machine is started."""
    if _wish(doc) != "Running":
        return {"spec": {"powerState": "Running"}}, "was stopped; starting"
    mode = "Hard" if force else "Graceful"
    return {"spec": {"restart": _order(doc, now, mode)}}, "restarting" + (" by force" if force else "")


def in_phase(phase: str) -> Met:
    """Whether the machine has that phase, since its controller saw the latest wish; a running one has to be Ready too.

    Without Ready, one that is about to restart would count as running.
    """

    def met(doc: JSON | None) -> bool:
        status = (doc or {}).get("status") or {}
        if doc is None or status.get("phase") != phase:
            return False
        ready = phase != "Running" or condition(doc, "Ready").get("status") == "True"
        return ready and int(status.get("observedGeneration", 0)) >= int(doc["metadata"]["generation"])

    return met


def _already(phase: str | None, wish: str) -> str:
    return f"is {wish} already" if phase == wish else f"should be {wish} already, and is {phase or 'Pending'}"


def _wish(doc: JSON) -> str:
    return str(doc["spec"].get("powerState", "Running"))


def _order(doc: JSON, now: datetime, mode: str) -> JSON:
    """An order that is newer than the one before, whatever the clock of this machine says: an older one is ignored."""
    before = (doc["spec"].get("restart") or {}).get("at")
    if before is not None:
        now = max(now, datetime.fromisoformat(before) + timedelta(microseconds=1))
    return {"at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"), "mode": mode}
