"""`nanoctl apply`: a set of manifests made true in one transaction, or not at all."""

from __future__ import annotations

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.catalogue import Kind, rank
from nanovirt.portal.cli.manifests import BadManifests, Manifest, read_all
from nanovirt.portal.cli.output import documents
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.settling import Wanted, settle


@click.command(
    epilog=examples("""
        apply -f web.yaml
        apply -f manifests/demo
        apply --dry-run -f manifests/demo
        get instance/web-1 -o yaml | sed 's/cpus: 1/cpus: 2/' | nanoctl apply -f -
    """)
)
@click.option(
    "-f", "--filename", "sources", multiple=True, required=True, metavar="FILE|DIR|-",
    help="Manifests: YAML or JSON, a folder of them, or - for standard input; may be given several times.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Let the server check everything, and store nothing.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml", "name"]), help="Print the objects as they are then.")
@connected
def apply(session: Session, *, sources: tuple[str, ...], dry_run: bool, output: str | None) -> None:
    """Create what is not there, and change what differs: all of it as one revision, or nothing.

    Nothing is sent before every file has been read; then the server checks the whole set, in which the order of files
    does not matter, and stores it at once. A field that stood in the manifest last time and no longer does is removed;
    what others have set stays. The manifest is remembered in the annotation that kubectl uses too.
    """
    settled = settle(session, resolve(session, read_all(sources)), dry_run=dry_run)
    if output:
        click.echo(documents([doc for _, _, doc in settled], output, single=True), nl=False)
        return
    for one, outcome, _ in settled:
        click.echo(f"{one.title} {outcome}" + (" (dry run)" if dry_run else ""))


def resolve(session: Session, found: list[Manifest]) -> list[Wanted]:
    """The manifests in the order in which they are sent. BadManifests names every unknown kind."""
    kinds = [(one, session.catalogue.of(one.doc["apiVersion"], one.doc["kind"])) for one in found]
    if unknown := [_unknown(session, one) for one, kind in kinds if kind is None]:
        raise BadManifests(unknown)
    wanted = [Wanted(one, kind, _namespace(session, one, kind)) for one, kind in kinds if kind is not None]
    return sorted(wanted, key=lambda one: rank(one.kind.kind))


def _unknown(session: Session, one: Manifest) -> str:
    known = ", ".join(sorted(f"{kind.kind} ({kind.group_version})" for kind in session.catalogue.kinds))
    return f"{one.where('kind')}: there is no kind {one.doc['kind']} in {one.doc['apiVersion']}; known are {known}"


def _namespace(session: Session, one: Manifest, kind: Kind) -> str:
    return (one.doc["metadata"].get("namespace") or session.namespace) if kind.namespaced else ""
