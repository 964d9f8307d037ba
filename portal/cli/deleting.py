"""`nanoctl delete`: objects by name, label or manifest, and the wait until nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterable

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.applying import resolve
from nanovirt.portal.cli.catalogue import Target, rank
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.manifests import read_all
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Seconds, until
from nanovirt.resources import wire
from nanovirt.resources.errors import Conflict, Forbidden, NanoError, NotFound, Rejected


@click.command(
    epilog=examples("""
        delete instance web-1 web-2
        delete instance/web-1 --no-wait
        delete instances -l app=web
        delete -f manifests/demo
    """)
)
@click.argument("what", nargs=-1, metavar="KIND NAME... | KIND/NAME...", shell_complete=kind_words)
@click.option("-f", "--filename", "sources", multiple=True, metavar="FILE|DIR|-", help="What these manifests name.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="All objects of a KIND with these labels.")
@click.option("--all", "every", is_flag=True, help="All objects of a KIND in the namespace.")
@click.option("--wait/--no-wait", "waiting", default=True, help="Wait until they are gone.  [default: wait]")
@click.option("--timeout", type=Seconds(), default=600, metavar="TIME", help="How long to wait.  [default: 10m]")
@click.option("--ignore-not-found", is_flag=True, help="What is not there is no error.")
@click.option("--dry-run", is_flag=True, help="Let the server check it, and delete nothing.")
@connected
def delete(
    session: Session,
    *,
    what: tuple[str, ...],
    sources: tuple[str, ...],
    selector: str,
    every: bool,
    waiting: bool,
    timeout: float,
    ignore_not_found: bool,
    dry_run: bool,
) -> None:
    """Delete objects."""
    if bool(what) == bool(sources):
        raise Misused("say what to delete: KIND NAME..., KIND/NAME..., KIND with -l or --all, or -f FILE")
    lenient = ignore_not_found or bool(sources) or every or bool(selector)
    refused: list[NanoError] = []
    for space, targets in _chosen(session, what, sources, selector, every=every).items():
        there = Session(session.connection, space)
        there.catalogue = session.catalogue
        asked: list[Target] = []
        for target in targets:
            try:
                if _ask(there, target, lenient=lenient, dry_run=dry_run):
                    asked.append(target)
            except (NotFound, Conflict, Forbidden) as error:  # one that may not go keeps no other from going
                refused.append(error)
        if not waiting:
            for target in asked:
                click.echo(f"{target} deleting")
        elif not dry_run:
            gone = "gone"
            until(there, asked, lambda doc: doc is None, gone, timeout, say=lambda one: click.echo(f"{one} deleted"))
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise Rejected("\n  ".join([f"{len(refused)} were not deleted:", *(str(error) for error in refused)]))


def _chosen(
    session: Session, what: Iterable[str], sources: Iterable[str], selector: str, *, every: bool
) -> dict[str, list[Target]]:
    """The objects by namespace, those that others refer to last."""
    if sources:
        chosen: dict[str, list[Target]] = {}
        for one in sorted(resolve(session, read_all(sources)), key=lambda one: -rank(one.kind.kind)):
            chosen.setdefault(one.namespace or session.namespace, []).append(Target(one.kind, one.manifest.name))
        return chosen
    targets = session.targets(what)
    if any(not target.name for target in targets) and not (every or selector):
        raise Misused(f"say which {targets[0].kind.plural}: by name, with -l LABELS, or --all of them")
    named = [target for target in targets if target.name]
    for target in targets:
        if not target.name:
            items, _ = session.list(target.kind, labelSelector=selector)
            if not items:
                where = f" in namespace {session.namespace}" if target.kind.namespaced else ""
                click.echo(f"No {target.kind.plural} found{where}.", err=True)
            named += [Target(target.kind, item["metadata"]["name"]) for item in items]
    return {session.namespace: named}


def _ask(session: Session, target: Target, *, lenient: bool, dry_run: bool) -> bool:
    """Ask for one deletion; whether there is something to wait for."""
    path = target.kind.path(session.namespace, target.name) + (wire.query(dryRun="All") if dry_run else "")
    try:
        reply = session.connection.write("DELETE", path)
    except NotFound:
        if lenient:
            return False
        raise
    if dry_run:
        click.echo(f"{target} deleted (dry run)")
        return False
    if reply.get("kind") == "Status":
        click.echo(f"{target} deleted")
        return False
    return True
