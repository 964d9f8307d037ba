"""What proves that somebody is a user: the digest of a token. No route serves this kind; the portal writes it."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from nanovirt.resources.fields import Name, Time, Title, Uid, shaped
from nanovirt.resources.kind import CLUSTER, Nothing, Resource, Spec

Digest = Annotated[str, shaped(r"^[0-9a-f]{64}$", "a SHA-256 in lower-case hexadecimal digits")]


class CredentialSpec(Spec):
    """`digest` is all that is kept of the token; it counts until `expires`, for the user with that uid."""

    user: Name
    user_uid: Uid
    digest: Digest
    description: Title = ""
    expires: Time


class CredentialRow(NamedTuple):
    """What the door needs at each request; `expires` as RFC 3339."""

    user: str
    user_uid: str
    digest: str
    description: str
    expires: str


class Credential(
    Resource[CredentialSpec, Nothing],
    plural="credentials",
    scope=CLUSTER,
    row=CredentialRow,
    immutable=("spec",),
    categories=(),
    internal=True,
):
    """Named by the id of the token; owned by its User, and collected with it."""

    spec: CredentialSpec
    status: Nothing = Nothing()
