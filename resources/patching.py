"""Changing a document by a patch: JSON merge patch (RFC 7386) and JSON patch (RFC 6902), both within limits."""

from __future__ import annotations

import re
from typing import Any, cast

import jsonpatch
import jsonpointer
import orjson

from nanovirt.resources.codec import BODY_MAX, JSON, dump, parse
from nanovirt.resources.errors import Invalid, Malformed, TooLarge

OPERATIONS_MAX = 1000
OF_CLASS = re.compile(r" \(<class '\w+'>\)")
"""What the package says of the values that a `test` compares."""
COPIES_MAX = 64
"""Each copy can double a document, so they are few and the size is looked at after each."""


def merge(doc: JSON, patch: JSON) -> JSON:
    """`doc` with `patch` merged in: null removes, objects merge, all else replaces."""
    merged = dict(doc)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def strategic(doc: JSON, patch: JSON) -> JSON:
    """`doc` after a strategic merge patch, as clients send it for the kinds of core v1 that they have models of.

    Objects merge as in a merge patch, so do the two lists that metadata has (by value, by uid); other lists replace.
    """
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    merged = dict(doc)
    for name, value in patch.items():
        word, slash, field = name.partition("/")
        if slash and word == "$deleteFromPrimitiveList" and isinstance(value, list):
            merged[field] = [one for one in _list(merged.get(field)) if one not in value]
        elif word.startswith("$"):
            continue  # the order of elements, and which keys of a union to keep: of no use here
        elif isinstance(value, dict) and value.get("$patch") != "delete":
            below = merged.get(name)
            merged[name] = strategic(below if isinstance(below, dict) else {}, value)
        elif value is None or isinstance(value, dict):
            merged.pop(name, None)
        else:
            merged[name] = _lists(name, _list(merged.get(name)), value) if isinstance(value, list) else value
    return merged


def _lists(name: str, before: list[Any], patch: list[Any]) -> list[Any]:
    if name == "finalizers":
        return [*before, *(one for one in patch if one not in before)]
    if name != "ownerReferences" or not all(isinstance(one, dict) for one in (*before, *patch)):
        return patch
    by_uid = {one.get("uid"): one for one in before}
    for one in patch:
        if one.get("$patch") == "delete":
            by_uid.pop(one.get("uid"), None)
        else:
            by_uid[one.get("uid")] = strategic(by_uid.get(one.get("uid"), {}), one)
    return list(by_uid.values())


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def operations(body: bytes) -> list[JSON]:
    """The operations of a JSON patch. Raises TooLarge or Malformed."""
    if len(body) > BODY_MAX:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {BODY_MAX}")
    # Nested like a document, whose reader knows the depth limit.
    return checked(parse(b'{"patch":' + body + b"}", BODY_MAX + 16)["patch"])


def checked(found: Any) -> list[JSON]:
    """The same of what has been parsed."""
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Malformed("a JSON patch is a list of operations like {op: replace, path: /spec/cpus, value: 2}")
    if len(found) > OPERATIONS_MAX:
        raise TooLarge(f"the patch has {len(found)} operations; the limit is {OPERATIONS_MAX}")
    if sum(one.get("op") == "copy" for one in found) > COPIES_MAX:
        raise TooLarge(f"the patch copies more than {COPIES_MAX} times")
    return found


def json_patch(doc: JSON, found: list[JSON]) -> JSON:
    """`doc`, which is used up, after the operations. Invalid for the one that does not fit; TooLarge, Malformed."""
    result: Any = doc
    for index, one in enumerate(found):
        result = _operate(result, index, one)
        if one.get("op") == "copy" and len(dump(result)) > BODY_MAX:
            raise TooLarge(f"operation {index} makes the object larger than {BODY_MAX} bytes")
    if not isinstance(result, dict):
        raise Malformed("the patch leaves no JSON object")
    return parse(dump(result))


def _operate(doc: Any, index: int, one: JSON) -> Any:
    if one.get("op") in ("add", "replace") and not str(one.get("path", "/")):
        raise Malformed(f"operation {index} replaces the whole object; use PUT for that")
    try:
        return jsonpatch.apply_patch(doc, cast(Any, [one]), in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        raise Invalid(f"[{index}]", f"the test of {one.get('path')} failed: {_short(error)}") from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise Invalid(f"[{index}]", f"cannot {one.get('op')} {one.get('path')}: {_short(error)}") from error
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        said = orjson.dumps(one)[:200].decode(errors="replace")
        raise Invalid(f"[{index}]", f"{said} does not fit the object") from error


def _short(error: Exception) -> str:
    return OF_CLASS.sub("", str(error))[:200]
