"""`nanoctl kubeconfig`: the access that is in use, or a user's, printed, or merged into kubectl's own."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.connection import locate
from nanovirt.portal.cli.people import Lifetime
from nanovirt.portal.cli.user_access import with_certificate, with_token
from nanovirt.resources import kubeconfig as files


@click.command(
    epilog=examples("""
        kubeconfig > nano.kubeconfig
        kubeconfig --server https://10.20.0.5:5870 > nano.kubeconfig
        kubeconfig --merge
        kubeconfig --user alice --expires 90d > alice.kubeconfig
    """)
)
@click.option("--kubeconfig", "given", metavar="FILE", help="Instead of $NANO_KUBECONFIG and the data folder's own.")
@click.option("--server", metavar="URL", help="Write this address instead of the one that stands there.")
@click.option("--merge", is_flag=True, help="Merge into $KUBECONFIG, or ~/.kube/config.")
@click.option("--user", metavar="NAME", help="Make a token for this user, and write a file with that instead.")
@click.option("--expires", type=Lifetime(), default="30d", show_default=True, metavar="TIME", help="Of that token.")
@click.option("--certificate", is_flag=True, help="A client certificate for a year instead; on the server's machine.")
@click.option("-n", "--namespace", metavar="NAME", help="The user's namespace.  [default: default]")
@click.option("--where", is_flag=True, help="Print only which file is in use.")
def kubeconfig(
    *,
    given: str | None,
    server: str | None,
    merge: bool,
    user: str | None,
    expires: int,
    certificate: bool,
    namespace: str | None,
    where: bool,
) -> None:
    """Print the kubeconfig in use, or one for a user.

    Or merge it into kubectl's own.
    """
    path = locate(given)
    if where:
        click.echo(path)
        return
    if server is not None and not server.startswith("https://"):
        raise Misused(f"--server {server}: write a URL such as https://10.20.0.5:5870")
    if user is None:
        config = files.read(path)
    elif certificate:
        config = with_certificate(path, user, namespace or "default")
    else:
        config = with_token(path, user, namespace or "default", expires)
    if server is not None:
        for one in config.get("clusters") or ():
            one["cluster"]["server"] = server.rstrip("/")
    if not merge:
        click.echo(files.dump(config), nl=False)
        return
    goal = Path(os.environ.get("KUBECONFIG", "").split(":")[0] or Path.home() / ".kube" / "config")
    write_private(goal, files.dump(files.merge(files.read(goal) if goal.exists() else {}, config)))
    click.echo(f"{goal}: context {config.get('current-context')} merged and current", err=True)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read; a crash leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unborn = path.with_name(f".{path.name}.new")
    unborn.unlink(missing_ok=True)
    with os.fdopen(os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unborn.replace(path)
