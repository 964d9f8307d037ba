"""Values on which readers of YAML 1.1 (PyYAML) and 1.2 (kubectl takes its numbers) do not agree.

They are refused where they are read, with what to write instead, and texts that look like them are written in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from math import isfinite
from typing import Any

import yaml

SCALAR = "tag:yaml.org,2002:"
NUMBER = f"{SCALAR}number"
"""The tag that readers and writers here give to what is a number in YAML 1.2 alone: `1e3`, `0o17`, `08`, `-.5`."""
REAL = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
"""A float of YAML 1.2 (its section 10.3.2), which all integers without a base are, too."""
AGREED = {
    f"{SCALAR}bool": re.compile(r"true|false", re.ASCII | re.IGNORECASE),
    f"{SCALAR}int": re.compile(r"[-+]?(0*[0-7]|[1-9][0-9]{0,63})|0x[0-9a-fA-F]{1,64}"),
    f"{SCALAR}float": re.compile(rf"{REAL}|[-+]?\.(inf|nan)", re.ASCII | re.IGNORECASE),
    NUMBER: re.compile(r"(?!)"),
}
"""How values of these tags look to every reader of YAML. PyYAML fails in many ways on what looks otherwise."""
SWITCHES = {"yes": "true", "on": "true", "no": "false", "off": "false"}
INTEGERS = (
    (re.compile(r"[-+]?0b[01]+"), 2),
    (re.compile(r"[-+]?0o?[0-7]+"), 8),
    (re.compile(r"[-+]?0x[0-9a-f]+"), 16),
    (re.compile(r"[-+]?[0-9]+"), 10),
)
SIXTIES = re.compile(r"([-+]?)([0-9]+(?::[0-5]?[0-9])+)(\.[0-9]*)?")
"""`22:30` is 22 * 60 + 30 in YAML 1.1."""
EXACT = 2**53
"""Below it every whole number is a float of its own."""
SHOWN_MAX = 64
"""Characters of a value for which it is worked out what to write instead."""


def _knowing(kind: Any) -> Any:
    """PyYAML's reader or writer of that kind, which knows NUMBER besides what YAML 1.1 has."""
    known: Any = type(kind.__name__, (kind,), {})
    known.add_implicit_resolver(NUMBER, re.compile(rf"(?:{REAL}|0o[0-7]+)\Z"), list("-+.0123456789"))
    return known


LOADER = _knowing(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
DUMPER = _knowing(getattr(yaml, "CSafeDumper", yaml.SafeDumper))
SLOW_DUMPER = _knowing(yaml.SafeDumper)
"""These put texts that look like a NUMBER in quotes."""


def doubt(node: yaml.Node) -> str:
    """What is to be said of a value on which readers of YAML do not agree, with the fix; "" for others.

    So `010` is 8 in YAML 1.1 and 10 in YAML 1.2, `22:30` is 1350 or a text, and `no` is false or a text.
    """
    agreed = AGREED.get(node.tag)
    if agreed is None or (isinstance(node, yaml.ScalarNode) and agreed.fullmatch(node.value)):
        return ""
    wanted = node.tag.removeprefix(SCALAR)
    if not isinstance(node, yaml.ScalarNode):
        return f"a {'list' if isinstance(node, yaml.SequenceNode) else 'mapping'} is no {wanted}"
    written = node.value
    values = list(dict.fromkeys(_values(written))) if len(written) <= SHOWN_MAX else []
    if not values:
        return f"{written[:SHOWN_MAX]!r} is no {wanted} to all readers of YAML; put a text in quotes, without a tag"
    fix = ", or ".join([*values, f'"{written}" for the text'])
    return f"{written} is {values[0]} to some readers of YAML and not to others: write {fix}"


def _values(written: str) -> Iterator[str]:
    """What a scalar is in YAML 1.1 and then in 1.2, written as all read it; by hand, for PyYAML would trust it."""
    text = written.lower().replace("_", "")
    if text in SWITCHES:
        yield SWITCHES[text]
    for form, base in INTEGERS:
        if form.fullmatch(text):
            yield str(int(text, base))
    if found := SIXTIES.fullmatch(text):
        sign, places, rest = found.groups()
        whole = reduce(lambda sum_, place: sum_ * 60 + int(place), places.split(":"), 0)
        yield f"{sign.strip('+')}{whole}{rest or ''}"
    elif re.fullmatch(REAL, text) and not text.lstrip("-+").isdigit() and isfinite(value := float(text)):
        shown = str(int(value)) if value.is_integer() and abs(value) < EXACT else repr(value)
        yield shown if "." in shown else shown.replace("e", ".0e")
