"""Elements of a definition: the only way in which a text gets into XML."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from nanovirt.resources.errors import HypervisorError


def element(tag: str, *content: Element | str, **attributes: str) -> Element:
    """An element with children, or with a text. HypervisorError for characters that XML cannot carry."""
    made = Element(tag, {name: _legal(value) for name, value in attributes.items()})
    for one in content:
        if isinstance(one, str):
            made.text = _legal(one)
        else:
            made.append(one)
    return made


def _legal(text: str) -> str:
    """Control characters (a carriage return would come back as another one), surrogates and U+FFFE, U+FFFF are not."""
    for character in text:
        code = ord(character)
        if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in {0xFFFE, 0xFFFF}:
            raise HypervisorError(f"{text[:60]!r} holds the character U+{code:04X}, which no definition can carry")
    return text
