"""Who may do what: a table for people to read, and every cell of a generated matrix against a second opinion."""

from __future__ import annotations

from itertools import product

import pytest

from nanovirt.portal.authorization import authorize, forced_selector, visibility_class, visible
from nanovirt.portal.identity import ADMIN, SYSTEM, Subject
from nanovirt.resources import registry
from nanovirt.resources.errors import Forbidden, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import Entry
from tests.portal.world import host, placement

UIDS = {"h1": "00000000-0000-4000-8000-000000000001", "h2": "00000000-0000-4000-8000-000000000002"}
H1 = Subject(f"host:{UIDS['h1']}", ("nano:hosts",), host="h1")
NOBODY = Subject("alice", ("team-a",))
PRETENDER = Subject("admin", ())
NAMELESS = Subject("host:", ("nano:hosts",))
"""A host without a Host must not match placements without one."""

ON_H1, ON_H2 = Key("placements", "default", "web-1"), Key("placements", "default", "web-2")


def entry(key: Key, on: str) -> Entry:
    made = host(key.name) if key.plural == "hosts" else placement(key.name, on)
    doc = made.doc | {"metadata": made.doc["metadata"] | {"uid": UIDS.get(key.name, "u")}}
    return entry_of(key.plural, doc, 1)


def outcome(
    subject: Subject, verb: str, plural: str, subresource: str = "", key: Key | None = None, found: Entry | None = None
) -> str:
    try:
        authorize(subject, verb, plural, subresource, key, found)
    except (Forbidden, NotFound) as error:
        return type(error).__name__
    return "yes"


H1_KEY, H2_KEY = Key("hosts", "", "h1"), Key("hosts", "", "h2")
MINE, THEIRS = entry(ON_H1, "h1"), entry(ON_H2, "h2")


@pytest.mark.parametrize(
    ("verb", "plural", "subresource", "key", "found", "expected"),
    [
        ("get", "hosts", "", H1_KEY, entry(H1_KEY, ""), "yes"),
        ("get", "hosts", "", H2_KEY, entry(H2_KEY, ""), "Forbidden"),
        ("get", "hosts", "", H2_KEY, None, "Forbidden"),
        ("list", "hosts", "", None, None, "Forbidden"),
        ("watch", "hosts", "", None, None, "Forbidden"),
        ("update", "hosts", "", H1_KEY, entry(H1_KEY, ""), "Forbidden"),
        ("patch", "hosts", "status", H1_KEY, entry(H1_KEY, ""), "Forbidden"),
        ("delete", "hosts", "", H1_KEY, entry(H1_KEY, ""), "Forbidden"),
        ("create", "hosts", "", None, None, "Forbidden"),
        ("create", "hosts", "report", H1_KEY, entry(H1_KEY, ""), "yes"),
        ("create", "hosts", "report", H2_KEY, entry(H2_KEY, ""), "Forbidden"),
        ("create", "hosts", "report", None, None, "Forbidden"),
        ("list", "placements", "", None, None, "yes"),
        ("watch", "placements", "", None, None, "yes"),
        ("get", "placements", "", ON_H1, MINE, "yes"),
        ("get", "placements", "", ON_H2, THEIRS, "NotFound"),
        ("get", "placements", "image", ON_H1, MINE, "yes"),
        ("get", "placements", "image", ON_H2, THEIRS, "NotFound"),
        ("get", "placements", "image", None, None, "Forbidden"),
        ("update", "placements", "status", ON_H1, MINE, "yes"),
        ("patch", "placements", "status", ON_H1, MINE, "yes"),
        ("patch", "placements", "status", ON_H2, THEIRS, "NotFound"),
        ("update", "placements", "", ON_H1, MINE, "Forbidden"),
        ("patch", "placements", "", ON_H1, MINE, "Forbidden"),
        ("delete", "placements", "", ON_H1, MINE, "Forbidden"),
        ("create", "placements", "", None, None, "Forbidden"),
        ("deletecollection", "placements", "", None, None, "Forbidden"),
        ("create", "events", "", None, None, "Forbidden"),
        ("get", "images", "", Key("images", "default", "i"), None, "Forbidden"),
        ("list", "instances", "", None, None, "Forbidden"),
    ],
)
def test_host_reaches_its_own_and_nothing_else(
    verb: str, plural: str, subresource: str, key: Key | None, found: Entry | None, expected: str
) -> None:
    assert outcome(H1, verb, plural, subresource, key, found) == expected


