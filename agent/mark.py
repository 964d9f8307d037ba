"""The mark in a domain's metadata: which Placement it was made from, and whether it was ever started."""

from __future__ import annotations

from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, register_namespace, tostring

from defusedxml import ElementTree

from nanovirt.agent.xml_element import element

NAMESPACE = "urn:nano:v1"
PREFIX = "nano"

register_namespace(PREFIX, NAMESPACE)


class Mark(NamedTuple):
    """What a definition says about itself: the digest it was made from, and whether it was ever started."""

    digest: str = ""
    epoch: int = 0
    cpu: int = 0
    memory: int = 0
    started: bool = False


def mark_element(mark: Mark, tag: str = f"{{{NAMESPACE}}}placement") -> Element:
    """What stands in the metadata; `started` only when it is so."""
    numbers = {"epoch": str(mark.epoch), "cpu": str(mark.cpu), "memory": str(int(mark.memory))}
    once = {"started": "yes"} if mark.started else {}
    return element(tag, digest=mark.digest, **numbers, **once)


def mark_text(mark: Mark) -> str:
    """The element alone, without the namespace, which libvirt adds when it puts it in the place of the one there."""
    return tostring(mark_element(mark, "placement"), encoding="unicode")


def read_mark(text: str) -> Mark:
    """The mark in a metadata element as libvirt gives it. ValueError if it is none of ours."""
    try:
        found = ElementTree.fromstring(text)
    except ParseError as error:
        raise ValueError(f"no mark: {error}") from error
    number = {name: int(found.get(name, "0")) for name in ("epoch", "cpu", "memory")}
    return Mark(digest=found.get("digest", ""), started=found.get("started") == "yes", **number)
