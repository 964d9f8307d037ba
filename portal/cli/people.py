"""`nanoctl token` and `nanoctl chown`: how users get in, and how objects get another owner."""

from __future__ import annotations

import re
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources import wire

JSON = dict[str, Any]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Lifetime(click.ParamType[int]):
    """A time like 12h or 30d, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The seconds of a number with one of the units s, m, h, d."""
        found = re.fullmatch(r"([0-9]{1,8})([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is not a time like 12h or 30d", param, ctx)
        return int(found[1]) * UNITS[found[2]]


def token_path(user: str) -> str:
    """Where the tokens of a user are made, listed and taken back."""
    return wire.path("nano/v1", "users", "", user, "token")


def new_token(session: Session, user: str, description: str, seconds: int) -> JSON:
    """Make a token; the only reply that ever holds it."""
    asked = {"description": description, "expiresSeconds": seconds}
    return session.connection.write("POST", token_path(user), asked, ask=f"`nanoctl token list {user}` says whether")


@click.group(
    epilog=examples("""
        token create alice --expires 90d
        token list alice
    """)
)
def token() -> None:
    """Tokens by which users prove who they are."""


@token.command(
    epilog=examples("""
        token create alice --description laptop --expires 90d
        kubeconfig --user alice > alice.kubeconfig
    """)
)
@click.argument("user")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@click.option("--expires", type=Lifetime(), default="30d", show_default=True, metavar="TIME", help="At most 366d.")
@connected
def create(session: Session, *, user: str, description: str, expires: int) -> None:
    """Print a new token for a user; it is shown this once."""
    made = new_token(session, user, description, expires)
    click.echo(made["status"]["token"])
    click.echo(f"token {made['metadata']['name']} of {user}, good until {made['spec']['expires']}", err=True)


@token.command("list", epilog=examples("token list alice"))
@click.argument("user")
@connected
def listed(session: Session, *, user: str) -> None:
    """List a user's tokens by their ids."""
    for one in session.connection.get(token_path(user))["items"]:
        spec = one["spec"]
        click.echo(f"{one['metadata']['name']}  until {spec['expires']}  {spec['description']}".rstrip())


@token.command(epilog=examples("token revoke alice 4kz9bcd2fghj"))
@click.argument("user")
@click.argument("id_", metavar="ID")
@connected
def revoke(session: Session, *, user: str, id_: str) -> None:
    """Take a token back.

    From now on it opens nothing, and its open watches end.
    """
    session.connection.ask("DELETE", token_path(user) + wire.query(id=id_))
    click.echo(f"token {id_} of {user} revoked")


@click.command(
    epilog=examples("""
        chown instance/web-1 alice
        chown secret/web-admin bob -n team-a
    """)
)
@click.argument("what", metavar="KIND/NAME", shell_complete=kind_words)
@click.argument("user")
@connected
def chown(session: Session, *, what: str, user: str) -> None:
    """Give an object to another user.

    All that the system made of it goes along. Only the administrator may do that.
    """
    [target] = session.targets([what])
    if not target.name or not target.kind.namespaced:
        raise Misused("name one object of a namespace: KIND/NAME, such as instance/web-1")
    session.connection.write("POST", target.kind.path(session.namespace, target.name, "owner"), {"user": user})
    click.echo(f"{target} belongs to {user}")
