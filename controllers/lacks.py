"""Why something that is wished cannot be now."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanovirt.resources.reasons import Reason


class Missing(Exception):
    """Why the instance, or a part of it, cannot be composed now."""

    def __init__(self, reason: Reason, **params: Any) -> None:
        super().__init__(reason.name)
        self.reason, self.params = reason, params


class Lack(NamedTuple):
    """A field of a placed instance whose wish is not followed now; what is there is kept meanwhile."""

    path: str
    current: Any
    desired: Any
    reason: Reason
    params: dict[str, Any]
