"""`nanoctl apply`: a set of manifests made true, all of it checked before any of it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import click
import orjson

from nanovirt.portal.cli import examples, told
from nanovirt.portal.cli.catalogue import Kind, rank
from nanovirt.portal.cli.manifests import BadManifests, Manifest, read_all
from nanovirt.portal.cli.output import documents
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire
from nanovirt.resources.errors import Conflict, Invalid, Malformed, NotFound, Rejected
from nanovirt.resources.wire import LAST_APPLIED

JSON = dict[str, Any]
Outcome = Literal["created", "configured", "unchanged"]
ATTEMPTS = 3


@dataclass(frozen=True)
class Wanted:
    """A manifest with the kind that it means and the namespace that it goes to."""

    manifest: Manifest
    kind: Kind
    namespace: str

    @property
    def title(self) -> str:
        """`instance/web-1`."""
        return f"{self.kind.singular}/{self.manifest.name}"

    @property
    def path(self) -> str:
        """Where the object stands."""
        return self.kind.path(self.namespace, self.manifest.name)

    def warn(self, warning: str) -> None:
        """Pass on what the server says about this document without refusing it."""
        click.echo(f"Warning: {self.title}: {warning}", err=True)

    @property
    def doc(self) -> JSON:
        """What is sent when the object is new: with its namespace, and with itself as the last applied."""
        doc = _placed(self.manifest.doc, self.namespace)
        metadata = doc["metadata"] | {"annotations": {**_annotations(doc), LAST_APPLIED: last_applied(doc)}}
        return doc | {"metadata": metadata}


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
    """Create what is not there, and change what differs.

    Nothing is sent before every file has been read and the server has checked every document; then namespaces and pools
    go first, instances last. A field that stood in the manifest last time and no longer does is removed; what others
    have set stays. The manifest is remembered in the annotation that kubectl uses too.
    """
    wanted = resolve(session, read_all(sources))
    check(session, wanted)
    made: list[JSON] = []
    for one in wanted:
        session.connection.warn = one.warn
        outcome, doc = settle(session, one, dry_run=dry_run)
        made.append(doc)
        if not output:
            click.echo(f"{one.title} {outcome}" + (" (dry run)" if dry_run else ""))
    if output:
        click.echo(documents(made, output, single=True), nl=False)


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


def check(session: Session, wanted: list[Wanted]) -> None:
    """Let the server check every document without storing any. BadManifests tells all that it refuses, with lines."""
    coming = {one.manifest.name for one in wanted if one.kind.kind == "Namespace"}
    problems: list[str] = []
    session.connection.warn = _silent  # what is missing now may be sent a moment before; all is said again then
    for one in wanted:
        try:
            settle(session, one, dry_run=True)
        except NotFound:
            if one.namespace not in coming:
                problems += [f"{one.manifest.where('metadata.namespace')}: there is no namespace {one.namespace}"]
        except (Rejected, Conflict) as error:
            problems += refused(one.manifest, error)
    if problems:
        raise BadManifests(problems)


def _silent(warning: str) -> None:
    del warning


def refused(manifest: Manifest, error: Exception) -> Iterator[str]:
    """What the server refuses, each field at the line where it stands."""
    causes = error.causes if isinstance(error, Invalid | Malformed) else ()
    if not causes:
        yield f"{manifest.where()}: {error}"
    for cause in causes:
        yield f"{manifest.where(cause.field)}: {told(cause)}"


def settle(session: Session, one: Wanted, *, dry_run: bool) -> tuple[Outcome, JSON]:
    """Create the object or change what differs; the object as it is then. Raises what the server refuses."""
    asked = wire.query(dryRun="All") if dry_run else ""
    connection = session.connection
    for attempt in range(ATTEMPTS):
        try:
            live = connection.get(one.path)
        except NotFound:
            collection = one.kind.path(one.namespace)
            return "created", connection.ask("POST", collection + asked, one.doc)
        patch = difference(live, one.doc, previous(live))
        if not patch:
            return "unchanged", live
        try:
            made = connection.ask("PATCH", one.path + asked, patch, content_type=wire.PATCH_TYPES["merge"])
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return ("unchanged" if _same(live, made) else "configured"), made
    raise AssertionError("the last attempt returns or raises")


def _same(before: JSON, after: JSON) -> bool:
    """Whether the patch changed nothing that counts: lists that the server had completed come back as they were.

    What no reply shows, the values of a Secret, still makes a new generation.
    """
    same = before.get("spec") == after.get("spec") and _generation(before) == _generation(after)
    return same and _plain(before) == _plain(after)


def _generation(doc: JSON) -> Any:
    return doc["metadata"].get("generation")


def _plain(doc: JSON) -> tuple[Any, Any]:
    metadata = doc["metadata"]
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    return metadata.get("labels") or {}, annotations


# --- three-way merge (RFC 7386) -------------------------------------------------------------------------


def last_applied(doc: JSON) -> str:
    """The text that kubectl keeps, too: compact JSON without this very annotation, ended by a newline."""
    annotations = {name: value for name, value in _annotations(doc).items() if name != LAST_APPLIED}
    metadata = doc["metadata"] | {"annotations": annotations}
    return orjson.dumps(doc | {"metadata": metadata}, option=orjson.OPT_SORT_KEYS).decode() + "\n"


def previous(live: JSON) -> JSON:
    """What was applied last; {} for an object that nobody has applied yet, or when the text is broken."""
    try:
        found = orjson.loads(_annotations(live).get(LAST_APPLIED, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def difference(live: Mapping[str, Any], wanted: Mapping[str, Any], before: Mapping[str, Any]) -> JSON:
    """The merge patch from `live` to `wanted` that removes what only `before` had and leaves alone what nobody named.

    Lists are replaced as a whole. `status` and null values of the manifest are no wishes.
    """
    patch: JSON = {}
    for name, value in wanted.items():
        old = live.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            earlier = before.get(name)
            if below := difference(old, value, earlier if isinstance(earlier, Mapping) else {}):
                patch[name] = below
        elif value is not None and value != old:
            patch[name] = value
    for name in before:
        if wanted.get(name) is None and name in live:
            patch[name] = None
    patch.pop("status", None)
    return patch


def _placed(doc: JSON, namespace: str) -> JSON:
    return doc | {"metadata": doc["metadata"] | {"namespace": namespace}} if namespace else doc


def _annotations(doc: Mapping[str, Any]) -> dict[str, str]:
    return dict(doc["metadata"].get("annotations") or {})
