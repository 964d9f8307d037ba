"""Reading the YAML that a client sends as the JSON that it stands for, within the limits that JSON has."""

from __future__ import annotations

import re
from typing import Any

import yaml

from nanovirt.resources.codec import BODY_MAX, DEPTH_MAX, JSON, called, dump, parse
from nanovirt.resources.errors import Malformed, TooLarge

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCALAR = "tag:yaml.org,2002:"
PLAIN = {
    f"{SCALAR}bool": re.compile(r"true|false", re.IGNORECASE),
    f"{SCALAR}int": re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"),
    f"{SCALAR}float": re.compile(r"[^:_]*"),
}
"""How such values look to every reader of YAML; what else YAML 1.1 takes for them, YAML 1.2 reads as something else."""


def doubt(tag: str, written: str) -> str:
    """What is to be said of a scalar of that tag which readers of YAML do not agree on, with the fix; "" for others.

    So `010` is 8 in YAML 1.1 and 10 in YAML 1.2, `22:30` is 1350 or a text, and `no` is false or a text.
    """
    plain = PLAIN.get(tag)
    if plain is None or plain.fullmatch(written):
        return ""
    meant = str(yaml.safe_load(written)).lower()
    decimal = written.lstrip("0") if written.isdigit() else meant
    other = f", or {decimal}" if decimal != meant else ""
    text = f'"{written}" for the text'
    return f"{written} is {meant} to some readers of YAML and not to others: write {meant}{other}, or {text}"


class Plain(LOADER):  # type: ignore[misc]  # libyaml's reader when there is one
    """Safe YAML whose times stay text, as they are in JSON; no key stands twice, and no value means two things."""

    def as_text(self, node: yaml.ScalarNode) -> str:
        """The scalar as it is written."""
        return str(self.construct_scalar(node))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        """The value, or the error of one that readers of YAML do not agree on."""
        if node.tag in PLAIN and (said := doubt(node.tag, str(node.value))):
            raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark)
        return super().construct_object(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        """The mapping, or the error of a key that stands twice: YAML lets the last one win in silence."""
        seen = set[str]()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{str(key.value)[:60]!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


Plain.add_constructor("tag:yaml.org,2002:timestamp", Plain.as_text)


def parse_yaml(body: bytes) -> JSON:
    """The object in `body`, which is YAML or JSON. Raises TooLarge or Malformed.

    Aliases are refused: a few lines of them stand for any number of values.
    """
    if len(body) > BODY_MAX:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {BODY_MAX}")
    try:
        _look(body)
        found = yaml.load(body, Loader=Plain)  # noqa: S506 - Plain is a safe loader
    except yaml.MarkedYAMLError as error:
        at = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Malformed(f"the body is not valid YAML{at}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Malformed(f"the body is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise Malformed(f"the body must be a YAML mapping, not {called(found)}")
    return parse(dump(found))


def _look(body: bytes) -> None:
    """Read it once as events, which hold nothing: what nests too deep would end the whole process later."""
    depth = 0
    for event in yaml.parse(body, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise Malformed(f"the body has the alias *{str(event.anchor)[:60]}; write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise Malformed(f"the YAML is nested deeper than {DEPTH_MAX} levels")
