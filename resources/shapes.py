"""How the parts of an object merge, derived once from its model: field by field, item by item, or as a whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from nanovirt.resources.codec import dump
from nanovirt.resources.kind import Document

ITEM_KEYS = ("uid", "name", "storagePool", "network")
"""What names an item of a list: the first of these that each item must have. Items without one merge as a whole."""
LIST_TYPE, LIST_KEYS = "x-kubernetes-list-type", "x-kubernetes-list-map-keys"
OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
"""What somebody can own of the metadata; all else is the server's."""
UNOWNED = ("apiVersion", "kind", "metadata", "status")


@dataclass(frozen=True)
class Shape:
    """One value: an object of named fields, a map, a list whose items have keys, or (without all that) a whole."""

    names: Mapping[str, Shape] = field(default_factory=dict)
    """The fields of a model."""
    others: Shape | None = None
    """The values of a map."""
    items: Shape | None = None
    """The items of a list that merges one by one; `key` is their field, "" when they are texts that name themselves."""
    key: str = ""
    free: bool = False
    """Nobody knows what is in it: objects merge field by field, everything else is a whole."""

    @property
    def open(self) -> bool:
        """Whether an object here merges field by field."""
        return bool(self.names) or self.others is not None or self.free

    def below(self, name: str) -> Shape:
        """The shape of a field."""
        return self if self.free else self.names.get(name) or self.others or WHOLE

    def marks(self, items: Sequence[Any]) -> list[str] | None:
        """What names each item, as fieldsV1 writes it; None when this list, or one like that, is a whole."""
        if self.items is None:
            return None
        marks = [_mark(self.key, item) for item in items]
        return None if None in marks else [mark for mark in marks if mark is not None]


WHOLE = Shape()
FREE = Shape(free=True)


def _mark(key: str, item: Any) -> str | None:
    if not key:
        return f"v:{dump_compact(item)}" if isinstance(item, str) else None
    named = item.get(key) if isinstance(item, dict) else None
    return f"k:{dump_compact({key: named})}" if isinstance(named, str) and named else None


def dump_compact(value: Any) -> str:
    """A value as the JSON within a path of fieldsV1."""
    return dump({"": value}).decode()[4:-1]


def item_key(required: Collection[str]) -> str:
    """The field by which items with those required fields merge, or "": the list is a whole."""
    return next((key for key in ITEM_KEYS if key in required), "")


@cache
def shape_of(cls: type[Document]) -> Shape:
    """What managers can own of an object of that kind: all but what the server keeps, and the status."""
    model = _model(cls)
    metadata = {name: shape for name, shape in model.names["metadata"].names.items() if name in OWNED_METADATA}
    names = {name: shape for name, shape in model.names.items() if name not in UNOWNED}
    return Shape({"metadata": Shape(metadata), **names})


@cache
def _model(cls: type[BaseModel]) -> Shape:
    names = {}
    for name, declared in cls.model_fields.items():
        extra = declared.json_schema_extra
        texts = isinstance(extra, dict) and extra.get(LIST_TYPE) == "set"
        names[declared.alias or name] = Shape(items=WHOLE) if texts else _of(declared.annotation)
    return Shape(names)


def _of(annotation: Any) -> Shape:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(parts[0])
    if origin in (Union, UnionType):
        real = [part for part in parts if part is not NoneType]
        return _of(real[0]) if len(real) == 1 else WHOLE
    if annotation is Any:
        return FREE
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model(annotation)
    if origin is dict:
        return Shape(others=_of(parts[1])) if parts[1] is not Any else FREE
    if origin is tuple and isinstance(parts[0], type) and issubclass(parts[0], BaseModel):
        key = item_key([info.alias or name for name, info in parts[0].model_fields.items() if info.is_required()])
        return Shape(items=_model(parts[0]), key=key) if key else WHOLE
    return WHOLE
