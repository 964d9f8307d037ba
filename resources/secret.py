"""Values that are written and never read back; every other kind names a Secret instead of holding a password."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic_core import core_schema

from nanovirt.resources.errors import Cause
from nanovirt.resources.fields import Text, Title, shaped
from nanovirt.resources.kind import NAMESPACED, Column, Resource, Spec, Status
from nanovirt.resources.reasons import Reason

VALUE_MAX, TOTAL_MAX, KEYS_MAX = 64 * 1024, 256 * 1024, 64
"""Bytes (UTF-8) of one value and of all together, and how many there may be."""
STARS = "***"

DataKey = Annotated[str, shaped(r"^[A-Za-z0-9._-]{1,128}$", "a key of at most 128 letters, digits, '.', '_' and '-'")]


class SecretText:
    """A text that shows itself to nobody who does not ask for it by `reveal`; as JSON it is `***`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The value itself."""
        return self._text

    def __repr__(self) -> str:
        return STARS

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        stars = core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema())
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(), serialization=stars)


class SecretSpec(Spec):
    """`data`: key -> value. Left out of a PUT or PATCH it stays as it is; every read leaves it out."""

    display_name: Title = ""
    description: Text = ""
    data: Annotated[dict[DataKey, SecretText], Field(max_length=KEYS_MAX)] = Field(default_factory=dict)


class SecretStatus(Status):
    """Which keys there are; made from the object itself whenever it is read."""

    keys: tuple[str, ...] = ()


class Secret(
    Resource[SecretSpec, SecretStatus],
    plural="secrets",
    scope=NAMESPACED,
    columns=(Column("Keys", ".status.keys[*]"),),
    sealed=True,
):
    """In the store its values are ciphertext, bound to this object's uid and to their keys (resources/sealing.py)."""

    model_config = ConfigDict(hide_input_in_errors=True)

    spec: SecretSpec = Field(default_factory=SecretSpec)
    status: SecretStatus = Field(default_factory=SecretStatus)

    def problems(self) -> Iterator[Cause]:
        """Values within their limits; what is stored is longer than what it says, so the types do not check that."""
        sizes = {key: len(value.reveal().encode()) for key, value in self.spec.data.items()}
        for key, size in sizes.items():
            if size > VALUE_MAX:
                yield _too_long(f"spec.data.{key}", size, VALUE_MAX)
        if sum(sizes.values()) > TOTAL_MAX:
            yield _too_long("spec.data", sum(sizes.values()), TOTAL_MAX)


def _too_long(field: str, size: int, limit: int) -> Cause:
    return Cause.of(field, Reason.SecretTooLong, size=size, limit=limit)
