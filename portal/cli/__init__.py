"""The command line `nanoctl`: one group whose commands are loaded when asked for, so that it starts at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from nanovirt.resources.errors import Invalid, Malformed, NanoError

if TYPE_CHECKING:
    from nanovirt.portal.cli.processes import Processes

LAZY = {
    "apply": "applying",
    "get": "getting",
    "describe": "describing",
    "why": "why",
    "watch": "watching",
    "wait": "waiting",
    "run": "running",
    "start": "power",
    "stop": "power",
    "restart": "power",
    "delete": "deleting",
    "upload": "uploading",
    "kubeconfig": "access",
    "host": "hosts",
    "version": "versions",
    "completion": "completion",
}
"""Command -> module below this package that has it under the same name, in the order of the help."""
PROCESSES = ("up", "server", "agent")


class Refused(click.ClickException):
    """Exit code 1: the server, or the command line itself, said no."""

    exit_code = 1


class TimedOut(click.ClickException):
    """Exit code 3: what was waited for did not happen in time."""

    exit_code = 3


class Misused(Malformed):
    """Exit code 2: the arguments make no sense together; the message says how to write it."""


class Commands(click.Group):
    """A group that imports a command's module when the command is asked for, and says errors in a line or two."""

    processes: Processes | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*(PROCESSES if self.processes else ()), *LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name in PROCESSES:
            module: Any = importlib.import_module("nanovirt.portal.cli.processes")
            return module.command(cmd_name, self.processes) if self.processes else None
        if cmd_name not in LAZY:
            return None
        module = importlib.import_module(f"nanovirt.portal.cli.{LAZY[cmd_name]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415 - commands that are right start sooner without it

            near = difflib.get_close_matches(args[0], known, 1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; do you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NanoError as error:
            refused = Refused(sentence(error))
            refused.exit_code = 2 if isinstance(error, Misused) else 1
            raise refused from error


def sentence(error: NanoError) -> str:
    """What happened, to which field, and what to do; each of several causes on a line of its own."""
    causes = error.causes if isinstance(error, Invalid | Malformed) else ()
    if len(causes) < 2:
        return str(error)
    lines = [f"  {cause.field}: {cause.message}" if cause.field else f"  {cause.message}" for cause in causes]
    return "\n".join(["several things are wrong:", *dict.fromkeys(lines)])


HELP = """Nano: servers with KVM as one pool of virtual machines.

\b
nanoctl get instances        what runs, and where
nanoctl why instance/NAME    why something is not as you want it
nanoctl COMMAND --help       options and examples
"""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, help=HELP, context_settings=SETTINGS)
def cli() -> None:
    pass


def compose(processes: Processes) -> Commands:
    """The group with the commands that start servers and agents, which only the composition root can provide."""
    assert isinstance(cli, Commands)
    cli.processes = processes
    return cli


def examples(text: str) -> str:
    """The epilog that shows examples below a command's options, each on a line of its own."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\b\nExamples:\n" + "\n".join(f"  nanoctl {line}" for line in lines)
