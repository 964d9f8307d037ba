"""What `desired/` last applied of an object: the base of the next three-way merge. No route serves this kind."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanovirt.resources.fields import Uid
from nanovirt.resources.kind import CLUSTER, Nothing, Resource, Spec


class AppliedSpec(Spec):
    """The object, as it was once that was applied: its `uid` and `generation`; `file`: where its manifest stood.

    `fields`: what the manifest said, path by path in the steps of FieldsV1, and `digest` a hash of that. `contested`:
    what it says in vain, since the API side has changed it, too.
    """

    plural: str
    namespace: str = ""
    name: str
    uid: Uid
    generation: int
    file: str
    digest: str
    fields: tuple[tuple[tuple[str, ...], Any], ...] = ()
    contested: tuple[str, ...] = ()


class AppliedRow(NamedTuple):
    """What is looked at when nothing has changed."""

    plural: str
    namespace: str
    name: str
    uid: str
    generation: int
    file: str
    digest: str
    contested: list[str]


class Applied(
    Resource[AppliedSpec, Nothing],
    plural="applied",
    scope=CLUSTER,
    row=AppliedRow,
    categories=(),
    internal=True,
):
    """Named by the key of the object; nobody owns it, for an object that is gone must not come back by itself."""

    spec: AppliedSpec
    status: Nothing = Nothing()
