"""`nanoctl scale`: how many members a set has."""

from __future__ import annotations

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.session import Session, connected
from nanovirt.portal.cli.waiting import Seconds, met_by, until
from nanovirt.resources.errors import NotFound

SUBRESOURCE = "scale"


@click.command(
    epilog=examples("""
        scale instanceset/web --replicas 10
        scale iset/web iset/db --replicas 3 --wait
    """)
)
@click.argument("what", nargs=-1, metavar="KIND/NAME...", shell_complete=kind_words)
@click.option("--replicas", type=click.IntRange(min=0), required=True, metavar="NUMBER", help="So many from now on.")
@click.option("--wait", "waiting", is_flag=True, help="Wait until they are there and ready, and the others gone.")
@click.option("--timeout", type=Seconds(), default=300, metavar="TIME", help="For --wait.  [default: 5m]")
@connected
def scale(session: Session, *, what: tuple[str, ...], replicas: int, waiting: bool, timeout: float) -> None:
    """Set how many members sets have.

    The machines of those that are too many are deleted.
    """
    targets = session.targets(what)
    if any(not target.name for target in targets):
        raise Misused("say which: nanoctl scale KIND/NAME --replicas NUMBER")
    for target in targets:
        try:
            session.patch(target, {"spec": {"replicas": replicas}}, part=SUBRESOURCE)
        except NotFound as error:
            if error.params.get("name"):
                raise
            raise Misused(f"{target.kind.plural} have no members that could be scaled; instancesets have") from error
        click.echo(f"{target} scaled to {replicas}")
    if waiting:
        wish = "condition=Ready"
        until(session, targets, met_by(wish), wish, timeout, say=lambda target: click.echo(f"{target} is Ready"))
