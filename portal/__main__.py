"""The composition root: the command `nanoctl`, the only module that knows every room."""

from importlib.metadata import version

import click


@click.group()
def main() -> None:
    """Nano: one pool of virtual machines."""


@main.command("version")
def show_version() -> None:
    """Prints the version."""
    click.echo(version("nanovirt"))


if __name__ == "__main__":
    main()
