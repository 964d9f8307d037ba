"""The fields of an instance's wish, walked from its model, so that a table of them cannot forget one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

NAMED = {"disks": "data", "nics": "lan", "media": "cd0"}
"""Lists of things that have names, and what such a thing is called in a path."""


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of all fields; items of a list that have names are fields, too."""
    for info in model.model_fields.values():
        alias = str(info.alias)
        below = next((one for one in _models(info.annotation)), None)
        if alias in NAMED and below is not None:
            alias = f"{alias}[{NAMED[alias]}]"
            yield f"{path}{alias}"
        elif below is None or alias == "restart":
            yield f"{path}{alias}"
        if below is not None:
            yield from (one for one in fields(below, f"{path}{alias}.") if not one.endswith("].name"))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)
