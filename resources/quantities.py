"""Amounts as people write them (`4Gi`, `200M`, `1500m`): numbers inside, the written text kept for the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

BINARY = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
NUMBER = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,6}))?([A-Za-z]{0,2})")
LIMIT = 2**60
WRITTEN = (str, int)
"""What amounts are written as."""
FORMAT = "quantity"
"""What OpenAPI says of an amount beside that it is a text."""


class Quantity(int):
    """A whole, non-negative amount that remembers how it was written (Kubernetes quantity, whole results only)."""

    units: ClassVar[Mapping[str, int]] = {}
    example: ClassVar[str] = ""
    meaning: ClassVar[str] = ""
    """What the example amounts to, where that is not plain from its unit."""
    written: str | int

    def __new__(cls, written: str | int) -> Self:
        """Read an amount; ValueError says which units are known."""
        self = super().__new__(cls, cls.read(written))
        self.written = written
        return self

    def __str__(self) -> str:
        """As it was written."""
        return str(self.written)

    @classmethod
    def read(cls, written: str | int) -> int:
        """The amount in the smallest unit."""
        match = NUMBER.fullmatch(str(written))  # True is none, either
        whole, part, unit = match.groups() if match else ("", None, "")
        factor = cls.units.get(unit, 0)
        if not whole or not factor:
            raise ValueError(f"{str(written)[:40]!r} is not {cls.rule()}")
        amount, rest = int(whole) * factor, 0
        if part:
            amount, rest = divmod(int(whole + part) * factor, int(10 ** len(part)))
        if rest or amount > LIMIT:
            raise ValueError(f"{written!r} is not a whole amount below {LIMIT}")
        return amount

    @classmethod
    def rule(cls) -> str:
        """What to write, as the end of `... is not`."""
        known = ", ".join(unit for unit in cls.units if unit)
        return f"an amount like {cls.example!r}{cls.meaning} (units: {known})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read by the class itself, written as text."""
        return core_schema.no_info_plain_validator_function(
            cls._parse,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def _parse(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, WRITTEN) or isinstance(value, bool):
            found = str(value)[:40] if isinstance(value, float) else "this"
            raise ValueError(f"{found} is not a whole number, or {cls.rule()}")  # noqa: TRY004 - pydantic
        made: Self = _made(cls, value)
        return made

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A text, as Kubernetes publishes its quantities; without a type kubectl explains it as an object."""
        said = f"An amount such as {cls.example}; a whole number is read, too."
        return {"type": "string", "format": FORMAT, "description": said}


_made: Callable[[Any, str | int], Any] = lru_cache(maxsize=4096, typed=True)(type.__call__)
"""An amount of that type; most are among a few that come again and again, and none is ever changed."""


class Bytes(Quantity):
    """Bytes with binary units: `20Gi`."""

    units = BINARY
    example = "4Gi"

    def __str__(self) -> str:
        """As written when it was text, else in the largest unit that divides it."""
        if isinstance(self.written, str):
            return self.written
        for unit, factor in reversed(BINARY.items()):
            if self % factor == 0 and self:
                return f"{self // factor}{unit}"
        return "0"


class Bits(Quantity):
    """Bits (per second) with decimal units: `200M`."""

    units = DECIMAL
    example = "200M"


class Millicpus(Quantity):
    """Thousandths of a processor, written as Kubernetes does: `1500m` is `1.5`."""

    units: ClassVar[Mapping[str, int]] = {"m": 1, "": 1000}
    example = "1500m"
    meaning = ", which is one and a half processors"
