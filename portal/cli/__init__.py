"""The command line `nanoctl`: one group whose commands are loaded when asked for, so that it starts at once."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
import sys
import textwrap
from typing import IO, TYPE_CHECKING, Any

import click

from nanovirt.resources.errors import Cause, Conflict, Invalid, Malformed, NanoError, NotFound

if TYPE_CHECKING:
    from nanovirt.portal.cli.processes import Processes

UNFULFILLED = re.compile(r'Operation cannot be fulfilled on ([a-z]+)(?:\.[a-z]+)? "([^"]+)": ')
"""How an API server begins to say that something cannot be now."""
LAZY = {
    "apply": "applying",
    "plan": "applying",
    "get": "getting",
    "describe": "describing",
    "explain": "explaining",
    "why": "why",
    "events": "events",
    "tree": "tree",
    "timeline": "timelines",
    "log": "revisions",
    "diff": "differing",
    "rollback": "rolling_back",
    "watch": "watching",
    "wait": "waiting",
    "run": "running",
    "start": "power",
    "stop": "power",
    "restart": "power",
    "reset": "power",
    "suspend": "power",
    "resume": "power",
    "disk": "devices",
    "nic": "devices",
    "media": "devices",
    "console": "console",
    "screenshot": "console",
    "scale": "scaling",
    "top": "topping",
    "guest": "guest",
    "password": "guest",
    "freeze": "guest",
    "thaw": "guest",
    "delete": "deleting",
    "upload": "uploading",
    "kubeconfig": "access",
    "token": "people",
    "chown": "people",
    "host": "hosts",
    "adopt": "adopting",
    "desired": "desired",
    "defaults": "shipped",
    "backup": "backing_up",
    "restore": "restoring",
    "verify": "verifying",
    "store": "store",
    "version": "versions",
    "completion": "completion",
}
"""Command -> module below this package that has it under the same name, in the order of the help."""
HABITS = {
    "logs": "console NAME --log",
    "exec": "console NAME --serial",
    "attach": "console NAME --serial",
    "create": "apply -f FILE",
    "edit": "get instance/NAME -o yaml > FILE` and `nanoctl apply -f FILE",
    "ls": "get instances",
    "list": "get instances",
}
"""What other tools call it -> how it is said here."""
PROCESSES = ("up", "server", "agent")
REWORDED = ("FieldUnknown", "DataLossNotAccepted")
"""Reasons of refusals that the command line says in words of its own."""
UNWRITABLE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
"""What a full disk below a redirected output says; a pipe that was closed ends the command by itself."""


class Refused(click.ClickException):
    """Exit code 1: the server, or the command line itself, said no."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Say it on standard error, in a terminal without breaking words."""
        if file is None and sys.stderr.isatty():
            room = shutil.get_terminal_size().columns
            lines = textwrap.wrap(f"Error: {self.message.splitlines()[0]}", room, break_on_hyphens=False)
            for line in self.message.splitlines()[1:]:
                lines += textwrap.wrap(line, room, subsequent_indent="      ", break_on_hyphens=False)
            click.echo("\n".join(lines), err=True)
        else:
            super().show(file)


class Unusable(Refused):
    """Exit code 2: the command was not written as it has to be."""

    exit_code = 2


class TimedOut(click.ClickException):
    """Exit code 3: what was waited for did not happen in time."""

    exit_code = 3


class Interrupted(click.ClickException):
    """Exit code 130, as shells say of Ctrl-C: that is neither a refusal nor a failure."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted: nothing more is waited for; what was sent before is not taken back")

    def show(self, file: IO[Any] | None = None) -> None:
        """Below the ^C that a terminal shows."""
        click.echo(f"\n{self.message}" if sys.stderr.isatty() else self.message, file, err=True)


class Misused(Malformed):
    """The arguments of a command make no sense together; the message says how to write it."""


class Commands(click.Group):
    """A group that imports a command's module when the command is asked for, and says errors in a line or two."""

    processes: Processes | None = None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As a group does, also when it was started with a stream closed (`>&-`, some job runners)."""
        open_streams()
        return super().main(*args, **kwargs)

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
            meant = f"`nanoctl {HABITS[args[0]]}`" if args[0] in HABITS else f"{near[0]!r}" if near else ""
            ctx.fail(f"there is no command {args[0]!r}" + (f"; do you mean {meant}?" if meant else ""))
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, plain_flags(command, rest) if command is not None else rest

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):  # https://no-color.org; a pipe gets none in any case
            ctx.color = False
        try:
            return super().invoke(ctx)
        except NanoError as error:
            ending = Unusable if isinstance(error, Misused) else Refused
            raise ending(sentence(error)) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error
        except OSError as error:
            if error.filename is not None or error.errno not in UNWRITABLE:
                raise
            raise Refused(f"the output cannot be written: {error.strerror}") from error


def open_streams() -> None:
    """Let what was closed at the start read nothing and write nowhere, instead of being None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def plain_flags(command: click.Command, args: list[str]) -> list[str]:
    """`--wait=false` as `--no-wait` and `--all=true` as `--all`, for fingers that know kubectl.

    A flag that has no opposite is left out when it is false.
    """
    flags = {name: one for one in command.params if isinstance(one, click.Option) and one.is_flag for name in one.opts}
    plain: list[str] = []
    for at, word in enumerate(args):
        if word == "--":
            return plain + args[at:]
        name, _, value = word.partition("=")
        if name in flags and value in ("true", "false"):
            plain += [name] if value == "true" else flags[name].secondary_opts[:1]
        else:
            plain.append(word)
    return plain


def sentence(error: NanoError) -> str:
    """What happened, to which field, and what to do; each of several causes on a line of its own."""
    if isinstance(error, NotFound) and (plural := str(error.params.get("plural", ""))):
        if plural == "tokens":  # no kind: they are asked for by user
            return f"{error}; those that are there: nanoctl token list USER"
        return f"{error}; those that are there: nanoctl get {plural} -A"
    if isinstance(error, Conflict) and (found := UNFULFILLED.match(str(error))):
        return f"{found[1]}/{found[2]}: {str(error)[found.end() :]}"
    causes = error.causes if isinstance(error, Invalid | Malformed) else ()
    if len(causes) < 2:
        return told(causes[0]) if causes and causes[0].reason in REWORDED else str(error)
    lines = [f"  {told(cause)}" for cause in causes]
    return "\n".join(["several things are wrong:", *dict.fromkeys(lines)])


def told(cause: Cause) -> str:
    """What is wrong with which field; for one that does not exist, the one that was meant."""
    message = cause.message
    if cause.reason == "DataLossNotAccepted" and (accept := cause.params.get("accept")):
        lost = f"Data of disk {cause.params.get('disk')} would be lost"
        message = f"{lost}; if that is meant, add --accept-data-loss {accept}"
    if cause.reason == "FieldUnknown" and (known := str(cause.params.get("known", ""))):
        import difflib  # noqa: PLC0415 - only who errs waits for it

        last = cause.field.rpartition(".")[2]
        own = known.split(", ")
        outside = "." not in cause.field and "spec" in own  # beside spec, where fields of a spec are rather meant
        near = difflib.get_close_matches(last, own, 1, 0.8 if outside else 0.6)
        meant = cause.params.get("meant") or (near[0] if near else "")
        message = f"there is no such field; do you mean {meant}?" if meant else message
    return f"{cause.field}: {message}" if cause.field else message


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
