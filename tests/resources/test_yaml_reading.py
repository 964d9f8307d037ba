"""YAML from clients: the JSON that it stands for, within the same limits."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from nanovirt.resources.codec import BODY_MAX
from nanovirt.resources.errors import Malformed, TooLarge
from nanovirt.resources.yaml_reading import parse_yaml
from nanovirt.resources.yaml_values import DUMPER, SLOW_DUMPER

NESTED = ", ".join(f"&a{at} [*a{at - 1}, *a{at - 1}, *a{at - 1}, *a{at - 1}]" for at in range(1, 8))
BOMB = f'"[&a0 [x, x, x, x], {NESTED}]"'
"""A text that would be 100,000 values if somebody took it for YAML."""


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
        ("a: [07, 007, 00, -07, .5, 1.5e+3, 2., !!float 1]", {"a": [7, 7, 0, -7, 0.5, 1500, 2, 1]}),
        ("a: [!!str 1e3, '1e3', 1e3x, 10.0.0.1, 0o8]", {"a": ["1e3", "1e3", "1e3x", "10.0.0.1", "0o8"]}),
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
        ("-010", 'write -8, or -10, or "-010" for the text'),
        ("0_0", 'write 0, or "0_0" for the text'),
        ("0b11", "write 3, or"),
        ("-0x1F", "write -31, or"),
        ("08", 'write 8, or "08" for the text'),
        ("0o17", 'write 15, or "0o17" for the text'),
        ("1e3", '1e3 is 1000 to some readers of YAML and not to others: write 1000, or "1e3" for the text'),
        ("1.5e3", "write 1500, or"),
        ("-.5", "write -0.5, or"),
        ("1e-7", "write 1.0e-07, or"),
        ("1e22", "write 1.0e+22, or"),
        ("1_0.5", "write 10.5, or"),
        ("-1:30", "write -90, or"),
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


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f"!!int {BOMB}", "is no int to all readers of YAML"),
        (f"!!float {BOMB}", "is no float"),
        (f"!!bool {BOMB}", "is no bool"),
        ('!!int "' + "[" * 3000 + '"', "is no int"),
        ("!!int [1]", "a list is no int"),
        ("!!bool {=: x}", "a mapping is no bool"),
        ('!!int "\\t5"', "is no int"),
        ("!!bool x", "'x' is no bool"),
        ('!!bool "fal\u017fe"', "is no bool"),
        ('!!int ""', "'' is no int"),
        ('!!float ""', "'' is no float"),
        ("!!float abc", "'abc' is no float"),
        ("0777" * 1500, "is no int"),
        ("9" * 5000, "is no int"),
        ("0x" + "f" * 5000, "is no int"),
        ("1:" * 300 + "1", "is no int"),
        ("1:" * 300 + "1.5", "is no float"),
        ("0" * 70 + "8", "is no number"),
        ("1e999", "is no number"),
        ("0b_", "is no int"),
    ],
)
def test_what_is_no_such_value_is_refused_in_few_words_and_never_read_as_yaml_itself(written: str, said: str) -> None:
    with pytest.raises(Malformed, match="line 2") as refused:
        parse_yaml(f"a:\n  {written}".encode())
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("dumper", [DUMPER, SLOW_DUMPER])
def test_what_is_written_is_read_again(dumper: Any) -> None:
    doc = {"a": ["1e3", "0o17", "08", "010", "07", "-.5", "yes", "22:30", "5e10", "x", 1e16, 1e-7, 0.5, 7, True, None]}
    assert parse_yaml(yaml.dump(doc, Dumper=dumper).encode()) == doc


def test_bytes_that_are_no_text_are_malformed() -> None:
    with pytest.raises(Malformed):
        parse_yaml(b"a: \xff\xfe")


def test_size_is_limited() -> None:
    with pytest.raises(TooLarge):
        parse_yaml(b"a: " + b"x" * BODY_MAX)
