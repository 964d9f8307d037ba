"""`nanoctl start`, `stop`, `restart`, `reset`, `suspend`, `resume`: wishes for power, written into the instances."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from nanovirt.portal.cli import Misused, Refused, examples, sentence
from nanovirt.portal.cli.catalogue import Kind, Target
from nanovirt.portal.cli.completion import instance_names
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Met, Seconds, condition, nothing_matches, until
from nanovirt.portal.powering import PHASES, change, leads_nowhere, never_started
from nanovirt.resources.errors import Conflict, Rejected

JSON = dict[str, Any]


class Asked(NamedTuple):
    """Which instances, and whether and how long to wait for them."""

    names: tuple[str, ...]
    selector: str
    every: bool
    waiting: bool
    timeout: float


def _chosen(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the names, -l, --all, --wait and --timeout, and an Asked as its second argument."""

    def with_asked(
        session: Session,
        *,
        names: tuple[str, ...],
        selector: str,
        every: bool,
        waiting: bool,
        timeout: float,
        **more: Any,
    ) -> None:
        command(session, Asked(names, selector, every, waiting, timeout), **more)

    with_asked.__name__, with_asked.__doc__ = command.__name__, command.__doc__
    made = connected(with_asked)
    for decorate in (
        click.option("--timeout", type=Seconds(), default=300, metavar="TIME", help="For --wait.  [default: 5m]"),
        click.option("--wait", "waiting", is_flag=True, help="Wait until it is so."),
        click.option("--all", "every", is_flag=True, help="All instances of the namespace."),
        click.option("-l", "--selector", default="", metavar="LABELS", help="All instances with these labels."),
        click.argument("names", nargs=-1, metavar="NAME...", shell_complete=instance_names),
    ):
        made = decorate(made)
    return made


@click.command(
    epilog=examples("""
        start web-1 web-2
        start -l app=web --wait
    """)
)
@_chosen
def start(session: Session, asked: Asked) -> None:
    """Start instances."""
    _apply(session, asked, "start")


@click.command(
    epilog=examples("""
        stop web-1
        stop web-1 web-2 --force --wait
        stop -l app=web
    """)
)
@click.option("--force", is_flag=True, help="Cut the power at once, this time.")
@_chosen
def stop(session: Session, asked: Asked, *, force: bool) -> None:
    """Stop instances.

    The guest is asked to shut down, and loses its power when its grace time is over.
    """
    _apply(session, asked, "stop", force=force)


@click.command(
    epilog=examples("""
        restart web-1
        restart -l app=web --wait
    """)
)
@click.option("--force", is_flag=True, help="Reset it, without asking the guest.")
@_chosen
def restart(session: Session, asked: Asked, *, force: bool) -> None:
    """Restart instances."""
    _apply(session, asked, "restart", force=force)


@click.command(epilog=examples("reset web-1 --wait"))
@_chosen
def reset(session: Session, asked: Asked) -> None:
    """Restart instances as a reset button does.

    The guest is not asked.
    """
    _apply(session, asked, "reset")


@click.command(epilog=examples("suspend web-1 --wait"))
@_chosen
def suspend(session: Session, asked: Asked) -> None:
    """Suspend instances.

    They stand still and keep their memory on the host; it is lost when the host is booted anew.
    """
    _apply(session, asked, "suspend")


@click.command(epilog=examples("resume web-1 --wait"))
@_chosen
def resume(session: Session, asked: Asked) -> None:
    """Let suspended instances go on."""
    _apply(session, asked, "resume")


def _apply(session: Session, asked: Asked, verb: str, *, force: bool = False) -> None:
    """Each instance by itself: one that cannot be keeps no other from it. Exit code 1 when there was such a one."""
    now, met, refused = datetime.now(UTC), [], 0
    targets = targets_of(session, asked.names, asked.selector, every=asked.every)
    for target in targets:
        try:
            doc = session.get(target)
            patch, said = change(verb, doc, now, force=force)
            if patch is not None:
                session.patch(target, patch)
            elif (verb in ("restart", "reset") and never_started(doc)) or (asked.waiting and leads_nowhere(verb, doc)):
                raise Rejected(said)  # waiting would wait for something else, or in vain
        except (Rejected, Conflict) as error:
            refused += 1
            click.echo(f"{target} not changed: {sentence(error)}", err=True)
        else:
            if verb in ("stop", "suspend") and never_started(doc):
                said += "; it has no host yet, so nothing runs"
            else:
                met.append(target)
            click.echo(f"{target} {said}")
    wish = PHASES[verb]
    if asked.waiting and met:
        until(session, met, in_phase(wish), wish, asked.timeout, say=lambda target: click.echo(f"{target} is {wish}"))
    if refused:
        raise Refused(f"{refused} of {len(targets)} instances could not be changed")


def targets_of(session: Session, names: tuple[str, ...], selector: str, *, every: bool) -> list[Target]:
    """The instances that are named, or that have the labels. Raises Misused, and Rejected when none has them."""
    kind = session.catalogue.named("instances")
    if bool(names) == bool(selector or every):
        raise Misused("say which instances: NAME..., or -l LABELS, or --all of them")
    if names:
        return [_instance(session, kind, name) for name in dict.fromkeys(names)]
    items, _ = session.list(kind, labelSelector=selector)
    if not items:
        raise Rejected(nothing_matches(session, kind, selector))
    return [Target(kind, item["metadata"]["name"]) for item in items]


def _instance(session: Session, kind: Kind, name: str) -> Target:
    if "/" not in name:
        return Target(kind, name)
    (target,) = session.targets((name,))
    if target.kind != kind:
        raise Misused(f"only instances are started and stopped, not {target.kind.plural}")
    return target


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