def test_missing_placement_looks_like_that_of_another_host() -> None:
    """Nothing is there to be seen, so the door lets pass, and the store answers NotFound, as it does for theirs."""
    assert outcome(H1, "get", "placements", "", ON_H2, None) == "yes"
    assert outcome(H1, "get", "placements", "", ON_H2, THEIRS) == "NotFound"


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "GET", "*", "")
SUBRESOURCES = ("", "status", "report", "image", "upload", "console", "*")
PLURALS = (*registry.kinds(), "secrets", "*", "")
SUBJECTS = (ADMIN, SYSTEM, H1, NOBODY, PRETENDER, NAMELESS)
OWNERS = ("none", "mine", "theirs", "nobody's")


def oracle(subject: Subject, verb: str, plural: str, subresource: str, owner: str) -> str:
    """The same rules, said in another way: sentences with a subject, a verb and an object."""
    if subject in (ADMIN, SYSTEM):
        return "yes"
    if subject is not H1:
        return "Forbidden"
    sentence = f"{verb} {plural}/{subresource}"
    if sentence in {"list placements/", "watch placements/"}:
        return "yes"
    if sentence in {"get hosts/", "create hosts/report"}:
        return "yes" if owner == "mine" else "Forbidden"
    single = "get placements/", "get placements/image", "update placements/status", "patch placements/status"
    if sentence in (*single, "create placements/console"):
        return {"mine": "yes", "theirs": "NotFound", "nobody's": "NotFound", "none": "Forbidden"}[owner]
    return "Forbidden"


def thing(plural: str, owner: str) -> tuple[Key | None, Entry | None]:
    name = {"mine": "h1", "theirs": "h2", "nobody's": "h3", "none": ""}[owner]
    if not name:
        return None, None
    if plural == "hosts":
        return Key("hosts", "", name), entry(Key("hosts", "", name), "")
    key = Key(plural, "default", "web-1")
    on = "" if owner == "nobody's" else name
    return key, entry(ON_H1, on) if plural == "placements" else None


def test_every_cell_of_the_matrix_is_as_the_oracle_says() -> None:
    cells = 0
    for plural, owner in product(PLURALS, OWNERS):
        key, found = thing(plural, owner)
        for subject, verb, subresource in product(SUBJECTS, VERBS, SUBRESOURCES):
            single = found if verb not in {"list", "watch"} else None
            wanted = oracle(subject, verb, plural, subresource, owner)
            assert outcome(subject, verb, plural, subresource, key, single) == wanted, (
                subject, verb, plural, subresource, owner,
            )  # fmt: skip
            cells += 1
    assert cells > 20_000


@pytest.mark.parametrize(
    ("subject", "sees"),
    [
        (ADMIN, "own host, other host, mine, theirs, unplaced"),
        (SYSTEM, "own host, other host, mine, theirs, unplaced"),
        (H1, "own host, mine"),
        (NOBODY, ""),
        (PRETENDER, ""),
        (NAMELESS, ""),
    ],
)
def test_what_is_visible(subject: Subject, sees: str) -> None:
    world = {
        "own host": ("hosts", entry(H1_KEY, "")),
        "other host": ("hosts", entry(H2_KEY, "")),
        "mine": ("placements", MINE),
        "theirs": ("placements", THEIRS),
        "unplaced": ("placements", entry(ON_H1, "")),
    }
    assert (
        ", ".join(name for name, (plural, one) in world.items() if visible(subject, Key(plural, "", "x"), one)) == sees
    )


def test_host_made_anew_is_not_visible_to_the_old_certificate() -> None:
    made = host("h1")
    doc = made.doc | {"metadata": made.doc["metadata"] | {"uid": UIDS["h2"]}}
    assert not visible(H1, H1_KEY, entry_of("hosts", doc, 1))


def test_classes_are_shared_only_by_those_who_see_the_same() -> None:
    assert visibility_class(ADMIN) == visibility_class(SYSTEM)
    others = [visibility_class(one) for one in (ADMIN, H1, NOBODY, Subject("host:2", ("nano:hosts",), host="h2"))]
    assert len(set(others)) == 4
    assert visibility_class(Subject("all", ("nano:hosts",), host="all")) != visibility_class(ADMIN)


def test_lists_of_a_host_are_narrowed_to_it() -> None:
    assert forced_selector(H1, "placements") == "spec.host=h1"
    assert forced_selector(ADMIN, "placements") == ""


def test_refusal_says_what_may_not_be_done_and_where() -> None:
    with pytest.raises(Forbidden, match=r'^alice may not get instances "web" in namespace team-b$'):
        authorize(NOBODY, "get", "instances", "", Key("instances", "team-b", "web"))
    with pytest.raises(Forbidden, match=r"^alice may not list instances in namespace team-b$"):
        authorize(NOBODY, "list", "instances", "", Key("instances", "team-b", ""))
    with pytest.raises(Forbidden, match=r'^alice may not get hosts "h1"$'):
        authorize(NOBODY, "get", "hosts", "", H1_KEY)
