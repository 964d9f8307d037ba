"""Sealed values open where they belong and nowhere else, and the key is the data folder's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanovirt.resources.errors import NanoError, SealBroken
from nanovirt.resources.sealing import Sealer, key_file
from nanovirt.resources.secret import SecretText

UID, OTHER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
SEALER = Sealer(b"a" * 32)


def seal(text: str = "hunter2") -> str:
    return SEALER.seal("Secret", UID, "password", SecretText(text))


@pytest.mark.parametrize("text", ["", "hunter2", "密码 \U0001f600", "x" * 65536])
def test_what_was_sealed_opens_again(text: str) -> None:
    sealed = seal(text)
    assert SEALER.open("Secret", UID, "password", sealed).reveal() == text
    assert not text or text not in sealed


def test_sealing_twice_gives_nothing_to_compare() -> None:
    assert seal() != seal()


@pytest.mark.parametrize(
    ("kind", "uid", "field"),
    [("Secret", OTHER, "password"), ("Secret", UID, "user"), ("Credential", UID, "password")],
)
def test_value_moved_elsewhere_does_not_open(kind: str, uid: str, field: str) -> None:
    with pytest.raises(SealBroken, match="another object"):
        SEALER.open(kind, uid, field, seal())


@pytest.mark.parametrize(
    "broken",
    ["", "hunter2", "sealed.v1.x.AAAA", seal()[:-8] + "AAAAAAA=", seal() + "!"],
    ids=["nothing", "plain", "short", "other end", "more"],  # the same in every process that collects
)
def test_damaged_value_does_not_open(broken: str) -> None:
    with pytest.raises(SealBroken):
        SEALER.open("Secret", UID, "password", broken)


def test_another_key_is_named_as_the_trouble() -> None:
    with pytest.raises(SealBroken, match="another key"):
        Sealer(b"b" * 32).open("Secret", UID, "password", seal())


def test_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    sealed = key_file(path, needed=False).seal("Secret", UID, "password", SecretText("hunter2"))
    assert path.stat().st_mode & 0o777 == 0o400
    assert key_file(path, needed=True).open("Secret", UID, "password", sealed).reveal() == "hunter2"
    assert [one.name for one in tmp_path.iterdir()] == ["secrets.key"]


def test_missing_key_is_not_replaced_when_something_is_sealed_with_it(tmp_path: Path) -> None:
    with pytest.raises(NanoError, match="put it back"):
        key_file(tmp_path / "secrets.key", needed=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "mode", "why"), [("zz", 0o400, "holds no key"), ("61" * 32, 0o444, "by others")])
def test_key_that_cannot_be_trusted_stops_the_start(tmp_path: Path, content: str, mode: int, why: str) -> None:
    path = tmp_path / "secrets.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(NanoError, match=why):
        key_file(path, needed=True)
