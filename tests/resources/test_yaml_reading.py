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


def test_bytes_that_are_no_text_are_malformed() -> None:
    with pytest.raises(Malformed):
        parse_yaml(b"a: \xff\xfe")


def test_size_is_limited() -> None:
    with pytest.raises(TooLarge):
        parse_yaml(b"a: " + b"x" * BODY_MAX)
