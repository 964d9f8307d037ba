"""The commands of docs/tutorial.md and README.md: each has to be one that exists, with options that exist."""

from __future__ import annotations

import re
import shlex
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


@pytest.mark.parametrize("line", commands())
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
