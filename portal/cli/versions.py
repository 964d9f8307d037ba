"""`nanoctl version`: of this command, and of the server when there is one."""

from __future__ import annotations

import click

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.connection import connect
from nanovirt.resources.errors import NanoError


@click.command(
    epilog=examples("""
        version
        version --client
    """)
)
@click.option("--client", is_flag=True, help="Do not ask the server.")
@click.option("--kubeconfig", metavar="FILE", help="Instead of $NANO_KUBECONFIG and the data folder's own.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig to use.")
def version(*, client: bool, kubeconfig: str | None, context: str | None) -> None:
    """Show the versions of nanoctl and of the server."""
    from importlib.metadata import version as installed  # noqa: PLC0415 - takes longer than the rest of this command

    click.echo(f"nanoctl  {installed('nanovirt')}")
    if client:
        return
    try:
        connection = connect(kubeconfig, context)
        found = connection.get("/version")
        connection.close()
    except NanoError as error:
        click.echo(f"server   unknown: {error}", err=True)
        return
    # The part before `+nano.` is the Kubernetes version whose API this is, for clients that look for one.
    said = str(found.get("gitVersion", "unknown")).rpartition("+nano.")[2]
    click.echo(f"server   {said} at {connection.credentials.server}")
