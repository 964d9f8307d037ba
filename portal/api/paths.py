"""Taking request paths apart: which kind, namespace, object and sub-resource a URL means, without a slow router."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from nanovirt.resources.errors import NotFound
from nanovirt.resources.kind import CORE, GROUP_VERSION, Document, Facts, Key
from nanovirt.resources.registry import kinds

GROUP = GROUP_VERSION.partition("/")[0]


class Target(NamedTuple):
    """What a path below /api/v1 or /apis/nano/v1 names; `key.name` is "" for the whole collection."""

    cls: type[Document]
    key: Key
    subresource: str

    @property
    def facts(self) -> Facts:
        """What the kind declares."""
        return self.cls.facts

    @property
    def group(self) -> str:
        """The API group; "" for core."""
        return "" if self.cls.facts.group_version == CORE else GROUP


class Unknown(NotFound):
    """No such path."""

    def __init__(self) -> None:
        super().__init__("", "")
        self.args = ("the server could not find the requested resource",)


def target(group_version: str, rest: list[str]) -> Target:
    """The object or collection behind the path segments after the group's version. Raises Unknown."""
    namespace = ""
    # `namespaces/NS/PLURAL`, while `namespaces/NS` and `namespaces/NS/status` are about the Namespace itself.
    if len(rest) > 2 and rest[0] == "namespaces" and not (group_version == CORE and rest[2] == "status"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3] if len(rest) < 4 else ("", "", "")
    cls = kinds().get(plural)
    if cls is None or cls.facts.group_version != group_version or (not name and len(rest) > 1):
        raise Unknown
    if "%" in name or "%" in namespace:
        name, namespace = _plain(name), _plain(namespace)
    if bool(namespace) > cls.facts.namespaced or (cls.facts.namespaced and name and not namespace):
        raise Unknown
    return Target(cls, Key(plural, namespace, name), subresource)


def _plain(part: str) -> str:
    """A segment without its percent-encoding, which must not bring in a slash."""
    part = unquote(part)
    if "/" in part:
        raise Unknown
    return part
