"""Which tokens of users are good at this moment: known by their digests alone, from the internal kind Credential."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from nanovirt.resources.store import Commit, Entry, Store

NO_DIGEST = "0" * 64
"""Compared with when a digest is not known, so that an unknown token costs what a known one does."""


class Known(NamedTuple):
    """A token that is good until `expires`: the name of its Credential, and the user with that uid."""

    id: str
    user: str
    user_uid: str
    digest: str
    expires: datetime


class Credentials:
    """Follows the durable Credentials of the store."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._digests: dict[str, str] = {}
        for key, entry in store.list("credentials"):
            self._note(key.name, entry)
        store.subscribe(self._follow)

    def find(self, digest: str) -> Known | None:
        """The token with that SHA-256 (hex), while it is good."""
        known = self._known.get(digest)
        same = hmac.compare_digest(known.digest if known else NO_DIGEST, digest)
        return known if known is not None and same and self._clock() < known.expires else None

    def good(self, id_: str) -> bool:
        """Whether the token of that id is still there and not over."""
        digest = self._digests.get(id_)
        return digest is not None and self.find(digest) is not None

    def _follow(self, commit: Commit) -> None:
        for key, _, after in commit.changes:
            if key.plural == "credentials":
                self._note(key.name, after)

    def _note(self, id_: str, entry: Entry | None) -> None:
        gone = self._digests.pop(id_, None)
        if gone is not None:
            self._known.pop(gone, None)
        if entry is not None:
            row = entry.row
            expires = datetime.fromisoformat(row.expires)
            self._known[row.digest] = Known(id_, row.user, row.user_uid, row.digest, expires)
            self._digests[id_] = row.digest
