"""`nanoctl explain`: what a kind and its fields mean, from the OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nanovirt.portal.cli import Misused, examples, tables
from nanovirt.portal.cli.catalogue import ROOTS, Kind
from nanovirt.portal.cli.completion import kind_words
from nanovirt.portal.cli.output import lines
from nanovirt.portal.cli.session import Session, connected
from nanovirt.resources.errors import Malformed

JSON = dict[str, Any]
BOUNDS = {
    "minimum": "at least {}", "maximum": "at most {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} of them", "maxItems": "at most {} of them",
}  # fmt: skip


@click.command(
    epilog=examples("""
        explain instance
        explain instance.spec.disks
        explain instance.spec --recursive
    """)
)
@click.argument("what", metavar="KIND[.FIELD...]", shell_complete=kind_words)
@click.option("-r", "--recursive", is_flag=True, help="The fields below, too, by name and type.")
@connected
def explain(session: Session, *, what: str, recursive: bool) -> None:
    """Say what a kind and its fields mean."""
    word, *path = what.strip(".").split(".")
    kind = session.catalogue.named(word)
    document = session.connection.get(f"/openapi/v3{ROOTS[kind.group_version]}")
    lines(explained(Schemas(document["components"]["schemas"]), kind, path, recursive=recursive))


class Schemas:
    """The schemas of one OpenAPI document."""

    def __init__(self, named: dict[str, JSON]) -> None:
        self._named = named

    def of(self, kind: Kind) -> JSON:
        """The schema of a kind. Raises Malformed."""
        group, _, version = kind.group_version.rpartition("/")
        wanted = {"group": group, "version": version, "kind": kind.kind}
        for schema in self._named.values():
            if wanted in schema.get("x-kubernetes-group-version-kind", ()):
                return schema
        raise Malformed(f"the server does not explain {kind.plural}")

    def whole(self, schema: JSON) -> JSON:
        """A schema with what it refers to; what stands beside the reference counts."""
        for target in (schema, *schema.get("allOf", ())):
            if "$ref" in target:
                return {**self._named[target["$ref"].rpartition("/")[2]], **_beside(schema)}
        return schema

    def fields(self, schema: JSON) -> dict[str, JSON]:
        """The fields of an object, or of the objects in a list."""
        whole = self.whole(schema)
        found: dict[str, JSON] = whole.get("properties") or {}
        return found or (self.fields(whole["items"]) if "items" in whole else {})

    def required(self, schema: JSON) -> tuple[str, ...]:
        """Which of those must be given."""
        whole = self.whole(schema)
        return tuple(whole.get("required") or (self.required(whole["items"]) if "items" in whole else ()))

    def type(self, schema: JSON) -> str:
        """`string`, `[]Disk`, `map[string]`: as kubectl writes it."""
        whole = self.whole(schema)
        if "items" in whole:
            return f"[]{self.type(whole['items'])}"
        if isinstance(whole.get("additionalProperties"), dict):
            return f"map[{self.type(whole['additionalProperties'])}]"
        return str(whole.get("type") or ("string" if "enum" in whole else "anything"))


def _beside(schema: JSON) -> JSON:
    return {word: value for word, value in schema.items() if word not in ("$ref", "allOf")}


def explained(schemas: Schemas, kind: Kind, path: list[str], *, recursive: bool) -> Iterator[str]:
    """What it is, its limits, and its fields."""
    schema = schemas.of(kind)
    for depth, name in enumerate(path):
        known = schemas.fields(schema)
        if name not in known:
            above = ".".join([kind.singular, *path[:depth]])
            raise Misused(f"{above} has no field {name!r}; it has {', '.join(known) or 'none'}")
        schema = known[name]
    whole = schemas.whole(schema)
    yield click.style(f"{'.'.join([kind.singular, *path])} <{schemas.type(schema)}>", bold=True)
    yield from _paragraph(str(whole.get("description", "")))
    if limits := ", ".join(_limits(whole)):
        yield from _paragraph(limits)
    if rows := list(_rows(schemas, schema, recursive=recursive)):
        made = tables.Grid(["FIELD", "TYPE", "MEANING"], rows)
        yield ""
        yield from tables.render(tables.wrapped(made, tables.columns_of_terminal()))


def _paragraph(said: str) -> list[str]:
    room = tables.columns_of_terminal()
    plain = " ".join(said.split())
    return click.wrap_text(plain, room, "  ", "  ").splitlines() if room and plain else [f"  {plain}"] if plain else []


def _limits(schema: JSON) -> Iterator[str]:
    if "enum" in schema:
        yield "one of " + ", ".join(str(one) for one in schema["enum"] if one)
    yield from (said.format(schema[word]) for word, said in BOUNDS.items() if word in schema)
    default = schema.get("default")
    if isinstance(default, bool):
        yield f"default {str(default).lower()}"
    elif isinstance(default, str | int) and default != "":
        yield f"default {default}"


def _rows(schemas: Schemas, schema: JSON, *, recursive: bool, indent: str = "") -> Iterator[list[str]]:
    required = schemas.required(schema)
    for name, below in schemas.fields(schema).items():
        whole = schemas.whole(below)
        said = [str(whole.get("description", "")).partition(". ")[0].rstrip("."), *_limits(whole)]
        said += ["required"] if name in required else []
        yield [indent + name, schemas.type(below), "; ".join(" ".join(one.split()) for one in said if one) or "-"]
        if recursive:
            yield from _rows(schemas, below, recursive=True, indent=f"{indent}  ")
