"""Reading the YAML that a client sends as the JSON that it stands for, within the limits that JSON has."""

from __future__ import annotations

from typing import Any

import yaml

from nanovirt.resources.codec import BODY_MAX, DEPTH_MAX, JSON, called, dump, parse
from nanovirt.resources.errors import Malformed, TooLarge
from nanovirt.resources.yaml_values import LOADER, doubt


class Plain(LOADER):  # type: ignore[misc]  # libyaml's reader when there is one
    """Safe YAML whose times stay text, as they are in JSON; no key stands twice, and no value means two things."""

    def as_text(self, node: yaml.ScalarNode) -> str:
        """The scalar as it is written."""
        return str(self.construct_scalar(node))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        """The value, or the error of one that readers of YAML do not agree on."""
        if said := doubt(node):
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
