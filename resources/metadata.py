"""What every object carries about itself: name, uid, revision, labels, owners, finalizers (Kubernetes ObjectMeta)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from nanovirt.resources.fields import Time

OWNER_LABEL = "nano/owner"
RESERVED_PREFIX = "nano/"
ADOPTED_LABEL, ADOPTED_HOST_LABEL = "nano/adopted", "nano/adopted-host"
"""The uuid of the domain that an instance was adopted from, and the host where it was."""
LABEL_VALUE_MAX = 63
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
PROPAGATION = {"Foreground": FOREGROUND, "Orphan": ORPHAN}
"""propagationPolicy -> the finalizer that keeps an object until its dependents are gone, or are on their own."""
ANNOTATIONS_MAX = 256 * 1024


def _numbers_only(schema: Any) -> None:
    """Make every whole number in a schema a strict one."""
    if isinstance(schema, dict):
        if schema.get("type") == "int":
            schema["strict"] = True
        for inner in schema.values():
            _numbers_only(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _numbers_only(inner)


class Model(BaseModel):
    """A frozen model whose JSON is camelCase and which refuses fields that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Whole numbers are numbers: the validator by itself would take `true` for 1, and so `cpus: yes` of YAML."""
        made = handler(source)
        _numbers_only(made)
        return made

    def to_json(self) -> dict[str, Any]:
        """The JSON document, absent values left out."""
        # As `model_dump` does, which looks at a dozen other options first: every object that is written comes by here.
        made: dict[str, Any] = self.__pydantic_serializer__.to_python(
            self, mode="json", by_alias=True, exclude_none=True
        )
        return made


LABEL_KEY = re.compile(r"(?:[a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_KEY_RULE = "a key is 1 to 63 letters, digits, '-', '_' and '.', perhaps after a domain and '/' (example.com/tier)"
"""As in Kubernetes, so that selectors can name it; asked of new labels only, since older releases stored any."""
_NOT_PLAIN = re.compile(r"[ ,()=!\x00-\x1f\x7f]")


def _labels(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if len(key) > 317 or len(text) > LABEL_VALUE_MAX or not key or _NOT_PLAIN.search(text):
            raise ValueError(f"label {key[:60]!r}: a key of at most 317 and a value of at most 63 plain characters")
    return value


def _annotations(value: dict[str, str]) -> dict[str, str]:
    if sum(map(len, value)) + sum(map(len, value.values())) > ANNOTATIONS_MAX:
        raise ValueError(f"annotations hold more than {ANNOTATIONS_MAX} bytes together")
    return value


Labels = Annotated[dict[str, str], AfterValidator(_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(_annotations)]


class OwnerReference(Model):
    """The object that this one belongs to and goes away with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """Metadata; uid, resourceVersion, generation and the timestamps are the server's."""

    model_config = ConfigDict(extra="ignore")  # managedFields, selfLink and the like come from real clients

    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)
    finalizers: Annotated[tuple[str, ...], Field(json_schema_extra={"x-kubernetes-list-type": "set"})] = ()
    owner_references: tuple[OwnerReference, ...] = ()
