"""Tokens for consoles: once, for seconds, for one instance, whoever races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Barrier

import pytest

from nanovirt.portal import console_tokens
from nanovirt.portal.console_tokens import OF_ONE_USER, ConsoleTokens, Grant
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.pki import digest
from nanovirt.resources.errors import Unavailable
from nanovirt.resources.kind import Key

WEB = Key("instances", "default", "web")
TOKENS, RACERS = 1000, 50


def grant(uid: str = "u1", subject: Subject = ADMIN, expires: float = 30.0) -> Grant:
    return Grant(subject, WEB, uid, "vnc", expires=expires)


def test_token_is_256_bits_and_opens_once() -> None:
    tokens, given = ConsoleTokens(), grant()
    token = tokens.issue(given, 0.0)
    assert token.startswith("nano_")
    assert len(token) >= 43
    assert tokens.take(digest(token), 29.9) is given
    assert tokens.take(digest(token), 29.9) is None


def test_wrong_and_old_tokens_open_nothing() -> None:
    tokens = ConsoleTokens()
    token = tokens.issue(grant(), 0.0)
    assert tokens.take(digest(token + "x"), 1.0) is None
    assert tokens.take(digest(""), 1.0) is None
    assert tokens.take(digest(token), 30.0) is None
    assert tokens.take(digest(token), 1.0) is None  # it was shown, if late


def test_token_itself_is_not_kept() -> None:
    tokens = ConsoleTokens()
    token = tokens.issue(grant(), 0.0)
    assert token not in repr(vars(tokens))


def test_revoking_takes_all_tokens_of_an_instance_and_no_others() -> None:
    tokens = ConsoleTokens()
    one, other = tokens.issue(grant("u1"), 0.0), tokens.issue(grant("u2"), 0.0)
    tokens.revoke("u1")
    assert tokens.take(digest(one), 1.0) is None
    assert tokens.take(digest(other), 1.0) is not None


def test_oldest_unused_token_of_a_user_gives_way() -> None:
    tokens = ConsoleTokens()
    made = [tokens.issue(grant(), 0.0) for _ in range(OF_ONE_USER + 1)]
    assert len(tokens) == OF_ONE_USER
    assert tokens.take(digest(made[0]), 1.0) is None
    assert tokens.take(digest(made[1]), 1.0) is not None


def test_number_of_unused_tokens_is_bounded_and_old_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_tokens, "ALL", 100)
    tokens = ConsoleTokens()
    for number in range(100):
        tokens.issue(grant(subject=Subject(f"user-{number}", ())), 0.0)
    with pytest.raises(Unavailable):
        tokens.issue(grant(), 29.0)
    tokens.issue(grant(expires=60.0), 31.0)
    assert len(tokens) == 1


def test_of_fifty_who_race_for_each_of_a_thousand_tokens_exactly_one_wins() -> None:
    store, barrier = ConsoleTokens(), Barrier(RACERS)
    many = [Subject(f"user-{number % 100}", ()) for number in range(TOKENS)]
    known = [digest(store.issue(grant(subject=one), 0.0)) for one in many]

    def race() -> list[bool]:
        barrier.wait()
        return [store.take(one, 1.0) is not None for one in known]

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(lambda call: call(), repeat(race, RACERS)))
    assert len(results) == RACERS
    assert [sum(won) for won in zip(*results, strict=True)] == [1] * TOKENS
