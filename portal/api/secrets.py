"""Secret values on their way in and out of the API: sealed before they are stored, left out of everything shown."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

from nanovirt.portal.api.admission import Wanted
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.engine import new_uid
from nanovirt.resources.errors import Invalid, SealBroken, Unavailable
from nanovirt.resources.kind import Facts
from nanovirt.resources.reasons import Reason
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.secret import Secret, SecretText
from nanovirt.resources.store import Entry
from nanovirt.resources.wire import LAST_APPLIED


def public(facts: Facts, raw: bytes) -> bytes:
    """The bytes of an object as replies and watches show them: stored bytes, but for what is sealed."""
    return _hidden(raw) if facts.sealed else raw


def _hidden(raw: bytes) -> bytes:
    """Without the values; the keys stand in `status.keys`."""
    doc = load(raw)
    keys = sorted(doc["spec"].pop("data", ()))
    doc["status"] = {**(doc.get("status") or {}), "keys": keys}
    return dump(doc)


class Vault:
    """What the write pipeline does for sealed kinds; every other kind passes through untouched."""

    def __init__(self, sealer: Sealer | None) -> None:
        """Without a `sealer`, Secrets cannot be written."""
        self._sealer = sealer
        self._salt = os.urandom(32)

    def transformed(self, facts: Facts, before: Entry, transform: Callable[[bytes], JSON]) -> JSON:
        """What `transform` makes of the stored object; a patch meets stand-ins where the values are."""
        if not facts.sealed:
            return transform(before.raw)
        doc = load(before.raw)
        doc["spec"]["data"] = {key: self._stand_in(before, key) for key in doc["spec"].get("data", ())}
        try:
            return transform(dump(doc))
        except Invalid as error:  # its words quote what was sent, and what stands there
            raise Invalid(error.causes[0].field, "the operation does not fit the object") from None

    def keep(self, wanted: Wanted) -> None:
        """Seal the values of a Secret into `wanted.doc`, which is what will be stored.

        What is not written anew stays sealed as it was. Raises Invalid for a patch that copies values, Unavailable
        when there is no key.
        """
        if not wanted.made.facts.sealed:
            return
        assert isinstance(wanted.made, Secret)
        if self._sealer is None:
            raise Unavailable("this server has no key for secrets")
        doc, old = wanted.doc, (wanted.old or {}).get("spec", {}).get("data", {})
        metadata = doc["metadata"]
        metadata.get("annotations", {}).pop(LAST_APPLIED, None)
        uid = wanted.before.uid if wanted.before else metadata.setdefault("uid", "") or new_uid()
        metadata["uid"] = uid
        doc["spec"].pop("data", None)
        if wanted.before is not None and self._mark(wanted.before) in dump(doc).decode():
            raise Invalid("spec.data", Reason.SecretMoved)
        given = wanted.made.spec.data if "data" in wanted.made.spec.model_fields_set else None
        doc["spec"]["data"] = dict(old) if given is None else self._sealed(self._sealer, wanted, uid, given, old)

    def _sealed(
        self, sealer: Sealer, wanted: Wanted, uid: str, given: dict[str, SecretText], old: dict[str, str]
    ) -> dict[str, str]:
        made: dict[str, str] = {}
        for key, value in given.items():
            text = value.reveal()
            if wanted.before is not None and key in old and text == self._stand_in(wanted.before, key):
                made[key] = old[key]
            elif wanted.before is not None and self._mark(wanted.before) in text:
                raise Invalid(f"spec.data.{key}", Reason.SecretMoved)
            elif key in old and _says(sealer, uid, key, old[key], text):
                made[key] = old[key]
            else:
                made[key] = sealer.seal("Secret", uid, key, value)
        return made

    def _mark(self, before: Entry) -> str:
        """In every stand-in for this state of the object, and in nothing else."""
        return hmac.digest(self._salt, f"{before.uid}/{before.rev}".encode(), "sha256").hex()

    def _stand_in(self, before: Entry, key: str) -> str:
        return f"kept/{self._mark(before)}/{key}"


def _says(sealer: Sealer, uid: str, key: str, sealed: str, text: str) -> bool:
    """Whether that is the value already; one that does not open any more is simply written anew."""
    try:
        return sealer.open("Secret", uid, key, sealed).reveal() == text
    except SealBroken:
        return False
