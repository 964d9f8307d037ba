"""The commands of docs/tutorial.md and README.md: each has to be one that exists, with options that exist."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from nanovirt.portal.cli import cli
from nanovirt.resources.codec import decode
from nanovirt.resources.instance import Instance

ROOT = Path(__file__).parent.parent.parent
LINE = re.compile(r"^(?:\$ )?nanoctl (.+)$", re.MULTILINE)
PROCESSES = ("up", "server", "agent")


def commands() -> list[str]:
    """Every command line that begins with nanoctl, without comments and pipes."""
    texts = [(ROOT / file).read_text() for file in ("docs/tutorial.md", "README.md")]
    lines = [line for text in texts for line in LINE.findall(text)]
    return [re.split(r"\s+#|\s[|>]\s", line)[0] for line in lines if not line.startswith(PROCESSES)]


def shown(command: click.Command) -> Iterator[str]:
    """The examples in the help of a command and of those below it."""
    lines = LINE.findall(textwrap.dedent((command.epilog or "").replace("\b\nExamples:\n", "")))
    yield from (re.split(r"\s[|>]\s", line)[0] for line in lines if not line.startswith(PROCESSES))
    if isinstance(command, click.Group):
        context = click.Context(command)
        below = [command.get_command(context, name) for name in command.list_commands(context)]
        for one in below:
            yield from shown(one) if one is not None else ()


def test_there_are_examples() -> None:
    assert len(list(shown(cli))) > 60


@pytest.mark.parametrize("line", dict.fromkeys([*commands(), *shown(cli)]))
def test_every_command_of_the_documents_exists(line: str) -> None:
    words = shlex.split(line)
    command: click.Command = cli
    context = click.Context(cli, info_name="nanoctl")
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    assert command.make_context("nanoctl", words, resilient_parsing="upload" in line) is not None


def test_the_documents_have_commands_at_all() -> None:
    assert len(commands()) > 20


def test_the_manifest_of_the_tutorial_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    assert decode(Instance, yaml.safe_load(text)).spec.cpus == 2
