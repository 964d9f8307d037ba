"""`nanoctl apply` and `nanoctl plan`: a set of manifests made true in one transaction, or only looked at."""

from __future__ import annotations

from functools import partial

import click

from nanovirt.portal.cli import examples, planning
from nanovirt.portal.cli.catalogue import Kind, rank
from nanovirt.portal.cli.manifests import BadManifests, Manifest, read_all
from nanovirt.portal.cli.output import documents
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.settling import Wanted, settle
from nanovirt.resources.disruption import Effect

_sources = click.option(
    "-f", "--filename", "sources", multiple=True, required=True, metavar="FILE|DIR|-",
    help="Manifests: YAML or JSON, a folder of them, or - for standard input; may be given several times.",
)  # fmt: skip
_max_disruption = click.option(
    "--max-disruption", "most", type=click.Choice([one.name for one in Effect if one is not Effect.Refused]),
    help="Refuse the whole set if the effect of a change is worse than that.",
)  # fmt: skip
_accept = click.option(
    "--accept-data-loss", "accept", multiple=True, metavar="WORD",
    help="Let go what that word of a refusal names, such as data@10Gi; may be given several times.",
)  # fmt: skip


@click.command(
    epilog=examples("""
        apply -f web.yaml
        apply -f manifests/demo
        apply --dry-run -f manifests/demo
        apply --max-disruption=Live -f manifests/demo
        apply --accept-data-loss data@10Gi -f web.yaml
        get instance/web-1 -o yaml | sed 's/cpus: 1/cpus: 2/' | nanoctl apply -f -
    """)
)
@_sources
@click.option("--dry-run", is_flag=True, help="Let the server check everything, and store nothing.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml", "name"]), help="Print the objects as they are then.")
@_max_disruption
@_accept
@connected
def apply(
    session: Session,
    *,
    sources: tuple[str, ...],
    dry_run: bool,
    output: str | None,
    most: str | None,
    accept: tuple[str, ...],
) -> None:
    """Create and change what manifests say, all of it or nothing.

    What is not there is created, what differs is changed, as one revision. Nothing is sent before every file has been
    read; then the server checks the whole set, in which the order of files does not matter, and stores it at once. A
    field that stood in the manifest last time and no longer does is removed; what others have set stays. The manifest
    is remembered in the annotation that kubectl uses too.
    """
    wanted = resolve(session, read_all(sources))
    settled = settle(session, wanted, partial(planning.check, most=most), dry_run=dry_run, accept=accept)
    if output:
        click.echo(documents([one.doc for one in settled], output, single=True), nl=False)
        return
    for one in settled:
        click.echo(f"{one.wanted.title} {one.outcome}" + (" (dry run)" if dry_run else ""))
    for line in planning.table(settled) if dry_run else ():
        click.echo(line)


@click.command(
    epilog=examples("""
        plan -f web.yaml
        plan -f manifests/demo --max-disruption=Live
    """)
)
@_sources
@_max_disruption
@_accept
@connected
def plan(session: Session, *, sources: tuple[str, ...], most: str | None, accept: tuple[str, ...]) -> None:
    """Say what apply would change, and what that does to machines.

    Nothing is stored. The effect of a field: Live (at once, guests go on), NextStart (the machine is off), Restart (the
    running machine has to end and start again: apply does that only when the change is an order to), DataLoss, Refused.
    """
    judge = partial(planning.check, most=most)
    settled = settle(session, resolve(session, read_all(sources)), judge, dry_run=True, accept=accept)
    for one in settled:
        click.echo(f"{one.wanted.title} {planning.WOULD[one.outcome]}")
    for line in planning.table(settled):
        click.echo(line)


def resolve(session: Session, found: list[Manifest]) -> list[Wanted]:
    """The manifests in the order in which they are sent. BadManifests names every unknown kind, and the one meant."""
    kinds = [(one, session.catalogue.of(one.doc["apiVersion"], one.doc["kind"])) for one in found]
    if unknown := [_unknown(session, one) for one, kind in kinds if kind is None]:
        raise BadManifests(unknown)
    wanted = [Wanted(one, kind, _namespace(session, one, kind)) for one, kind in kinds if kind is not None]
    return sorted(wanted, key=lambda one: rank(one.kind.kind))


def _unknown(session: Session, one: Manifest) -> str:
    import difflib  # noqa: PLC0415 - only who errs waits for it

    wanted, known = str(one.doc["kind"]), {kind.kind: kind.group_version for kind in session.catalogue.kinds}
    near = wanted if wanted in known else next(iter(difflib.get_close_matches(wanted, known, 1)), "")
    if near:
        hint = f"write apiVersion: {known[near]}" + (f" and kind: {near}" if near != wanted else "")
    else:
        hint = "known are " + ", ".join(sorted(f"{kind} ({version})" for kind, version in known.items()))
    return f"{one.where('kind')}: there is no kind {wanted} in {one.doc['apiVersion']}; {hint}"


def _namespace(session: Session, one: Manifest, kind: Kind) -> str:
    return (one.doc["metadata"].get("namespace") or session.namespace) if kind.namespaced else ""
