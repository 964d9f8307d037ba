"""YAML from clients: the JSON that it stands for, within the same limits."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import Malformed, TooLarge
from nanovirt.resources.yaml_reading import parse_yaml


@pytest.mark.parametrize(
    ("text", "doc"),
    [
        ("a: 1", {"a": 1}),
        ("a: {b: [1, x, 1.5, true, null]}", {"a": {"b": [1, "x", 1.5, True, None]}}),
        ("at: 2026-11-22T06:00:00Z", {"at": "2026-11-22T06:00:00Z"}),
        ("day: 2026-11-22", {"day": "2026-11-22"}),
        ('{"a": "b"}', {"a": "b"}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("名: 虚拟机", {"名": "虚拟机"}),
        ("a: ['010', \"yes\", '22:30']", {"a": ["010", "yes", "22:30"]}),
        ("a: [0, -5, +3, 0x1F, 0.5, True, FALSE, y]", {"a": [0, -5, 3, 31, 0.5, True, False, "y"]}),
        ("a: |\n  010\n", {"a": "010\n"}),
    ],
)
def test_yaml_is_read_as_the_json_that_it_stands_for(text: str, doc: Any) -> None:
    assert parse_yaml(text.encode()) == doc


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mapping"),
        ("- a", "mapping"),
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2", "line 2"),
        ("a: &x [1]\nb: *x", "alias"),
        ("a: 1\n---\nb: 2", "line"),
        ("1: a", "JSON"),
        ("a: !!set {b}", "JSON"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("a: !!binary AAAA", "JSON"),
        ("a: 0xfffffffffffffffffffff", "JSON"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("[" * 33 + "]" * 33, "deeper"),
        ("a: " + "[" * 100_000, "deeper"),
    ],
)
def test_what_is_no_plain_mapping_is_malformed_and_says_why(text: str, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        parse_yaml(text.encode())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("010", 'write 8, or 10, or "010" for the text'),
        ("07", 'write 7, or "07" for the text'),
        ("-010", 'write -8, or "-010" for the text'),
        ("0b11", "write 3, or"),
        ("1_000", "write 1000, or"),
        ("22:30", 'write 1350, or "22:30" for the text'),
        ("1:30.5", "write 90.5, or"),
        ("yes", 'yes is true to some readers of YAML and not to others: write true, or "yes" for the text'),
        ("No", 'write false, or "No" for the text'),
        ("on", "write true, or"),
        ("OFF", "write false, or"),
    ],
)
def test_what_readers_of_yaml_do_not_agree_on_is_refused_with_the_fix(written: str, said: str) -> None:
    for text in (f"a:\n  b: {written}", f"a:\n  {written}: x", f"a:\n- {written}"):
        with pytest.raises(Malformed) as refused:
            parse_yaml(text.encode())
        assert "line 2" in str(refused.value)
        assert said in str(refused.value)


def test_bytes_that_are_no_text_are_malformed() -> None:
    with pytest.raises(Malformed):
        parse_yaml(b"a: \xff\xfe")


def test_size_is_limited() -> None:
    with pytest.raises(TooLarge):
        parse_yaml(b"a: " + b"x" * BODY_MAX)
