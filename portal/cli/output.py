"""Printing objects as JSON, YAML or names, and progress on standard error."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any

import click
import orjson

from nanovirt.portal.cli import tables

JSON = dict[str, Any]


def documents(found: list[JSON], output: str, *, single: bool, managed: bool = False) -> str:
    """Objects as `json`, `yaml` or `name`; several as one List and without managedFields, as kubectl writes them."""
    if output == "name":
        return "".join(f"{name_of(one)}\n" for one in found)
    whole = one_document(found, single=single, managed=managed)
    if output == "json":
        return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return as_yaml(whole)


def one_document(found: list[JSON], *, single: bool, managed: bool = False) -> JSON:
    """The one object that was asked for, or a List of all."""
    found = found if managed else [_unmanaged(one) for one in found]
    return found[0] if single and len(found) == 1 else {"apiVersion": "v1", "kind": "List", "items": found}


def _unmanaged(doc: JSON) -> JSON:
    metadata = {name: value for name, value in doc["metadata"].items() if name != "managedFields"}
    return {**doc, "metadata": metadata}


def as_yaml(value: Any) -> str:
    """YAML in the order of the fields, with Chinese left readable."""
    import yaml  # noqa: PLC0415 - only who asks for YAML waits for it

    from nanovirt.resources.yaml_values import DUMPER, SLOW_DUMPER  # noqa: PLC0415 - likewise

    written: str = yaml.dump(value, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=100)
    if "\\U000" in written:  # libyaml escapes what lies beyond 16 bits, as rare characters of names do
        written = yaml.dump(value, Dumper=SLOW_DUMPER, sort_keys=False, allow_unicode=True, width=100)
    return written


def name_of(doc: JSON) -> str:
    """`instance/web-1`."""
    return f"{str(doc.get('kind', '')).lower()}/{doc['metadata']['name']}"


class Progress:
    """One line on standard error that is rewritten on a terminal; elsewhere each new line stands by itself."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""

    def show(self, said: str) -> None:
        """Show what is going on, if that is something new."""
        if said == self._shown:
            return
        self._shown = said
        if self._live:
            said = "\r\x1b[K" + tables.cut(said, shutil.get_terminal_size().columns - 1)
        click.echo(said, err=True, nl=not self._live)

    def clear(self) -> None:
        """Leave the terminal as if nothing had been shown."""
        if self._live and self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._shown = ""


def lines(said: Iterable[str]) -> None:
    """Print lines on standard output at once."""
    for line in said:
        click.echo(line)
