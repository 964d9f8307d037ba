"""What is wrong with a set of writes as a whole: names, sizes, and admission in the state that all of them lead to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from nanovirt.portal.api import admission
from nanovirt.portal.api.admission import Wanted, World
from nanovirt.portal.api.drafting import draft
from nanovirt.portal.api.index import Mention, Sight, View, mentions, said
from nanovirt.portal.api.intents import Intent
from nanovirt.portal.api.writing import Prepared
from nanovirt.resources import errors
from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import AlreadyExists, Cause, Invalid, NanoError, NotFound, Refused, TooLarge
from nanovirt.resources.kind import Key
from nanovirt.resources.log import RECORD_LIMIT
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Draft, Entry, Op

GRAVITY: tuple[type[NanoError], ...] = (
    errors.Forbidden, errors.TooLarge, errors.NotAllowed, errors.Malformed, errors.Invalid, errors.NotFound,
    errors.AlreadyExists, errors.Rejected, errors.Stale, NanoError,
)  # fmt: skip
"""Which error a caller has to mend first: what can never be stands before what another name or time heals."""
CAUSES_MAX, CAUSES_SAID = 1000, 10
"""Causes in the Status, and in its message."""


@dataclass
class Batch:
    """A set of writes under way: as asked, as far as each is right by itself, and what is wrong; all by number."""

    asked: Sequence[Intent | NanoError]
    prepared: dict[int, Prepared] = field(default_factory=dict)
    faults: dict[int, list[NanoError]] = field(default_factory=dict)

    def refuse(self, at: int, error: NanoError) -> None:
        """Note what is wrong with one write."""
        self.faults.setdefault(at, []).append(error)

    @cached_property
    def intents(self) -> Sequence[tuple[int, Intent]]:
        """The writes that could be read."""
        return [(at, one) for at, one in enumerate(self.asked) if isinstance(one, Intent)]

    @property
    def ops(self) -> list[Op]:
        """One operation for each prepared write, behind what goes along with them, such as the Events of a namespace
        that is deleted.
        """
        every = [found.ops for found in self.prepared.values()]
        return [*(op for ops in every if len(ops) > 1 for op in ops[:-1]), *[ops[-1] for ops in every]]

    @property
    def coming(self) -> set[Key]:
        """What the set makes or changes; bad writes too, for their fault is not that of all who refer to them."""
        named = {one.target.key for _, one in self.intents if one.verb not in ("delete", "expect")}
        return named | {found.wanted.key for found in self.prepared.values() if found.wanted is not None}

    @property
    def going(self) -> set[Key]:
        """What the set deletes, at once or when its finalizers let it go."""
        return {one.target.key for _, one in self.intents if one.verb == "delete"}


def judge_names(store: View, batch: Batch) -> None:
    """Each object stands once in a set, and what is created must not be there yet."""
    first: dict[Key, int] = {}
    for at, one in batch.intents:
        found = batch.prepared.get(at)
        key = found.ops[-1].key if found else one.target.key
        if not key.name:
            continue
        if key in first:
            batch.refuse(at, Invalid("", Reason.WrittenTwice, name=str(key), other=f"writes[{first[key]}]"))
            batch.prepared.pop(at, None)
        elif found and one.verb == "create" and store.peek(key) is not None:
            batch.refuse(at, AlreadyExists(key.plural, key.name))
            del batch.prepared[at]
        first.setdefault(key, at)


def judge_sizes(batch: Batch, entries: Sequence[Entry | None]) -> None:
    """An object may be as large as one that comes alone, and all that change as large as one record of the log.

    `entries`: what each prepared write leads to. Raises TooLarge for the whole.
    """
    led = list(zip(batch.prepared.items(), entries, strict=True))
    sizes = {at: len(entry.raw) for (at, found), entry in led if entry is not None and entry is not found.before}
    for at, size in sizes.items():
        if size > BODY_MAX:
            said = f"the object would have {size} bytes; the limit is {BODY_MAX}"
            batch.refuse(at, TooLarge(said, size=size, limit=BODY_MAX))
    total = sum(sizes.values())
    if total > RECORD_LIMIT:
        raise TooLarge(
            f"the objects would have {total} bytes together, and one revision holds {RECORD_LIMIT}; "
            "send them in several transactions",
            size=total,
            limit=RECORD_LIMIT,
        )


def judge_together(world: World, batch: Batch, drafted: Draft, sees: Sight) -> list[str]:
    """Let admission look at each prepared write in the state that all of them lead to; what to warn of."""
    after, coming, going = draft(world, drafted), batch.coming, batch.going
    warnings: list[str] = []
    foreseen = world.index.foreseen = {}
    unhoused = cache(lambda namespace: [*_namespace_missing(after, namespace, coming)])
    led = drafted.outcome.entries[len(drafted.ops) - len(batch.prepared) :]
    for (at, found), entry in zip(batch.prepared.items(), led, strict=True):
        try:
            if (wanted := found.wanted) is not None:
                asked, mentioned = batch.asked[at], mentions(wanted.made.facts, wanted.key, wanted.doc)
                lenient = isinstance(asked, Intent) and asked.lenient
                causes = [*unhoused(wanted.key.namespace)] if wanted.before is None else []
                told = _judge(after, wanted, mentioned, causes, coming, going, lenient=lenient)
                if told or found.warnings:
                    warnings += [f"writes[{at}]: {one}" for one in (*found.warnings, *told)]
                if entry is not None:
                    foreseen[entry.uid] = entry.raw, said(wanted.key.plural, wanted.doc, mentioned)
            elif (key := found.ops[-1].key) in going and found.before is not None:
                admission.admit_delete(after, key, found.before, sees)
        except NanoError as error:
            batch.refuse(at, error)
    return warnings


def _judge(
    world: World,
    wanted: Wanted,
    mentioned: list[Mention],
    causes: list[Cause],
    coming: set[Key],
    going: set[Key],
    *,
    lenient: bool,
) -> list[str]:
    """What to warn of. Raises Invalid with every cause, beside those that are known; a reference to nothing is one,
    unless it was there before.

    One more of what was there before is warned of, and with `lenient` any new one; none may name what the set deletes.
    """
    causes += admission.problems(world, wanted)
    had = {one.target for one in mentions(wanted.made.facts, wanted.key, wanted.old)} if wanted.old else set()
    brought, warnings = cache(lambda: admission.brought(wanted, mentioned)), list[str]()
    for mention in mentioned:
        leaves = mention.target in going
        if not leaves and (mention.target in coming or world.store.peek(mention.target) is not None):
            continue
        cause = admission.reference_missing(mention)
        if (lenient or mention.target in had) and not leaves:
            warnings += [f"{cause.field}: {cause.message}"] if mention in brought() else []
        elif cause not in causes:  # said twice of what is absent, it would tell that from what is not to be seen
            causes.append(cause)
    if causes:
        raise Invalid.of(causes)
    return warnings


def _namespace_missing(world: World, namespace: str, coming: set[Key]) -> Iterator[Cause]:
    """That there is no such namespace, and none comes; Forbidden when it is being deleted."""
    if Key("namespaces", "", namespace) in coming:
        return
    try:
        admission.check_namespace(world, namespace)
    except NotFound:
        yield Cause.of("metadata.namespace", Reason.ReferenceMissing, kind="Namespace", name=namespace)


def refused(batch: Batch) -> Refused:
    """One error for all that is wrong; it is answered as the gravest of them would be."""
    found = [error for at in batch.faults for error in batch.faults[at]]
    causes = [cause for at in sorted(batch.faults) for error in batch.faults[at] for cause in _causes(at, error)]
    lines = [f"{one.field}: {one.message}" for one in causes[:CAUSES_SAID]]
    more = f"; and {len(causes) - CAUSES_SAID} more" if len(causes) > CAUSES_SAID else ""
    count = f"{len(batch.faults)} of {len(batch.asked)} writes"
    said = f"{count} cannot be, so none was carried out: {'; '.join(lines)}{more}"
    return Refused(said, min(found, key=_gravity), tuple(causes[:CAUSES_MAX]))


def _causes(at: int, error: NanoError) -> Iterator[Cause]:
    why = getattr(error, "why", "") or error.reason
    for cause in error.causes or (Cause("", why, str(error), error.params),):
        yield cause._replace(field=f"writes[{at}]" + (f".{cause.field.removeprefix('.')}" if cause.field else ""))


def _gravity(error: NanoError) -> int:
    return next(at for at, family in enumerate(GRAVITY) if isinstance(error, family))
