"""What somebody changed in a definition behind Nano's back: its normal form, now and after ours, and the difference.

Compared is what libvirt has made of a definition with what it had made of ours: its own additions stand in both. After
an upgrade of libvirt or QEMU, which may write the same thing otherwise, what stands there counts as ours.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from nanovirt.resources.instance import Drift

XML_MAX = 256 * 1024
"""Bytes of a definition that are looked into; of a larger one only the hash is known."""
FIELDS_MAX = 4000
TEXT_MAX = 200
TOLD_MAX = 20
"""So many differences are told; the others are counted."""
LEFT_OUT = frozenset({"metadata", "address", "alias", "seclabel", "controller"})
"""What libvirt fills in by itself, controllers as devices come, and what is ours or others' to keep there."""
KEYED = {"disk": "target/dev", "interface": "mac/address", "graphics": "type", "channel": "target/name"}
"""By what devices of a kind are told apart: an attribute of a child, or one of their own."""
MODELLED = frozenset(
    {
        "name", "uuid", "title", "description", "memory", "currentMemory", "maxMemory", "vcpu", "resource", "os",
        "clock", "pm", "on_poweroff", "on_reboot", "on_crash", "devices/emulator",
        "devices/input", "devices/memballoon", "devices/rng", "devices/panic", "devices/channel", "devices/serial",
        "devices/console", "devices/audio", "devices/watchdog", "features/acpi", "features/apic", "features/vmport",
    }
)  # fmt: skip
"""What a definition of Nano's has too, or what makes no difference to a guest."""


@dataclass(frozen=True, slots=True)
class Form:
    """A definition as paths and texts, and the versions of those that wrote it."""

    version: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Defined:
    """What stood there right after Nano's own definition with that digest, and whether it was changed since.

    Without a digest: how the definition of an adopted machine was when it was taken.
    """

    digest: str
    version: str
    fields: Mapping[str, str]
    drifted: bool = False


class Judgement(NamedTuple):
    """What to note, what differs (a part of `total`), and what follows: keep away from it, or define it anew."""

    defined: Defined | None
    drift: tuple[Drift, ...] = ()
    total: int = 0
    hold: bool = False
    redefine: bool = False


UNJUDGED = Judgement(None)


def judge(policy: str, mark: str, form: Form | None, defined: Defined | None) -> Judgement:
    """Whether a definition with that mark ("": none of ours) is still as Nano made it.

    `form` None: there is no definition (the machine was undefined while it runs), or it was not looked at.
    """
    if form is None:
        return Judgement(defined)
    if not mark and (defined is None or not defined.digest):  # it was here before Nano: adopted
        return _adopted(policy, form, defined)
    if mark and (
        defined is None or defined.digest != mark or (defined.version != form.version and not defined.drifted)
    ):
        return Judgement(Defined(mark, form.version, form.fields))
    assert defined is not None
    found = differences(defined.fields, form.fields)
    if not found:
        return Judgement(replace(defined, drifted=False))
    report = policy == "Report"
    return _told(replace(defined, drifted=True), found, hold=report, redefine=not report)


def _adopted(policy: str, form: Form, defined: Defined | None) -> Judgement:
    """What it has beyond a definition of Nano's, and what somebody changed in it since it was taken."""
    if policy != "Report":
        return _told(None, beyond(form.fields), hold=False)
    if defined is None or (defined.version != form.version and not defined.drifted):
        defined = Defined("", form.version, form.fields)
    found = differences(defined.fields, form.fields)
    paths = [one.path for one in found]
    more = [one for one in beyond(form.fields) if not any(_within(path, one.path) for path in paths)]
    return _told(replace(defined, drifted=bool(found)), [*found, *more], hold=True)


def _told(defined: Defined | None, found: Sequence[Drift], *, hold: bool, redefine: bool = False) -> Judgement:
    return Judgement(defined, tuple(found[:TOLD_MAX]), len(found), hold, redefine)


# --- differences ------------------------------------------------------------------------------------------------------


