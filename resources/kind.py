"""The shape that all kinds share, and the facts that a kind declares about itself as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from nanovirt.resources.errors import Cause
from nanovirt.resources.metadata import Model, ObjectMeta

GROUP_VERSION = "nano/v1"
CORE = "v1"


class Spec(Model):
    """The wish of whoever writes the object."""


class Status(Model):
    """What the owner of the status half has observed."""

    model_config = ConfigDict(extra="ignore")


class Nothing(Status):
    """A kind without that half."""


class Scope(Enum):
    """Whether names are unique in the cluster or in a namespace."""

    CLUSTER = "Cluster"
    NAMESPACED = "Namespaced"


CLUSTER, NAMESPACED = Scope.CLUSTER, Scope.NAMESPACED


class Key(NamedTuple):
    """Where an object stands: plural of its kind, namespace ("" for cluster-scoped), name."""

    plural: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`instances/default/web-1`."""
        return "/".join(part for part in self if part)


class Column(NamedTuple):
    """A column of a table: `path` is a JSON path (`.status.phase`); priority 1 shows only in wide output."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True)
class Refers:
    """A reference field: JSON path below the object (`spec.disks[].source.image`) and the plural that it names."""

    path: str
    plural: str


@dataclass(frozen=True)
class Scaling:
    """That objects of a kind are a number of something: JSON paths to how many are wished, and are there, and which."""

    wished: str = "spec.replicas"
    present: str = "status.replicas"
    selector: str = "status.selector"


class Later:
    """Marks a field that the design has and that nothing acts on yet: only its default is accepted."""

    def __init__(self, *values: Any) -> None:
        """With `values`, only those values of the field are refused."""
        self.values = values

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say so where the field is explained."""
        made = handler(schema)
        said = f"{', '.join(map(str, self.values))}: not built yet." if self.values else "Not built yet."
        return {**made, "description": said}

    def refuses(self, value: Any, default: Any) -> bool:
        """Whether `value` asks for what is not built."""
        return value in self.values if self.values else value != default


LATER = Later()


@dataclass(frozen=True)
class Facts:
    """Everything that differs between kinds and that generic code needs: discovery, tables, store rows, admission."""

    kind: str
    plural: str
    short: tuple[str, ...]
    scope: Scope
    group_version: str
    row: type[tuple[Any, ...]]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...]
    refers: tuple[Refers, ...]
    immutable: tuple[str, ...]
    finalizer: str
    system: str
    """Written by the controllers alone; whose change changes it."""
    removable: str
    """What the system writes, and people may delete once nobody owns it: the finalizer under which it goes."""
    categories: tuple[str, ...]
    sealed: bool
    """Whether `spec.data` holds ciphertext, which no reply shows."""
    internal: bool
    """Whether the kind is for the server alone: no route, no discovery, no schema."""
    scaling: Scaling | None
    """With it the kind has the sub-resource `scale`."""
    operation: bool
    """Whether an object of it happens once, and so cannot be what a directory goes on wishing for."""

    @property
    def singular(self) -> str:
        """The name for one, as kubectl accepts it."""
        return self.kind.lower()

    @cached_property
    def namespaced(self) -> bool:
        """Whether a namespace is part of the key."""
        return self.scope is Scope.NAMESPACED


class NoRow(NamedTuple):
    """For kinds whose objects nobody needs an index of."""


KINDS: dict[str, type[Document]] = {}


class Document(Model):
    """An object as it is stored and sent: apiVersion, kind, metadata, and what the kind adds."""

    model_config = ConfigDict(use_attribute_docstrings=False)  # a class made from a generic one has no source to read

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    facts: ClassVar[Facts]

    def __init_subclass__(cls, **_declared: Any) -> None:
        """Keep the declarations from `typing.Generic`, which takes none; pydantic's own hook below reads them."""
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, *, plural: str = "", **declared: Any) -> None:
        """Register a kind; classes without a plural are shapes, not kinds."""
        super().__pydantic_init_subclass__()
        if plural:
            cls.facts = _facts(cls.__name__, plural, **declared)
            KINDS[plural] = cls

    @property
    def key(self) -> Key:
        """Where this object stands in the store."""
        return Key(self.facts.plural, self.metadata.namespace, self.metadata.name)

    @property
    def deleting(self) -> bool:
        """Whether somebody asked for its deletion."""
        return self.metadata.deletion_timestamp is not None

    def problems(self) -> Iterator[Cause]:
        """What is wrong with the object by itself, beyond the types of its fields."""
        yield from ()


def _facts(
    kind: str,
    plural: str,
    *,
    scope: Scope,
    short: str = "",
    row: type[tuple[Any, ...]] = NoRow,
    columns: tuple[Column, ...] = (),
    selectable: tuple[str, ...] = (),
    refers: tuple[Refers, ...] = (),
    immutable: tuple[str, ...] = (),
    finalizer: str = "",
    system: str = "",
    removable: str = "",
    group_version: str = GROUP_VERSION,
    categories: tuple[str, ...] = ("nano",),
    sealed: bool = False,
    internal: bool = False,
    scaling: Scaling | None = None,
    operation: bool = False,
) -> Facts:
    shorts = tuple(short.split())
    return Facts(
        kind, plural, shorts, scope, group_version, row, columns, selectable, refers, immutable, finalizer, system,
        removable, categories, sealed, internal, scaling, operation,
    )  # fmt: skip


S = TypeVar("S", bound=Spec)
T = TypeVar("T", bound=Status)


class Resource(Document, Generic[S, T]):
    """A kind with a spec and a status half."""

    spec: S
    status: T


def paths_of(row: type[tuple[Any, ...]]) -> tuple[tuple[str, ...], ...]:
    """The JSON path behind each field of a row: `status_x` and `meta_x` name those halves, all else is spec."""
    return tuple(_path(field) for field in getattr(row, "_fields", ()))


def _path(field: str) -> tuple[str, ...]:
    for prefix, half in (("status_", "status"), ("meta_", "metadata")):
        if field.startswith(prefix):
            return (half, to_camel(field.removeprefix(prefix)))
    return ("spec", to_camel(field))
