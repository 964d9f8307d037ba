"""`nanoctl run`: an instance from an image, in one line."""

from __future__ import annotations

from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.output import as_yaml
from nanovirt.portal.cli.power import in_phase
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Seconds, until

JSON = dict[str, Any]


@click.command(
    epilog=examples("""
        run web-1 --image shared/mini
        run web-1 --image shared/debian-12 --cpus 2 --memory 4Gi --disk 20Gi --nic lan --wait
        run web-1 --image shared/mini --print > web-1.yaml
    """)
)
@click.argument("name")
@click.option("--image", required=True, metavar="IMAGE", help="Image of the namespace, or shared/NAME.")
@click.option("--cpus", type=int, default=1, show_default=True, help="Processors.")
@click.option("--memory", default="512Mi", show_default=True, metavar="SIZE", help="Memory, such as 512Mi or 4Gi.")
@click.option("--disk", metavar="SIZE", help="Size of the system disk.  [default: the image's]")
@click.option("--nic", "nics", multiple=True, metavar="POOL", help="A card with an address of that AddressPool.")
@click.option("--network", "networks", multiple=True, metavar="NETWORK", help="A card with an address from outside.")
@click.option("--pool", metavar="POOL", help="ComputePool.  [default: default]")
@click.option("--host", metavar="HOST", help="Run it there and nowhere else.")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label.")
@click.option("--stopped", is_flag=True, help="Make it, but do not start it.")
@click.option("--print", "printing", is_flag=True, help="Print the manifest instead of sending it.")
@click.option("--wait", "waiting", is_flag=True, help="Wait until it runs.")
@click.option("--timeout", type=Seconds(), default=300, metavar="TIME", help="With --wait.  [default: 5m]")
@connected
def run(session: Session, *, printing: bool, waiting: bool, timeout: float, **wishes: Any) -> None:
    """Create an instance and start it."""
    doc = manifest(session.namespace, **wishes)
    if printing:
        click.echo(as_yaml(doc), nl=False)
        return
    kind = session.catalogue.named("instances")
    session.connection.write("POST", session.collection(kind), doc)
    target = Target(kind, wishes["name"])
    click.echo(f"{target} created")
    if waiting:
        wish = "Stopped" if wishes["stopped"] else "Running"
        until(session, [target], in_phase(wish), wish, timeout, say=lambda one: click.echo(f"{one} is {wish}"))
        addresses = (session.get(target).get("status") or {}).get("addresses") or ()
        for one in addresses:
            click.echo(f"{one.get('nic')}: {one.get('ip')} ({one.get('mac')})")


def manifest(
    namespace: str,
    *,
    name: str,
    image: str,
    cpus: int,
    memory: str,
    disk: str | None,
    nics: tuple[str, ...],
    networks: tuple[str, ...],
    pool: str | None,
    host: str | None,
    labels: tuple[str, ...],
    stopped: bool,
) -> JSON:
    """The Instance; what was not asked for is left to the server's defaults."""
    spec: JSON = {"cpus": cpus, "memory": memory}
    spec["disks"] = [{"name": "system", **({"size": disk} if disk else {}), "source": {"image": image}}]
    cards = [{"addressPool": one} for one in nics] + [{"network": one} for one in networks]
    if cards:
        spec["nics"] = [{"name": f"nic{index}", **card} for index, card in enumerate(cards)]
    if pool:
        spec["computePool"] = pool
    if host:
        spec["scheduling"] = {"host": host}
    if stopped:
        spec["powerState"] = "Stopped"
    metadata: JSON = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(_label(one) for one in labels)
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": metadata, "spec": spec}


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Misused(f"--label {text!r}: write NAME=VALUE")
    return name, value