def differences(was: Mapping[str, str], now: Mapping[str, str]) -> list[Drift]:
    """What is, and what should be; a device that came or went as a whole counts once."""
    found: dict[str, Drift] = {}
    for path in sorted({*was, *now}):
        if was.get(path) == now.get(path):
            continue
        device = _device(path)
        if device and not _has(was, device):
            found.setdefault(device, Drift(path=_cut(device), current=_summary(now, device)))
        elif device and not _has(now, device):
            found.setdefault(device, Drift(path=_cut(device), desired=_summary(was, device)))
        else:
            found[path] = Drift(path=_cut(path), current=_text(now, path), desired=_text(was, path))
    return list(found.values())


def beyond(fields: Mapping[str, str]) -> list[Drift]:
    """What a definition has that one of Nano's would not have, by element or device."""
    found: dict[str, Drift] = {}
    for path in sorted(fields):
        name = _device(path) or "/".join(path.split("/")[: 2 if path.startswith("features/") else 1]).partition("@")[0]
        if name not in found and not _modelled(name, fields):
            found[name] = Drift(path=_cut(name), current=_summary(fields, name))
    return list(found.values())


def _modelled(name: str, fields: Mapping[str, str]) -> bool:
    kind = name.partition("[")[0].partition("#")[0]
    match kind:
        case "devices/disk":
            return fields.get(f"{name}@type") == "file" and fields.get(f"{name}@device", "disk") == "disk"
        case "devices/interface":
            return fields.get(f"{name}@type") == "bridge"
        case "devices/graphics":
            return fields.get(f"{name}@type") == "vnc"
        case "devices/video":
            return fields.get(f"{name}/model@type") in ("virtio", "vga", "none")
        case _:
            return kind in MODELLED or not kind


def _device(path: str) -> str:
    """`devices/disk[vda]` of a path within it; "" outside of devices."""
    parts = path.split("/")
    return "/".join(parts[:2]).partition("@")[0] if parts[0] == "devices" and len(parts) > 1 else ""


def _has(fields: Mapping[str, str], device: str) -> bool:
    return any(path.startswith((f"{device}@", f"{device}/")) or path == device for path in fields)


def _summary(fields: Mapping[str, str], device: str) -> str:
    below = [(path[len(device) :].lstrip("@/"), text) for path, text in fields.items() if _within(path, device)]
    return _cut(", ".join(f"{name}={text}" if name else text for name, text in sorted(below)) or "present")


def _within(path: str, device: str) -> bool:
    return path == device or path.startswith((f"{device}@", f"{device}/"))


def _text(fields: Mapping[str, str], path: str) -> str | None:
    return _cut(fields[path]) if path in fields else None


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."


# --- the normal form --------------------------------------------------------------------------------------------------


def flattened(xml: str) -> dict[str, str]:
    """A definition as paths (`devices/disk[vda]/source@file`) and texts, without what libvirt fills in by itself."""
    if len(xml) > XML_MAX:
        return {"sha256": hashlib.sha256(xml.encode()).hexdigest()}
    try:
        root = ElementTree.fromstring(xml)
    except ParseError:
        return {"sha256": hashlib.sha256(xml.encode()).hexdigest()}
    found: dict[str, str] = {}
    for path, text in _walk(root, ""):
        if len(found) == FIELDS_MAX:
            break
        found[path] = text
    return found


def _walk(parent: Element, at: str) -> Iterator[tuple[str, str]]:
    seen: Counter[str] = Counter()
    for child in parent:
        tag = child.tag.rpartition("}")[2]
        if tag in LEFT_OUT:
            continue
        name = f"{tag}[{_key(child, tag)}]" if _key(child, tag) else tag
        seen[name] += 1
        path = f"{at}{name}" if seen[name] == 1 else f"{at}{name}#{seen[name]}"
        for attribute, value in child.attrib.items():
            yield f"{path}@{attribute.rpartition('}')[2]}", _whole(value)
        text = (child.text or "").strip()
        if text or not (child.attrib or len(child)):
            yield path, _whole(text)
        yield from _walk(child, f"{path}/")


def _key(element: Element, tag: str) -> str:
    child, _, attribute = KEYED.get(tag, "").rpartition("/")
    found = element.find(child) if child else element
    return (found.get(attribute, "") if found is not None else "").replace("/", "_")[:64] if attribute else ""


def _whole(text: str) -> str:
    """A long text as its beginning and a hash, so that no change of it is missed."""
    if len(text) <= TEXT_MAX:
        return text
    return f"{text[:100]}... ({hashlib.sha256(text.encode()).hexdigest()[:16]})"
