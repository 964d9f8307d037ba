"""`nanoctl defaults`: what of the objects that this release ships is as shipped here, and what people have edited."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.output import documents
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.tables import Grid, render
from nanovirt.resources.codec import decode
from nanovirt.resources.credentials import ADMINS
from nanovirt.resources.defaults import defaults as shipped
from nanovirt.resources.errors import NotFound
from nanovirt.resources.kind import Document
from nanovirt.resources.shipping import RENEWED, differing, digest

JSON = dict[str, Any]


@click.command(
    epilog=examples("""
        defaults
        defaults role/operator -o yaml
        defaults role/operator -o yaml | nanoctl apply -f -
    """)
)
@click.argument("what", nargs=-1, metavar="[KIND/NAME]...")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="As this release ships them.")
@connected
def defaults(session: Session, *, what: tuple[str, ...], output: str | None) -> None:
    """Say which shipped objects are as shipped.

    Templates and roles that nobody has edited are renewed when a server of another release starts. What is edited, and
    what is deleted, stays so; to have it as it is shipped, apply what -o yaml prints.
    """
    things = list(_chosen(session, what))
    if output:
        click.echo(documents([_plain(one) for one in things], output, single=True), nl=False)
        return
    for line in render(Grid(["OBJECT", "STATE", "OTHERWISE"], [_row(session, one) for one in things])):
        click.echo(line)


def _chosen(session: Session, what: tuple[str, ...]) -> Iterator[Document]:
    """Those named, else all. NotFound."""
    known = list(shipped())
    if not what:
        yield from known
    for target in session.targets(what) if what else ():
        alike = [one for one in known if one.facts.plural == target.kind.plural]
        found = [one for one in alike if target.name in ("", one.metadata.name)]
        if not found:
            raise NotFound(target.kind.plural, target.name)
        yield from found


def _plain(thing: Document) -> JSON:
    doc = thing.to_json()
    return {
        "apiVersion": thing.facts.group_version,
        "kind": thing.facts.kind,
        "metadata": {"name": thing.metadata.name},
        **({"spec": doc["spec"]} if doc.get("spec") else {}),
    }


def _row(session: Session, thing: Document) -> list[str]:
    title = f"{thing.facts.singular}/{thing.metadata.name}"
    doc = session.find(thing.facts.plural, thing.metadata.name)
    if doc is None:
        return [title, "Deleted" if sees_all(session) else "NotVisible", ""]
    otherwise = differences(thing, doc)
    if thing.facts.plural not in RENEWED:
        return [title, "Yours", ", ".join(otherwise)]
    return [title, "Edited" if otherwise else "AsShipped", ", ".join(otherwise)]


@cache
def sees_all(session: Session) -> bool:
    """Whether what this user does not find is not there: an administrator's case alone."""
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    reply = session.connection.ask("POST", f"/apis/{asked['apiVersion']}/selfsubjectreviews", asked)
    return ADMINS in reply["status"]["userInfo"]["groups"]


def differences(thing: Document, doc: JSON) -> tuple[str, ...]:
    """The fields in which what the server has is otherwise than `thing`, which this release ships."""
    here = decode(type(thing), {"metadata": doc["metadata"], "spec": doc.get("spec") or {}})
    return () if digest(here) == digest(thing) else differing(here, thing)


def of_shipped(doc: JSON) -> Iterator[str]:
    """For `why`: whether a release renews that object."""
    named = (doc["kind"], doc["metadata"]["name"])
    thing = next((one for one in shipped() if (one.facts.kind, one.metadata.name) == named), None)
    if thing is None or thing.facts.plural not in RENEWED:
        return
    if otherwise := differences(thing, doc):
        yield (
            f"  Nano ships it with other {', '.join(otherwise)}; it was edited, so it stays as it is. "
            f"As it is shipped: nanoctl defaults {thing.facts.singular}/{thing.metadata.name} -o yaml"
        )
    else:
        yield "  It is as Nano ships it, and is renewed with Nano as long as nobody edits it."
