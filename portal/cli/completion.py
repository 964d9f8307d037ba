"""`nanoctl completion`: what a shell needs to complete commands, kinds and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nanovirt.portal.cli import examples
from nanovirt.portal.cli.catalogue import words_known_here
from nanovirt.portal.cli.connection import connect
from nanovirt.resources.errors import NanoError

VARIABLE = "_NANOCTL_COMPLETE"


@click.command(
    epilog=examples("""
        completion bash > /etc/bash_completion.d/nanoctl
        completion zsh > ~/.zfunc/_nanoctl
        completion fish > ~/.config/fish/completions/nanoctl.fish
    """)
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    made = get_completion_class(shell)
    root = ctx.find_root()
    if made is None:  # pragma: no cover - click knows these three
        raise click.UsageError(f"{shell} is not known here")
    click.echo(made(root.command, {}, "nanoctl", VARIABLE).source())


def kind_words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Kinds, and after `KIND/` or a kind the names that the server has; nothing when it does not answer."""
    given: tuple[str, ...] = ctx.params.get(param.name or "") or ()
    word, slash, start = incomplete.partition("/")
    if not slash and not given:
        return [one for one in words_known_here() if one.startswith(incomplete)]
    try:
        names = _names(ctx, word if slash else given[0])
    except NanoError:
        return []
    if slash:
        return [f"{word}/{name}" for name in names if name.startswith(start)]
    return [name for name in names if name.startswith(incomplete)]


def instance_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The instances of the namespace."""
    del param
    try:
        return [name for name in _names(ctx, "instances") if name.startswith(incomplete)]
    except NanoError:
        return []


def image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The images of the namespace, and the shared ones as shared/NAME."""
    del param
    found: list[str] = []
    for namespace, prefix in (None, ""), ("shared", "shared/"):
        try:
            found += [f"{prefix}{name}" for name in _names(ctx, "images", namespace)]
        except NanoError:
            continue
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete)]


def _names(ctx: click.Context, word: str, namespace: str | None = None) -> list[str]:
    from nanovirt.portal.cli.session import Session  # noqa: PLC0415 - session is no part of printing the script

    connection = connect(ctx.params.get("kubeconfig"), ctx.params.get("context"))
    try:
        session = Session(connection, namespace or ctx.params.get("namespace"))
        items, _ = session.list(session.catalogue.named(word))
        return [item["metadata"]["name"] for item in items]
    finally:
        connection.close()
