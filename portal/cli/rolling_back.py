"""`nanoctl rollback`: what people wrote made again what it was, as one new revision or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.differing import chosen, title
from nanovirt.portal.cli.moments import Moment, local
from nanovirt.portal.cli.output import documents, lines
from nanovirt.portal.cli.planning import HEADINGS, said
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.tables import Grid, render
from nanovirt.resources import wire
from nanovirt.resources.disruption import Effect

JSON = dict[str, Any]
ROLLBACK = "/apis/nano/v1/history/rollback"
LEFT = {
    "CreatedSince": "made since, and left (--delete-new deletes them)",
    "Owned": "left to what made them",
    "BeingDeleted": "being deleted, and left; roll back again when they are gone",
    "Apart": "left: secrets never, users, groups and roles only by name",
}


@click.command(
    epilog=examples("""
        rollback 4711 instance/web-1
        rollback 2h instances -n team-a
        rollback 4711 all -n team-a --dry-run
        rollback 4711 all -A --max-disruption=Live
    """)
)
@click.argument("to", type=Moment(), metavar="REV|TIME")
@click.argument("what", nargs=-1, metavar="KIND/NAME | KIND | all", shell_complete=kind_words)
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace, and what is in none.")
@click.option("--delete-new", is_flag=True, help="Delete what was made since. Without it, such objects are left.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option(
    "--max-disruption", "most", type=click.Choice([one.name for one in Effect if one is not Effect.Refused]),
    help="Refuse the whole if the effect of a change is worse than that.",
)  # fmt: skip
@click.option(
    "--accept-data-loss", "accept", multiple=True, metavar="WORD",
    help="Let go what that word of a refusal names, such as data@removed; may be given several times.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As a document instead of a table.")
@connected
def rollback(
    session: Session,
    *,
    to: str,
    what: tuple[str, ...],
    all_namespaces: bool,
    delete_new: bool,
    dry_run: bool,
    most: str | None,
    accept: tuple[str, ...],
    output: str | None,
) -> None:
    """Make objects again what they were: one, a kind, or all.

    That is their labels, annotations and specs. It is a new revision, of all that is asked for or of nothing. What was
    deleted since is made anew, with a new uid; what was on its disks does not come back. What was made since is left.
    The plan is shown first.
    """
    doc: JSON = {"to": to, "objects": _chosen(session, what, everywhere=all_namespaces), "deleteNew": delete_new}
    doc |= {"maxDisruption": most or ""}
    asked = {"acceptDataLoss": ",".join(accept)}
    plan = session.connection.ask("POST", ROLLBACK + wire.query(dryRun="All", **asked), doc)
    if not output:
        lines(_planned(plan))
    done = plan
    if not dry_run and plan["changes"]:
        done = session.connection.ask("POST", ROLLBACK + wire.query(**asked), doc | {"plan": plan["plan"]})
    if output:
        click.echo(documents([done], output, single=True), nl=False)
    else:
        lines(_done(plan, done, dry_run=dry_run))


def _chosen(session: Session, what: tuple[str, ...], *, everywhere: bool) -> dict[str, str]:
    if not what or (what[0] == "all" and len(what) > 1):
        raise Misused("say what: KIND/NAME, KIND, or all (of the namespace; with -A of the whole cluster)")
    if what == ("all",):
        return {} if everywhere else {"namespace": session.namespace}
    found = chosen(session, what)
    if "name" in found and everywhere:
        raise Misused("-A and one name make no sense together")
    inside = session.targets(what)[0].kind.namespaced and not everywhere
    return found | ({"namespace": session.namespace} if inside else {})


def _planned(plan: JSON) -> Iterator[str]:
    rows = [
        [title(one), field["path"], said(field["before"]), said(field["after"]), field["effect"]]
        for one in plan["changes"]
        for field in one["fields"]
    ]
    rows += [
        [title(one), f"({one['action'].lower()})", "-", "-", one["effect"]]
        for one in plan["changes"]
        if one["action"] != "Restored"
    ]
    if rows:
        yield from (*render(Grid(HEADINGS, rows)), "")


def _done(plan: JSON, done: JSON, *, dry_run: bool) -> Iterator[str]:
    for one in done["changes"]:
        yield f"{title(one)} {one['action'].lower()}" + (" (dry run)" if dry_run else "")
    for reason, told in LEFT.items():
        if left := [title(one) for one in plan["left"] if one["reason"] == reason]:
            yield f"{len(left)} {told}: {', '.join(left[:10])}" + (", ..." if len(left) > 10 else "")
    was = f"revision {plan['to']['revision']} ({local(plan['to']['time'])})"
    if not done["changes"]:
        yield f"nothing to change: it is as it was at {was}"
    elif not dry_run:
        yield f"as it was at {was}; this is revision {done['metadata']['resourceVersion']}"
