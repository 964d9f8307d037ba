"""`nanoctl run`: an instance from an image, in one line."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.catalogue import Target
from nanovirt.portal.cli.completion import image_names
from nanovirt.portal.cli.output import as_yaml
from nanovirt.portal.cli.power import in_phase
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Seconds, until
from nanovirt.resources.errors import Forbidden, NotFound, Rejected

JSON = dict[str, Any]


@click.command(
    epilog=examples("""
        run web-1 --image shared/mini
        run web-1 --image shared/debian-12 --cpus 2 --memory 4Gi --disk 20Gi --nic lan --wait
        run web-1 --image shared/mini --add-disk data=100Gi --media shared/rescue --hostname web --wait
        run web-1 --image shared/mini --cpu-priority High --disk-iops 2000 --network-limit 200M
        run web-1 --image shared/mini --print > web-1.yaml
    """)
)
@click.argument("name")
@click.option(
    "--image",
    required=True,
    metavar="IMAGE",
    shell_complete=image_names,
    help="Image of the namespace, or shared/NAME.",
)
@click.option("--wait-for-image", "early", is_flag=True, help="Create it though the image does not exist yet.")
@click.option("--cpus", type=int, default=1, show_default=True, help="Processors.")
@click.option("--memory", default="512Mi", show_default=True, metavar="SIZE", help="Memory, such as 512Mi or 4Gi.")
@click.option("--disk", metavar="SIZE", help="Size of the system disk.  [default: the image's]")
@click.option("--max-cpus", type=int, metavar="NUMBER", help="Let it grow to so many live.  [default: 4 x]")
@click.option("--max-memory", metavar="SIZE", help="Let it grow to that live.  [default: 4 x]")
@click.option("--template", metavar="TEMPLATE", help="SystemTemplate.  [default: the image's]")
@click.option("--add-disk", "more", multiple=True, metavar="NAME=SIZE", help="An empty disk more.")
@click.option(
    "--media",
    multiple=True,
    metavar="IMAGE",
    shell_complete=image_names,
    help="A drive with that image of type Media in it.",
)
@click.option(
    "--boot", "boot", multiple=True, metavar="NAME", help="Look for a system there first: a disk, cd0, a nic."
)
@click.option("--hostname", metavar="NAME", help="What the guest is called.  [default: the instance's name]")
@click.option(
    "--ssh-key", "keys", multiple=True, metavar="KEY", help="A public key that its administrator logs in with."
)
@click.option("--user-data", metavar="SECRET", help="Secret whose key userData cloud-init carries out.")
@click.option("--cpu-priority", type=click.Choice(["High", "Medium", "Low"]), help="Share of busy processors.")
@click.option("--cpu-limit", metavar="CPUS", help="The most processor time, such as 1500m.")
@click.option("--disk-iops", type=int, metavar="NUMBER", help="Reads, and writes, in a second of each disk.")
@click.option("--network-limit", metavar="BITS", help="Bits in a second of each card, in and out, such as 200M.")
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
def run(session: Session, *, printing: bool, early: bool, waiting: bool, timeout: float, **wishes: Any) -> None:
    """Create an instance and start it.

    An image that does not exist is refused here: as a rule it is mistyped.
    """
    doc = manifest(session.namespace, **wishes)
    if printing:
        click.echo(as_yaml(doc), nl=False)
        return
    if not early:
        for option, image in (("--image", wishes["image"]), *(("--media", one) for one in wishes["media"])):
            _check(session, option, image)
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


def _check(session: Session, option: str, image: str) -> None:
    """Rejected, with the names that are near, when there is no such image; who may not look is not kept from it."""
    space, slash, name = image.partition("/")
    space, name = (space, name) if slash else (session.namespace, image)
    images = session.catalogue.named("images")
    try:
        session.connection.get(images.path(space, name))
    except Forbidden:
        return
    except NotFound:
        _check_namespace(session)
        near = _near(image, _images(session))
        meant = f"; do you mean {' or '.join(near)}?" if near else " (nanoctl get images -A lists them)."
        early = "To create what waits until there is one, add --wait-for-image"
        raise Rejected(f"{option} {image}: there is no such image in namespace {space}{meant} {early}") from None


def _check_namespace(session: Session) -> None:
    """NotFound when the instance's own namespace is what is mistyped; who may not look is told of the image alone."""
    with suppress(Forbidden):
        session.connection.get(session.catalogue.named("namespaces").path("", session.namespace))


def _images(session: Session) -> list[str]:
    """The images of the namespace and the shared ones, as this instance would name them."""
    images, found = session.catalogue.named("images"), []
    for space in dict.fromkeys((session.namespace, "shared")):
        try:
            listed = session.connection.get(images.path(space)).get("items") or ()
        except (Forbidden, NotFound):
            continue
        prefix = "" if space == session.namespace else f"{space}/"
        found += [f"{prefix}{one['metadata']['name']}" for one in listed]
    return found


def _near(image: str, known: list[str]) -> list[str]:
    """Those of the same name elsewhere, or else up to three that look alike."""
    import difflib  # noqa: PLC0415 - only who errs waits for it

    name = image.rpartition("/")[2]
    same = [one for one in known if one.rpartition("/")[2] == name]
    if same:
        return same
    names = {one.rpartition("/")[2]: one for one in reversed(known)}
    return [names[one] for one in difflib.get_close_matches(name, list(names), 3)]


def manifest(
    namespace: str,
    *,
    name: str,
    image: str,
    cpus: int,
    memory: str,
    disk: str | None,
    max_cpus: int | None = None,
    max_memory: str | None = None,
    template: str | None = None,
    more: tuple[str, ...] = (),
    media: tuple[str, ...] = (),
    boot: tuple[str, ...] = (),
    hostname: str | None = None,
    keys: tuple[str, ...] = (),
    user_data: str | None = None,
    cpu_priority: str | None = None,
    cpu_limit: str | None = None,
    disk_iops: int | None = None,
    network_limit: str | None = None,
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
    spec["disks"] += [dict(zip(("name", "size"), _label(one, "--add-disk"), strict=True)) for one in more]
    spec["media"] = [{"name": f"cd{at}", "image": one} for at, one in enumerate(media)]
    spec["bootOrder"] = list(boot)
    spec["qos"] = _qos(cpu_priority, cpu_limit, disk_iops, network_limit)
    admin = {"sshKeys": list(keys)} if keys else None
    spec["guest"] = _given(hostname=hostname, admin=admin, userDataSecret=user_data)
    spec = _given(**spec, maxCpus=max_cpus, maxMemory=max_memory, systemTemplate=template)
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
        metadata["labels"] = dict(_label(one, "--label") for one in labels)
    return {"apiVersion": "nano/v1", "kind": "Instance", "metadata": metadata, "spec": spec}


def _given(**fields: Any) -> JSON:
    """Those of which anything is said."""
    return {name: value for name, value in fields.items() if value}


def _qos(priority: str | None, limit: str | None, iops: int | None, bits: str | None) -> JSON:
    cpu = _given(priority=priority, limit=limit)
    disk = _given(readIops=iops, writeIops=iops)
    return _given(cpu=cpu, disk=disk, network=_given(inboundBitsPerSecond=bits, outboundBitsPerSecond=bits))


def _label(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Misused(f"{option} {text!r}: write NAME=VALUE")
    return name, value
