"""`nanoctl adopt`: domains that were on a host before Nano, and taking one as an instance without a restart."""

from __future__ import annotations

from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire
from nanovirt.resources.errors import NotFound

JSON = dict[str, Any]


@click.command(
    epilog=examples("""
        adopt
        adopt node-1
        adopt node-1/old-web --name web -n team-a --owner alice
    """)
)
@click.argument("what", default="", metavar="[HOST | HOST/DOMAIN]")
@click.option("--name", default="", metavar="NAME", help="Of the instance.  [default: made from the domain's]")
@click.option("--owner", default="", metavar="USER", help="Whose it will be.  [default: yours]")
@connected
def adopt(session: Session, *, what: str, name: str, owner: str) -> None:
    """Adopt a libvirt domain as an instance.

    It goes on as it is, without a restart: its uuid, disks, cards and definition stay. Without a DOMAIN those of the
    host, or of all hosts, that nobody claims are listed.
    """
    host, slash, domain = what.partition("/")
    if (what and not host) or (not domain and (slash or name or owner)):
        raise Misused("say which: adopt HOST/DOMAIN; `nanoctl adopt HOST` lists them")
    if not domain:
        hosts = (
            [host] if host else [one["metadata"]["name"] for one in session.list(session.catalogue.named("hosts"))[0]]
        )
        found = [f"{one}/{line}" for one in hosts for line in _unclaimed(session, one)]
        click.echo("\n".join(found) or f"every domain of {host or 'every host'} is claimed")
        return
    asked = {"domain": domain, "name": name, "namespace": session.namespace, "owner": owner}
    try:
        made = session.connection.write("POST", wire.path("nano/v1", "hosts", "", host, "adopt"), asked)
    except NotFound as error:
        if error.params.get("plural") != "unclaimed":
            raise
        raise Misused(f"no domain {domain} of {host} waits to be adopted; `nanoctl adopt {host}` lists them") from error
    click.echo(f"instance/{made['metadata']['name']} adopted from {host}/{domain}")


def _unclaimed(session: Session, host: str) -> list[str]:
    return [_line(one) for one in session.connection.get(wire.path("nano/v1", "hosts", "", host, "unclaimed"))["items"]]


def _line(one: JSON) -> str:
    facts = one.get("facts") or {}
    said = [one["name"], one.get("state") or "Off"]
    if facts:
        disks, nics = facts.get("disks") or (), facts.get("nics") or ()
        said.append(f"{facts.get('cpus')} cpus, {facts.get('memory')}, {len(disks)} disks, {len(nics)} cards")
    said += [f"cannot be adopted: {why}" for why in facts.get("problems") or ()]
    return tables.printable("  ".join(str(part) for part in said))
